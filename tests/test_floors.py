import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "etl"

# A file imports only from floors below it; a package is one room, whose files may import each other. What follows the
# point is a landing: rooms of one floor of which one stands on the other.
FLOORS: dict[str, float] = {
    **dict.fromkeys(
        (
            "model",
            "errors",
            "config",
            "categories",
            "resources",
            "postgres",
            "halving",
            "limits",
            "numbers",
            "timings",
            "workers",
        ),
        0,
    ),
    **dict.fromkeys(("db", "storage", "parallel", "progress", "metrics", "server"), 1),
    **dict.fromkeys(
        (
            "sources",
            "transforms",
            "batches",
            "encoding",
            "loaded",
            "receipts",
            "audit",
            "plan",
            "dsn",
            "retry",
            "line",
            "sizing",
        ),
        2,
    ),
    **dict.fromkeys(("store", "tables", "bulkload"), 2.1),
    **dict.fromkeys(("ddl", "chained"), 2.2),
    **dict.fromkeys(("keys", "ledger", "read", "enrol"), 2.3),
    **dict.fromkeys(
        (
            "splitter",
            "register",
            "session",
            "leaf",
            "outcome",
            "scope",
            "finish",
            "publish",
            "lateindex",
            "generate",
            "migrations",
            "health",
            "staged",
        ),
        3,
    ),
    **dict.fromkeys(("builds", "renewal", "scope", "staging", "apply", "verify", "rejects", "preflight"), 3.1),
    **dict.fromkeys(("work", "run"), 3.2),
    **dict.fromkeys(("begin",), 3.3),
    **dict.fromkeys(("fill",), 3.4),
    "coordinator": 4,
    "update": 4.1,
    "replay": 4.2,
    "cli": 5,
    "__main__": 6,
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """Return the name under which a file stands in FLOORS: its package's, or its own."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything a file imports, inside functions and for types too."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*(here[: -node.level] if node.level else ()), *((node.module or "").split("."))))
            yield from ((node.lineno, f"{base}.{alias.name}".replace("..", ".")) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    """The floors of the house hold: nothing leans on what stands above or beside it, except on the ground."""
    own = FLOORS[room(path)]
    names = [(line, name.split(".")[1]) for line, name in imported(path) if name.startswith("etl.")]
    wrong = [
        f"line {line}: {name} is on floor {FLOORS.get(name)}, {room(path)} on {own}"
        for line, name in names
        if name != room(path) and FLOORS.get(name, 99) >= max(own, 1)
    ]

    assert wrong == []


def test_every_module_has_a_floor() -> None:
    """A new file or package of etl/ is entered in FLOORS."""
    missing = sorted({room(path) for path in MODULES} - FLOORS.keys())

    assert missing == []


@pytest.mark.parametrize("path", [path for path in MODULES if FLOORS.get(room(path)) == 0], ids=lambda path: path.stem)
def test_the_ground_floor_needs_only_the_standard_library(path: Path) -> None:
    """Importing the ground costs nothing and needs nothing."""
    packages = {name.split(".")[0] for _, name in imported(path)}

    assert packages <= {*sys.stdlib_module_names, "etl"}
