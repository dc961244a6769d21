"""Health: the settings of a server beside what loading wants of them, and what each was measured to gain.

Advice only; what would stop a load is ``etl.preflight``'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import namedtuple_row

from etl import db

SOURCE = "docs/performance.md, Settings of the server"

# Loads with one and the same setting differed by as much (docs/performance.md): what is measured within it means nothing.
NOISE = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as the server has it for this role, and as loading wants it.

    ``times_as_long`` says how long a load took with other values, as a multiple of its time with the wanted one.
    ``remedy`` is how to get it: None where it is met, and where this server cannot have it.
    """

    name: str
    value: str
    wanted: str
    is_met: bool
    times_as_long: Mapping[str, float]
    remedy: str | None

    @property
    def gain(self) -> str:
        """Return what was measured, for people."""
        ratios = ", ".join(f"{value}: {ratio:.2f}" for value, ratio in self.times_as_long.items())
        return f"{ratios} times as long{'' if self.is_worthwhile else ' (noise)'}"

    @property
    def is_worthwhile(self) -> bool:
        """Whether any other value made a load longer, beyond noise."""
        return max(self.times_as_long.values()) > NOISE


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The settings of a server; ``is_superuser`` tells whether the role may change them all."""

    server_version: str
    role: str
    is_superuser: bool
    settings: tuple[Setting, ...]
    source: str = SOURCE

    @property
    def worth_changing(self) -> list[str]:
        """Return the names of the settings that can be changed, to a measured gain."""
        return [setting.name for setting in self.settings if setting.remedy and setting.is_worthwhile]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Want:
    """What loading wants of a setting: ``wanted``, or of a size (bytes) or a time (seconds) at least as much.

    ``times_as_long`` was measured by ``scripts/bench.py settings``; see ``Setting``.
    """

    name: str
    wanted: str
    times_as_long: Mapping[str, float]
    least: int | None = None


WANTS = (
    _Want(name="wal_level", wanted="minimal", times_as_long={"replica": 1.16, "logical": 1.33}),
    _Want(name="max_wal_size", wanted="4GB", times_as_long={"1GB": 0.97, "32MB": 0.96}, least=4 << 30),
    _Want(name="checkpoint_timeout", wanted="15min", times_as_long={"30s": 1.05}, least=15 * 60),
    _Want(name="maintenance_work_mem", wanted="256MB", times_as_long={"64MB": 0.90}, least=256 << 20),
    _Want(name="shared_buffers", wanted="512MB", times_as_long={"128MB": 0.92}, least=512 << 20),
    _Want(name="default_toast_compression", wanted="lz4", times_as_long={"pglz": 0.98}),
)


def look(connection: db.Connection) -> Health:
    """Return the settings that matter to a load, as they are for this role, compared with what loading wants."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    rows: list[Any] = cursor.execute(db.query("server_settings"), {"names": [want.name for want in WANTS]}).fetchall()
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
