"""The command ``etl`` as a user meets it: run as a process of its own, with pipes or on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

ROOT = Path(__file__).resolve().parents[1]
ETL = [sys.executable, "-m", "etl"]

Done = subprocess.CompletedProcess[str]


def run(
    *arguments: str | Path,
    cwd: str | Path = ROOT,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> Done:
    """Run a command with pipes and nobody at the keyboard."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*ETL, *map(str, arguments)],
        input=data if data is not None else b"",
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def run_on_terminal(*arguments: str | Path, typed: str = "", columns: int = 100, cwd: str | Path = ROOT) -> Done:
    """Run a command on a terminal of its own; what it shows is in ``stdout``, as the terminal gets it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        [*ETL, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    if typed:
        os.write(master, typed.encode())
    shown = b""
    try:
        while block := os.read(master, 65536):
            shown += block
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(master)
    return subprocess.CompletedProcess(arguments, process.wait(timeout=60), shown.decode(), "")


@contextmanager
def new_database(server_dsn: str, template: str) -> Iterator[str]:
    """Yield the DSN of a clone of a database, for a fixture that several tests share; it is dropped at the end."""
    name = sql.Identifier(f"etl_test_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {}").format(name, sql.Identifier(template)))
    try:
        yield conninfo.make_conninfo(server_dsn, dbname=name.as_string().strip('"'))
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(name))


def refusal(done: Done, code: int) -> tuple[str, str]:
    """Return the one sentence and the next step that a refused command prints, and nothing else but progress."""
    said = [line for line in done.stderr.splitlines() if not line.endswith(" …")]

    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(said) == 2, done.stderr
    assert said[0].startswith("etl: ")
    assert said[1].startswith("  next: ")
    return said[0].removeprefix("etl: "), said[1].removeprefix("  next: ")


def holds_a_split(store: Path) -> bool:
    """Tell whether something in a store looks committed."""
    return any(store.rglob("manifest.json")) or (store / "LATEST").exists()


def is_published(dsn: str, schema: str = "game") -> bool:
    """Tell whether a database shows anything of ours to its readers."""
    with psycopg.connect(dsn) as connection:
        views = connection.execute(
            "select count(*) from pg_class where relnamespace = to_regnamespace(%s) and relkind = 'v'", (schema,)
        ).fetchone()
        ledger = connection.execute("select to_regclass('etl.live')").fetchone()
        live = ledger and ledger[0] and connection.execute("select count(*) from etl.live").fetchone()
    return views != (0,) or bool(live and live != (0,))
