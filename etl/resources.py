"""The SQL files that ship with the package, in a checkout as in an installed wheel."""

from functools import cache
from pathlib import Path

from etl.errors import EtlError, UsageError


@cache
def sql_text(relative_path: str) -> str:
    """Return the text of one file of ``sql/``, for example ``sql_text("migrations/0001_ledger.sql")``.

    Raises:
        EtlError: there is no such file: the installation is damaged, or the name is wrong.
    """
    path = _sql_folder() / relative_path
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise EtlError(f"{path} is missing", "install again: pip install --force-reinstall hero-etl") from error


def sql_files(folder: str) -> list[str]:
    """Return the ``.sql`` files of one folder of ``sql/`` as paths for ``sql_text``, by name; there may be none."""
    root = _sql_folder()
    return sorted(path.relative_to(root).as_posix() for path in (root / folder).glob("*.sql"))


def migrations_folder() -> Path:
    """Return the folder of a checkout in which migrations are written.

    Raises:
        UsageError: this is an installed package, whose files are not a person's to write.
    """
    folder = _sql_folder()
    if folder.parent == Path(__file__).resolve().parent:
        raise UsageError(
            f"migrations are written in a checkout of the sources, and {folder.parent} is an installed package",
            "git clone the project, then pip install --editable .",
        )
    return folder / "migrations"


@cache
def _sql_folder() -> Path:
    """Return ``etl/sql`` (where a wheel carries the files), else ``sql`` beside the package (a checkout)."""
    package = Path(__file__).resolve().parent
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"
