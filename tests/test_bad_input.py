import json
import shutil
import time
from pathlib import Path

import command_line
import psycopg
import pytest
from command_line import holds_a_split, is_published, refusal, run
from psycopg import conninfo

from etl import generate

RECORDS = 60


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flat export."""
    path = tmp_path_factory.mktemp("good") / "powers.json"
    generate.generate("i12", RECORDS, 7, path)
    return path


@pytest.fixture(scope="session")
def split_once(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export and its store, to be copied."""
    folder = tmp_path_factory.mktemp("once")
    shutil.copy2(good, folder)
    done = run("split", "powers.json", "--executor", "inline://", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(split_once: Path, tmp_path: Path) -> Path:
    """A working folder of one's own, with the export and its store."""
    return Path(shutil.copytree(split_once, tmp_path / "here"))


def split(path: Path, *more: str) -> command_line.Done:
    return run("split", path.name, "--store", "store", "--jobs", "1", *more, cwd=path.parent)


def load(here: Path, dsn: str, *more: str) -> command_line.Done:
    return run("load", "--dsn", dsn, "--executor", "inline://", *more, cwd=here)


def refused_split(path: Path, *more: str) -> tuple[str, str]:
    """Split what cannot be split: exit 5, the file is named, and the store holds nothing."""
    sentence, following = refusal(split(path, *more), 5)

    assert path.name in sentence
    assert not holds_a_split(path.parent / "store")
    return sentence, following


def refused_load(here: Path, dsn: str, code: int, *more: str) -> tuple[str, str]:
    """Load what cannot be loaded: the code, and readers see nothing."""
    answer = refusal(load(here, dsn, *more), code)

    assert not is_published(dsn)
    return answer


def manifest_of(here: Path) -> Path:
    (path,) = (here / "partitions").glob("*/manifest.json")
    return path


def a_part_of(here: Path) -> Path:
    """The biggest part of the store."""
    return max((here / "partitions").glob("*/parts/*.arrow"), key=lambda path: path.stat().st_size)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """Zero bytes, and a few blanks."""
    path = tmp_path / "empty.json"
    path.touch()

    assert "0 bytes" in refused_split(path)[0]

    path.write_text(" \n ")

    assert "empty" in refused_split(path)[0]


@pytest.mark.parametrize("ending", ["in a record", "after a comma", "after a record", "in the first record"])
def test_a_truncated_array_is_refused_with_its_byte_and_record(good: Path, tmp_path: Path, ending: str) -> None:
    """The place is that of the record that was cut, or the end of the file."""
    path, data = tmp_path / "cut.json", good.read_bytes()
    first, last = data.index(b"{"), data.rindex(b'{"Name"')
    cut, record = {
        "in a record": (last + 200, RECORDS - 1),
        "after a comma": (last, RECORDS - 1),
        "after a record": (data.rindex(b",", 0, last), RECORDS - 2),
        "in the first record": (first + 50, 0),
    }[ending]
    path.write_bytes(data[:cut])
    sentence, following = refused_split(path)

    place = {"in a record": last, "in the first record": first}.get(ending, cut)
    assert f"byte {place}" in sentence
    assert "record" in sentence
    assert ending == "in the first record" or f"record {record}" in sentence or f"record {record + 1}" in sentence
    assert "make it again" in following


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"hello world", "byte 0"),
        (b"\x89PNG\r\n\x1a\n\0\0", "byte 0"),
        (b"<html><body>404</body></html>", "byte 0"),
        (b'  "just a text"', "byte 2"),
        (b"full_name,powerset\nA.B.C,A.B\n", "byte 0"),
        (b"[]", "empty"),
        (b"[1, 2, 3]", "no known format"),
    ],
)
def test_a_file_that_holds_no_json_records_is_refused(tmp_path: Path, text: bytes, word: str) -> None:
    """What was found stands in the sentence."""
    path = tmp_path / "odd.json"
    path.write_bytes(text)

    assert word in refused_split(path)[0]


@pytest.mark.parametrize("name", ["powers.json.gz", "powers.json.zst", "powers.zip"])
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str) -> None:
    """The decompressor's complaint is translated, and names the file."""
    path = tmp_path / name
    start = {"gz": b"\x1f\x8b\x08\0", "zst": b"\x28\xb5\x2f\xfd", "zip": b"PK\x03\x04"}[name.rpartition(".")[2]]
    path.write_bytes(start + b"\0not really compressed" * 20)

    assert "cannot be read" in refused_split(path)[0]


def test_a_directory_without_powers_is_refused(tmp_path: Path) -> None:
    """It says how many files it saw, and what to name instead."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    (folder / "notes.txt").write_text("nothing")
    sentence, following = refused_split(folder)

    assert "without powers" in sentence
    assert "2 files" in sentence
    assert "folder" in following


def test_a_wrong_format_given_by_hand_is_refused(good: Path, tmp_path: Path) -> None:
    """What is lacking, and which format would do."""
    path = tmp_path / "powers.json"
    shutil.copy(good, path)
    sentence, following = refused_split(path, "--format", "cod")

    assert "full_name" in sentence
    assert "InternalName" in sentence
    assert "--format i12" in following


def test_an_unknown_shape_is_refused_with_the_keys_seen_and_the_formats_known(tmp_path: Path) -> None:
    """A list of items is no list of powers: nothing is half imported."""
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{"aoid": 1, "ql": 200, "title": "Sword"}] * 3))
    sentence, _ = refused_split(path)

    assert "aoid, ql, title" in sentence
    for name in ("cod", "i12", "mids"):
        assert f"{name}: " in sentence


def test_a_records_path_with_nothing_there_is_refused(good: Path, tmp_path: Path) -> None:
    """The option is named."""
    path = tmp_path / "powers.json"
    shutil.copy(good, path)
    sentence, following = refused_split(path, "--records-path", "powers.item")

    assert "'powers.item'" in sentence
    assert "--records-path" in following


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Its path is in the sentence."""
    assert "no such file" in refused_split(tmp_path / "missing.json")[0]


def test_sources_of_different_formats_are_refused_together(good: Path, tmp_path: Path) -> None:
    """Each is named with its format."""
    path, other = tmp_path / "powers.json", tmp_path / "other.json"
    shutil.copy(good, path)
    generate.generate("cod", 10, 1, other)
    sentence, following = refused_split(path, "other.json")

    assert "powers.json is i12" in sentence
    assert "other.json is cod" in sentence
    assert "one after another" in following


def test_a_store_that_cannot_be_written_is_named(good: Path, tmp_path: Path) -> None:
    """A file where the folder should be: exit 1, no traceback."""
    (tmp_path / "store").write_text("in the way")
    done = run("split", good, "--store", tmp_path / "store", "--jobs", "1")

    assert done.returncode == 1
    assert str(tmp_path / "store") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_of_another_version_is_refused(here: Path, dsn: str) -> None:
    """Both versions are named."""
    path = manifest_of(here)
    path.write_text(path.read_text().replace('"store_version": 3', '"store_version": 99'))
    sentence, following = refused_load(here, dsn, 5)

    assert "version 99" in sentence
    assert "version 3" in sentence
    assert "etl split" in following


def test_a_store_without_a_split_is_refused(tmp_path: Path, dsn: str) -> None:
    """Neither a missing folder nor an empty one is a store."""
    (tmp_path / "partitions").mkdir()

    assert "no finished split" in refused_load(tmp_path, dsn, 5)[0]
    assert "etl split" in refused_load(tmp_path, dsn, 5, "--store", "nowhere")[1]


def test_what_is_wrong_at_home_is_told_before_a_server_is_asked(tmp_path: Path) -> None:
    """A store without a split is exit 5 even where no server answers."""
    assert "no finished split" in refusal(load(tmp_path, "postgresql://127.0.0.1:1/x"), 5)[0]


def test_a_split_that_is_not_there_is_refused(here: Path, dsn: str) -> None:
    """An id that somebody mistyped."""
    assert "0123456789abcdef" in refused_load(here, dsn, 5, "--split", "0123456789abcdef")[0]


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_damaged_manifest_is_refused(here: Path, dsn: str, keep: int) -> None:
    """Cut anywhere, it is no manifest."""
    path = manifest_of(here)
    path.write_bytes(path.read_bytes()[:keep])
    sentence, following = refused_load(here, dsn, 5)

    assert "manifest.json" in sentence
    assert "damaged" in sentence
    assert "etl split" in following
    again = run("split", "powers.json", "--executor", "inline://", cwd=here)
    assert again.returncode == 0, again.stderr
    assert "already split" not in again.stdout


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "no Arrow file"])
def test_a_damaged_part_is_refused_and_splitting_again_mends_it(here: Path, dsn: str, damage: str) -> None:
    """The part is named, and the next step that is told really helps."""
    part = a_part_of(here)
    data = part.read_bytes()
    if damage == "missing":
        part.unlink()
    else:
        spoiled = {"empty": b"", "truncated": data[: len(data) // 2], "no Arrow file": b"x" * len(data)}
        part.write_bytes(spoiled[damage])
    sentence, following = refused_load(here, dsn, 5)

    assert part.name in sentence
    assert "etl split" in following
    again = run("split", "powers.json", "--executor", "inline://", cwd=here)
    assert again.returncode == 0, again.stderr
    assert part.read_bytes() == data


def test_a_source_that_changed_since_the_split_is_refused(here: Path, dsn: str) -> None:
    """Whoever replaced the export wants the new one; the old one is there on request."""
    path = here / "powers.json"
    path.write_bytes(path.read_bytes().replace(b"Accuracy", b"accuracy", 1))
    sentence, following = refused_load(here, dsn, 5)

    assert "powers.json" in sentence
    assert "etl split" in following
    split_id = manifest_of(here).parent.name
    assert load(here, dsn, "--split", split_id).returncode == 0


def test_a_source_that_is_gone_is_no_hindrance(here: Path, dsn: str) -> None:
    """The store holds all that a load needs."""
    (here / "powers.json").unlink()

    assert load(here, dsn).returncode == 0


def test_a_source_that_was_only_touched_has_not_changed(here: Path, dsn: str) -> None:
    """Its content counts, not its time."""
    (here / "powers.json").touch()

    assert load(here, dsn).returncode == 0


def test_a_server_that_is_down_is_named(here: Path) -> None:
    """Within a few seconds, with the way to the embedded one."""
    begun = time.monotonic()
    sentence, following = refusal(load(here, "postgresql://somebody@127.0.0.1:1/nothing"), 4)

    assert "no database answers" in sentence
    assert "127.0.0.1" in sentence
    assert "etl db start" in following
    assert time.monotonic() - begun < 10


def test_a_server_that_refuses_is_quoted(here: Path, dsn: str) -> None:
    """A database of a wrong name."""
    sentence, following = refusal(load(here, conninfo.make_conninfo(dsn, dbname="no_such_database")), 4)

    assert "refused" in sentence
    assert '"no_such_database" does not exist' in sentence
    assert "name of the database" in following


@pytest.mark.parametrize("dsn_text", ["garbage", "mysql://me:swordfish@host/db", "hots=localhost password=swordfish"])
def test_a_connection_string_that_cannot_be_understood_is_not_repeated(here: Path, dsn_text: str) -> None:
    """It may hold a password: exit 2, with the form that it should have."""
    done = load(here, dsn_text)
    _, following = refusal(done, 2)

    assert "postgresql://" in following
    assert "swordfish" not in done.stderr


def test_a_live_schema_that_holds_something_else_is_left_alone(here: Path, dsn: str) -> None:
    """Exit 6; the table of somebody else keeps its rows, and another schema can be named."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create schema game")
        connection.execute("create table game.powers as select 42 as answer")
        sentence, following = refusal(load(here, dsn), 6)

        assert "powers" in sentence
        assert "--schema" in following
        assert connection.execute("select answer from game.powers").fetchall() == [(42,)]
        assert connection.execute("select count(*) from etl.build").fetchall() == [(0,)]
        assert load(here, dsn, "--schema", "planner").returncode == 0
        assert connection.execute("select count(*) from planner.powers").fetchall() == [(RECORDS,)]


def test_a_schema_etl_of_somebody_else_is_left_alone(here: Path, empty_dsn: str) -> None:
    """Exit 6, for the load, the look-ups and the reset alike."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create schema etl")
        connection.execute("create table etl.jobs as select 42 as answer")
        for arguments in (
            ["load", "--executor", "inline://"],
            ["power", "x"],
            ["db", "migrate"],
            ["db", "reset", "--yes"],
        ):
            sentence, following = refusal(run(*arguments, "--dsn", empty_dsn, cwd=here), 6)

            assert "jobs" in sentence
            assert "--dsn" in following
        assert connection.execute("select answer from etl.jobs").fetchall() == [(42,)]
        tables = "select relname from pg_class where relnamespace = 'etl'::regnamespace"
        assert connection.execute(tables).fetchall() == [("jobs",)]


@pytest.mark.parametrize("schema", ["etl", "pg_catalog", "information_schema", "x" * 60])
def test_a_schema_that_cannot_be_the_live_one_is_refused(here: Path, dsn: str, schema: str) -> None:
    """Ours for the registry, the server's own, and a name that leaves no room for the builds' numbers."""
    sentence, following = refused_load(here, dsn, 2, "--schema", schema)

    assert schema in sentence
    assert "--schema" in following


def test_a_database_of_a_newer_etl_is_refused(here: Path, dsn: str) -> None:
    """With what to install."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("insert into etl.migration (version, name) values (9999, 'tomorrow')")
    sentence, following = refused_load(here, dsn, 6)

    assert "9999" in sentence
    assert "pip install" in following


def test_an_unknown_table_is_refused_with_those_that_exist(here: Path, dsn: str) -> None:
    """Usage: exit 2."""
    sentence, following = refused_load(here, dsn, 2, "--tables", "powers,powerz")

    assert "powerz" in sentence
    assert "power_effects" in following


def test_what_destroys_refuses_without_a_terminal(here: Path, dsn: str) -> None:
    """Exit 2 instead of hanging, with the option that means it; only then is anything dropped."""
    for seed in (1, 2, 3):
        generate.generate("i12", 20, seed, here / "next.json")
        assert run("split", "next.json", "--executor", "inline://", cwd=here).returncode == 0
        assert load(here, dsn).returncode == 0
    for command in (["prune"], ["rollback"], ["db", "reset"]):
        sentence, following = refusal(run(*command, "--dsn", dsn), 2)

        assert "?" in sentence
        assert "--yes" in following
        assert is_published(dsn)
        assert run(*command, "--yes", "--dsn", dsn).returncode == 0
    assert not is_published(dsn)


@pytest.mark.parametrize("arguments", [["power", "a.b.c"], ["power", "7"], ["powerset", "a.b"], ["status"], ["log"]])
def test_a_look_up_in_an_empty_database_says_what_to_do_first(empty_dsn: str, arguments: list[str]) -> None:
    """Exit 6, and nothing is made in that database."""
    _, following = refusal(run(*arguments, "--dsn", empty_dsn), 6)

    assert "etl load" in following
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("select to_regnamespace('etl')").fetchone() == (None,)


@pytest.mark.parametrize("arguments", [["power", "a.b.c"], ["powerset", "a.b"]])
def test_a_look_up_before_the_first_publication_says_what_to_do(dsn: str, arguments: list[str]) -> None:
    """The schema is there, the data are not."""
    sentence, following = refusal(run(*arguments, "--dsn", dsn), 6)

    assert "game" in sentence
    assert "etl load" in following
