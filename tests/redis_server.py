"""A real redis-server for tests: started on a free port, killed, stopped in the middle, started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import redis

ROOT = Path(__file__).resolve().parents[1]


def find_binary() -> Path | None:
    """Return a redis-server: ``ETL_TEST_REDIS_SERVER``, the system's, or what scripts/redis has unpacked."""
    candidates = (
        os.environ.get("ETL_TEST_REDIS_SERVER"),
        shutil.which("redis-server"),
        ROOT / ".venv/redis/usr/bin/redis-server",
    )
    return next((Path(found) for found in candidates if found and Path(found).exists()), None)


class RedisServer:
    """One server, whose data is in memory only."""

    def __init__(self, binary: Path, folder: Path, options: Sequence[str] = (), password: str = "") -> None:
        self._binary, self._folder, self._options = binary, folder, list(options)
        if password:
            self._options += ["--requirepass", password]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        """Start it, and wait until it answers."""
        libraries = [str(path) for path in self._binary.parents[1].glob("lib/*-linux-gnu")]
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])}
        self._process = subprocess.Popen(
            [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self._folder), *self._options],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(500):
            try:
                self.client.ping()
                return self
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server does not start"
                time.sleep(0.01)
        raise AssertionError("redis-server does not answer")

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
        self._process = None
        self.client.connection_pool.disconnect()

    def hang(self) -> None:
        """Let it accept connections and say nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the hanging."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def calls(self, command: str) -> int:
        """Return how often a command was called."""
        return int(self.client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))
