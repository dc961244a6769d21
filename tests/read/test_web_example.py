"""The web application of docs/web_reader.py, over real HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from command_line import ROOT
from reading import Game


class Site:
    """The application in a process of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--app-dir", "docs", "--port", str(self._port), "web_reader:app"],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stdout=stream, stderr=stream,
            )  # fmt: skip
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.02)
        raise AssertionError("the application does not start")

    def get(self, path: str, etag: str = "") -> tuple[int, dict[str, str], Any]:
        """Return status, headers and the decoded body."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path, headers={"If-None-Match": etag} if etag else {})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(body) if body else None

    def stop(self) -> str:
        """End it as a service manager would; return what it said."""
        self._process.terminate()
        self._process.wait(timeout=30)
        return self._log.read_text()


@pytest.fixture
def site(game: Game, shared_redis, tmp_path: Path) -> Iterator[Site]:
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[test]'")
    started = Site({"DATABASE_URL": game.dsn, "REDIS_URL": shared_redis.url}, tmp_path / "log")
    yield started
    started.stop()


def test_three_routes_answer_from_the_reader(game: Game, site: Site) -> None:
    """Found, filtered, not found."""
    name, source, title = game.rows(
        "select p.internal_name, s.full_name, p.display_name from game.powers p"
        " join game.powersets s on s.id = p.powerset_id order by p.id limit 1"
    )[0]
    status, headers, power = site.get(f"/powers/{quote(name.upper())}")
    everything = site.get(f"/powersets/{quote(source)}/powers")[2]
    low = site.get(f"/powersets/{quote(source)}/powers?max_level=0")[2]
    found = site.get(f"/search?q={quote(title)}")[2]

    assert (status, headers["content-type"], power["internal_name"]) == (200, "application/json", name)
    assert name in [row["internal_name"] for row in everything]
    assert [row for row in everything if row["level_available"] <= 0] == low
    assert found[0]["display_name"] == title
    assert (site.get("/powers/No.Such.Power")[0], site.get("/powersets/No.Such/powers")[0]) == (404, 404)
    assert site.get("/search?q=x")[0] == 422
    said = site.stop()
    assert "Application shutdown complete" in said
    assert "Traceback" not in said


def test_a_browser_revalidates_in_one_cheap_request(game: Game, site: Site) -> None:
    """304 without a body until something is published, then the new data under a new tag."""
    record = game.records[0]
    path = f"/powers/{quote(record['InternalName'])}"
    _, headers, before = site.get(path)
    known = site.get(path, headers["etag"])
    weak = site.get(path, f'"other", W/{headers["etag"]}')
    record["Description"] = "published meanwhile"
    game.update(game.records)
    for _ in range(500):
        status, later, after = site.get(path, headers["etag"])
        if status != 304:
            break
        time.sleep(0.01)

    assert headers["cache-control"] == "no-cache"
    assert (known[0], known[2], known[1]["etag"]) == (304, None, headers["etag"])
    assert weak[0] == 304
    assert (status, after["description"]) == (200, "published meanwhile")
    assert later["etag"] != headers["etag"]
    assert before["description"] != after["description"]
