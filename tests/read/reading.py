"""A small published export that can be updated and published again, and what a reader has counted."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

import etl
from etl import builds, config, coordinator, db, update
from etl.read import PowerReader
from etl.scope import Scope

Records = list[dict[str, Any]]

_numbers: Iterator[int] = itertools.count()


@dataclass(kw_only=True)
class Game:
    """A database with a published build, and the means to publish and update."""

    dsn: str
    records: Records
    store: Path

    def update(self, records: Records) -> int:
        """Bring the published build to these records; return the new generation."""
        return update.update(self._options(records), Scope()).generation

    def rebuild(self, records: Records) -> int:
        """Publish a fresh build of these records; return it."""
        return coordinator.load(replace(self._options(records), fresh=True)).build

    def rollback(self) -> int:
        """Publish the previous build again; return the new generation."""
        with db.connect(self.dsn) as connection:
            return builds.rollback(connection, "game").generation

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(query, values or None)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []

    def _options(self, records: Records) -> config.LoadOptions:
        path = self.store.parent / f"source{next(_numbers)}.json"
        path.write_text(json.dumps(records))
        manifest = etl.split(str(path), store=str(self.store), executor="inline://")
        return config.LoadOptions(
            store=str(self.store), split_id=manifest.split_id, dsn=self.dsn, executor="inline://", command="test"
        )


def counted(reader: PowerReader, tier: str, kind: str = "all") -> tuple[int, int]:
    """Return the hits and misses of a tier."""
    told = reader.stats()["tiers"].get(tier, {}).get(kind, {"hits": 0, "misses": 0})
    return told["hits"], told["misses"]


def statements(reader: PowerReader) -> int:
    """Return how many statements about data a reader has sent to the database."""
    return int(reader.stats()["events"].get("statements", 0))
