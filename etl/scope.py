"""The scope of an update: what of a split is brought into the published build."""

from collections.abc import Sequence
from contextlib import nullcontext

import msgspec

from etl import config, db, ddl, dsn, migrations, tables
from etl.errors import UsageError
from etl.store import manifest as manifests


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What of a split is to be brought into the published build; the default is all of it.

    ``archetypes`` and ``powersets`` (lower case; None: all) choose partitions, ``first_record`` the records from there
    on, ``tables`` the tables (none: all). ``everything`` renews equal records too; ``keep_missing`` leaves the powers
    that the split does not name.
    """

    archetypes: tuple[str, ...] | None = None
    powersets: tuple[str, ...] | None = None
    first_record: int = 0
    tables: tuple[str, ...] = ()
    everything: bool = False
    keep_missing: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the build is a function of the split alone afterwards."""
        return self.archetypes is None and self.powersets is None and not self.first_record and not self.keep_missing


def scope_of(
    options: config.LoadOptions,
    only: Sequence[str],
    from_record: int | None,
    connection: db.Connection | None = None,
    ledger: migrations.Asked | None = None,
) -> Scope | None:
    """Return the scope of a load that is to renew a part of the published build; None for a load of a whole build.

    The database is asked over the ``connection``, or one that is opened for it; ``ledger`` is what it was asked already.

    ``only`` are texts such as "archetype=blaster" and "powerset=blaster_ranged.fire_blast".

    Raises:
        UsageError: a text of ``only`` is neither.
    """
    named: dict[str, list[str]] = {"archetype": [], "powerset": []}
    for text in only:
        kind, mark, name = text.partition("=")
        if kind not in named or not mark or not name:
            raise UsageError(f"'{text}' names no part", "write --only archetype=KEY or --only powerset=CATEGORY.SET")
        named[kind].append(name.lower())
    if not only and from_record is None:
        with nullcontext(connection) if connection else db.connect(dsn.resolve(options.dsn), name="etl load") as line:
            names = _to_renew(line, options, ledger or migrations.ask(line))
        return Scope(tables=names, everything=True) if names else None
    return Scope(
        archetypes=tuple(named["archetype"]) or None,
        powersets=tuple(named["powerset"]) or None,
        first_record=from_record or 0,
        tables=options.tables,
        everything=from_record is None,
        keep_missing=from_record is not None,
    )


def _to_renew(connection: db.Connection, options: config.LoadOptions, ledger: migrations.Asked) -> tuple[str, ...]:
    """Return the tables that a load renews by rows: those that it names, or those of an older transform; mostly none.

    A table that is not published, or whose DDL changed, is not among them: columns of a published table never change
    under its readers, so it is made anew, by a load (``etl.renewal``).
    """
    split_id = manifests.read(options.store, options.split_id).split_id
    if options.fresh or ledger.is_empty:
        return ()
    migrations.require(connection)
    row = connection.execute(db.query("live"), {"schema": options.schema}).fetchone()
    if row is None or (row[4] != split_id and not options.tables):
        return ()
    there, loaded = row[5], row[6]
    if not set(options.tables) <= set(there) or any(other_ddl(name, loaded.get(name, "")) for name in there):
        return ()
    return options.tables or tuple(
        name for name in there if name in tables.LEAF_TABLES and loaded.get(name) != ddl.version(name)
    )


def other_ddl(name: str, loaded: str) -> bool:
    """Whether a table was loaded with another DDL than the present one, by its version then."""
    return loaded.partition(":")[2] != ddl.version(name).partition(":")[2]
