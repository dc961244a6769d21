import collections
import gzip
import hashlib
import itertools
import json

import msgspec
import pytest
import zstandard

from etl import generate
from etl.errors import UsageError
from etl.generate import dirt, world
from etl.generate.dice import apportion

SHAPES = ("cod", "i12")
NAME_KEY = {"cod": "full_name", "i12": "InternalName"}

# Powers per partition key in the complete City of Data export of December 2025.
REFERENCE_PARTITIONS = {
    "npc": 14_025, "boosts": 2_739, "temporary": 1_248, "incarnate": 1_166, "set_bonus": 997, "pets": 653,
    "mastermind_pets": 475, "epic": 405, "prestige": 377, "villain_pets": 366, "brute": 346, "scrapper": 346,
    "tanker": 345, "stalker": 316, "redirects": 312, "corruptor": 292, "defender": 292, "blaster": 275,
    "sentinel": 272, "controller": 271, "dominator": 238, "mastermind": 216, "inherent": 160, "inspirations": 96,
    "pool": 83, "peacebringer": 40, "arachnos_soldier": 39, "warshade": 39, "arachnos_widow": 37, "kheldian_pets": 30,
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def clean(request, tmp_path_factory):
    """(shape, path, decoded records) of 4,000 clean records."""
    path = tmp_path_factory.mktemp("clean") / f"{request.param}.json"
    generate.generate(request.param, 4_000, 7, path)
    return request.param, path, msgspec.json.decode(path.read_bytes())


@pytest.fixture(scope="module", params=SHAPES)
def dirty(request, tmp_path_factory):
    """(shape, bytes, side lines, result) of 2,000 records of which a tenth are dirty."""
    path = tmp_path_factory.mktemp("dirty") / f"{request.param}.json"
    result = generate.generate(request.param, 2_000, 7, path, dirty=0.1)
    lines = [json.loads(line) for line in (path.parent / f"{path.name}.dirty.ndjson").read_bytes().splitlines()]
    return request.param, path.read_bytes(), lines, result


def raw_records(content):
    """Offset and bytes of each record: one per line between the brackets."""
    lines = content.split(b"\n")
    offsets = itertools.accumulate((len(line) + 1 for line in lines[:-3]), initial=0)
    return [(offset, line.removesuffix(b",")) for offset, line in zip(offsets, lines[:-2], strict=True)][1:]


def groups_of(effects):
    """All effect groups, however deep."""
    for group in effects:
        yield group
        yield from groups_of(group["child_effects"])


def depth_of(effects):
    """Levels of groups: 1 where no group has children, 0 without groups."""
    return 1 + max((depth_of(group["child_effects"]) for group in effects), default=0) if effects else 0


@pytest.mark.parametrize(
    ("shape", "digest"),
    [
        ("cod", "d15683ed538c4d6e5138edfff4a2a763a484d4f222c4efdc9625b54bf3ff9ef3"),
        ("i12", "464c1669de0fce7e0a01bbefe275b071ee573af9e2bdc71de12fac9e1163b832"),
    ],
)
def test_the_same_arguments_give_the_same_bytes_on_any_machine(tmp_path, shape, digest):
    """The digests were written down once; whoever changes them changes every generated file."""
    path = tmp_path / "out.json"
    generate.generate(shape, 500, 42, path, dirty=0.1)
    content = path.read_bytes() + (tmp_path / "out.json.dirty.ndjson").read_bytes()

    assert hashlib.sha256(content).hexdigest() == digest


def test_another_seed_gives_another_file(tmp_path):
    """The seed reaches names, sizes and numbers."""
    generate.generate("i12", 300, 1, tmp_path / "one.json")
    generate.generate("i12", 300, 2, tmp_path / "two.json")

    assert (tmp_path / "one.json").read_bytes() != (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize("records", [0, 1, 2, 30])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_clean_file_is_one_array_with_a_record_per_line(tmp_path, shape, records):
    """Down to the empty array; what the result says is what was written."""
    path = tmp_path / "out.json"
    result = generate.generate(shape, records, 3, path)
    content = path.read_bytes()
    decoded = msgspec.json.decode(content)

    assert len(decoded) == records
    assert content.startswith(b"[\n")
    assert content.endswith(b"\n]\n")
    assert len(raw_records(content)) == records
    assert (result.records, result.bytes, result.loaded, result.dirty_path) == (records, len(content), records, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_every_full_name_is_unique_whatever_the_case(clean):
    """So that nothing but the listed duplicates can be superseded."""
    shape, _, records = clean
    names = [record[NAME_KEY[shape]].lower() for record in records]

    assert len(set(names)) == len(names)
    assert all(name.count(".") >= 2 for name in names)


def test_names_stay_unique_in_powersets_bigger_than_the_word_list():
    """A set of 13,000 powers walks more than three times through all pairs of words."""
    powerset = world.Powerset(category="A", name="B", display_name="B", key="npc", start=0, size=13_000, shift=99)
    names = world.Names()
    given = [names.power(powerset, position)[0].lower() for position in range(powerset.size)]

    assert len(set(given)) == powerset.size


def test_partitions_have_the_proportions_of_the_real_export():
    """At the reference's size exactly, at other sizes to within one power for each category."""
    powersets = world.plan(26_496, 5)
    sizes = collections.Counter()
    for powerset in powersets:
        sizes[powerset.key] += powerset.size

    assert sizes == REFERENCE_PARTITIONS
    assert len(powersets) == 7_597


def test_powersets_are_skewed_as_in_the_real_export():
    """Most are tiny, one holds thousandths of everything, and their number stops growing."""
    sizes = sorted(powerset.size for powerset in world.plan(26_496, 5))
    many = world.plan(360_659, 5)

    assert sizes[len(sizes) // 2] <= 2
    assert sizes.count(1) > 4_000
    assert 900 < sizes[-1] < 1_000
    assert len(many) == 7_597
    assert sum(powerset.size for powerset in many) == 360_659
    assert len({powerset.full_name.lower() for powerset in many}) == len(many)
    assert 300 <= len(world.plan(1_000, 5)) <= 330


def test_powersets_of_a_plan_follow_each_other_without_gaps():
    """A record's ordinal tells its powerset."""
    powersets = world.plan(1_234, 8)
    starts = list(itertools.accumulate((powerset.size for powerset in powersets), initial=0))

    assert [powerset.start for powerset in powersets] == starts[:-1]
    assert starts[-1] == 1_234


def test_records_have_the_sizes_that_the_measurements_use(clean):
    """880 bytes for i12, 12.7 KB for cod, of which the nested effects are 43 %."""
    shape, path, records = clean
    average = path.stat().st_size / len(records)
    effects = sum(
        len(json.dumps(record["effects"], separators=(",", ":"))) for record in records if "effects" in record
    )

    assert average == pytest.approx({"cod": 12_740, "i12": 880}[shape], rel=0.05)
    if shape == "cod":
        assert effects / path.stat().st_size == pytest.approx(0.43, abs=0.03)


@pytest.mark.parametrize("clean", ["cod"], indirect=True)
def test_cod_effects_nest_like_real_ones(clean):
    """Groups and templates per power, and depth, within the measured ranges."""
    _, _, records = clean
    groups = [list(groups_of(record["effects"])) for record in records]
    templates = [sum(len(group["templates"]) for group in found) for found in groups]

    assert sum(map(len, groups)) / len(records) == pytest.approx(3.3, abs=0.5)
    assert sum(templates) / len(records) == pytest.approx(5.6, abs=0.5)
    assert (min(templates), max(templates)) == (0, 60)
    assert max(depth_of(record["effects"]) for record in records) == 7


def test_odd_but_legal_values_occur_in_clean_files(clean):
    """Each is a trap that real data sets: levels -1 and 0, odd chances, names and references."""
    shape, path, records = clean
    text = path.read_text()
    levels = {record["available_level" if shape == "cod" else "Level"] for record in records}
    names = [record[NAME_KEY[shape]] for record in records]
    sets = {record["powerset" if shape == "cod" else "PowersetFullName"] for record in records}

    assert {-1, 0} <= levels if shape == "cod" else {0, 1} <= levels
    assert any(name.count(".") > 2 for name in names)
    assert any(":" in name for name in names)
    assert any("-" in name for name in names)
    assert any("," in name for name in sets)
    assert all(mark in text for mark in ("\u00a0", "\u2606", "\u2019", "<br>", '\\"', "\\\\", "'s "))
    assert "Epic.Absent_Set.Absent_Power" in text
    if shape == "cod":
        chances = {group["chance"] for record in records for group in groups_of(record["effects"])}
        assert all(mark in text for mark in ("3.4028234663852886e+38", '"UntilKilled"', '"icon":null'))
        assert min(chances) < 0
        assert max(chances) > 1
        assert any(not record["archetypes"] for record in records)
    else:
        assert all(mark in text for mark in ('"Duration":-1.0', '"Chance":-0.2', '"ArchetypeName":""'))


def test_references_point_to_powers_of_the_file_and_to_nowhere(clean):
    """Both must be met by whoever resolves prerequisites."""
    shape, _, records = clean
    if shape == "cod":
        words = [word for record in records for word in record["requires"].split()]
    else:
        words = [word for record in records for word in record["Requirements"]["PowersRequired"]]
    names = {record[NAME_KEY[shape]] for record in records}
    dotted = {word.strip("!()") for word in words if word.count(".") == 2}

    assert len(dotted & names) > 50
    assert any(word.lower() == word for word in dotted - names)
    assert "Epic.Absent_Set.Absent_Power" in dotted - names


def shape_of(value, path="", found=None):
    """All paths of a JSON value with the types met there; nested and activation effects count as effects."""
    found = collections.defaultdict(set) if found is None else found
    if isinstance(value, dict):
        for key, member in value.items():
            shape_of(member, path if key == "child_effects" else f"{path}/{key.removeprefix('activation_')}", found)
    elif isinstance(value, list):
        for member in value:
            shape_of(member, path if path.endswith("/effects[]") else f"{path}[]", found)
    found[path].add(type(value).__name__)
    return found


@pytest.mark.parametrize(("shape", "name"), [("cod", "cod-homecoming-2025.powers"), ("i12", "i12-sample")])
def test_records_have_the_keys_and_types_of_real_ones(tmp_path, pack, shape, name):
    """The keys in their order, and at each place no other type than real data have there."""
    generate.generate(shape, 1_500, 3, tmp_path / "out.json")
    real = msgspec.json.decode(pack(name).read_bytes())[::2]
    made = msgspec.json.decode((tmp_path / "out.json").read_bytes())
    real_types, made_types = shape_of(real), shape_of(made)
    real_types["[]/boost_info/boost_type"].add("str")  # in the complete export, which is too big for this test

    assert {tuple(record) for record in made} == {tuple(real[0])}
    assert {path: types - real_types[path] for path, types in made_types.items() if types - real_types[path]} == {}


@pytest.mark.parametrize(("suffix", "unpack"), [
    (".gz", gzip.decompress),
    (".zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
])  # fmt: skip
def test_the_extension_compresses_the_same_bytes(tmp_path, suffix, unpack):
    """Compression is by name, leaves no time stamp, and does not touch the side file."""
    plain = generate.generate("i12", 400, 5, tmp_path / "out.json", dirty=0.1)
    packed = generate.generate("i12", 400, 5, tmp_path / f"out.json{suffix}", dirty=0.1)
    first = (tmp_path / f"out.json{suffix}").read_bytes()
    generate.generate("i12", 400, 5, tmp_path / f"out.json{suffix}", dirty=0.1)

    assert unpack(first) == (tmp_path / "out.json").read_bytes()
    assert first == (tmp_path / f"out.json{suffix}").read_bytes()
    assert packed.bytes == plain.bytes
    assert (tmp_path / f"out.json{suffix}.dirty.ndjson").read_bytes() == (
        tmp_path / "out.json.dirty.ndjson"
    ).read_bytes()


def test_offsets_and_ordinals_of_the_side_file_are_exact(dirty):
    """Each line leads to its record."""
    _, content, lines, _ = dirty
    places = raw_records(content)

    assert len(places) == 2_000
    assert [places[line["ordinal"]][0] for line in lines] == [line["offset"] for line in lines]
    assert all(content[line["offset"] : line["offset"] + 1] == b"{" for line in lines)


def test_the_side_file_lists_every_kind_and_its_counts_are_the_result(dirty):
    """As many lines as the share asks for, in file order, each kind at least once."""
    _, _, lines, result = dirty
    expected = collections.Counter(line["expect"] for line in lines)

    assert len(lines) == 200
    assert [line["ordinal"] for line in lines] == sorted({line["ordinal"] for line in lines})
    assert {line["kind"] for line in lines} == {kind.name for kind in dirt.KINDS}
    assert (result.rejects, result.superseded) == (expected["rejected"], expected["superseded"])
    assert result.loaded + result.rejects + result.superseded == result.records == 2_000


def test_records_that_are_not_listed_are_good(dirty):
    """The side file is complete: everything else decodes, and is the only record of its name."""
    shape, content, lines, _ = dirty
    listed = {line["ordinal"] for line in lines}
    good = [
        msgspec.json.decode(record) for ordinal, (_, record) in enumerate(raw_records(content)) if ordinal not in listed
    ]
    names = {record[NAME_KEY[shape]].lower() for record in good}

    assert len(names) == len(good) == 1_800


def test_rejected_records_are_as_bad_as_listed(dirty):
    """Each has exactly the fault that its code names."""
    shape, content, lines, _ = dirty
    places = raw_records(content)
    keys = dirt.COD if shape == "cod" else dirt.I12

    def value(record, member):
        return json.loads(record)[getattr(keys, member)]

    checks = {
        "missing_name": lambda record: keys.name not in json.loads(record),
        "wrong_type": lambda record: type(value(record, "number")) in (str, dict, bool),
        "nul_in_name": lambda record: "\0" in value(record, "name"),
        "lone_surrogate": lambda record: "\ud800" in value(record, "text"),
        "invalid_utf8": lambda record: b"\xff" in record,
        "empty_name": lambda record: value(record, "name") == "",
        "undotted_name": lambda record: "." not in value(record, "name"),
        "long_name": lambda record: len(value(record, "name").encode()) > 1_000,
        "float_overflow": lambda record: value(record, "number") == float("inf") and b"1e400" in record,
        "level_overflow": lambda record: abs(value(record, "level")) > 2**63,
        "bad_effects": lambda record: value(record, "effects") in ("none", {"damage": 1}, [17]),
        "too_deep": lambda record: record.count(b"[") > 300 and value(record, "effects"),
        "nan": lambda record: b":NaN," in record,
        "empty_object": lambda record: record == b"{}",
    }
    rejected = [line for line in lines if line["expect"] == "rejected"]

    assert {line["kind"] for line in rejected} == set(checks)
    assert [line for line in rejected if not checks[line["kind"]](places[line["ordinal"]][1])] == []
    assert {line["stage"] for line in rejected if line["kind"] != "bad_effects"} == {"split"}
    assert {line["stage"] for line in rejected if line["kind"] == "bad_effects"} == {"load"}


def test_accepted_records_decode_and_keep_their_names(dirty):
    """Odd, but nothing that an import may refuse."""
    shape, content, lines, _ = dirty
    places = raw_records(content)
    accepted = [line for line in lines if line["expect"] == "accepted"]
    decoded = {line["ordinal"]: msgspec.json.decode(places[line["ordinal"]][1]) for line in accepted}
    huge = [len(places[line["ordinal"]][1]) for line in accepted if line["kind"] == "huge"]

    assert all(decoded[line["ordinal"]][NAME_KEY[shape]].lower() == line["uid"] for line in accepted)
    assert len(huge) == 3
    assert all(1_200_000 < size < 1_400_000 for size in huge)
    assert {line["code"] for line in accepted} == {None}


def test_superseded_records_name_a_later_good_record(dirty):
    """The winner has the same name, in this or another case, and another content."""
    shape, content, lines, _ = dirty
    places = raw_records(content)
    listed = {line["ordinal"] for line in lines}
    pairs = [
        (line, places[line["ordinal"]][1], places[line["by_ordinal"]][1]) for line in lines if "by_ordinal" in line
    ]

    assert len(pairs) == sum(line["expect"] == "superseded" for line in lines)
    for line, loser, winner in pairs:
        loser_name, winner_name = json.loads(loser)[NAME_KEY[shape]], json.loads(winner)[NAME_KEY[shape]]

        assert line["by_ordinal"] > line["ordinal"]
        assert line["by_ordinal"] not in listed
        assert loser_name.lower() == winner_name.lower() == line["uid"]
        assert (loser_name == winner_name) == (line["kind"] == "duplicate")
        assert loser != winner


@pytest.mark.parametrize(("records", "share"), [(1, 1.0), (5, 1.0), (40, 1.0), (40, 0.999), (1_000, 0.001), (3, 0.5)])
def test_the_share_is_kept_for_any_size(tmp_path, records, share):
    """From a single dirty record to nothing but dirty ones, where no pair can be made."""
    result = generate.generate("i12", records, 9, tmp_path / "out.json", dirty=share)
    lines = [json.loads(line) for line in (tmp_path / "out.json.dirty.ndjson").read_bytes().splitlines()]

    assert len(lines) == max(1, round(records * share))
    assert len(raw_records((tmp_path / "out.json").read_bytes())) == records
    assert all(line["by_ordinal"] < records for line in lines if line["expect"] == "superseded")
    assert result.loaded >= 0


def test_a_clean_run_removes_the_side_file_of_a_dirty_one(tmp_path):
    """A list that belongs to another file would mislead."""
    generate.generate("i12", 50, 1, tmp_path / "out.json", dirty=0.5)
    generate.generate("i12", 50, 1, tmp_path / "out.json")

    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_progress_counts_to_the_end(tmp_path):
    """Rows done never fall, and the last event is the total."""
    events = []
    generate.generate("cod", 300, 1, tmp_path / "out.json", progress=events.append)
    done = [event.done for event in events]

    assert done == sorted(done)
    assert len(done) > 2
    assert (events[-1].done, events[-1].total, events[-1].unit) == (300, 300, "rows")


def test_an_interrupted_run_leaves_nothing(tmp_path):
    """Neither a half-written file nor its side file."""

    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate.generate("cod", 300, 1, tmp_path / "out.json", dirty=0.1, progress=interrupt)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "records", "dirty", "words"),
    [
        ("xml", 1, 0.0, "'xml' is no shape"),
        ("i12", -1, 0.0, "-1 is no number of records"),
        ("i12", 1, 1.5, "1.5 is no share"),
        ("i12", 1, float("nan"), "nan is no share"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, shape, records, dirty, words):
    """With the usage error that ends a command with code 2, and nothing written."""
    with pytest.raises(UsageError, match=words):
        generate.generate(shape, records, 1, tmp_path / "out.json", dirty=dirty)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused_by_name(tmp_path):
    """Before any work is done."""
    with pytest.raises(UsageError, match=r"there is no folder .*absent"):
        generate.generate("i12", 1, 1, tmp_path / "absent" / "out.json")


def test_apportioning_adds_up_and_is_fair():
    """Every part is within one of its exact share."""
    parts = apportion(1_000, [3, 0, 1, 1, 7])

    assert sum(parts) == 1_000
    assert (
        parts == [250, 0, 83, 83, 584]
        or max(abs(part - 1_000 * w / 12) for part, w in zip(parts, [3, 0, 1, 1, 7], strict=True)) < 1
    )
