"""Validation says what a load would reject, and leaves nothing."""

import json
import tempfile
from pathlib import Path

import pytest
from command_line import run
from split_support import cod, save

import etl
from etl import db, errors, generate, limits, outcome
from etl.config import SplitOptions
from etl.model import Reject
from etl.sources import inputs
from etl.splitter.validate import ValidateResult, validate
from etl.store import rejects as split_rejects

RECORDS = 1_200


@pytest.fixture(scope="module", params=["cod", "i12"])
def dirty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of which a tenth is dirty, beside the list of what is."""
    path: Path = tmp_path_factory.mktemp("dirty") / f"{request.param}.json"
    generate.generate(request.param, RECORDS, 11, path, dirty=0.1)
    return path


def check(path: Path, **more: object) -> ValidateResult:
    return validate(SplitOptions(sources=(str(path),), executor="inline://"), **more)  # type: ignore[arg-type]


def written(path: Path) -> list[Reject]:
    """The rejects of a file of JSON lines."""
    return [Reject(**json.loads(line)) for line in path.read_text().splitlines()]


def of_a_load(path: Path, dsn: str, folder: Path) -> tuple[list[Reject], "etl.outcome.LoadResult"]:  # type: ignore[name-defined]
    """What a split and a load set aside, by place."""
    store = str(folder / "store")
    manifest = etl.split(str(path), store=store, executor="inline://")
    result = etl.load(store=store, dsn=dsn, executor="inline://")
    with db.connect(dsn) as connection:
        of_load = outcome.load_rejects(connection, result.build)
    return sorted([*split_rejects.read(store, manifest), *of_load], key=lambda reject: reject.ordinal), result


def test_it_rejects_exactly_what_a_load_rejects(dirty: Path, dsn: str, tmp_path: Path) -> None:
    """Every reject with its place, stage, code, reason and text; every count."""
    found = check(dirty, rejects_file=str(tmp_path / "out.ndjson"))
    loaded, result = of_a_load(dirty, dsn, tmp_path)

    assert written(tmp_path / "out.ndjson") == loaded
    assert (found.records, found.accepted, found.superseded, found.rejected) == (
        result.records,
        result.loaded,
        result.superseded,
        result.rejected,
    )
    assert found.reject_codes == result.reject_codes
    assert {"split", "load"} == set(found.stages)


def test_it_rejects_exactly_what_was_made_bad(dirty: Path, tmp_path: Path) -> None:
    """The list beside the generated file names each bad record with its byte."""
    check(dirty, rejects_file=str(tmp_path / "out.ndjson"))
    lines = map(json.loads, dirty.with_name(f"{dirty.name}.dirty.ndjson").read_text().splitlines())
    wanted = [
        (line["ordinal"], line["offset"], line["stage"], line["code"]) for line in lines if line["expect"] == "rejected"
    ]

    assert [(r.ordinal, r.offset, r.stage, r.code) for r in written(tmp_path / "out.ndjson")] == wanted


def test_the_result_does_not_depend_on_ranges_and_processes(
    dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One range or many, one process or two."""
    one = check(dirty, rejects_file=str(tmp_path / "one"))
    monkeypatch.setattr(inputs, "RANGE_BYTES", 100_000)
    many = validate(SplitOptions(sources=(str(dirty),), executor="process://2"), rejects_file=str(tmp_path / "many"))

    assert (tmp_path / "one").read_text() == (tmp_path / "many").read_text()
    assert (one.records, one.superseded, one.reject_codes) == (many.records, many.superseded, many.reject_codes)


def test_a_refused_record_that_a_later_one_supersedes_is_superseded(tmp_path: Path, dsn: str) -> None:
    """A load never sees it."""
    bad = cod("Pool.Set.A", effects="none")
    path = save(tmp_path / "powers.json", [bad, cod("Pool.Set.A"), cod("Pool.Set.B"), cod("Pool.Set.B", effects=[1])])
    found = check(path)
    loaded, result = of_a_load(path, dsn, tmp_path)

    assert (found.accepted, found.superseded, found.rejected) == (1, 2, 1)
    assert (result.loaded, result.superseded, result.rejected) == (1, 2, 1)
    assert [reject.ordinal for reject in found.examples] == [3]
    assert list(found.examples) == loaded


def test_rejects_of_a_folder_name_the_file_at_every_stage(tmp_path: Path, dsn: str) -> None:
    """Validation, split and load alike."""
    folder = tmp_path / "export" / "pool" / "set"
    folder.mkdir(parents=True)
    for name, record in {"a": cod("Pool.Set.A"), "b": cod("Pool.Set.B", effects=7), "c": cod("nowhere")}.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    found = check(tmp_path / "export")
    loaded, _ = of_a_load(tmp_path / "export", dsn, tmp_path)

    assert [(r.file, r.ordinal, r.stage) for r in found.examples] == [
        ("pool/set/b.json", 1, "load"),
        ("pool/set/c.json", 2, "split"),
    ]
    assert list(found.examples) == loaded


def test_the_text_of_a_record_that_a_transform_refused_is_the_record(tmp_path: Path) -> None:
    """Not the one value that did not fit, so that it can be mended and replayed."""
    record = cod("Pool.Set.A", effects="none")
    (reject,) = check(save(tmp_path / "powers.json", [record])).examples
    found = json.loads(reject.raw)

    assert (found["full_name"], found["effects"], found["powerset"]) == ("Pool.Set.A", "none", "Pool.Set")
    assert found.items() <= record.items()


def test_keys_that_come_twice_are_counted(tmp_path: Path) -> None:
    """The last one counts; those of the record itself are counted always, deeper ones on request."""
    text = json.dumps(cod())
    twice = text[:-1] + ', "accuracy": 2.0, "icon": "a\\":b", "icon": "x", "odd": {"a": 1, "b": [{"a": 1, "a": 2}]}}'
    path = tmp_path / "powers.json"
    path.write_text(f"[{text}, {twice.replace('Flares', 'Blaze')}]")

    assert check(path).cleaned == {"duplicate_keys": 3}
    assert check(path, all_keys=True).cleaned == {"duplicate_keys": 4}


def test_nothing_stays(dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it was called nor among the temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check(dirty)
    with pytest.raises(errors.InputError):
        check(tmp_path / "missing.json")

    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_reasons_with_examples_and_ends_with_three(dirty: Path, tmp_path: Path) -> None:
    """No database is asked for; --json has the same counts."""
    words = ["validate", dirty, "--jobs", "1"]
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
    shown = run(*words, cwd=tmp_path, environment=nowhere)
    told = run(*words, "--json", "--examples", "1", cwd=tmp_path, environment=nowhere)
    facts = json.loads(told.stdout)

    assert (shown.returncode, told.returncode) == (3, 3)
    assert facts["records"] == facts["accepted"] + facts["superseded"] + facts["rejected"]
    assert {reject["code"] for reject in facts["examples"]} == set(facts["reject_codes"])
    for code, count in facts["reject_codes"].items():
        assert f"{code}: {count}\n" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_good_file_ends_with_zero(tmp_path: Path) -> None:
    """And with the sum."""
    done = run("validate", save(tmp_path / "powers.json", [cod()]), "--executor", "inline://", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 records (cod) = 1 accepted + 0 superseded + 0 rejected" in done.stdout


@pytest.mark.parametrize("limit", ["5", "2%"])
def test_too_many_rejects_end_it(dirty: Path, limit: str) -> None:
    """Exit code 5, as for a split."""
    with pytest.raises(errors.TooManyRejects, match="allows"):
        validate(SplitOptions(sources=(str(dirty),), executor="inline://", max_rejects=limits.parse(limit)))
