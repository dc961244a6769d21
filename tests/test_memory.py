"""Memory under a hard limit: what passes it is killed, by a control group where there is one, else by a watchdog."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from etl import generate

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
LIMIT = 400 * MIB
MANY = 36_000
HUGE = 20 * MIB

pytestmark = pytest.mark.slow

Guard = Callable[[list[str], int], subprocess.CompletedProcess[str]]


def control_group() -> Path | None:
    """Return a new control group that can limit memory, of version 2 or 1; None where this machine gives none."""
    for parent in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        folder = parent / f"etl-test-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            if any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
                return folder
            folder.rmdir()
    return None


def in_group(folder: Path, arguments: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run a command in a control group that has so much memory, and kills what wants more."""
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    (folder / name).write_text(str(limit))
    try:
        return subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid())),
        )
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def watched(arguments: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run a command, and kill all of it once its processes together have more memory than that (PSS)."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def watch() -> None:
        while process.poll() is None:
            total = 0
            with contextlib.suppress(psutil.Error):
                me = psutil.Process(process.pid)
                for one in (me, *me.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += one.memory_full_info().pss
            if total > limit:
                process.kill()
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    out, errors = process.communicate()
    thread.join()
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


@pytest.fixture(params=["control group", "watchdog"])
def guard(request: pytest.FixtureRequest) -> Guard:
    """Both ways of limiting memory, as far as this machine has them."""
    if request.param == "watchdog":
        return watched
    folder = control_group()
    if folder is None:
        pytest.skip("no control group can be made here: that takes root, and the controller for memory")
    return lambda arguments, limit: in_group(folder, arguments, limit)


def rebuild(guard: Guard, source: Path, folder: Path, dsn: str, limit: int) -> dict[str, object]:
    """Rebuild under a limit that kills, told the same number."""
    arguments = [
        sys.executable, "-m", "etl", "rebuild", str(source), "--store", str(folder / "store"), "--dsn", dsn,
        "--jobs", "2", "--memory-limit", str(limit), "--json", "--quiet",
    ]  # fmt: skip
    done = guard(arguments, limit)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return dict(json.loads(done.stdout))


def test_the_limit_kills(guard: Guard) -> None:
    """A test that cannot fail proves nothing."""
    done = guard([sys.executable, "-c", f"data = b'x' * {2 * LIMIT}; import time; time.sleep(1)"], LIMIT)

    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("shape", "records"), [("i12", MANY), ("cod", MANY // 10)])
def test_a_rebuild_stays_under_a_hard_limit(guard: Guard, shape: str, records: int, dsn: str, tmp_path: Path) -> None:
    """Split, transform, load, publish: two workers and the coordinator together."""
    source = tmp_path / "powers.json"
    generate.generate(shape, records, 3, source)

    done = rebuild(guard, source, tmp_path, dsn, LIMIT)

    assert done["records"] == records


def test_records_of_20_megabytes_pass_under_the_default_limit(guard: Guard, dsn: str, tmp_path: Path) -> None:
    """Each of them is a row, whole; six of them are more than a batch may hold."""
    source, plain = tmp_path / "huge.json", tmp_path / "plain.json"
    generate.generate("i12", 6, 3, plain)
    records = json.loads(plain.read_text())
    for number, record in enumerate(records):
        record["Description"] = f"{number} " + "x" * HUGE
    source.write_text(json.dumps(records))
    del records

    done = rebuild(guard, source, tmp_path, dsn, 1024 * MIB)

    assert done["records"] == 6
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select min(length(description)) from game.powers").fetchone() == (HUGE + 2,)
