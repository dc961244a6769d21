"""The last step of an update: staged rows take the place of the old ones, in one transaction, the view included.

Only row locks and locks that readers do not meet are taken: DELETE, INSERT, REFRESH CONCURRENTLY, and, for an archetype
that is new, ATTACH of a leaf that was made alone.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from psycopg import sql

from etl import db, ddl, plan, staged, tables
from etl.errors import MismatchError
from etl.model import Manifest, Partition
from etl.plan import Leaf


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """What is applied to which build.

    ``tables`` are the staged leaf tables; ``entities`` says whether archetypes and powersets are brought up too, and
    ``remove_missing`` whether those go that the split does not have. ``whole`` makes the build a function of the split;
    ``all_rows`` says that every row of the tables was staged anew. ``lost_rejects`` are names of records that the build
    had set aside and the split does not have any more.
    """

    live_schema: str
    build: int
    schema: str
    leaves: tuple[Leaf, ...]
    manifest: Manifest
    store: str
    previous_split_id: str
    tables: tuple[str, ...]
    entities: bool
    remove_missing: bool
    whole: bool
    all_rows: bool
    run: int
    lost_rejects: tuple[str, ...]
    archetype_ids: Mapping[str, int]
    powerset_ids: Mapping[str, int]


class Prepared(msgspec.Struct, frozen=True):
    """What was done before the rows were staged: all leaves, and by how many powers each (archetype, powerset) shrank."""

    leaves: Sequence[Leaf]
    gone: Counter[tuple[int, int]]


def prepare(connection: db.Connection, job: Application) -> Prepared:
    """Do what needs the touched powers and the staged entities, but not the staged rows.

    It is the beginning of the transaction that ``apply`` ends; ``job.lost_rejects`` may still be unknown.
    """
    leaves = [*job.leaves, *_add_leaves(connection, job)]
    _note_what_readers_find_changed(connection, job)
    gone = Counter[tuple[int, int]]()
    if "powers" in job.tables:
        relation = db.identifier(job.schema, "powers")
        statement = db.query("delete_touched_powers", relation=relation)
        gone.update({place[:2]: place[2] for place in connection.execute(statement).fetchall()})
    if job.entities:
        _upsert_entities(connection, job)
    return Prepared(leaves, gone)


def apply(connection: db.Connection, job: Application, prepared: Prepared) -> tuple[int, int]:
    """Replace what was staged; return the new generation and the number of records that were set aside on the way.

    ``prepared`` is what ``prepare`` returned, in the same transaction, which the caller commits.

    Raises:
        MismatchError: after it, records would not be loaded + superseded + rejected.
    """
    schema = db.identifier(job.schema)
    leaves = prepared.leaves
    grown = {name: _replace(connection, job.schema, name) for name in job.tables}
    if "powers" in job.tables:
        grown["powers"].subtract(prepared.gone)
        _follow(connection, job.schema)
    if job.entities and job.remove_missing:
        connection.execute(db.query("delete_missing_powersets", schema=schema))
        connection.execute(db.query("delete_missing_archetypes", schema=schema))
    if job.entities:
        _renew_entity_receipts(connection, job)
    rejected = _set_aside(connection, job)
    _prove_sum(connection, job)
    if job.whole:
        leaves = _regrouped(job, leaves)
    with connection.pipeline():
        _renew_receipts(connection, job, leaves, grown)
    connection.execute(db.query("estimate_roughly"))
    for name, _ in ddl.views():
        home = ddl.home(connection, job.schema, name)
        connection.execute(db.query("refresh_view", relation=db.identifier(home, name)))
    generation = _raise_generation(connection, job)
    rename_build(connection, job, leaves)
    return generation, rejected


def _add_leaves(connection: db.Connection, job: Application) -> list[Leaf]:
    """Give archetypes that are new to the build a leaf for all their powersets; return these leaves."""
    present = {leaf.archetype for leaf in job.leaves}
    coming = sorted({p.archetype for p in job.manifest.partitions} - present)
    partitioned = [name for name in tables.LEAF_TABLES if tables.spec(name).partitioned]
    leaves = [_open_leaf(key, job.archetype_ids[key]) for key in coming]
    for leaf in leaves:
        for name in partitioned:
            _add_leaf(connection, ddl.home(connection, job.schema, name), name, leaf)
    return leaves


def _open_leaf(key: str, archetype_id: int) -> Leaf:
    return Leaf(
        name=f"{key}_00",
        archetype=key,
        archetype_id=archetype_id,
        lower=None,
        upper=None,
        powersets=(),
        rows=0,
        bytes=0,
        digest="",
    )


def _add_leaf(connection: db.Connection, schema: str, name: str, leaf: Leaf) -> None:
    """Make a leaf alone, then attach it: ATTACH blocks no reader, PARTITION OF would."""
    ddl.create_leaf(connection, schema, name, leaf.name)
    connection.execute(ddl.check_leaf(schema, name, leaf.name, ddl.bounds(leaf.archetype_id, None, None)))
    partitions = ddl.ask_partitions(connection, schema).fetchall()
    for statement in ddl.attachments(partitions, schema, [name], [leaf]):
        connection.execute(statement)


def _note_what_readers_find_changed(connection: db.Connection, job: Application) -> None:
    """Note the powersets that will read differently, and the powers that do so because of their powerset alone."""
    schema = db.identifier(job.schema)
    connection.execute(db.query("stage_touched_sets", schema=schema))
    connection.execute(db.query("stage_powers_around"))
    if job.entities:
        connection.execute(db.query("touch_sets_around", schema=schema))
        connection.execute(db.query("touch_powers_around", schema=schema))


def _upsert_entities(connection: db.Connection, job: Application) -> None:
    schema = db.identifier(job.schema)
    if "powers" in job.tables:
        connection.execute(db.query("reorder_powers", schema=schema))
    for name in ("archetypes", "powersets"):
        columns = [column for column in tables.spec(name).columns if column != "id"]
        connection.execute(
            db.query(
                f"upsert_{name}",
                schema=schema,
                columns=_list(["id", *columns]),
                assigned=_list(columns),
                excluded=_list(columns, "excluded"),
                present=_list(columns, "a"),
            )
        )


def _list(columns: Sequence[str], prefix: str | None = None) -> sql.Composed:
    names = [sql.Identifier(prefix, column) if prefix else sql.Identifier(column) for column in columns]
    return sql.SQL(", ").join(names)


def _replace(connection: db.Connection, schema: str, name: str) -> Counter[tuple[int, int]]:
    """Put the staged rows of a table in the place of those that the touched powers had; equal ones are left alone.

    Powers have gone before. Returns by how many rows each (archetype id, powerset id) grew.
    """
    relation, key = db.identifier(schema, name), sql.Identifier("id" if name == "powers" else "power_id")
    places = {"relation": relation, "staged": staged.relation(name)}
    grown = Counter[tuple[int, int]]()
    rows = connection.execute(db.query("columns_of"), {"schema": schema, "name": name}).fetchall()
    columns = [column for (column,) in rows]
    if name != "powers":
        for archetype, powerset, count in connection.execute(_keep_equal(connection, schema, name, columns)).fetchall():
            grown[archetype, powerset] -= count
    for archetype, powerset, count in connection.execute(
        db.query("count_staged", staged=staged.relation(name), key=key)
    ).fetchall():
        grown[archetype, powerset] += count
    if name == "powers":
        columns.remove("created_at")
    statement = "insert_staged_powers" if name == "powers" else "insert_staged"
    connection.execute(db.query(statement, columns=_list(columns), **places))
    return grown


def _keep_equal(connection: db.Connection, schema: str, name: str, columns: Sequence[str]) -> db.Statement:
    """Take those staged rows back that the table has already; return the statement that deletes the others."""
    equal, waiting = db.identifier(staged.SCHEMA, f"staged_equal_{name}"), staged.relation(name)
    places = {"relation": db.identifier(schema, name), "equal": equal}
    said = [column for column in columns if column != "created_at"]
    compared = {"staged_columns": _list(said, "s"), "present_columns": _list(said, "r")}
    keys = ("archetype_id", "powerset_id") if tables.spec(name).partitioned else ()
    pairs = [sql.SQL("{} = {}").format(sql.Identifier("r", key), sql.Identifier("s", key)) for key in keys]
    same = sql.SQL(" and ").join([sql.SQL("true"), *pairs])
    connection.execute(db.query("find_equal", staged=waiting, same_leaf=same, **places, **compared))
    connection.execute(db.query("analyze", relation=equal))
    connection.execute(db.query("unstage_equal", staged=waiting, equal=equal))
    return db.query("delete_unequal", **places)


def _follow(connection: db.Connection, schema: str) -> None:
    """Let the directory, and the references to powers that came or went, follow the powers."""
    directory = db.identifier(schema, "power_directory")
    gone = db.query("delete_touched", relation=directory, key=sql.Identifier("id"))
    connection.execute(gone)
    for statement in ("update_directory", "unresolve_gone", "resolve_new"):
        connection.execute(db.query(statement, schema=db.identifier(schema)))


def _set_aside(connection: db.Connection, job: Application) -> int:
    """Move the rejects of this update beside those of the build; return their number."""
    connection.execute(db.query("forget_rejects"), {"build": job.build})
    connection.execute(db.query("forget_named_rejects"), {"build": job.build, "uids": list(job.lost_rejects)})
    return connection.execute(db.query("insert_staged_rejects")).rowcount


def _prove_sum(connection: db.Connection, job: Application) -> None:
    """Prove that every record of the split is loaded, superseded or rejected by now, if the build is a function of it."""
    if not job.whole or "powers" not in job.tables:
        return
    statement = db.query("count_rows", relation=db.identifier(job.schema, "power_directory"))
    loaded = (connection.execute(statement).fetchone() or (0,))[0]
    rejected = (connection.execute(db.query("count_rejects"), {"build": job.build}).fetchone() or (0,))[0]
    manifest = job.manifest
    if manifest.records != loaded + manifest.superseded + manifest.rejects + rejected:
        raise MismatchError(
            f"{manifest.records} records are not {loaded} loaded + {manifest.superseded} superseded"
            f" + {manifest.rejects + rejected} rejected; nothing was changed",
            "etl verify, then etl rebuild",
        )


def _regrouped(job: Application, leaves: Sequence[Leaf]) -> list[Leaf]:
    """Return the leaves with the partitions that the split now has within their bounds."""
    members: dict[str, list[Partition]] = {}
    for partition in job.manifest.partitions:
        members.setdefault(partition.archetype, []).append(partition)

    def within(leaf: Leaf) -> list[Partition]:
        mine = members.get(leaf.archetype, [])
        return [p for p in mine if plan.holds(leaf, p.archetype, job.powerset_ids[p.powerset])]

    return [plan.with_members(leaf, within(leaf)) for leaf in leaves]


def _renew_receipts(
    connection: db.Connection,
    job: Application,
    leaves: Sequence[Leaf],
    grown: Mapping[str, Mapping[tuple[int, int], int]],
) -> None:
    """Let the receipts of the leaves that were touched speak of the rows that are there now."""
    known = {leaf.name for leaf in job.leaves}
    versions = {name: ddl.version(name) for name in tables.LEAF_TABLES}
    for leaf in leaves:
        for name in job.tables if leaf.name in known else tables.LEAF_TABLES:
            mine = [
                count
                for (archetype, powerset), count in grown.get(name, {}).items()
                if archetype == leaf.archetype_id and plan.holds(leaf, leaf.archetype, powerset)
            ]
            if mine or leaf.name not in known:
                values = {"build": job.build, "table": name, "leaf": leaf.name, "digest": leaf.digest}
                values |= {"version": versions[name], "more": sum(mine)}
                connection.execute(db.query("change_receipt"), values)


def _renew_entity_receipts(connection: db.Connection, job: Application) -> None:
    """Let the receipts of archetypes and powersets speak of the rows that are there now."""
    for name in ("archetypes", "powersets"):
        statement = db.query("count_entities", relation=db.identifier(job.schema, name))
        values = {"build": job.build, "table": name, "digest": job.manifest.entities_digest}
        connection.execute(statement, values)


def _raise_generation(connection: db.Connection, job: Application) -> int:
    """Raise the generation, with its line, its changes and its notification."""
    values = {"schema": job.live_schema, "build": job.build}
    row = connection.execute(db.query("raise_generation"), values).fetchone()
    generation = int(row[0]) if row else 0
    connection.execute(
        db.query("record_publication"),
        {
            **values,
            "generation": generation,
            "kind": "update",
            "split_id": job.manifest.split_id,
            "previous": job.previous_split_id,
            "whole": job.whole or job.manifest.split_id == job.previous_split_id,
            "run": job.run,
        },
    )
    changes = {"schema": job.live_schema, "generation": generation}
    for statement in ("record_changes", "record_powers_around"):
        connection.execute(db.query(statement, schema=db.identifier(job.schema)), changes)
    connection.execute(db.query("record_powerset_changes"), changes)
    connection.execute(db.query("notify_generation"), changes)
    return generation


def rename_build(connection: db.Connection, job: Application, leaves: Sequence[Leaf]) -> None:
    """Write down which split the build is a function of now, and what its leaves hold."""
    values = {
        "build": job.build,
        "split_id": job.manifest.split_id if job.whole else job.previous_split_id,
        "store": job.store,
        "game_version": job.manifest.game_version,
        "plan": json.dumps([msgspec.structs.asdict(leaf) for leaf in leaves]),
        "versions": json.dumps({name: ddl.version(name) for name in job.tables} if job.all_rows else {}),
    }
    connection.execute(db.query("change_build"), values)
