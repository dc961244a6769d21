"""Where one JSON value ends, told by strings and brackets alone: for text that a strict parser refuses.

Slow (about 75 MB/s), so only the record at which the fast path stumbles comes here.
"""

import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|"', re.DOTALL)
_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^\s,\[\]{}"]+', re.DOTALL)
_SPACE = re.compile(rb"\s*")


def skip_space(text: bytes, position: int) -> int:
    """Return the position of the first byte from here that is no white space."""
    found = _SPACE.match(text, position)
    return found.end() if found else position


def value_end(text: bytes, position: int) -> int | None:
    """Return the end of the value that begins here; None where the text ends before it does.

    Brackets need not match in kind: whoever reads the value finds out. A word such as NaN counts as a value.
    """
    if text[position : position + 1] not in (b"{", b"["):
        found = _SCALAR.match(text, position)
        return found.end() if found and found.end() < len(text) else None
    level = 0
    for token in _TOKEN.finditer(text, position):
        kind = text[token.start()]
        if kind in b"{[":
            level += 1
        elif kind in b"}]":
            level -= 1
            if level == 0:
                return token.end()
        elif token.end() - token.start() == 1:
            return None
    return None
