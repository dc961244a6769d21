"""Whether bytes are UTF-8, told by Arrow: it looks at eight bytes at a time and makes no text of them.

`scripts/bench.py twins` measures it beside `bytes.decode` of each record that is not ASCII; see docs/bench.md.
"""

from array import array


def is_valid(text: bytes) -> bool:
    """Return whether the bytes are UTF-8, as `bytes.decode` sees it."""
    import pyarrow as pa  # the coordinator imports this module, and never pyarrow

    offsets = pa.py_buffer(array("q", (0, len(text))))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(text)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
