"""Hypothesis strategies for records and their texts."""

import json
from typing import Any

from hypothesis import strategies as st

# Numbers whose usual text is their only text: what a parser and a writer of JSON make of them is the same again.
numbers = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0.5, -1.25, 3.4028234663852886e38, 1.5e300, 10000.0, 0.0])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

_CATEGORIES = [
    "Blaster_Ranged",
    "blaster_ranged",
    "Pool",
    "Epic",
    "Boosts",
    "Villain_Pets",
    "Nobody-Knows",
    "5thColumn",
]
_words = st.text("abcXYZ019_-:,' é☆", min_size=1, max_size=8).filter(lambda word: word == word.strip())


@st.composite
def full_names(draw: st.DrawFn) -> str:
    """Names of the form Category.Set.Power; the power may hold dots."""
    power = draw(_words) + draw(st.sampled_from(["", "", ".", "._Adv"]))
    return f"{draw(st.sampled_from(_CATEGORIES))}.{draw(_words)}.{power}"


@st.composite
def cod_records(draw: st.DrawFn) -> dict[str, Any]:
    """City of Data powers with arbitrary nested values and texts."""
    name = draw(full_names())
    record: dict[str, Any] = {
        "full_name": name,
        "powerset": ".".join(name.split(".", 2)[:2]),
        "effects": draw(st.lists(values, max_size=3)),
        "display_help": draw(texts),
    }
    if draw(st.booleans()):
        record |= {"accuracy": draw(st.sampled_from([0.0, 1.0, 1.5, 2])), "icon": draw(st.none() | texts)}
    if draw(st.booleans()):
        record["unknown_key"] = draw(values)
    return record


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bytes]:
    """Records and a document that holds them, as an array or as lines, minified or pretty."""
    records = draw(st.lists(cod_records(), min_size=1, max_size=12))
    form = draw(st.sampled_from(["minified", "lines", "pretty", "spaced", "one per line"]))
    if form == "lines":
        text = "".join(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n" for record in records)
    elif form == "one per line":
        text = "[\n" + ",\n".join(json.dumps(r, separators=(",", ":"), ensure_ascii=False) for r in records) + "\n]"
    elif form == "pretty":
        text = json.dumps(records, indent=draw(st.sampled_from([1, 4])), ensure_ascii=False)
    else:
        text = json.dumps(records, separators=(",", ":") if form == "minified" else None, ensure_ascii=False)
    return records, text.encode()
