"""Health: the settings of a server beside what loading wants of them, and what each was measured to gain.

Advice only; what would stop a load is ``etl.preflight``'s.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
from psycopg.rows import namedtuple_row

from etl import db

SOURCE = "docs/performance.md, Settings of the server"

# Loads with one and the same setting took 8.0 and 9.9 s in one call of the bench: what is measured within it means nothing.
NOISE = 1.25


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as the server has it for this role, and as loading wants it.

    ``times_as_long`` says how long a load took with other values, as a multiple of its time with the wanted one,
    ``note`` what else changed. ``remedy`` is how to get it: None where it is met, and where this server cannot have it.
    """

    name: str
    value: str
    wanted: str
    is_met: bool
    times_as_long: Mapping[str, float]
    note: str | None
    remedy: str | None

    @property
    def otherwise(self) -> str:
        """Return what was measured with other values, for people."""
        ratios = ", ".join(f"{value}: {ratio:.2f}" for value, ratio in self.times_as_long.items())
        noise = "" if max(self.times_as_long.values()) > NOISE else " (noise)"
        return f"{ratios} times as long{noise}{f', {self.note}' if self.note else ''}"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a server; ``is_superuser`` tells whether the role may change them all."""

    server_version: str
    role: str
    is_superuser: bool
    settings: tuple[Setting, ...]
    source: str = SOURCE

    @property
    def changeable(self) -> list[str]:
        """Return the names of the settings that loading wants otherwise, and that can be."""
        return [setting.name for setting in self.settings if setting.remedy]


class _Want(msgspec.Struct, frozen=True, kw_only=True):
    """What loading wants of a setting: ``wanted``, or of a size (bytes) or a time (seconds) at least as much.

    ``times_as_long`` was measured by ``scripts/bench.py settings``; see ``Setting``.
    """

    name: str
    wanted: str
    times_as_long: Mapping[str, float]
    least: int | None = None
    note: str | None = None


WANTS = (
    _Want(
        name="wal_level",
        wanted="minimal",
        times_as_long={"replica": 1.08, "logical": 1.15},
        note="1.5 to 1.6 times the WAL of flat records",
    ),
    _Want(name="max_wal_size", wanted="4GB", times_as_long={"1GB": 0.97, "32MB": 0.96}, least=4 << 30),
    _Want(name="checkpoint_timeout", wanted="15min", times_as_long={"30s": 0.96}, least=15 * 60),
    _Want(name="maintenance_work_mem", wanted="256MB", times_as_long={"64MB": 1.04}, least=256 << 20),
    _Want(name="shared_buffers", wanted="512MB", times_as_long={"128MB": 1.09}, least=512 << 20),
    _Want(name="default_toast_compression", wanted="lz4", times_as_long={"pglz": 0.98}),
)


Asked = psycopg.Cursor[Any]


def look(connection: db.Connection) -> Health:
    """Return the settings that matter to a load, as they are for this role, compared with what loading wants."""
    return compared(ask(connection))


def ask(connection: db.Connection) -> Asked:
    """Ask for the settings; ``compared`` reads the answer, maybe behind a pipeline."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute(db.query("server_settings"), {"names": [want.name for want in WANTS]})


def compared(asked: Asked) -> Health:
    """Return what the server said beside what loading wants; see ``look``."""
    rows: list[Any] = asked.fetchall()
    found = {row.name: row for row in rows}
    return Health(
        server_version=rows[0].version,
        role=rows[0].role,
        is_superuser=rows[0].is_superuser,
        settings=tuple(_compared(want, found[want.name]) for want in WANTS),
    )


def _compared(want: _Want, row: Any) -> Setting:
    """Return a want beside a row of the query ``server_settings``."""
    is_met = row.value == want.wanted if want.least is None else row.amount >= want.least
    cannot_be = row.choices is not None and want.wanted not in row.choices
    return Setting(
        name=want.name,
        value=f"{row.value} (built without {want.wanted})" if cannot_be else row.value,
        wanted=want.wanted if want.least is None else f"at least {want.wanted}",
        is_met=is_met,
        times_as_long=want.times_as_long,
        note=want.note,
        remedy=None if is_met or cannot_be else _remedy(want, row),
    )


def _remedy(want: _Want, row: Any) -> str:
    """Return what changes a setting: a statement that its role may run, or one for a superuser, with what must follow."""
    if row.context == "user":
        return f"alter role \"{row.role}\" set {want.name} = '{want.wanted}'"
    statement = f"alter system set {want.name} = '{want.wanted}'"
    if want.name == "wal_level":
        return f"{statement}, and max_wal_senders = 0; restart; only without replicas and WAL archive"
    return f"{statement}; {'restart' if row.context == 'postmaster' else 'select pg_reload_conf()'}"
