"""Where tests do their work: short folders, private servers, databases of their own."""

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo, sql

from etl import migrations, server

# Stores of tests are really synced as well: in memory where there is room, see short_parent.
_MEMORY = Path("/dev/shm")


def short_parent() -> str:
    has_room = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30
    return str(_MEMORY) if has_room else "/tmp"


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder with a short path (sockets need that) which the server's user may enter; remove it at the end.

    It lies in memory where there is room: the servers of tests really sync, and a disk makes each new database wait.
    """
    folder = Path(tempfile.mkdtemp(prefix="etl-", dir=short_parent()))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_server(binaries: Path, options: Mapping[str, str | int] | None = None) -> Iterator[str]:
    """Yield the DSN of a server in a folder of its own, stopped (``-m fast``) and removed at the end."""
    with short_folder() as home:
        atexit.register(server.stop, home)
        try:
            yield server.start_with(binaries, home, options)
        finally:
            server.stop(home)
            atexit.unregister(server.stop)


@contextmanager
def database(server_dsn: str, *, template: str = "template0") -> Iterator[str]:
    """Yield the name of a new database, dropped at the end, whoever is connected to it then."""
    name = f"etl_test_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield name
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextmanager
def migrated_database(server_dsn: str) -> Iterator[str]:
    """Yield the name of a new database with the current schema ``etl``."""
    with database(server_dsn) as name:
        with psycopg.connect(in_database(server_dsn, name), autocommit=True) as connection:
            migrations.migrate(connection)
        yield name


def in_database(dsn: str, name: str) -> str:
    """Return the DSN with another database, in the form that it had: a URL stays a URL."""
    if "://" in dsn:
        return urlsplit(dsn)._replace(path=f"/{name}").geturl()
    return conninfo.make_conninfo(dsn, dbname=name)
