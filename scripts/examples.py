"""Ask a loaded database three questions, and show the answers with their times: ``examples.py DSN``."""

import sys
import time
from collections.abc import Sequence

import psycopg

POWER = """
select p.internal_name, p.display_name, p.level_available, p.power_type, p.recharge_time, p.endurance_cost
from game.power_directory as d
join game.powers as p
    on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
where d.internal_name = %(power)s
"""

POWERSET = """
select p.level_available, p.display_name, p.power_type, p.accuracy, p.recharge_time, p.range_feet
from game.powersets as s
join game.powers as p
    on p.archetype_id = s.archetype_id and p.powerset_id = s.id
where s.id = %(powerset)s
order by p.level_available, p.display_order
limit 9
"""

SUMMARY = """
select archetype_name, count(distinct powerset_id) as powersets, count(*) as powers,
    round(avg(recharge_time)::numeric, 1) as mean_recharge_s
from game.power_build_summary
group by archetype_name
order by powers desc
limit 8
"""

# The first power of the set that offers most levels, a primary one if there is any: it shows something.
CHOICE = """
select d.internal_name, s.id, s.full_name
from (
    select powerset_id, count(distinct level_available) as levels
    from game.power_build_summary
    group by powerset_id
) as sets
join game.powersets as s on s.id = sets.powerset_id
join game.power_directory as d on d.powerset_id = sets.powerset_id
order by s.powerset_type <> 'primary', sets.levels desc, s.id, d.id
limit 1
"""


def main() -> None:
    """Ask, show, and say what to type next."""
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        chosen = connection.execute(CHOICE).fetchone()
        if chosen is None:
            sys.exit("nothing is loaded, so there is nothing to ask")
        power, powerset, powerset_name = chosen
        ask(connection, f"the power {power}, by its name", POWER, {"power": power})
        ask(connection, f"the powers of {powerset_name}, by level", POWERSET, {"powerset": powerset})
        ask(connection, "the powers of each archetype", SUMMARY, {})
    print(NEXT.format(power=power, powerset=powerset_name))


def ask(connection: psycopg.Connection, title: str, query: str, values: dict[str, object]) -> None:
    """Run a query and print its answer as a table, with the time until the last row was here."""
    begin = time.perf_counter()
    cursor = connection.execute(query, values)
    rows = cursor.fetchall()
    milliseconds = (time.perf_counter() - begin) * 1000
    names = [column.name for column in cursor.description or ()]
    print(f"\n== {title}")
    print_table(names, [["" if cell is None else str(cell) for cell in row] for row in rows])
    print(f"   {len(rows)} row{'' if len(rows) == 1 else 's'} in {milliseconds:.1f} ms")


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their column names, in columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for line in (names, ["-" * width for width in widths], *rows):
        print("   " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


NEXT = """
== what to type next
   .venv/bin/etl power {power}
   .venv/bin/etl powerset {powerset} --level 10
   .venv/bin/etl db shell               SQL by hand, in the same database
   .venv/bin/etl db stop                the server goes on running until then
   scripts/quickstart powers.json       the same with your own export
   scripts/test                         the whole test suite
"""

if __name__ == "__main__":
    main()
