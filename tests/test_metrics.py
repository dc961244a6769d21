"""Memory as the system counts it: exact looks, and those between them."""

import subprocess
import sys
from pathlib import Path

import pytest

from etl import metrics

CHILD = """
import sys
held = []
for line in sys.stdin:
    held.append(bytearray(b"x") * int(line))
    print("done", flush=True)
"""
MIB = 1 << 20
CLOSE = 8 * MIB  # counters of the kernel may lag behind by some pages for each core


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell the proportional set size"
)
def test_what_a_process_has_grown_by_is_seen_between_exact_looks() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout

        def take(size: int) -> None:
            child.stdin.write(f"{size}\n".encode())  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            assert child.stdout.readline() == b"done\n"  # type: ignore[union-attr]

        take(1)
        memory = metrics.Memory(child.pid)
        first = memory.used_bytes()
        assert abs(first - pss(child.pid)) < CLOSE
        memory._next += 3600  # what follows is no exact look
        take(200 * MIB)
        grown = memory.used_bytes()
        assert abs(grown - first - 200 * MIB) < CLOSE
        assert abs(grown - pss(child.pid)) < CLOSE
        child.stdin.close()
    memory._next = 0
    assert memory.used_bytes() == 0


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell the proportional set size"
)
def test_pages_that_a_forked_process_shares_count_once() -> None:
    code = "import os, sys; x = b'x' * (200 << 20); os.fork(); os.write(1, b'done\\n'); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin and parent.stdout
        assert [parent.stdout.readline() for _ in range(2)] == [b"done\n"] * 2
        memory = metrics.Memory(parent.pid)
        looks = [memory.used_bytes() for _ in range(3)]  # the first one is exact
        parent.stdin.close()
    assert max(looks) < 300 * MIB
    assert min(looks) > 200 * MIB


def test_the_peak_counts_children_too() -> None:
    before = metrics.Memory().used_bytes()
    with metrics.PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", "import time; x = b'x' * (300 << 20); time.sleep(2.5)"], check=True)
    assert memory.peak_bytes - before > 280 * MIB
