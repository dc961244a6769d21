"""What is sent to workers: one function per kind of task. Nothing heavy is imported before a task arrives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etl.plan import (
    CheckTask,
    Difference,
    DiffTask,
    EnrolTask,
    IndexTask,
    LateIndexTask,
    LeafResult,
    LeafTask,
    NamesTask,
    RegisterTask,
    Staged,
    StageTask,
    StatisticsTask,
)

if TYPE_CHECKING:
    from etl.receipts import Receipt

LOAD_MODULES = ("polars", "etl.transforms.assemble", "etl.leaf")
"""What a worker that loads leaves imports before its first task."""


def connect() -> None:
    """Have a connection for the first task of this thread."""
    from etl import line

    with line.lent():
        pass


def load_leaf(task: LeafTask) -> LeafResult:
    """Load one leaf; see ``etl.leaf``."""
    from etl import leaf

    return leaf.load_leaf(task)


def check_parts(task: CheckTask) -> None:
    """Prove that parts are what was committed; raises StoreError."""
    from etl.store import manifest

    for part in task.parts:
        manifest.check_part(task.store, task.split_id, part)


def register(task: RegisterTask) -> "Receipt":
    """Register the names of a split; see ``etl.register``."""
    from etl import register as registration

    return registration.register(task)


def enrol(task: EnrolTask) -> "Receipt":
    """Register the powers that the leaves have enrolled; see ``etl.enrol``."""
    from etl import enrol as enrolment

    return enrolment.enrol(task)


def difference(task: DiffTask) -> Difference:
    """Compare some powersets of a split with what is published; see ``etl.staging``."""
    from etl import staging

    return staging.difference(task)


def stage(task: StageTask) -> Staged:
    """Transform touched powers; see ``etl.staging``."""
    from etl import staging

    return staging.stage(task)


def lost_names(task: NamesTask) -> tuple[str, ...]:
    """Return those of some names that no winning record of a split has; see ``etl.staging``."""
    from etl import staging

    return staging.lost_names(task)


def index_table(task: IndexTask) -> str:
    """Index a plain table and gather its statistics, in one transaction with its receipt; return its name."""
    from etl import ddl, line, receipts

    with line.lent() as connection:
        with connection.pipeline():
            entry = receipts.enter(
                connection,
                task.build,
                task.epoch,
                "indexes",
                [task.table],
                name=f"etl index {task.table}",
                durability=task.durability,
            )
        if entry.done():
            return task.table
        receipt = receipts.Receipt(table=task.table, leaf="indexes", digest="", version=task.version, rows=0, bytes=0)
        with connection.pipeline():
            ddl.create_indexes(connection, task.schema, task.table, ddl.table_file(task.table), deferred=task.deferred)
            ddl.analyze(connection, task.schema, task.table, task.table)
            receipts.record(connection, task.build, receipt)
            connection.execute("commit")
    return task.table


def round_off(tasks: "Sequence[StatisticsTask | IndexTask | EnrolTask]") -> None:
    """Do what a build whose leaves are attached still wants, in order: the registry, indexes, statistics of a table."""
    for task in tasks:
        if isinstance(task, EnrolTask):
            enrol(task)
        elif isinstance(task, IndexTask):
            index_table(task)
        else:
            gather_statistics(task)


def gather_statistics(task: StatisticsTask) -> str:
    """Gather the statistics by which a partitioned table is planned, and its leaves; return its name."""
    from etl import db, ddl, line, receipts

    columns = ddl.searched(task.table)
    with line.lent() as connection:
        with connection.pipeline():
            name = f"etl analyze {task.table}"
            entry = receipts.enter(connection, task.build, task.epoch, "statistics", [task.table], name=name)
            asked = connection.execute(db.query("part_of_detail"), {"part": ddl.WHOLE})
            connection.execute(db.query("sample_lightly"), {"part": ddl.LEAF})
        entry.done()
        detail = asked.fetchall()[0][0]
        with connection.pipeline():
            connection.execute(ddl.detail(task.schema, task.table, columns, detail))
            ddl.analyze(connection, task.schema, task.table, task.table, columns=columns)
            connection.execute(ddl.detail(task.schema, task.table, columns, -1))
            connection.execute("commit")
    return task.table


def index_late(task: LateIndexTask) -> str:
    """Build the indexes that a published table or leaf lacks; see ``etl.lateindex``."""
    from etl import lateindex

    return lateindex.build(task)
