"""Fields of many structs at once are what each field of each struct is."""

import pytest

from etl.transforms import cod, i12, nested


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fields_of_many_are_those_of_each(count: int) -> None:
    """In the order of the struct's fields, also of none."""
    templates = [cod.Template(scale=float(number), attribs=(str(number),), stack=None) for number in range(count)]
    effects = [i12.Effect(EffectType=str(number), Chance=number / 10) for number in range(count)]

    for kind, values in ((cod.Template, templates), (i12.Effect, effects)):
        slow = [[getattr(value, name) for value in values] for name in kind.__struct_fields__]
        assert list(nested.fields_of(kind, values)) == slow
