import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import zstandard
from command_line import ETL, ROOT, new_database, run, run_on_terminal

from etl import generate

RECORDS = 400


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean flat export."""
    path = tmp_path_factory.mktemp("cli") / "powers.json"
    generate.generate("i12", RECORDS, 9, path)
    return path


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with bad records."""
    path = tmp_path_factory.mktemp("cli") / "dirty.json"
    generate.generate("i12", RECORDS, 9, path, dirty=0.06)
    return path


@pytest.fixture(scope="module")
def published(
    source: Path, server_dsn: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """DSN of a database in which the export is published, for tests that only read it."""
    with new_database(server_dsn, template_database) as dsn:
        done = run("rebuild", source, "--store", tmp_path_factory.mktemp("store"), "--dsn", dsn, "--jobs", "1")
        assert done.returncode == 0, done.stderr
        yield dsn


def split(source: Path | str, store: Path, *more: str, stdin: bytes | None = None) -> dict[str, object]:
    done = run("split", source, "--store", store, "--json", "--jobs", "1", *more, stdin=stdin)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def digests(store: Path) -> dict[str, str]:
    """The digest of each partition of the latest split."""
    manifest = json.loads((store / (store / "LATEST").read_text().strip() / "manifest.json").read_text())
    return {partition["powerset"]: partition["digest"] for partition in manifest["partitions"]}


@pytest.mark.parametrize("arguments", [["--help"], ["load", "--help"], ["split", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """So that it comes at once; how fast is for scripts/bench.py to say."""
    program = (
        "import sys; from etl.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'polars', 'pyarrow', 'psycopg', 'redis', 'msgspec'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_what_each_worker_imports_of_the_script_is_nothing() -> None:
    """A spawned process imports the module of its parent's entry point: not the command line, not click."""
    code = "import sys, etl.__main__; print({'etl.cli', 'click', 'psycopg'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_help_fits_on_a_terminal() -> None:
    """No line is cut, and every command is listed with a whole sentence."""
    for arguments in ([], ["db"], ["rejects"]):
        text = run(*arguments, "--help").stdout

        assert max(map(len, text.splitlines())) <= 80
        assert "..." not in text.replace("[ARGS]...", "")


def test_a_split_that_is_there_already_says_so(source: Path, tmp_path: Path) -> None:
    """And is not done again."""
    first = run("split", source, "--store", tmp_path, "--jobs", "1")
    second = run("split", source, "--store", tmp_path, "--jobs", "1")

    assert "already split" not in first.stdout
    assert second.stdout.startswith("already split")
    assert split(source, tmp_path)["reused"] is True
    assert f"next: etl load --store {tmp_path}" in second.stdout


def test_the_summary_of_a_clean_split_adds_up(source: Path, tmp_path: Path) -> None:
    """One line with all counts, then what to type next."""
    *_, counts, following = run("split", source, "--store", tmp_path, "--jobs", "1").stdout.splitlines()

    assert f"{RECORDS} records = {RECORDS} kept + 0 superseded + 0 rejected" in counts
    assert following.startswith("next: etl load")


def test_a_summary_with_rejects_adds_up_and_ends_with_their_path(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """For the split and for the load; the files hold as many lines."""
    for command in (["split", str(dirty)], ["load", "--dsn", dsn]):
        done = run(*command, "--store", "store", "--executor", "inline://", cwd=tmp_path)
        *_, last = done.stdout.splitlines()
        records, kept, superseded, rejected = map(
            int,
            re.search(r"(\d+) records = (\d+) \w+ \+ (\d+) superseded \+ (\d+) rejected", done.stdout).groups(),  # type: ignore[union-attr]
        )
        paths = last.partition("; see ")[2].split(" and ")

        assert done.returncode == 3
        assert records == RECORDS == kept + superseded + rejected
        assert sum(map(int, re.findall(r"(\d+) [a-z]\w+(?=[,;])", last))) == rejected
        assert sum(len((tmp_path / path).read_bytes().splitlines()) for path in paths) == rejected


@pytest.mark.parametrize("packed", ["gz", "zst", "zip", "stdin", "stdin gz", "ndjson", "pretty"])
def test_every_way_to_hand_over_the_same_records_gives_the_same_partitions(
    source: Path, tmp_path: Path, packed: str
) -> None:
    """Compressed, from standard input, one per line, or with white space."""
    data = source.read_bytes()
    path, stdin = tmp_path / f"powers.{packed}", None
    if packed == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("export/powers.json", data)
    elif packed.startswith("stdin"):
        path, stdin = Path("-"), gzip.compress(data) if packed.endswith("gz") else data
    else:
        records = json.loads(data)
        path.write_bytes(
            {
                "gz": lambda: gzip.compress(data),
                "zst": lambda: zstandard.compress(data),
                "ndjson": lambda: b"\n".join(json.dumps(record, ensure_ascii=False).encode() for record in records),
                "pretty": lambda: json.dumps(records, indent=4, ensure_ascii=False).encode(),
            }[packed]()
        )
    split(source, tmp_path / "plain")
    found = split(path, tmp_path / "other", stdin=stdin)

    assert found["records"] == RECORDS
    assert digests(tmp_path / "other") == digests(tmp_path / "plain")


def test_json_is_one_object_on_stdout(source: Path, tmp_path: Path, dsn: str) -> None:
    """For every command that has the option; progress and everything else go to stderr."""
    calls = [
        ["split", str(source), "--store", str(tmp_path), "--jobs", "1"],
        ["load", "--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"],
        ["load", "--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"],
        ["rebuild", str(source), "--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"],
        ["generate", "--shape", "cod", "--records", "3", "--out", str(tmp_path / "x.json")],
        ["status", "--dsn", dsn],
        ["log", "--dsn", dsn],
        ["db", "status", "--dsn", dsn],
        ["power", "1", "--dsn", dsn],
    ]
    for call in calls:
        done = run(*call, "--json")

        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        assert isinstance(json.loads(done.stdout), dict if call[0] != "log" else list)


def test_quiet_says_nothing_on_stderr(source: Path, tmp_path: Path, dsn: str) -> None:
    """The result stays, on stdout."""
    for call in (["split", str(source)], ["rebuild", str(source), "--dsn", dsn]):
        done = run(*call, "--store", tmp_path, "--quiet", "--jobs", "1")

        assert done.stderr == ""
        assert "records = " in done.stdout


def test_verbose_logs_one_line_per_event(source: Path, tmp_path: Path) -> None:
    """With time and level, on stderr."""
    done = run("-v", "split", source, "--store", tmp_path, "--quiet", "--executor", "inline://")

    assert re.fullmatch(r"(\d{4}-\d\d-\d\d [\d:,]+ INFO +etl\.\w+: .+\n)+", done.stderr)
    assert "INFO" not in done.stdout


def test_a_terminal_gets_bars_without_colours_and_pipes_get_lines(source: Path, tmp_path: Path, dsn: str) -> None:
    """A bar per pass that stays; the names of steps go again. Nothing is coloured, so NO_COLOR holds."""
    options = ["--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"]
    shown = run_on_terminal("rebuild", source, *options).stdout
    piped = run("rebuild", source, *options)

    assert re.search(r"\rsplit: 100%\|█+\|", shown)
    assert re.search(rf"\rload: 100%\|█+\| {RECORDS}/{RECORDS} ", shown)
    assert "\rplan …" not in shown.split("\n")[-1]
    assert "\x1b[" not in shown
    assert "%|" not in piped.stderr
    assert "load …" in piped.stderr
    assert "…" not in piped.stdout


def test_a_terminal_without_a_width_gets_bars_as_well(source: Path, tmp_path: Path) -> None:
    """Some tell 0 columns."""
    assert "split: 100%|" in run_on_terminal("split", source, "--store", tmp_path, "--jobs", "1", columns=0).stdout


@pytest.mark.parametrize(("typed", "is_gone"), [("n\n", False), ("y\n", True)])
def test_a_question_is_asked_on_a_terminal(source: Path, tmp_path: Path, dsn: str, typed: str, is_gone: bool) -> None:
    """No means no; the answer decides."""
    assert run("rebuild", source, "--store", tmp_path, "--dsn", dsn, "--jobs", "1").returncode == 0
    done = run_on_terminal("db", "reset", "--dsn", dsn, typed=typed)

    assert "[y/N]" in done.stdout
    assert (done.returncode == 0) is is_gone
    with psycopg.connect(dsn) as connection:
        assert (connection.execute("select to_regclass('game.powers')").fetchone() == (None,)) is is_gone


def test_a_reset_leaves_nothing_behind_and_another_load_begins_anew(source: Path, tmp_path: Path, dsn: str) -> None:
    """No schema of ours is left, and an empty database is no error."""
    load = ["load", "--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"]
    assert run("rebuild", source, "--store", tmp_path, "--dsn", dsn, "--jobs", "1").returncode == 0
    done = run("db", "reset", "--yes", "--dsn", dsn)

    assert done.stdout == "dropped game_b1, game, etl\n"
    with psycopg.connect(dsn) as connection:
        left = "select nspname from pg_namespace where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')"
        assert connection.execute(left).fetchall() == []
    assert run("db", "reset", "--yes", "--dsn", dsn).stdout == "nothing to drop\n"
    assert "published build 1 in schema game (generation 1)" in run(*load).stdout


def test_a_reset_of_one_schema_keeps_the_others_and_their_ids(source: Path, tmp_path: Path, dsn: str) -> None:
    """The registry stays while somebody needs it; the reset schema can be loaded again."""
    load = ["load", "--store", str(tmp_path), "--dsn", dsn, "--jobs", "1"]
    assert run("split", source, "--store", tmp_path, "--jobs", "1").returncode == 0
    for schema in ("game", "public"):
        assert run(*load, "--schema", schema).returncode == 0
    done = run("db", "reset", "--yes", "--dsn", dsn)

    assert done.returncode == 0, done.stderr
    assert "schema etl stays: it also serves public" in done.stdout
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from public.powers").fetchone() == (RECORDS,)
        assert connection.execute("select to_regnamespace('game')").fetchone() == (None,)
    assert "published" in run(*load).stdout
    assert run("power", "1", "--dsn", dsn, "--json").stdout != ""
    assert run("db", "reset", "--yes", "--dsn", dsn, "--schema", "public").returncode == 0
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select to_regnamespace('public') is not null").fetchone() == (True,)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_split_that_is_interrupted_says_how_to_go_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The exit code is the signal's, no traceback, no worker stays behind, and nothing is committed."""
    path = tmp_path / "big.json"
    generate.generate("cod", 12_000, 2, path)
    store = tmp_path / "store"
    arguments = [*ETL, "split", str(path), "--store", str(store), "--jobs", "1"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 30
    while not list(store.glob("*/ranges/*.progress")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, said = process.communicate(timeout=30)

    assert process.returncode == code, said
    assert "interrupted" in said
    assert "same command" in said
    assert "Traceback" not in said
    assert out == ""
    assert not (store / "LATEST").exists()


def test_a_reader_of_the_output_may_leave_early(published: str) -> None:
    """``etl … | head -1`` ends without a word of complaint."""
    process = subprocess.Popen(
        [*ETL, "power", "1", "--dsn", published],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()

    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=30)


def test_a_bug_is_one_sentence_and_its_traceback_is_there_on_request(source: Path, tmp_path: Path) -> None:
    """A worker that is given nonsense through its environment fails in a way that nobody foresaw."""
    (tmp_path / "sitecustomize.py").write_text("import etl.splitter\netl.splitter._identity = lambda job: 1 / 0\n")
    where = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    quiet = run("split", source, "--store", tmp_path / "store", environment=where)
    loud = run("-v", "split", source, "--store", tmp_path / "store", environment=where)

    assert (quiet.returncode, loud.returncode) == (1, 1)
    assert "ZeroDivisionError" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "etl -v" in quiet.stderr
    assert "Traceback" in loud.stderr


def test_a_look_up_finds_by_name_in_any_case_and_by_id(source: Path, published: str) -> None:
    """As a table for people and as JSON for scripts; what is not there is exit 2 with a way to write it."""
    record = json.loads(source.read_bytes())[0]
    by_name = json.loads(run("power", record["InternalName"].upper(), "--dsn", published, "--json").stdout)
    by_id = json.loads(run("power", str(by_name["id"]), "--dsn", published, "--json").stdout)
    powerset = run("powerset", record["PowersetFullName"], "--dsn", published)
    missing = run("power", "no.such.power", "--dsn", published)

    assert by_name == by_id
    assert by_name["internal_name"] == record["InternalName"]
    assert record["DisplayName"] in powerset.stdout
    assert missing.returncode == 2
    assert "Category.Set.Power" in missing.stderr
