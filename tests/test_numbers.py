"""Numbers as text: what jsonb holds, and which are whole."""

from decimal import Decimal

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import numbers

EDGES = [
    "1e131071",
    "1e131072",
    "9.9e131071",
    "1e-16383",
    "1e-16384",
    "0e-16384",
    "0e200000",
    "1.5e-16382",
    "1.5e-16383",
    "-0",
    "-0.0",
    "1E5",
    "0e99999999999",
    "1e-99999999999",
    "1" * 131_072,
    "1" * 131_073,
    "0." + "0" * 16_382 + "1",
    "0." + "0" * 16_383 + "1",
    "1." + "0" * 16_384,
    "1." + "0" * 16_384 + "e4",
]


@pytest.mark.parametrize("number", EDGES, ids=lambda number: f"{number[:12]}_{len(number)}")
def test_the_limits_are_those_of_the_server(servers: str, number: str) -> None:
    """To the digit; what fits comes back as the same number."""
    with psycopg.connect(servers) as connection:
        try:
            row = connection.execute("select %s::jsonb::text", (number,)).fetchone()
        except psycopg.errors.NumericValueOutOfRange:
            row = None

    assert numbers.fits_jsonb(number.encode()) == (row is not None)
    assert row is None or Decimal(row[0]) == Decimal(number)
    assert numbers.fits_jsonb(number.encode()) or numbers.may_be_huge(number.encode())


def test_numbers_inside_texts_are_no_numbers() -> None:
    """Only what stands outside of quotes counts."""
    text = b'{"1e999999": "say \\"1e999999\\"", "a": [1e131071, -1E-999999]}'

    assert numbers.huge(text) == b"-1E-999999"
    assert numbers.huge(text.replace(b"-1E-999999", b"5")) is None


written = st.builds(
    lambda sign, whole, fraction, power: f"{sign}{whole}{fraction and '.' + fraction}{power}",
    st.sampled_from(["", "-"]),
    st.integers(0, 10**9).map(str),
    st.text("0123456789", max_size=6),
    st.sampled_from(["", "e0", "E1", "e+2", "e-2", "e9", "E-12"]),
)


@given(written)
def test_a_number_that_is_written_as_an_integer_is_the_same_number(number: str) -> None:
    """And one that is not whole stays as it was."""
    found = numbers.whole(number.encode()).decode()

    assert Decimal(found) == Decimal(number)
    is_whole = Decimal(number) == int(Decimal(number))
    assert (found.lstrip("-").isdigit() and (found.lstrip("-") == "0" or not found.lstrip("-").startswith("0"))) or (
        found == number and (not is_whole or Decimal(number) == 0)
    )


@pytest.mark.parametrize("text", [b'"Current"', b'"1e5"', b"true", b"null", b"[1e2]", b'{"e": 1}', b'""', b'"-1.0e"'])
def test_what_is_no_number_comes_back_as_it_is(text):
    """A word in the place of a number: whoever decodes it says what is wrong."""
    assert numbers.whole(text) == text
