"""The rows that every contender loads: the product's own, made once, as text for COPY and as JSON lines.

etl transforms the records of a split; what it would send to the server is written down here instead. Whoever reads these
files is spared the transform, the ids and the derived columns, so a comparison with etl, which does all that, favours
the other side.

A folder of rows holds ``<table>.<n>.copy``, COPY's text format, one file per backend, of about equal size; and
``powers.ndjson``, a JSON object per row, jsonb columns as nested JSON and text[] as lists, bytea as hexadecimal digits,
without the columns whose value is the same in every row: ``plan.json`` has those under "constants".
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import psycopg
import pyarrow as pa

from etl import db, tables
from etl.leaf import coalesce
from etl.model import LeafContext, Manifest
from etl.store import manifest as manifests
from etl.store import parts

_ROWS, _BYTES = 5_000, 32 << 20
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ready:
    """A folder of rows: rows per table, bytes of text for COPY, the columns that are the same in every row."""

    folder: Path
    rows: dict[str, int]
    copy_bytes: int
    json_bytes: int
    constants: dict[str, Any]


def write(dsn: str, store: str, split_id: str, names: list[str], folder: Path, backends: int) -> Ready:
    """Write the rows of the named tables as a published build in ``dsn`` has them, from the split it was loaded from."""
    folder.mkdir()
    manifest = manifests.read(store, split_id)
    rows = dict.fromkeys(names, 0)
    kinds = tables.spec("powers").columns
    first: dict[str, Any] = {}
    varying: set[str] = set()
    with psycopg.connect(dsn, autocommit=True) as connection:
        context = _context(connection)
        for batch in _batches(store, manifest, context, names):
            if "powers" in batch:
                _note_constants(batch["powers"], first, varying)
        with _Files(folder, names, backends) as files:
            for number, batch in enumerate(_batches(store, manifest, context, names)):
                for name in names:
                    rows[name] += batch[name].num_rows
                    _write_text(batch[name], tables.spec(name).columns, files[name][number % backends])
                _write_json(batch["powers"], kinds, varying, files["json"][0])
    constants = {name: _plain(value, kinds[name]) for name, value in first.items() if name not in varying}
    copies = sum(path.stat().st_size for path in folder.glob("*.copy"))
    return Ready(
        folder=folder, rows=rows, copy_bytes=copies, json_bytes=(folder / "powers.ndjson").stat().st_size,
        constants=constants,
    )  # fmt: skip


class _Files:
    """The open files by table, one per backend, and ``json``."""

    def __init__(self, folder: Path, names: list[str], backends: int) -> None:
        self._files: dict[str, list[IO[bytes]]] = {
            name: [(folder / f"{name}.{number}.copy").open("wb") for number in range(backends)] for name in names
        }
        self._files["json"] = [(folder / "powers.ndjson").open("wb")]

    def __enter__(self) -> dict[str, list[IO[bytes]]]:
        return self._files

    def __exit__(self, *_: object) -> None:
        for files in self._files.values():
            for file in files:
                file.close()


def _context(connection: psycopg.Connection[Any]) -> LeafContext:
    """Return the ids of everything that the build in this database has."""
    schema = db.identifier("game_b1")

    def pairs(statement: str) -> dict[str, int]:
        return dict(connection.execute(statement).fetchall())

    sets = pairs("select uid, id from etl.powerset_key")
    powers = pairs("select uid, id from etl.power_key")
    members = connection.execute(db.query("power_order", schema=schema), {"powersets": list(sets.values())}).fetchall()
    return LeafContext(
        archetype_ids=pairs("select uid, id from etl.archetype_key"),
        powerset_ids=sets,
        power_ids=powers,
        power_order={uid: position for (uids,) in members for position, uid in enumerate(uids)},
        resolve=lambda uids: {uid: powers[uid] for uid in uids if uid in powers},
    )


def _batches(
    store: str, manifest: Manifest, context: LeafContext, names: list[str]
) -> Iterator[dict[str, pa.RecordBatch]]:
    for batch in coalesce(parts.read_runs(store, manifest, manifest.partitions), _ROWS, _BYTES // 4):
        yield tables.build(manifest.format, batch, context, names)[0]


def _note_constants(batch: pa.RecordBatch, first: dict[str, Any], varying: set[str]) -> None:
    for name in batch.schema.names:
        if name in varying or not batch.num_rows:
            continue
        column = batch.column(name)
        value = first.setdefault(name, column[0].as_py())
        if any(other != value for other in column.to_pylist()):
            varying.add(name)


def _write_text(batch: pa.RecordBatch, kinds: dict[str, str], file: IO[bytes]) -> None:
    columns = [[_text(value, kind) for value in batch.column(name).to_pylist()] for name, kind in kinds.items()]
    file.writelines("\t".join(row).encode() + b"\n" for row in zip(*columns, strict=True))


def _text(value: Any, kind: str) -> str:
    """Return a value as COPY's text format has it (manual, "COPY", Text Format)."""
    if value is None:
        return "\\N"
    if kind in ("text", "jsonb"):
        return str(value).translate(_ESCAPES)
    if kind == "text[]":
        quoted = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in value)
        return ("{" + ",".join(f'"{item}"' for item in quoted) + "}").translate(_ESCAPES)
    if kind == "bytea":
        return f"\\\\x{value.hex()}"
    return {True: "t", False: "f"}[value] if kind == "bool" else repr(value)


def _write_json(batch: pa.RecordBatch, kinds: dict[str, str], varying: set[str], file: IO[bytes]) -> None:
    names = [name for name in kinds if name in varying]
    columns = [[_json(value, kinds[name]) for value in batch.column(name).to_pylist()] for name in names]
    encode = msgspec.json.encode
    file.writelines(encode(dict(zip(names, row, strict=True))) + b"\n" for row in zip(*columns, strict=True))


def _json(value: Any, kind: str) -> Any:
    if value is not None and kind == "jsonb":
        return msgspec.Raw(value.encode())
    return _plain(value, kind)


def _plain(value: Any, kind: str) -> Any:
    return value.hex() if kind == "bytea" and value is not None else value


def keep_plan(ready: Ready, plan: dict[str, Any]) -> None:
    (ready.folder / "plan.json").write_text(json.dumps({**plan, "constants": ready.constants}, indent=1))
