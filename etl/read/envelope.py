"""The form of a value in Redis: who may trust it, whether it is whole, and its JSON, compressed where that pays.

Magic (2 bytes), flags (1), CRC-32 of flags and rest (4), two marks (8 each), payload. The marks are random numbers of Redis
itself: ``all`` is drawn anew when everything is to be forgotten, ``lists`` when answers about many powers are. A value
that carries another mark is none; nothing need be found and deleted.
"""

import struct
import threading
import zlib

import msgspec
import zstandard

_MAGIC = b"e1"
_HEAD = struct.Struct(">2sBI8s8s")
_COMPRESSED, _NEGATIVE = 1, 2

MARK_BYTES = 8
# Below this nothing is gained: the head of a frame and the call cost more than the bytes.
_LEAST_BYTES = 400
# zstd is asked for a tenth less at least; what it costs is 10 µs each way for a power of 6 KB.
_PAYS = 0.9
_LEVEL = 3
# A frame that claims to hold more than this is garbage.
_MOST_BYTES = 1 << 30


class _Tools(threading.local):
    """zstd's contexts, which take longer to make than to use, and serve one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_tools = _Tools()


class Garbage(ValueError):
    """Something under our key is not what we put there."""


class Marks(msgspec.Struct, frozen=True):
    """The marks that Redis has now."""

    everything: bytes
    lists: bytes


def seal(body: bytes | None, marks: Marks, is_list: bool) -> bytes:
    """Return the value of an answer; None is "there is no such thing"."""
    payload, flags = body or b"", 0
    if body is None:
        flags = _NEGATIVE
    elif len(payload) >= _LEAST_BYTES:
        packed = _tools.compressor.compress(payload)
        if len(packed) < _PAYS * len(payload):
            payload, flags = packed, _COMPRESSED
    lists = marks.lists if is_list else bytes(MARK_BYTES)
    rest = marks.everything + lists + payload
    return _HEAD.pack(_MAGIC, flags, zlib.crc32(rest, flags), marks.everything, lists) + payload


def is_negative(value: bytes) -> bool:
    """Whether a value that ``opened`` accepted says that there is no such thing."""
    return bool(value[2] & _NEGATIVE)


def opened(value: bytes, marks: Marks, is_list: bool) -> bytes | None:
    """Return the JSON in a value (empty where it says that there is nothing), or None where its marks are over.

    Raises:
        Garbage: it is no value of ours, or damaged.
    """
    if len(value) < _HEAD.size:
        raise Garbage(f"{len(value)} bytes")
    magic, flags, checksum, everything, lists = _HEAD.unpack_from(value)
    if magic != _MAGIC or zlib.crc32(value[_HEAD.size - 2 * MARK_BYTES :], flags) != checksum:
        raise Garbage("not ours, or damaged")
    if everything != marks.everything or (is_list and lists != marks.lists):
        return None
    payload = value[_HEAD.size :]
    if not flags & _COMPRESSED:
        return payload
    try:
        return _tools.decompressor.decompress(payload, max_output_size=_MOST_BYTES)
    except zstandard.ZstdError as error:
        raise Garbage(str(error)) from error
