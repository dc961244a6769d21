"""The two jsonb indexes: operator class, order of building, the queries that they serve, their share of a load."""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from benches.cases import source_of
from benches.common import etl, rebuild, say, servers
from etl import db, ddl

COLUMNS = ("effects", "effect_groups")
CLASSES = ("jsonb_path_ops", "jsonb_ops")
PARTS = ("classes", "queries", "order", "share")
ORDERS = ("gin last", "gin first")
_FEWEST = 20
"""A word that is looked for as a rare one is in at least so many powers."""


def gin(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure each part (or those of --only) on a build of `--shape`, on each server."""
    wanted = given.only.split(",") if given.only else PARTS
    measures: dict[str, Callable[..., Iterable[dict[str, Any]]]] = {
        "classes": classes, "queries": queries, "order": order, "share": share,
    }  # fmt: skip
    source = source_of(given, folder, given.shape, given.records)
    figures = []
    with servers(folder, given.server) as found:
        for name, dsn in found.items():
            store = folder / f"store-{name}"
            result = rebuild(source, dsn, store, given)[1]
            schema = f"game_b{result['build']}"
            for part in (part for part in PARTS if part in wanted):
                for figure in measures[part](given, dsn, schema, source, store):
                    figures.append({"server": name, "shape": given.shape, "part": part, **figure})
                    say(figures[-1])
    return figures


def classes(given: argparse.Namespace, dsn: str, schema: str, *_: Path) -> Iterable[dict[str, Any]]:
    """Build each index by each operator class on all leaves, as many at once as a load has workers; in turns."""
    leaves = _leaves(dsn, schema)
    seconds: dict[tuple[str, str], list[float]] = {}
    sizes: dict[tuple[str, str], int] = {}
    _drop(dsn, schema, lambda index: index.method == "gin")
    for _, column, operators in itertools.product(range(given.runs), COLUMNS, CLASSES):
        statement = _statement(column, operators)
        started = time.perf_counter()
        _on_leaves(given.jobs, dsn, schema, leaves, [(f"bench_{column}", statement)])
        seconds.setdefault((column, operators), []).append(time.perf_counter() - started)
        names = [f"{schema}.{leaf}_bench_{column}" for leaf in leaves]
        sizes[column, operators] = _size(dsn, names)
        _execute(dsn, *(f"drop index {name}" for name in names))
    for (column, operators), times in seconds.items():
        yield {
            "index": f"{column} {operators}",
            "seconds": statistics.median(times),
            "least": min(times),
            "most": max(times),
            "megabytes": sizes[column, operators] / 1e6,
        }


def queries(given: argparse.Namespace, dsn: str, schema: str, *_: Path) -> Iterable[dict[str, Any]]:
    """Explain the containment queries with the indexes of each class, and with none."""
    leaves = _leaves(dsn, schema)
    _drop(dsn, schema, lambda index: index.method == "gin")
    for operators in (*CLASSES, None):
        made = [(f"bench_{column}", _statement(column, operators)) for column in COLUMNS] if operators else []
        _on_leaves(given.jobs, dsn, schema, leaves, made)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name, query in _queries(given.shape, connection):
                plans = [_explained(connection, query) for _ in range(given.runs if operators else 1)]
                yield {"indexes": operators or "none", "query": name, **_told(plans)}
        _execute(dsn, *(f"drop index {schema}.{leaf}_{name}" for leaf in leaves for name, _ in made))


def order(given: argparse.Namespace, dsn: str, schema: str, *_: Path) -> Iterable[dict[str, Any]]:
    """Build all indexes of every leaf, those of method gin last or first; in turns."""
    leaves = _leaves(dsn, schema)
    plain = [index for index in ddl.indexes("tables/powers.sql") if index.is_late and not index.requires]
    seconds: dict[str, list[float]] = {}
    _drop(dsn, schema, lambda index: index.is_late)
    for _, which in itertools.product(range(given.runs), ORDERS):
        ordered = sorted(plain, key=lambda index: (index.method == "gin") == (which == "gin last"))
        made = [(f"bench_{number}", index.statement) for number, index in enumerate(ordered)]
        started = time.perf_counter()
        _on_leaves(given.jobs, dsn, schema, leaves, made)
        seconds.setdefault(which, []).append(time.perf_counter() - started)
        _execute(dsn, *(f"drop index {schema}.{leaf}_{name}" for leaf in leaves for name, _ in made))
    base = statistics.median(seconds[ORDERS[0]])
    for which, times in seconds.items():
        yield {
            "order": which,
            "seconds": statistics.median(times),
            "least": min(times),
            "ratio": statistics.median(times) / base,
        }


def share(given: argparse.Namespace, dsn: str, _schema: str, source: Path, store: Path) -> Iterable[dict[str, Any]]:
    """Load with both indexes, and with both deferred, in turns: seconds to the publication, and what follows it."""
    switches = {"all before": (), "--defer-indexes gin": ("--defer-indexes", "gin")}
    published: dict[str, list[float]] = {name: [] for name in switches}
    later: dict[str, list[float]] = {name: [] for name in switches}
    for turn, (name, options) in itertools.product(range(given.runs), switches.items()):
        etl("db", "reset", "--yes", "--dsn", dsn)
        _execute(dsn, "checkpoint")
        result = rebuild(source, dsn, store, given, *options)[1]
        after = result["timings"].get("index later", 0.0)
        kept = {kind: result["timings"][kind] for kind in ("load", "worker_index")}
        yield {"turn": turn, "switch": name, "seconds": result["seconds"], **kept, "later": after}
        published[name].append(result["seconds"] - after)
        later[name].append(after)
    ratios = [less / all_of for all_of, less in zip(*published.values(), strict=True)]
    for name in switches:
        yield {
            "switch": name,
            "published_s": statistics.median(published[name]),
            "least_s": min(published[name]),
            "later_s": statistics.median(later[name]),
        }
    yield {
        "share_percent": 100 * (1 - statistics.median(ratios)),
        "from": 100 * (1 - max(ratios)),
        "to": 100 * (1 - min(ratios)),
    }


def _leaves(dsn: str, schema: str) -> list[str]:
    """Return the leaves of powers, the biggest first."""
    found = """
        select c.relname from pg_partition_tree(%s::regclass) t join pg_class c on c.oid = t.relid
        where t.isleaf order by pg_table_size(c.oid) desc"""
    with psycopg.connect(dsn) as connection:
        return [name for (name,) in connection.execute(found, (f"{schema}.powers",))]


def _drop(dsn: str, schema: str, which: Callable[[ddl.Index], bool]) -> None:
    """Drop the product's own indexes, so that each is measured and used alone; those of leaves go with the parent's."""
    names = [index.name for index in ddl.indexes("tables/powers.sql") if which(index)]
    _execute(dsn, *(f"drop index if exists {schema}.{name}" for name in names))


def _statement(column: str, operators: str) -> str:
    return f"create index {{index}} on {{table}} using gin ({column} {operators})"


def _on_leaves(jobs: int, dsn: str, schema: str, leaves: list[str], made: list[tuple[str, str]]) -> None:
    """Make indexes on every leaf as workers do: a session per leaf, one transaction, bounded memory."""

    def on(leaf: str) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(db.query("bound_worker"), {"local": True})
            for name, statement in made:
                holes = {"index": sql.Identifier(f"{leaf}_{name}"), "table": sql.Identifier(schema, leaf)}
                connection.execute(db.template(statement, holes))

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(on, leaves))


def _size(dsn: str, names: list[str]) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select sum(pg_relation_size(n::regclass)) from unnest(%s::text[]) n", (names,)
        ).fetchone()
    return int(row[0]) if row else 0


def _execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _queries(shape: str, connection: psycopg.Connection[Any]) -> Iterable[tuple[str, str]]:
    """Yield name and text of what is explained: the reader's own statement, and containment as people write it."""
    form, key = ("AttributeModifiers", "Attribute") if shape == "i12" else ("templates", "attribs")
    attributes, kinds = _words(connection, "unnest(attribs)"), _words(connection, "effect_type")
    for how, attribute, kind in zip(("rare", "common"), attributes, kinds, strict=True):
        yield f"with_effect({attribute!r}), {how}", _with_effect(attribute, connection)
        yield f"effect_groups @> [type: {kind}], {how}", _contains("effect_groups", [{"type": kind}])
        yield f"effects @> [{form}: [{key}: {attribute}]], {how}", _contains("effects", _forms(attribute)[form])
    # Nothing but structure: jsonb_path_ops has entries for values alone, with the way to them.
    yield f"effects @> [{form}: [{{}}]]", _contains("effects", [{form: [{}]}])


def _words(connection: psycopg.Connection[Any], what: str) -> tuple[str, str]:
    """Return one of the values that few powers have, and the one that most have."""
    found = f"""
        select word, count(distinct power_id) from (select power_id, {what} as word from game.power_effects) w
        where word <> '' group by word having count(distinct power_id) >= {_FEWEST} order by 2, 1"""
    words = connection.execute(found).fetchall()  # type: ignore[call-overload]
    return words[0][0], words[-1][0]


def _forms(attribute: str) -> dict[str, list[dict[str, Any]]]:
    return {
        "templates": [{"templates": [{"attribs": [attribute]}]}],
        "DamageType": [{"DamageType": attribute}],
        "AttributeModifiers": [{"AttributeModifiers": [{"Attribute": attribute}]}],
    }


def _contains(column: str, value: object) -> str:
    return f"select id, name from game.powers where {column} @> '{msgspec.json.encode(value).decode()}'"


def _with_effect(attribute: str, connection: psycopg.Connection[Any]) -> str:
    holes = {"schema": db.identifier("game"), "columns": sql.SQL("b.*"), "condition": sql.SQL("true")}
    values = {
        "type": msgspec.json.encode([{"type": attribute}]).decode(),
        **{f"form_{n}": msgspec.json.encode(form).decode() for n, form in enumerate(_forms(attribute).values())},
        "level": None,
        "limit": 50,
    }
    return psycopg.ClientCursor(connection).mogrify(db.query("read_with_effect", **holes), values)


def _explained(connection: psycopg.Connection[Any], query: str) -> dict[str, Any]:
    row = connection.execute("explain (analyze, timing off, format json) " + query).fetchone()  # type: ignore[call-overload]
    return dict(row[0][0])


def _told(plans: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median times, and what the last plan did."""
    nodes = list(_nodes(plans[-1]["Plan"]))
    scans = [node for node in nodes if node.get("Relation Name", "").startswith("powers_")]
    return {
        "found": round(sum(node["Actual Rows"] * node["Actual Loops"] for node in scans)),
        "planning_ms": statistics.median(plan["Planning Time"] for plan in plans),
        "execution_ms": statistics.median(plan["Execution Time"] for plan in plans),
        "leaves_by_index": sum(node["Node Type"] == "Bitmap Heap Scan" for node in scans),
        "leaves_read_whole": sum(node["Node Type"] == "Seq Scan" for node in scans),
        "rechecked_in_vain": round(sum(node.get("Rows Removed by Index Recheck", 0) for node in scans)),
    }


def _nodes(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
