"""What is not asked for is not computed, and what is asked for does not depend on that."""

import json
from pathlib import Path

import pytest
import store_shape

from etl import tables
from etl.generate import generate

_MIDS = {
    "FullName": "A.B.C",
    "PowerName": "C",
    "DisplayName": "C",
    "Level": 1,
    "Target": 2048,
    "BoostsAllowed": ["Enhance_Damage"],
    "SetTypes": [3],
    "Requires": {"PowerID": [["X.Y.Z", ""]]},
    "Effects": [
        {"EffectType": 2, "DamageType": 1, "Aspect": 2, "Scale": 1.5, "Ticks": 3, "Duration": 4.0, "Stacking": 1}
    ],
}


def records(shape: str, folder: Path) -> list[bytes]:
    """Some records of a shape."""
    if shape == "mids":
        return [json.dumps(_MIDS).encode()]
    generate(shape, 300, 3, folder / "records.json")
    return store_shape.read_pack(shape, folder / "records.json")


@pytest.mark.parametrize("shape", ["cod", "i12", "mids"])
def test_a_table_alone_is_what_it_is_among_all(shape: str, tmp_path: Path) -> None:
    """Rows and types."""
    texts = records(shape, tmp_path)
    batch, context = store_shape.batch(shape, texts), store_shape.context_of(shape, texts)
    every, _ = tables.build(shape, batch, context, tables.LEAF_TABLES)

    assert every["power_effects"].num_rows > 0
    for name in tables.LEAF_TABLES:
        alone, rejects = tables.build(shape, batch, context, [name])
        assert (list(alone), rejects) == ([name], [])
        assert alone[name].equals(every[name]), name
