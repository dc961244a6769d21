"""A TCP proxy before a server's Unix socket that cuts all of its connections, once, after so many bytes."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path


class Proxy:
    """Passes bytes on in both directions; after ``cut_after`` of them in all, every connection is cut, once."""

    def __init__(self, socket: Path, cut_after: int) -> None:
        self._socket, self._left = socket, cut_after
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
        await asyncio.gather(self._pass(reader, outer), self._pass(inner, writer))
        self._writers -= {writer, outer}

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await source.read(1 << 14):
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
def proxy(socket: Path, cut_after: int) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own while the block lasts."""
    made, ready = Proxy(socket, cut_after), threading.Event()
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
