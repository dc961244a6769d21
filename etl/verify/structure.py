"""What the catalogs must say of a published build: relations, leaves, indexes, keys, and the views that read it."""

from collections.abc import Iterator, Sequence

from etl import db, ddl, tables
from etl.plan import Leaf
from etl.verify import compare
from etl.verify.proofs import SHOWN, Finding


def missing(connection: db.Connection, schema: str, names: Sequence[str]) -> list[Finding]:
    """Return a finding for each relation of a build that is not there."""
    return [
        Finding(check="leaf", table=name, message="the table is missing")
        for name in names
        if not compare.exists(connection, schema, name)
    ]


def check(
    connection: db.Connection, live_schema: str, schema: str, leaves: Sequence[Leaf], names: Sequence[str]
) -> Iterator[Finding]:
    """Yield what is wrong with a build whose relations ``names`` (tables, directory, views) are all there."""
    for name in names:
        home = ddl.home(connection, schema, name)
        if name in tables.LEAF_TABLES and tables.spec(name).partitioned:
            yield from _leaves(connection, home, name, leaves)
        yield from _indexes(connection, home, name)
    yield from _foreign_keys(connection, schema, names)
    values = {"live": live_schema, "schema": schema, "names": list(names)}
    for (name,) in connection.execute(db.query("views_elsewhere"), values).fetchall():
        yield Finding(check="published", table=name, message=f"no view {live_schema}.{name} reads this build")


def _leaves(connection: db.Connection, schema: str, table: str, leaves: Sequence[Leaf]) -> Iterator[Finding]:
    """Yield the leaves that are not attached with the bounds of the plan, and those that the plan does not know."""
    rows = connection.execute(db.query("leaves_attached"), {"schema": schema, "table": table}).fetchall()
    attached: dict[str, str] = dict(rows)
    for leaf in leaves:
        wanted, found = _bounds(leaf), attached.pop(f"{table}_{leaf.name}", None)
        if found is None:
            yield Finding(check="leaf", table=table, leaf=leaf.name, message="the leaf is not attached")
        elif found not in wanted:
            yield Finding(check="leaf", table=table, leaf=leaf.name, message=f"bounds are {found}, not {wanted[0]}")
    for name in attached:
        yield Finding(check="leaf", table=table, message=f"leaf {name} is not in the plan")


def _bounds(leaf: Leaf) -> list[str]:
    """Return how the server writes a leaf's bounds: those of its archetype's only leaf, or those under a branch.

    An older build has a branch for every archetype.
    """
    lower = "MINVALUE" if leaf.lower is None else leaf.lower
    upper = "MAXVALUE" if leaf.upper is None else leaf.upper
    only = [f"FOR VALUES IN ({leaf.archetype_id})"] if leaf.is_only else []
    return [*only, f"FOR VALUES FROM ({lower}) TO ({upper})"]


def _indexes(connection: db.Connection, schema: str, table: str) -> Iterator[Finding]:
    """Yield the indexes of ``sql/`` that are missing, not valid or not attached, on the table or on a leaf."""
    path = dict(ddl.views()).get(table) or ddl.table_file(table)
    wanted = {index.name: index for index in ddl.indexes(path) if _possible(connection, index.requires)}
    values = {"schema": schema, "table": table, "names": list(wanted)}
    unsound: dict[tuple[str, bool], list[str]] = {}
    for index, relation, sound in connection.execute(db.query("unsound_indexes"), values).fetchall():
        unsound.setdefault((index, sound is None), []).append(relation)
    for (index, is_missing), relations in unsound.items():
        what = "is missing" if is_missing else "is not valid"
        if table in relations or not is_missing:
            where = "" if relations == [table] else f" on {_some(relations)}"
        else:
            what, where = "is missing, or not attached,", f" on {_some(relations)}"
        yield Finding(
            check="index",
            table=table,
            message=f"index {index} {what}{where}",
            is_mended_by_load=table in tables.LEAF_TABLES and table in relations and wanted[index].is_late,
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _possible(connection: db.Connection, extension: str | None) -> bool:
    """Return whether an index can exist here: what needs an extension that the server lacks is left out."""
    if extension is None:
        return True
    row = connection.execute(db.query("extension"), {"name": extension}).fetchone()
    return bool(row and row[0])


def _foreign_keys(connection: db.Connection, schema: str, names: Sequence[str]) -> Iterator[Finding]:
    """Yield the foreign keys that are missing, or that were never checked for all rows."""
    homes = {ddl.home(connection, schema, table) for table, _, _ in ddl.FOREIGN_KEYS}
    found = [row for home in homes for row in connection.execute(db.query("foreign_keys"), {"schema": home})]
    for table, column, _ in ddl.FOREIGN_KEYS:
        key = ddl.foreign_key(table, column)
        if table in names and (table, key) not in [(relation, name) for relation, name, _ in found]:
            yield Finding(check="key", table=table, message=f"foreign key {key} is missing")
    for relation, key, validated in found:
        if not validated:
            yield Finding(check="key", table=relation, message=f"foreign key {key} is not validated")
