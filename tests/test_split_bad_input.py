"""Input that cannot be split at all: one clear sentence with file and place, exit code 5, nothing committed."""

import gzip
import json

import pytest
from split_support import cod, is_untouched, mids, run, save

from etl import errors
from etl.store import manifest

RECORD = json.dumps(cod(), separators=(",", ":"))
SECOND = json.dumps(cod("Pool.Set.A"), separators=(",", ":"))

BROKEN = {
    "empty": ("", "the file is empty (0 bytes)"),
    "blank": (" \n\n", "the file is empty (3 bytes)"),
    "no json": ("hello", "not JSON records: byte 0 is"),
    "html": ("<html></html>", "not JSON records: byte 0"),
    "empty array": ("[]", "the array is empty"),
    "of numbers": ("[1,2]", "of no known format"),
    "truncated first": ('[{"full_name":"A.B.C","effects":[', "the first record, at byte 1, does not end"),
    "truncated later": (f"[{RECORD},\n{SECOND[:-9]}", "record 1: the file ends inside this record"),
    "truncated between": (f"[{RECORD},\n{SECOND}", "record 2: the file ends before the array is closed"),
    "truncated at comma": (f"[{RECORD},{SECOND},", "the file ends before the array is closed"),
    "no comma": (f"[{RECORD},{SECOND} {SECOND}]", "',' or ']' was expected after a record"),
    "double comma": (f"[{RECORD},{SECOND},,{SECOND}]", "a record was expected, not ','"),
    "trailing comma": (f"[{RECORD},{SECOND},]", "a record was expected, not ']'"),
    "trailing": (f"[{RECORD},{SECOND}] x", "something follows the end of the array"),
    "two documents": (f"[{RECORD}][{RECORD}]", "something follows the end of the array"),
    "two objects": (f"{json.dumps(cod(), indent=1)}\n{json.dumps(cod(), indent=1)}", "something follows the end"),
    "unknown": ('[{"id": 1, "nanos": []}]', "its keys are id, nanos"),
    "wrapped": ('{"powers": [{"full_name": "A.B.C"}], "version": 1}', "its keys are powers, version"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("chunk_bytes", [64, 4 << 20])
def test_broken_input_is_refused_with_its_place(tmp_path, kind, chunk_bytes):
    """File, byte or record, and what to do; nothing is left in the store."""
    text, sentence = BROKEN[kind]
    source = tmp_path / "broken.json"
    source.write_text(text)
    with pytest.raises(errors.InputError) as caught:
        run(tmp_path / "store", source, chunk_bytes=chunk_bytes)

    assert caught.value.message.startswith(str(source))
    assert sentence in caught.value.message
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert is_untouched(tmp_path / "store")
    assert not list(tmp_path.rglob("*.arrow"))


def test_the_place_of_a_break_is_exact(tmp_path):
    """The byte is the one where the record begins that is not finished."""
    source = tmp_path / "broken.json"
    source.write_text(f"[{RECORD},\n{SECOND},\n{SECOND[:50]}")
    with pytest.raises(errors.InputError, match=f"byte {len(RECORD) + len(SECOND) + 5}, record 2"):
        run(tmp_path / "store", source)


def test_a_break_in_a_later_range_is_found_by_every_number_of_processes(tmp_path, monkeypatch):
    """The range with the break, and not one whose start was guessed, tells it."""
    from etl.sources import inputs

    monkeypatch.setattr(inputs, "RANGE_BYTES", 1_000)
    records = [json.dumps(cod(f"Pool.Set.P{n}"), separators=(",", ":")) for n in range(40)]
    source = tmp_path / "broken.json"
    text = "[\n" + ",\n".join(records[:30]) + "\n" + ",\n".join(records[30:]) + "]"
    source.write_text(text)
    place = len("[\n" + ",\n".join(records[:30])) + 1
    for executor in ("inline://", "process://2"):
        with pytest.raises(errors.InputError, match=f"byte {place}, .*',' or ']' was expected"):
            run(tmp_path / "store", source, executor=executor)

    assert is_untouched(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "sentence"), [("none.json", "no such file"), ("folder", "a directory without powers")]
)
def test_missing_and_empty_places_are_refused(tmp_path, name, sentence):
    """A path that is not there, a directory with no record in it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "combat_training").write_text("")
    with pytest.raises(errors.InputError, match=sentence):
        run(tmp_path / "store", tmp_path / name)

    assert is_untouched(tmp_path / "store")


@pytest.mark.parametrize("ending", [".gz", ".zst", ".zip"])
def test_damaged_compression_is_refused(tmp_path, ending):
    """A packed file that is cut off, and one that is none."""
    save(tmp_path / "good.json", [cod(f"Pool.Set.P{n}") for n in range(50)])
    packed = gzip.compress((tmp_path / "good.json").read_bytes())
    source = tmp_path / f"bad.json{ending}"
    source.write_bytes(packed[:-40] if ending == ".gz" else b"\x28\xb5\x2f\xfd garbage, and more of it")
    with pytest.raises(errors.InputError) as caught:
        run(tmp_path / "store", source)

    assert str(source) in caught.value.message
    assert is_untouched(tmp_path / "store")


def test_a_format_given_by_hand_must_fit(tmp_path):
    """Never half imported: the first record decides, and what it lacks is named."""
    source = save(tmp_path / "powers.json", [cod()])
    with pytest.raises(errors.InputError, match="not of format i12: the first record lacks InternalName") as caught:
        run(tmp_path / "store", source, format="i12")

    assert "--format cod" in str(caught.value)
    assert is_untouched(tmp_path / "store")


def test_sources_of_different_formats_are_refused(tmp_path):
    """One split has one format."""
    first = save(tmp_path / "a.json", [cod()])
    second = save(tmp_path / "b.json", [mids("Pool.Set", {"FullName": "Pool.Set.P"})])
    with pytest.raises(errors.InputError, match="different formats"):
        run(tmp_path / "store", first, second)


def test_a_path_without_records_is_refused(tmp_path):
    """--records-path that leads nowhere."""
    source = save(tmp_path / "powers.json", [cod()])
    with pytest.raises(errors.InputError, match=r"nothing at the path 'powers\.item'"):
        run(tmp_path / "store", source, records_path="powers.item")


@pytest.mark.parametrize("options", [{"format": "xml"}, {"executor": "carrier-pigeon://1"}])
def test_options_that_mean_nothing_are_refused(tmp_path, options):
    """Exit code 2."""
    source = save(tmp_path / "powers.json", [cod()])
    with pytest.raises(errors.UsageError) as caught:
        run(tmp_path / "store", source, **options)

    assert caught.value.exit_code == 2


def test_an_archetypes_file_of_another_kind_is_named(tmp_path):
    """A file given by hand must be what it is said to be."""
    source = save(tmp_path / "powers.json", [cod()])
    with pytest.raises(errors.InputError, match="not a file of the expected kind"):
        run(tmp_path / "store", source, archetypes=str(save(tmp_path / "other.json", [{"nothing": 1}])))

    assert is_untouched(tmp_path / "store")


def test_stores_that_cannot_be_read_say_why(tmp_path):
    """None, another version, a damaged manifest: each one sentence with the place, exit code 5."""
    store = tmp_path / "store"
    with pytest.raises(errors.StoreError, match="no finished split") as caught:
        manifest.read(str(store))

    assert caught.value.exit_code == 5

    found = run(store, save(tmp_path / "powers.json", [cod()]))
    place = store / found.split_id / "manifest.json"
    text = place.read_text()
    place.write_text(text.replace('"store_version": 3', '"store_version": 99'))
    with pytest.raises(errors.StoreError, match="version 99, this program reads version 3"):
        manifest.read(str(store))

    place.write_text(text[:-20])
    with pytest.raises(errors.StoreError, match="damaged"):
        manifest.read(str(store))
