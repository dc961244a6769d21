"""A TCP proxy before a server's Unix socket that cuts connections, once, at a moment that can be chosen to the byte."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path


class _Link:
    """What is known of one connection."""

    is_marked = False
    is_muted = False


class Proxy:
    """Passes bytes on in both directions; after ``cut_after`` of them in all, every connection is cut, once.

    With ``mute`` the answer to a COMMIT gets lost instead: the first one of a connection that has sent these bytes.
    """

    def __init__(self, socket: Path, cut_after: int, mute: bytes | None = None) -> None:
        self._socket, self._left, self._mute = socket, cut_after, mute
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.cuts = 0

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        self._cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, outer}
        link = _Link()
        await asyncio.gather(self._pass(reader, outer, link, up=True), self._pass(inner, writer, link, up=False))
        self._writers -= {writer, outer}

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: "_Link", *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while block := await source.read(1 << 14):
                if up and self._mute:
                    link.is_marked = link.is_marked or self._mute in block
                    link.is_muted = link.is_muted or (link.is_marked and b"commit\0" in block.lower() and not self.cuts)
                elif link.is_muted and not self.cuts:
                    self.cuts += 1
                    target.transport.abort()
                    return
                before, self._left = self._left, self._left - len(block)
                if before > 0 >= self._left:
                    target.write(block[:before])
                    await target.drain()
                    self.cuts += 1
                    self._cut()
                    return
                target.write(block)
                await target.drain()
        with contextlib.suppress(OSError):
            target.close()

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


async def _end_all() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


@contextlib.contextmanager
def proxy(socket: Path, cut_after: int = 1 << 62, mute: bytes | None = None) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own while the block lasts."""
    made, ready = Proxy(socket, cut_after, mute), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        loop.run_until_complete(made.serve(ready, stop))
        loop.run_until_complete(_end_all())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
