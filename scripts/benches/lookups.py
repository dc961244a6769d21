"""How long the server plans and runs a look-up by internal name."""

import argparse
import statistics
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benches.common import PACK, rebuild, say, servers, unpack

LOOKUPS = {
    "one statement, through the directory": """
        select p.*
        from game.power_directory d
        join game.powers p on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
        where d.internal_name = {name}""",
    "two statements: the directory": "select * from game.power_directory where internal_name = {name}",
    "two statements: the power": """
        select * from game.powers
        where id = {id} and archetype_id = {archetype_id} and powerset_id = {powerset_id}""",
    "powers alone, every leaf": "select * from game.powers where internal_name = {name}",
}


def planning(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Planning and execution of look-ups by internal name, in milliseconds: the first of a session, then warm."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    figures = []
    with servers(folder) as found:
        for name, dsn in found.items():
            rebuild(source, dsn, folder / f"store-{name}", given)
            for lookup, query in LOOKUPS.items():
                figures.append({"server": name, "look-up": lookup, **explained(dsn, query)})
                say(figures[-1])
    return figures


def explained(dsn: str, query: str, times: int = 200) -> dict[str, float]:
    """Explain a look-up of many powers, one after the other, in a session of its own."""
    keys = (
        "select id, internal_name, archetype_id, powerset_id from game.power_directory order by md5(id::text) limit %s"
    )
    planned, executed = [], []
    with psycopg.connect(dsn, autocommit=True) as connection:
        powers = connection.execute(keys, (times,)).fetchall()
        for number, internal_name, archetype, powerset in powers:
            values = {"id": number, "name": internal_name, "archetype_id": archetype, "powerset_id": powerset}
            literals = {key: sql.Literal(value) for key, value in values.items()}
            statement = sql.SQL("explain (analyze, timing off, format json) " + query).format(**literals)
            plan = connection.execute(statement).fetchone()[0][0]
            planned.append(plan["Planning Time"])
            executed.append(plan["Execution Time"])
    warm = sorted(planned[times // 10 :])
    return {
        "first_ms": planned[0],
        "warm_ms": statistics.median(warm),
        "warm_99th_ms": warm[int(0.99 * len(warm))],
        "execution_ms": statistics.median(executed[times // 10 :]),
    }
