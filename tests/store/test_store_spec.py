"""partitions/README.md is a specification: its example runs, and its tables name what is really there."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest
from split_support import cod, run, save

from etl import model
from etl.store import columns, entities

README = Path(__file__).parents[2] / "partitions" / "README.md"


def test_the_example_reads_a_store(tmp_path, monkeypatch):
    """The code of the last section, as it stands."""
    records = [cod("Pool.Flight.Hover", accuracy=2.0), cod("Pool.Flight.Fly"), cod("Pool.Flight.Hover")]
    run(tmp_path / "partitions", save(tmp_path / "powers.json", records))
    monkeypatch.chdir(tmp_path)
    example = README.read_text().partition("## Reading it")[2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(re.sub("^    ", "", example, flags=re.MULTILINE), {})

    assert out.getvalue() == "['pool.flight.fly', 'pool.flight.hover']\n"


def test_every_key_of_the_manifest_is_described():
    """A field added to the manifest is added to the specification."""
    text = README.read_text()
    names = [f.name for kind in (model.Manifest, model.Partition, model.BatchRef) for f in dataclasses.fields(kind)]

    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_common_column_and_entity_key_is_described(tmp_path):
    """What stands in the files stands in the specification."""
    found = run(tmp_path, save(tmp_path / "powers.json", [cod()]))
    keys = [key for kind in entities.KINDS for key in entities.read(str(tmp_path), found, kind)[0]]
    text = README.read_text()

    assert [name for name in [*columns.COMMON.names, *keys] if f"`{name}`" not in text] == []


@pytest.mark.parametrize("code", ["bad_json", "wrong_type", "missing_key", "bad_name", "name_too_long", "too_deep"])
def test_reject_codes_are_described(code):
    """A code that a person meets is explained."""
    assert f"`{code}`" in README.read_text()
