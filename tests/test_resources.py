from pathlib import Path

import pytest

from etl import resources
from etl.errors import EtlError

SQL = Path(__file__).resolve().parents[1] / "sql"


def test_every_file_of_a_folder_is_listed_and_read() -> None:
    """The names that sql_files gives are those that sql_text takes."""
    names = resources.sql_files("tables")

    assert names == sorted(f"tables/{path.name}" for path in (SQL / "tables").glob("*.sql"))
    assert [resources.sql_text(name) for name in names] == [(SQL / name).read_text(encoding="utf-8") for name in names]


def test_a_folder_that_does_not_exist_is_empty() -> None:
    """Views and the like are optional."""
    assert resources.sql_files("nothing_of_the_kind") == []


def test_a_missing_file_is_named() -> None:
    """A damaged installation is told as such."""
    with pytest.raises(EtlError, match=r"tables/unicorns\.sql is missing"):
        resources.sql_text("tables/unicorns.sql")
