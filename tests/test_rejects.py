"""Rejected records are found again: listed, shown, exported, mended, replayed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import refusal, run
from split_support import cod, mids, save
from test_coordinator import checksums

import etl
from etl import config, db, errors, generate, rejects, replay, update
from etl.scope import Scope
from etl.verify import verify

RECORDS = 300
ENDS = ("loaded", "superseded", "rejected")


def loaded(path: Path, dsn: str, store: Path) -> "etl.outcome.LoadResult":  # type: ignore[name-defined]
    etl.split(str(path), store=str(store), executor="inline://")
    return etl.load(store=str(store), dsn=dsn, executor="inline://")


def options(dsn: str) -> config.LoadOptions:
    return config.LoadOptions(dsn=dsn, executor="inline://", command="test")


def found(dsn: str) -> rejects.Rejected:
    with db.connect(dsn) as connection:
        return rejects.find(connection, "game")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def exported(dsn: str, path: Path) -> list[dict[str, Any]]:
    rejects.export(found(dsn), str(path))
    return lines_of(path)


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def with_texts(path: Path, lines: list[dict[str, Any]], mended: Path) -> str:
    """Write lines with the records' own texts: what is stored of a record includes the hash of its text."""
    texts = mended.read_bytes().split(b"\n")
    path.write_bytes(
        b"".join(
            json.dumps({k: v for k, v in line.items() if k not in ("record", "raw")}).encode()[:-1]
            + b', "record": '
            + texts[line["ordinal"] + 1].rstrip(b",")
            + b"}\n"
            for line in lines
        )
    )
    return str(path)


def sums(dsn: str) -> tuple[int, int]:
    """Powers and load-stage rejects that the database has."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select (select count(*) from game.powers), (select count(*) from etl.reject)"
        ).fetchone()
    assert row
    return row


def proven(dsn: str) -> None:
    """Nothing differs from the split, whatever it is by now."""
    assert verify(dsn, executor="inline://").findings == ()


@pytest.fixture(scope="module", params=["cod", "i12"])
def dirty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of which a fifth is dirty, and the same file with every rejected record mended in its place."""
    folder = tmp_path_factory.mktemp("dirty")
    bad, good, mended = (folder / f"{name}.json" for name in ("bad", "good", "mended"))
    generate.generate(request.param, RECORDS, 21, bad, dirty=0.2)
    generate.generate(request.param, RECORDS, 21, good)
    texts, clean = bad.read_bytes().split(b"\n"), good.read_bytes().split(b"\n")
    for line in lines_of(folder / "bad.json.dirty.ndjson"):
        if line["expect"] == "rejected":
            number = line["ordinal"] + 1
            texts[number] = clean[number]
    mended.write_bytes(b"\n".join(texts))
    return bad, mended


def test_replaying_gives_the_tables_of_the_mended_source(
    dirty: tuple[Path, Path], dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    """In every table; the sums hold, verification finds nothing, and the same file again changes nothing."""
    bad, mended = dirty
    before = loaded(bad, dsn, tmp_path / "store")
    lines = exported(dsn, tmp_path / "out.ndjson")
    edited = with_texts(tmp_path / "edited.ndjson", lines, mended)
    done = replay.replay(options(dsn), edited)
    after = checksums(dsn)
    again = replay.replay(options(dsn), edited)
    loaded(bad, empty_dsn, tmp_path / "other")
    fresh = loaded(mended, empty_dsn, tmp_path / "other")

    assert len(lines) == before.rejected == done.replayed > 25
    assert done.change is not None
    assert (done.change.records, *(getattr(done.change, name) for name in ENDS)) == (
        fresh.records,
        *(getattr(fresh, name) for name in ENDS),
    )
    assert after == checksums(empty_dsn)
    assert (again.replayed, again.settled, again.change) == (0, len(lines), None)
    assert checksums(dsn) == after
    assert sums(dsn) == (done.change.loaded, 0)
    proven(dsn)


def test_some_are_mended_and_some_are_not(dirty: tuple[Path, Path], dsn: str, tmp_path: Path) -> None:
    """What is still bad stays a reject, with its place; the way back is a rollback."""
    bad, mended = dirty
    before = loaded(bad, dsn, tmp_path / "store")
    whole = checksums(dsn)
    records = json.loads(mended.read_bytes())
    lines = exported(dsn, tmp_path / "out.ndjson")
    for line in lines[::2]:
        line["record"] = records[line["ordinal"]]
    done = replay.replay(options(dsn), written(tmp_path / "edited.ndjson", lines))
    left = found(dsn)

    assert done.replayed == len(lines[::2])
    assert sum(done.refused_codes.values()) == len(lines[1::2]) == left.total
    assert [r.ordinal for r in left] == [line["ordinal"] for line in lines[1::2]]
    assert done.change is not None
    assert done.change.records == done.change.loaded + done.change.superseded + done.change.rejected
    proven(dsn)
    update.rollback(options(dsn))
    assert checksums(dsn) == whole
    assert found(dsn).total == before.rejected
    proven(dsn)


def test_replaying_what_nobody_mended_changes_nothing(dirty: tuple[Path, Path], dsn: str, tmp_path: Path) -> None:
    """All is rejected again, for the same reasons."""
    before = loaded(dirty[0], dsn, tmp_path / "store")
    done = replay.replay(options(dsn))

    assert (done.replayed, done.change) == (0, None)
    assert done.refused_codes == before.reject_codes
    assert found(dsn).total == before.rejected


Edit = Callable[[dict[str, Any]], None]


def replayed(records: list[Any], dsn: str, folder: Path, edit: Edit) -> replay.ReplayResult:
    """Load records, mend the exported ones, and replay them."""
    loaded(save(folder / "powers.json", records), dsn, folder / "store")
    lines = exported(dsn, folder / "out.ndjson")
    for line in lines:
        edit(line)
    return replay.replay(options(dsn), written(folder / "edited.ndjson", lines))


def names(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute("select internal_name, description from game.powers").fetchall())


@pytest.mark.parametrize("bad", [{"accuracy": "fast"}, {"effects": "none"}], ids=["split", "load"])
def test_a_mended_record_takes_its_place_in_the_order_of_records(bad: Any, dsn: str, tmp_path: Path) -> None:
    """It supersedes earlier records of its name, and is superseded by later ones."""
    records = [
        cod("Pool.Set.A", display_help="first"),
        cod("Pool.Set.B", display_help="mended", **bad),
        cod("Pool.Set.X", display_help="also mended", **bad),
        cod("Pool.Set.C", display_help="last"),
    ]

    def edit(line: dict[str, Any]) -> None:
        line["record"]["full_name"] = "Pool.Set.A" if "Set.B" in line["record"]["full_name"] else "Pool.Set.C"
        line["record"] |= {"accuracy": 1, "effects": []}

    done = replayed(records, dsn, tmp_path, edit)

    assert names(dsn) == {"Pool.Set.A": "mended", "Pool.Set.C": "last"}
    assert done.change is not None
    assert (done.change.loaded, done.change.superseded, done.change.rejected) == (2, 2, 0)
    proven(dsn)


def test_a_mended_record_may_bring_a_new_powerset_and_archetype(dsn: str, tmp_path: Path) -> None:
    """They get their rows and their branch."""
    records = [cod(), cod("nowhere"), cod("Pool.Set.A", effects=3)]
    done = replayed(
        records,
        dsn,
        tmp_path,
        lambda line: (
            line["record"].update(full_name="Set_Bonus.New.A", effects=[])
            if line["stage"] == "split"
            else line["record"].update(full_name="Boosts.Newer.A", effects=[])
        ),
    )

    assert done.replayed == 2
    assert set(names(dsn)) == {cod()["full_name"], "Set_Bonus.New.A", "Boosts.Newer.A"}
    proven(dsn)


def test_an_update_forgets_rejects_of_records_that_are_gone(dsn: str, tmp_path: Path) -> None:
    """A source from which the refused record was removed is loaded whole."""
    loaded(save(tmp_path / "a.json", [cod(), cod("Pool.Set.A", effects=3)]), dsn, tmp_path / "store")
    manifest = etl.split(
        str(save(tmp_path / "b.json", [cod(display_help="new")])), store=str(tmp_path / "store"), executor="inline://"
    )
    chosen = config.LoadOptions(
        store=str(tmp_path / "store"), split_id=manifest.split_id, dsn=dsn, executor="inline://"
    )
    done = update.update(chosen, Scope())

    assert (done.records, done.loaded, done.rejected) == (1, 1, 0)
    assert found(dsn).total == 0
    proven(dsn)


def test_powers_of_mids_are_replayed_one_by_one(dsn: str, tmp_path: Path) -> None:
    """With what their powerset says; a powerset as a whole is not."""
    power = {"FullName": "Pool.Set.A", "PowerName": "A"}
    sets = [
        mids("Pool.Set", power, {**power, "FullName": "Pool.Set.B", "Level": "x"}, SetType=5),
        {"FullName": "Pool.Other", "Powers": "none"},
    ]

    def edit(line: dict[str, Any]) -> None:
        line["record"] |= {"Level": 3} if "Powers" not in line["record"] else {"Powers": []}

    done = replayed(sets, dsn, tmp_path, edit)

    assert (done.replayed, done.refused_codes) == (1, {"wrong_type": 1})
    assert "as a whole" in done.refused[0].reason
    assert set(names(dsn)) == {"Pool.Set.A", "Pool.Set.B"}
    proven(dsn)


def test_a_text_that_was_cut_is_not_replayed_as_if_it_were_whole(dsn: str, tmp_path: Path) -> None:
    """Sixty-four KiB of it are kept; the whole record has to be given."""
    record = cod("Pool.Set.A", accuracy="fast", display_help="x" * 70_000)
    loaded(save(tmp_path / "powers.json", [cod(), record]), dsn, tmp_path / "store")
    (line,) = exported(dsn, tmp_path / "out.ndjson")
    first = replay.replay(options(dsn))
    line["record"] = {**record, "accuracy": 1}
    second = replay.replay(options(dsn), written(tmp_path / "edited.ndjson", [line]))

    assert line["cut"]
    assert "not all there" in first.refused[0].reason
    assert second.replayed == 1
    assert names(dsn)["Pool.Set.A"] == "x" * 70_000


@pytest.fixture
def here(dsn: str, tmp_path: Path) -> Path:
    """A working folder with a store that was loaded: one reject of the split, one of the load."""
    save(tmp_path / "powers.json", [cod(), cod("Pool.Set.A", effects=3), cod("Pool.Set.B", accuracy="f\x1b[31mast")])
    assert run("split", "powers.json", "--executor", "inline://", cwd=tmp_path).returncode == 3
    done = run("load", "--dsn", dsn, "--executor", "inline://", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-2] == "next: etl rejects list"
    assert done.stdout.splitlines()[-1].startswith("rejected: 1 wrong_type, 1 bad_effects; see partitions/")
    return tmp_path


def test_the_commands_from_list_to_replay(here: Path, dsn: str) -> None:
    """Each says what comes next; the last one ends with 0."""
    to = ("--dsn", dsn)
    listed = run("rejects", "list", *to, cwd=here)
    facts = json.loads(run("rejects", "list", *to, "--json", "--limit", "1", cwd=here).stdout)
    shown = run("rejects", "show", "2", *to, cwd=here)
    told = json.loads(run("rejects", "show", "1", *to, "--json", cwd=here).stdout)
    wrote = run("rejects", "export", "out.ndjson", *to, cwd=here)
    refused = run("rejects", "replay", *to, "--executor", "inline://", cwd=here)
    lines = lines_of(here / "out.ndjson")
    for line in lines:
        line["record"] |= {"effects": [], "accuracy": 1.0}
    written(here / "edited.ndjson", lines)
    last = [run("rejects", "replay", "--edited", "edited.ndjson", *to, "--jobs", "1", cwd=here) for _ in range(2)]

    assert [line.split()[:3] for line in listed.stdout.splitlines()[2:4]] == [
        ["1", "load", "bad_effects"],
        ["2", "split", "wrong_type"],
    ]
    assert "pool.set.b" in listed.stdout
    assert "2 rejected: " in listed.stdout
    assert (facts["rejected"], len(facts["rejects"])) == (2, 1)
    assert "\x1b" not in shown.stdout
    assert (told["uid"], told["ordinal"], told["stage"]) == ("pool.set.a", 1, "load")
    assert "etl rejects replay --edited out.ndjson" in wrote.stdout
    assert refused.returncode == 3
    assert "still rejected 2" in refused.stdout
    assert [done.returncode for done in last] == [0, 0], last[0].stderr
    assert "3 records = 3 loaded + 0 superseded + 0 rejected" in last[0].stdout
    assert "nothing has changed" in last[1].stdout
    assert run("rejects", "list", *to, cwd=here).stdout.strip().endswith("0 rejected")


def test_wrong_words_are_told(here: Path, dsn: str, empty_dsn: str) -> None:
    """A number that is not there, a build, a file, a line, an empty database."""
    (here / "bad.ndjson").write_text('{"source": "x", "ordinal": 1}\n{"source": 1}\n')
    to = ("--dsn", dsn)

    assert "none of number 9" in refusal(run("rejects", "show", "9", *to, cwd=here), 2)[0]
    assert "no build 7" in refusal(run("rejects", "list", "--build", "7", *to, cwd=here), 2)[0]
    assert "line 2" in refusal(run("rejects", "replay", "--edited", "bad.ndjson", *to, cwd=here), 5)[0]
    assert "no such file" in refusal(run("rejects", "replay", "--edited", "no", *to, cwd=here), 5)[0]
    assert "etl load" in refusal(run("rejects", "list", "--dsn", empty_dsn, cwd=here), 6)[1]


@pytest.mark.parametrize(("limit", "ends_well"), [("1", False), ("2", True), ("60%", False), ("70%", True)])
def test_too_many_rejects_stop_a_run(limit: str, ends_well: bool, here: Path, dsn: str) -> None:
    """Exit code 5, and readers see what they saw; those of the split count too."""
    words = ["rebuild", "powers.json", "--dsn", dsn, "--executor", "inline://", "--max-rejects", limit]
    before = checksums(dsn)
    done = run(*words, cwd=here)
    save(here / "powers.json", [cod(display_help="other"), cod("Pool.Set.C", effects=3), cod("x")])
    words[0] = "update"
    updated = run(*words, "--yes", cwd=here)

    if ends_well:
        assert (done.returncode, updated.returncode) == (3, 3), updated.stderr
    else:
        for one in (done, updated):
            assert one.returncode == 5, one.stderr
            assert "--max-rejects allows" in one.stderr
        assert checksums(dsn) == before


def test_a_build_of_two_splits_is_not_replayed(dsn: str, tmp_path: Path) -> None:
    """There is no one split to mend; what to do stands in the message."""
    loaded(save(tmp_path / "a.json", [cod(), cod("Pool.Set.A", effects=3)]), dsn, tmp_path / "store")
    path = save(tmp_path / "b.json", [cod(display_help="new")])
    manifest = etl.split(str(path), store=str(tmp_path / "store"), executor="inline://")
    chosen = config.LoadOptions(
        store=str(tmp_path / "store"), split_id=manifest.split_id, dsn=dsn, executor="inline://"
    )
    update.update(chosen, Scope(keep_missing=True))
    with pytest.raises(errors.UsageError, match="parts of other splits"):
        replay.replay(options(dsn))


def test_a_build_that_changed_meanwhile_is_left_alone(dsn: str, tmp_path: Path) -> None:
    """A split that was made from another one than is published by now does not undo what came since."""
    loaded(save(tmp_path / "a.json", [cod(), cod("Pool.Set.A", effects=3)]), dsn, tmp_path / "store")
    before = checksums(dsn)
    manifest = etl.split(str(save(tmp_path / "b.json", [cod()])), store=str(tmp_path / "store"), executor="inline://")
    chosen = config.LoadOptions(
        store=str(tmp_path / "store"), split_id=manifest.split_id, dsn=dsn, executor="inline://"
    )
    with pytest.raises(errors.Busy, match="by now"):
        update.update(chosen, Scope(), made_from="0123456789abcdef")

    assert checksums(dsn) == before


def test_what_is_printed_does_nothing_to_a_terminal(dsn: str, tmp_path: Path) -> None:
    """Names and texts of a source hold escape sequences; no line of output does."""
    evil = "Pool.Set.\x1b[2J\x1b]0;owned\x07\nrejected: nothing"
    save(tmp_path / "powers.json", [cod(evil, display_name=evil), cod(evil, accuracy="\x1b[31m"), cod(evil)])
    to = ("--dsn", dsn)
    said = [
        run(*words, cwd=tmp_path)
        for words in (
            ["-v", "rebuild", "powers.json", "--jobs", "1", *to],
            ["validate", "powers.json", "--jobs", "1"],
            ["rejects", "list", *to],
            ["rejects", "show", "1", *to],
            ["power", "--dsn", dsn, "--", evil],
            ["powerset", "pool.set", *to],
            ["update", "powers.json", "--dry-run", "--jobs", "1", *to],
        )
    ]

    for done in said:
        assert done.returncode in (0, 3), done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr
