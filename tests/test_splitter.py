import gzip
import io
import json
import re
import sys
import zipfile
from collections import Counter

import msgspec
import polars as pl
import pytest
import strategies
import zstandard
from hypothesis import HealthCheck, given, settings
from split_support import cod, content, i12, mids, rejected, reread, rows, run, save

from etl import categories, splitter
from etl.config import SplitOptions
from etl.sources import inputs
from etl.store import entities, parts

JUN = "cod-homecoming-2025.powers"
DEC = "codfull-homecoming-20251209.powers"
M19 = "mids-2019.powersets"
ALL_PACKS = [JUN, M19, "i12-sample"]

JUN_COUNTS = (
    "incarnate 1166, epic 405, brute 334, scrapper 334, tanker 333, stalker 304, corruptor 292, defender 292, "
    "blaster 275, sentinel 272, controller 271, dominator 235, mastermind 216, inherent 161, pool 83, "
    "arachnos_soldier 44, arachnos_widow 44, peacebringer 40, warshade 39"
)
DEC_COUNTS = (
    "npc 14025, boosts 2739, temporary 1248, incarnate 1166, set_bonus 997, pets 653, mastermind_pets 475, epic 405, "
    "prestige 377, villain_pets 366, brute 346, scrapper 346, tanker 345, stalker 316, redirects 312, corruptor 292, "
    "defender 292, blaster 275, sentinel 272, controller 271, dominator 238, mastermind 216, inherent 160, "
    "inspirations 96, pool 83, peacebringer 40, arachnos_soldier 39, warshade 39, arachnos_widow 37, kheldian_pets 30"
)


def counts(text):
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", text)}


def per_archetype(found):
    total = Counter()
    for partition in found.partitions:
        total[partition.archetype] += partition.rows
    return dict(total)


@pytest.fixture(scope="session")
def june(pack, tmp_path_factory):
    """(store, manifest) of the June export."""
    store = tmp_path_factory.mktemp("june")
    return store, run(store, pack(JUN))


@pytest.fixture(scope="session")
def december(pack, tmp_path_factory):
    """(store, manifest) of the complete December export, split by two processes."""
    store = tmp_path_factory.mktemp("december")
    for kind in ("powersets", "archetypes"):
        pack(DEC.replace("powers", kind))
    return store, run(store, pack(DEC), executor="process://2")


def test_every_record_of_june_gets_its_archetype(june):
    """The counts of the category rule."""
    assert per_archetype(june[1]) == counts(JUN_COUNTS)
    assert len(june[1].partitions) == 597


def test_december_has_its_counts_and_three_superseded_names(december):
    """Of two files with one name the last one wins; the losers are all enemies' powers, and both places are told."""
    found = december[1]
    expected = counts(DEC_COUNTS)
    expected["npc"] -= 3

    assert per_archetype(found) == expected
    assert (found.records, found.rows, found.superseded, found.rejects) == (26_496, 26_493, 3, 0)
    assert [(s.ordinal, s.by_ordinal) for s in found.superseded_places] == [
        (22_861, 22_864),
        (25_265, 25_266),
        (25_270, 25_271),
    ]
    assert all(0 < s.offset < s.by_offset for s in found.superseded_places)


def test_superseded_places_are_the_bytes_where_the_records_stand(december, pack):
    """Both offsets of each place lead to a record of that name."""
    text = pack(DEC).read_bytes()
    for place in december[1].superseded_places:
        for offset in (place.offset, place.by_offset):
            record = text[offset : offset + 4_000].lower()

            assert record.startswith(b'{"name"')
            assert f'"full_name":"{place.uid}"'.encode() in record


def test_readers_do_not_see_superseded_rows(december):
    """The rows that come back are the winners, each once."""
    store, found = december
    npc = [p for p in found.partitions if p.archetype == "npc"]
    uids = [uid for b in parts.read_batches(str(store), found, npc) for uid in b.column("uid").to_pylist()]

    assert len(uids) == len(set(uids)) == 14_022


def test_powersets_and_archetypes_come_from_the_files_beside(december):
    """The December export brings both; archetype keys that are no class get a line of their own."""
    store, found = december
    powersets = {p["uid"]: p for p in entities.read(str(store), found, "powersets")}
    archetypes = {a["uid"]: a for a in entities.read(str(store), found, "archetypes")}

    assert len(powersets) == 7_597
    assert powersets["blaster_ranged.fire_blast"]["full_name"] == "Blaster_Ranged.Fire_Blast"
    assert powersets["blaster_ranged.fire_blast"]["power_order"][0] == "blaster_ranged.fire_blast.flares"
    assert {p.powerset for p in found.partitions} <= set(powersets)
    assert len(archetypes) == 71 + 15
    assert archetypes["blaster"]["hit_points_base"] == 1204.7588
    assert archetypes["blaster"]["hit_points_max"] == 1847.2968
    assert archetypes["blaster"]["modifiers"]["res"] == 0.75
    assert archetypes["npc"]["display_name"] == "Npc"
    assert [a["uid"] for a in archetypes.values() if a["is_player"]] == sorted(categories.PLAYER_KEYS)


def test_mids_powers_are_the_records(pack, tmp_path):
    """Every power of every powerset, also those in files of 1.2 MB; powersets without powers are entities only."""
    found = run(tmp_path, pack(M19))
    powersets = entities.read(str(tmp_path), found, "powersets")

    assert (found.records, found.rows, len(powersets)) == (9_710, 9_710, 3_574)
    assert len(found.partitions) == 3_574 - 19
    assert found.counts == {"nul_stripped": 8}
    assert per_archetype(found)["boosts"] == 2_551


def test_the_flat_sample_is_recognised(pack, tmp_path):
    """Its powersets are told from PowersetFullName."""
    found = run(tmp_path, pack("i12-sample"))

    assert (found.format, found.records, len(found.partitions)) == ("i12", 2_000, 548)


@pytest.mark.parametrize("name", ALL_PACKS)
def test_the_general_path_gives_the_same_store(pack, tmp_path, name):
    """Another parser, ijson, is the referee of the fast path on every pack."""
    fast = run(tmp_path, pack(name))
    general = run(tmp_path, pack(name), general_path=True)

    assert content(general) == content(fast)
    assert general.split_id != fast.split_id


@pytest.mark.slow
def test_the_general_path_gives_the_same_store_for_december(pack, tmp_path, december):
    """The complete export, too."""
    assert content(run(tmp_path, pack(DEC), general_path=True)) == content(december[1])


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_number_of_processes_does_not_show(pack, tmp_path, monkeypatch, june, jobs):
    """June in many small ranges gives what it gives in one."""
    monkeypatch.setattr(inputs, "RANGE_BYTES", 4 << 20)
    found = run(tmp_path, pack(JUN), executor=f"process://{jobs}")

    assert content(found) == content(june[1])
    assert len(found.range_ordinals) == 15


@pytest.mark.parametrize("chunk_bytes", [20_000, 333_333, 64 << 20])
def test_the_size_of_buffers_does_not_show(pack, tmp_path, june, chunk_bytes):
    """Neither cutting inside a record nor taking the file at once changes anything."""
    found = run(tmp_path, pack(JUN), chunk_bytes=chunk_bytes, memory_limit_bytes=256 << 20, batch_rows=97)

    assert content(found) == content(june[1])
    assert max(ref.rows for p in found.partitions for ref in p.batches) <= 97


def test_packed_pretty_and_streamed_input_gives_the_same_store(pack, tmp_path, monkeypatch):
    """What a source is wrapped in does not show."""
    records = msgspec.json.decode(pack("i12-sample").read_bytes())[:400]
    plain = save(tmp_path / "plain.json", records)
    text = plain.read_bytes()
    forms = {
        "spaced.json": json.dumps(records).encode(),
        "pretty.json": msgspec.json.format(text, indent=2),
        "windows.json": msgspec.json.format(text, indent=2).replace(b"\n", b"\r\n"),
        "tabs.json": msgspec.json.format(text, indent=1).replace(b"\n ", b"\n\t"),
        "bom.json": b"\xef\xbb\xbf" + text,
        "lines.ndjson": b"".join(msgspec.json.encode(record) + b"\n" for record in records),
        "open.ndjson": b"\r\n\r\n".join(msgspec.json.encode(record) for record in records),
        "packed.json.gz": gzip.compress(text),
        "packed.json.zst": zstandard.ZstdCompressor().compress(text),
        "packed.json": gzip.compress(text),
    }
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside/first.json", msgspec.json.encode(records[:150]))
        archive.writestr("inside/readme.txt", "no record")
        archive.writestr("inside/second.json", msgspec.json.format(msgspec.json.encode(records[150:])))
    store = tmp_path / "store"
    expected = content(run(store, plain))

    for name in [*forms, "packed.zip"]:
        assert content(run(store, tmp_path / name)) == expected, name

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(forms["packed.json.gz"])))
    streamed = run(store, "-")

    assert content(streamed) == expected
    assert streamed.sources[0].kind == "stream"
    assert (store / "LATEST").read_text().strip() == streamed.split_id
    assert not list(store.glob("stream-*"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=strategies.documents())
def test_no_way_of_reading_shows(tmp_path_factory, document):
    """Fast and general path, whatever the buffers and ranges, give the same store, and give back every record."""
    records, text = document
    folder = tmp_path_factory.mktemp("any")
    source = folder / "any.json"
    source.write_bytes(text)
    winners = {record["full_name"].strip().lower(): record for record in records}

    fast = run(folder / "fast", source)
    tight = run(folder / "tight", source, chunk_bytes=40, batch_rows=2, memory_limit_bytes=1)

    assert content(tight) == content(fast)
    if not text.startswith(b"{"):
        assert content(run(folder / "general", source, general_path=True)) == content(fast)
    assert (fast.records, fast.rows, fast.rejects) == (len(records), len(winners), 0)
    for store, found in ((folder / "fast", fast), (folder / "tight", tight)):
        for row in rows(store, found):
            record = winners[row["uid"]]

            assert json.loads(row["effects"]) == record["effects"]
            assert row["display_help"] == record["display_help"]
            assert text[row["offset"] :].startswith(b"{")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=strategies.documents())
def test_ranges_do_not_show(tmp_path_factory, document):
    """Ranges of a few bytes, with starts guessed inside of strings and nested objects, change nothing."""
    _, text = document
    folder = tmp_path_factory.mktemp("ranges")
    source = folder / "any.json"
    source.write_bytes(text)
    whole = run(folder / "whole", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "RANGE_BYTES", 50)
        cut = run(folder / "cut", source)

    assert content(cut) == content(whole)
    assert cut.superseded_places == whole.superseded_places
    assert [r["ordinal"] for r in rows(folder / "cut", cut)] == [r["ordinal"] for r in rows(folder / "whole", whole)]


def test_a_separator_inside_a_text_does_not_mislead(tmp_path, monkeypatch):
    """A text that looks like the end of a record and the beginning of the next one, at every edge."""
    trap = ',\n{"name":"x","full_name":"A.B.C","powerset":"A.B","effects":[]'
    records = [cod(f"Pool.Set_{n}.Power", display_help=trap * 5, effects=[{"name": trap}]) for n in range(40)]
    source = save(tmp_path / "traps.json", records)
    whole = run(tmp_path / "whole", source)
    monkeypatch.setattr(inputs, "RANGE_BYTES", 500)
    cut = run(tmp_path / "cut", source, chunk_bytes=300)

    assert content(cut) == content(whole)
    assert cut.records == cut.rows == 40


def test_parts_can_be_read_by_polars(june):
    """The specification's own way of reading: whole parts, with the superseded rows still in."""
    store, found = june
    frame = pl.scan_ipc(str(store / found.split_id / "parts" / "*.arrow"))
    counted = frame.group_by("archetype").agg(pl.len()).collect()

    assert dict(counted.iter_rows()) == counts(JUN_COUNTS)


def test_a_batch_holds_one_archetype_sorted_by_powerset(june):
    """What the specification says of every record batch."""
    store, found = june
    reader = parts.Reader(str(store), found.split_id)
    for part, number in sorted({(ref.part, ref.batch) for p in found.partitions for ref in p.batches}):
        batch = reader.batch(part, number)
        powersets = batch.column("powerset").to_pylist()

        assert powersets == sorted(powersets)
        assert set(batch.column("archetype").to_pylist()) == {part.rpartition("-")[0]}


def test_the_manifest_survives_a_round_trip(june):
    """What was returned is what the file says."""
    store, found = june

    assert reread(store, found) == found


def test_duplicates_are_found_across_ranges_and_sources(tmp_path, monkeypatch):
    """Case does not matter, the later source wins, and every loser is told with its place."""
    monkeypatch.setattr(inputs, "RANGE_BYTES", 1_000)
    first = save(tmp_path / "a.json", [cod(f"Pool.Set.Power_{n % 7}", accuracy=n) for n in range(30)])
    second = save(tmp_path / "b.json", [cod("pool.set.POWER_3", accuracy=100)])
    found = run(tmp_path / "store", first, second)
    kept = {row["uid"]: (row["source"], row["accuracy"]) for row in rows(tmp_path / "store", found)}

    assert (found.records, found.rows, found.superseded) == (31, 7, 24)
    assert kept == {
        f"pool.set.power_{n}": (0, m) for n, m in zip(range(7), [28, 29, 23, 0, 25, 26, 27], strict=True)
    } | {"pool.set.power_3": (1, 100)}
    losers = [s for s in found.superseded_places if s.uid == "pool.set.power_3"]
    assert [(s.ordinal, s.by_source, s.by_ordinal) for s in losers] == [(3, 1, 0), (10, 1, 0), (17, 1, 0), (24, 1, 0)]


def test_the_digest_is_of_the_winners_alone(tmp_path):
    """A source with and without the records that lose has the same partitions."""
    winners = [cod("Pool.Set.A"), cod("Pool.Set.B")]
    clean = run(tmp_path / "clean", save(tmp_path / "clean.json", winners))
    dirty = run(tmp_path / "dirty", save(tmp_path / "dirty.json", [cod("POOL.set.a", accuracy=9), *winners, cod("x")]))

    assert [(p.digest, p.rows, p.bytes) for p in dirty.partitions] == [
        (p.digest, p.rows, p.bytes) for p in clean.partitions
    ]


def test_records_under_a_path_are_found(tmp_path):
    """A bigger document with the records somewhere inside."""
    records = [cod(f"Pool.Set.Power_{n}") for n in range(5)]
    document = tmp_path / "wrapped.json"
    document.write_text(json.dumps({"version": 1, "powers": records}))
    plain = run(tmp_path / "store", save(tmp_path / "plain.json", records))
    found = run(tmp_path / "store", document, records_path="powers.item")

    assert content(found) == content(plain)
    assert {row["offset"] for row in rows(tmp_path / "store", found)} == {-1}


def test_progress_ends_at_the_total(tmp_path):
    """The last event says that everything is done."""
    source = save(tmp_path / "powers.json", [cod()])
    events = []
    splitter.split(
        SplitOptions(sources=(str(source),), store=str(tmp_path / "store"), executor="inline://"), events.append
    )

    assert events[-1].done == events[-1].total == source.stat().st_size - 2
    assert {event.unit for event in events} == {"bytes"}


def test_a_flat_powerset_of_unknown_category_is_taken_from_the_power_if_that_is_known(tmp_path):
    """PowersetFullName is believed unless its category is strange and that of InternalName is not."""
    cases = {
        "Blaster_Ranged.Fire_Blast.Blast": ("Blaster.Fire_Blast", "blaster_ranged.fire_blast", "blaster"),
        "Archetype.Set.Power": ("Archetype.Test_Powerset_3", "archetype.test_powerset_3", "npc"),
        "Pool.Flight.Hover": ("Epic.Flight", "epic.flight", "epic"),
        "Pool.Flight.Fly": (None, "pool.flight", "pool"),
    }
    records = [i12(name, PowersetFullName=powerset) for name, (powerset, _, _) in cases.items()]
    records[0], records[1] = records[1], records[0]
    found = run(tmp_path / "store", save(tmp_path / "flat.json", records))
    types = {p["uid"]: p["powerset_type"] for p in entities.read(str(tmp_path / "store"), found, "powersets")}

    assert (types["archetype.test_powerset_3"], types["blaster_ranged.fire_blast"]) == ("unknown", "primary")

    assert {row["InternalName"]: (row["powerset"], row["archetype"]) for row in rows(tmp_path / "store", found)} == {
        name: (powerset, archetype) for name, (_, powerset, archetype) in cases.items()
    }


def test_mids_powers_know_their_place_and_their_powerset(tmp_path):
    """The offset of a power is that of its own brace; absent values are the format's defaults."""
    powers = [{"FullName": f"Pool.Flight.P{n}", "Level": n} for n in range(3)]
    sets = [
        mids("Pool.Flight", *powers, ATClass="Class_X", SetType=5),
        mids("Pets.A,B"),
        mids("Pool.Leap", "no object"),
    ]
    source = save(tmp_path / "sets.json", sets)
    found = run(tmp_path / "store", source)
    text = source.read_bytes()
    got = rows(tmp_path / "store", found)

    assert [text[row["offset"] :].startswith(b'{"FullName":"%s"' % row["FullName"].encode()) for row in got] == [
        True
    ] * 3
    assert [(row["Level"], row["ATClass"], row["SetType"], row["Effects"]) for row in got] == [
        (n, "Class_X", 5, "[]") for n in range(3)
    ]
    assert [reject.code for reject in rejected(tmp_path / "store", found)] == ["wrong_type"]
    assert [p["uid"] for p in entities.read(str(tmp_path / "store"), found, "powersets")] == [
        "pets.a,b",
        "pool.flight",
        "pool.leap",
    ]
