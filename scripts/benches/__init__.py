"""The measurements behind scripts/bench.py: one module per group of them, and what they share in common."""
