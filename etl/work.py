"""What is sent to workers: one function per kind of task. Nothing heavy is imported before a task arrives."""

import os
import time

from etl import config, db, ddl, receipts
from etl.plan import IndexTask, LeafResult, LeafTask, RegisterTask
from etl.receipts import Receipt


def load_leaf(task: LeafTask) -> LeafResult:
    """Load one leaf; see ``etl.leaf``."""
    from etl import leaf

    return leaf.load_leaf(task)


def register(task: RegisterTask) -> int:
    """Register the names of a split; see ``etl.register``."""
    from etl import register as registration

    return registration.register(task)


def index_table(task: IndexTask) -> str:
    """Index a plain table and gather its statistics, in one transaction with its receipt; return its name."""
    started = time.perf_counter()
    with db.connect(os.environ[config.DSN_VARIABLE], name=f"etl index {task.table}", autocommit=False) as connection:
        receipts.enter(connection, task.build, task.epoch)
        ddl.create_indexes(connection, task.schema, task.table, ddl.table_file(task.table))
        ddl.analyze(connection, task.schema, task.table, task.table)
        receipt = Receipt(table=task.table, leaf="indexes", digest="", version=task.version, rows=0, bytes=0)
        receipts.record(connection, task.build, receipt, time.perf_counter() - started)
        connection.commit()
    return task.table
