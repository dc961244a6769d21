"""The ORM class of table powers; a load by it in one transaction."""

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Engine, Float, Integer, LargeBinary, Text, create_engine
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session, declarative_base

from benches.contestants import task

_BATCH = 1_000
_KINDS: dict[str, Any] = {
    "int2": Integer,
    "int4": Integer,
    "int8": BigInteger,
    "float8": Float,
    "bool": Boolean,
    "text": Text,
    "jsonb": JSONB,
    "text[]": ARRAY(Text),
    "bytea": LargeBinary,
}


def mapped(given: task.Task) -> tuple[Engine, Any]:
    """Return an engine, with msgspec for JSON because json is slower, and the class."""
    address = given.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(address, json_serializer=lambda value: msgspec.json.encode(value).decode())
    schema, name = task.TABLE.split(".")
    columns = {
        column: Column(_KINDS[kind], primary_key=column == "id", autoincrement=False)
        for column, kind in given.columns.items()
    }
    members = {"__tablename__": name, "__table_args__": {"schema": schema}, **columns}
    return engine, type("Power", (declarative_base(),), members)


def load(put: Callable[[Session, Any, list[dict[str, Any]]], object]) -> None:
    """Load the task's rows: ``put(session, class, rows)`` some at a time, commit, then indexes and statistics."""
    given = task.read()
    given.create()
    engine, power = mapped(given)
    records = given.records()
    with Session(engine) as session:
        while batch := list(itertools.islice(records, _BATCH)):
            put(session, power, batch)
        session.commit()
    engine.dispose()
    given.finish()
