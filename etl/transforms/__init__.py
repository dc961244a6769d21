"""From records to rows: one module per input format, and the rules that they share.

A format's module turns a record batch of the store into ``parsed.Parsed``; ``assemble`` adds ids and derived columns.
"""
