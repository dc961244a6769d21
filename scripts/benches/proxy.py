"""A server that is far away: a TCP port on loopback whose bytes come out of a socket of PostgreSQL half a trip later.

    python -m benches.proxy SOCKET ROUND_TRIP_MS WINDOW_BYTES FIGURES [count]

What is read from one side is written to the other after half the round trip; at most WINDOW_BYTES are on their way in
each direction of a connection, as a TCP window has it. Prints its port; on SIGTERM it writes to FIGURES, as JSON, the
bytes that went each way, and for each connection how often its client sent something after an answer: its waits, one
behind the other. With ``count`` it also compresses what passes, each direction of a connection as one zstd
stream of level 3, and writes how many bytes that gives: what a compressed tunnel would send.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import zstandard

_READ_BYTES = 256 << 10


class Proxy:
    """Connections to one socket, and what went over them."""

    def __init__(self, socket: str, delay_s: float, window_bytes: int, *, count: bool) -> None:
        self._socket, self._delay_s, self._window, self._count = socket, delay_s, window_bytes, count
        self.figures: Counter[str] = Counter()
        self.waits: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until both sides have ended."""
        self.figures["connections"] += 1
        turns = Turns()
        there_reader, there_writer = await asyncio.open_unix_connection(self._socket)
        with contextlib.suppress(asyncio.CancelledError):  # a connection that is open at SIGTERM ends with the proxy
            await asyncio.gather(
                self._carry(reader, there_writer, "to_server", turns),
                self._carry(there_reader, writer, "from_server", turns),
            )
        self.waits.append(turns.count)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, turns: "Turns"
    ) -> None:
        pipe: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        room = Room(self._window)
        sending = asyncio.create_task(self._send(pipe, room, writer))
        squeeze = zstandard.ZstdCompressor(level=3).compressobj() if self._count else None
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(min(_READ_BYTES, self._window)):
                self.figures[way] += len(data)
                turns.note(way)
                if squeeze:
                    # Flushed as a tunnel must: what was sent is to arrive.
                    self.figures[f"{way}_zstd"] += len(squeeze.compress(data))
                    self.figures[f"{way}_zstd"] += len(squeeze.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
                await room.take(len(data))
                pipe.put_nowait((time.monotonic() + self._delay_s, data))
        pipe.put_nowait((time.monotonic() + self._delay_s, b""))
        await sending

    async def _send(
        self, pipe: "asyncio.Queue[tuple[float, bytes]]", room: "Room", writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                due, data = await pipe.get()
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
                room.give(len(data))
        room.close()
        writer.close()


class Turns:
    """How often a connection's client went on after an answer."""

    def __init__(self) -> None:
        self.count, self._last = 0, "from_server"

    def note(self, way: str) -> None:
        """Note that something went this way."""
        self.count += way == "to_server" and self._last == "from_server"
        self._last = way


class Room:
    """Bytes that may still set out in one direction."""

    def __init__(self, size: int) -> None:
        self._left, self._open, self._changed = size, True, asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait until there is room for so many bytes."""
        while self._left < size and self._open:
            self._changed.clear()
            await self._changed.wait()
        self._left -= size

    def give(self, size: int) -> None:
        """Make room again: the bytes have arrived."""
        self._left += size
        self._changed.set()

    def close(self) -> None:
        """Let everybody through: nobody is there to send to."""
        self._open = False
        self._changed.set()


async def main(socket: str, round_trip_ms: str, window: str, figures: str, *more: str) -> None:
    """Serve until SIGTERM."""
    proxy = Proxy(socket, float(round_trip_ms) / 2000, int(window), count="count" in more)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    running: Any = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(running.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    running.close()
    Path(figures).write_text(json.dumps({**proxy.figures, "waits": sorted(proxy.waits)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
