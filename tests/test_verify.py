"""Damage of every kind is found and named; a sound build is proven in one line."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from places import database, in_database

import etl
from etl import config, coordinator, generate, update
from etl.errors import UsageError
from etl.store import manifest, places
from etl.verify import Finding, VerifyResult, verify

POWERSETS = 12
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A split of a few powersets; one record is superseded, one rejected by the split, one by the load.

    The latest split of the store is another one, in which some powers are changed and some are gone.
    """
    folder = tmp_path_factory.mktemp("verify")
    generate.generate("cod", 1_000, 5, folder / "whole.json")
    records = json.loads((folder / "whole.json").read_bytes())
    sizes = Counter(powerset_of(record) for record in records)
    kept = {name for name, _ in sizes.most_common(POWERSETS)}
    records = [record for record in records if powerset_of(record) in kept]
    records[5] |= {"effects": "none"}
    records += [{**records[0], "display_name": "Later"}, {**records[1], "full_name": "nowhere"}]
    (folder / "cod.json").write_text(json.dumps(records))
    etl.split(str(folder / "cod.json"), store=str(folder / "store"), executor="inline://")
    changed = [{**record, "accuracy": 7.5} if number % 5 == 0 else record for number, record in enumerate(records)]
    (folder / "later.json").write_text(json.dumps(changed[3:]))
    etl.split(str(folder / "later.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


def powerset_of(record: dict[str, str]) -> str:
    return ".".join(record["full_name"].split(".")[:2])


@pytest.fixture(scope="module")
def loaded(server_dsn: str, template_database: str, store: str) -> Iterator[str]:
    """Name of a database in which that split is published."""
    with database(server_dsn, template=template_database) as name:
        options = at(store, in_database(server_dsn, name), split_id=first_split(store))
        coordinator.load(options)
        yield name


def first_split(store: str) -> str:
    (name,) = {path.name for path in Path(store).iterdir() if path.is_dir()} - {manifest.latest(store)}
    return name


def at(store: str, dsn: str, split_id: str | None = None) -> config.LoadOptions:
    return config.LoadOptions(store=store, dsn=dsn, split_id=split_id, executor="inline://")


@pytest.fixture
def published(server_dsn: str, loaded: str) -> Iterator[str]:
    """DSN of an own copy of it."""
    with database(server_dsn, template=loaded) as name:
        yield in_database(server_dsn, name)


def damage(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def look(dsn: str, store: str | None = None) -> VerifyResult:
    return verify(dsn, store=store, executor="inline://")


def found(dsn: str, check: str) -> list[Finding]:
    return [finding for finding in look(dsn).findings if finding.check == check]


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row
    return row[0]


def run_verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl", "verify", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=ROOT)


def test_a_sound_build_is_proven(published: str) -> None:
    """With rejects of both stages and superseded records in it."""
    result = look(published)

    assert result.findings == ()
    assert result.compared
    assert value(published, "select count(*) from etl.reject") > 0  # type: ignore[operator]
    assert result.rows["powers"] == value(published, "select count(*) from game.powers")


def test_the_command_says_in_one_line_what_was_proven(published: str) -> None:
    """Leaves, relations, rows, seconds; exit 0."""
    done = run_verify("--dsn", published, "--jobs", "2")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "leaves" in done.stdout
    assert "rows, in" in done.stdout


def test_a_damaged_row_is_named_with_its_column(published: str) -> None:
    """Power, id, column; and nothing else but the view, which shows the same column."""
    damage(published, "update game_b1.powers set accuracy = accuracy + 1 where id = 17")
    findings = look(published).findings
    (row,) = findings[0].rows

    assert [finding.check for finding in findings] == ["rows", "view"]
    assert (row.id, row.how, row.columns) == (17, "differs", ("accuracy",))
    assert row.name == value(published, "select uid from etl.power_key where id = 17")
    assert findings[1].rows[0].columns == ("accuracy",)


@pytest.mark.parametrize(
    ("table", "assignment", "column"),
    [
        ("power_effects", "scale = scale + 0.5", "scale"),
        ("power_effects", "tags = tags || '{damaged}'", "tags"),
        ("power_prerequisites", "required_uid = 'somebody.else.entirely'", "required_uid"),
        ("power_enhancement_compatibility", "source_name = 'damaged'", "source_name"),
        ("power_set_categories", "set_category = 'damaged'", "set_category"),
    ],
)
def test_a_damaged_row_of_a_child_is_named_with_its_power(
    published: str, table: str, assignment: str, column: str
) -> None:
    """Partitioned or plain."""
    damage(published, f"update game_b1.{table} set {assignment} where id = (select min(id) from game_b1.{table})")
    (finding,) = look(published).findings
    (row,) = finding.rows
    name = f"select k.uid from etl.power_key k join game_b1.{table} t on t.power_id = k.id order by t.id limit 1"

    assert (finding.table, row.how, row.columns) == (table, "differs", (column,))
    assert row.name == value(published, name)


def test_a_damage_that_only_the_text_of_a_number_shows_is_found(published: str) -> None:
    """1 and 1.0 are equal as jsonb; the source wrote one of them."""
    damage(published, "update game_b1.powers set modes_required = '[1.0]' where id = 17")
    before = look(published).findings[0].rows
    damage(published, "update game_b1.powers set display_info = jsonb_set(display_info, '{zzz}', '1.00') where id = 17")

    assert before[0].columns == ("modes_required",)
    assert look(published).findings[0].rows[0].columns == ("modes_required", "display_info")


@pytest.mark.parametrize("table", ["powers", "power_effects", "power_set_categories"])
def test_a_deleted_row_is_missing(published: str, table: str) -> None:
    """By id, with its power; and its receipt speaks of a row that is not there."""
    number = value(published, f"select min(id) from game_b1.{table}")
    damage(published, f"delete from game_b1.{table} where id = {number}")
    findings = look(published).findings
    rows = next(finding for finding in findings if finding.check == "rows")

    assert [(row.id, row.how) for row in rows.rows] == [(number, "missing")]
    assert rows.rows[0].name
    assert any(finding.check == "receipt" and finding.table == table for finding in findings)


def test_a_row_deleted_from_the_directory_is_missing_there_alone(published: str) -> None:
    """What refers to the power still finds it by its own row."""
    damage(published, "delete from game_b1.power_directory where id = 17")
    findings = look(published).findings

    assert {finding.table for finding in findings} == {"power_directory"}
    assert {row.id for finding in findings for row in finding.rows} == {17}


@pytest.mark.parametrize("table", ["power_effects", "power_set_categories"])
def test_a_doubled_row_is_extra(published: str, table: str) -> None:
    """The primary key was gone for a while."""
    key = "select conname from pg_constraint where conrelid = 'game_b1.%s'::regclass and contype = 'p'"
    damage(
        published,
        "drop index game_b1.idx_power_set_category",
        f"alter table game_b1.{table} drop constraint {value(published, key % table)}",
        f"insert into game_b1.{table} select * from game_b1.{table} order by id limit 1",
    )
    findings = look(published).findings
    rows = next(finding for finding in findings if finding.check == "rows")

    assert [row.how for row in rows.rows] == ["extra"]
    assert [finding.message for finding in findings if finding.check == "index"]


def test_a_row_of_no_power_is_extra(published: str) -> None:
    """No leaf could see it."""
    damage(published, "insert into game_b1.power_set_categories (id, power_id, set_category) values (1, 0, 'stray')")
    (finding,) = look(published).findings

    assert (finding.table, finding.rows[0].id) == ("power_set_categories", 1)


def test_a_power_under_a_strange_id_is_extra(published: str) -> None:
    """It has no key, so it has no name."""
    copy = "jsonb_populate_record(p, '{\"id\": 99999999}')"
    damage(published, f"insert into game_b1.powers select ({copy}).* from game_b1.powers p where id = 17")
    findings = found(published, "rows")

    assert [(row.id, row.how, row.name) for row in findings[0].rows] == [(99999999, "extra", None)]


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("archetypes", "update game_b1.archetypes set is_player = not is_player where id = 1"),
        ("powersets", "update game_b1.powersets set display_name = 'damaged' where id = 1"),
    ],
)
def test_damaged_entities_are_named(published: str, table: str, statement: str) -> None:
    """Against the entities of the store."""
    damage(published, statement)
    (finding,) = found(published, "entities")

    assert (finding.table, finding.rows[0].id, finding.rows[0].how) == (table, 1, "differs")
    assert finding.rows[0].name


def test_a_directory_that_disagrees_with_the_registry_is_found(published: str) -> None:
    """A name under the key of another name."""
    damage(published, "update game_b1.power_directory set internal_name = 'Nobody.Is.Here' where id = 17")

    assert {row.id for finding in found(published, "directory") for row in finding.rows} == {17}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("idx_power_powerset_level", "idx_power_powerset_level is missing"),
        ("idx_power_set_category", "idx_power_set_category is missing"),
        ("idx_power_directory_name", "idx_power_directory_name is missing"),
        ("idx_power_build_summary_id", "idx_power_build_summary_id is missing"),
    ],
)
def test_a_dropped_index_is_named(published: str, index: str, words: str) -> None:
    """Of a partitioned table, a plain one, the directory, the view."""
    damage(published, f"drop index game_b1.{index}")
    (finding,) = look(published).findings

    assert finding.check == "index"
    assert words in finding.message
    assert finding.is_mended_by_load is (index == "idx_power_powerset_level")


def test_an_index_that_is_not_valid_on_one_leaf_is_named_with_the_leaf(published: str) -> None:
    """As an interrupted CREATE INDEX CONCURRENTLY would leave it."""
    leaf = value(published, "select min(c.oid::regclass::text) from pg_class c where relname ~ '^powers_.*_0\\d$'")
    index = f"select min(indexrelid) from pg_index where indrelid = '{leaf}'::regclass and not indisprimary"
    damage(published, f"update pg_index set indisvalid = false where indexrelid = ({index})")
    (finding,) = look(published).findings

    assert finding.check == "index"
    assert "is not valid" in finding.message
    assert not finding.is_mended_by_load
    assert str(leaf).removeprefix("game_b1.") in finding.message


def test_a_detached_leaf_is_named(published: str) -> None:
    """Its rows are still there, and nobody sees them."""
    name = value(published, "select min(leaf) from etl.receipt where table_name = 'powers'")
    branch = value(
        published, f"select inhparent::regclass from pg_inherits where inhrelid = 'game_b1.powers_{name}'::regclass"
    )
    damage(published, f"alter table {branch} detach partition game_b1.powers_{name}")
    findings = found(published, "leaf")

    assert [(finding.leaf, finding.message) for finding in findings] == [(name, "the leaf is not attached")]


def test_a_lost_table_is_named(published: str) -> None:
    """And nothing else can be said."""
    damage(published, "drop table game_b1.power_set_categories cascade")
    (finding,) = look(published).findings

    assert (finding.check, finding.table) == ("leaf", "power_set_categories")


def test_a_lost_foreign_key_is_named(published: str) -> None:
    """The one from powers to powersets."""
    damage(published, "alter table game_b1.powers drop constraint powers_powerset_id_fkey")
    (finding,) = look(published).findings

    assert (finding.check, finding.table) == ("key", "powers")


def test_a_stale_view_is_found_with_the_rows_that_are_old(published: str) -> None:
    """Somebody changed a name and forgot the view; the entity differs, too."""
    damage(published, "update game_b1.archetypes set name = 'renamed' where id = 1")
    (finding,) = found(published, "view")

    assert "stale" in finding.message
    assert {row.columns for row in finding.rows} == {("archetype_name",)}


def test_a_lost_receipt_is_named(published: str) -> None:
    """And so is one of a leaf that the plan does not know."""
    damage(
        published,
        "delete from etl.receipt where table_name = 'powers' and leaf = (select min(leaf) from etl.receipt where table_name = 'powers')",
        "insert into etl.receipt select build, table_name, 'stray', input_digest, version, 0, 0, 0, 0 from etl.receipt limit 1",
    )
    messages = [finding.message for finding in look(published).findings]

    assert messages == ["there is no receipt", "a receipt of what the plan does not know"]


def test_a_lost_reject_is_named(published: str) -> None:
    """Records = loaded + superseded + rejected no longer holds."""
    uid = value(published, "select min(uid) from etl.reject")
    damage(published, f"delete from etl.reject where uid = '{uid}'")
    messages = [finding.message for finding in found(published, "rejects")]

    assert any(str(uid) in message for message in messages)
    assert any("are not" in message and "superseded" in message for message in messages)


def test_a_live_view_of_something_else_is_named(published: str) -> None:
    """What applications read must be this build."""
    columns = value(
        published,
        "select string_agg(attname, ', ' order by attnum) from pg_attribute where attrelid = 'game.archetypes'::regclass and attnum > 0",
    )
    damage(
        published,
        "create table public.elsewhere as select * from game.archetypes",
        f"create or replace view game.archetypes as select {columns} from public.elsewhere",
    )
    (finding,) = look(published).findings

    assert (finding.check, finding.table) == ("published", "archetypes")


def test_without_the_split_the_rest_is_looked_at(published: str, tmp_path: Path) -> None:
    """Exit code 6: nothing is proven; yet indexes, keys, receipts, view and directory are."""
    damage(published, "drop index game_b1.idx_power_set_category")
    result = look(published, store=str(tmp_path))

    assert not result.compared
    assert [finding.check for finding in result.findings] == ["store", "index"]
    assert result.rows["powers"] == value(published, "select count(*) from game.powers")
    assert run_verify("--dsn", published, "--store", str(tmp_path)).returncode == 6


def test_a_store_whose_records_are_not_those_of_the_manifest_is_found(
    published: str, store: str, tmp_path: Path
) -> None:
    """By the sums of digests, per partition."""
    split_id = str(value(published, "select split_id from etl.build"))
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", store, str(copy)], check=True)
    place = copy / split_id / places.MANIFEST
    document = json.loads(place.read_text())
    document["partitions"][0]["digest"] = "0" * 32
    place.write_text(json.dumps(document))
    (finding,) = look(published, store=str(copy)).findings

    assert finding.check == "store"
    assert document["partitions"][0]["powerset"] in finding.message


def test_a_damaged_part_is_a_finding(published: str, store: str, tmp_path: Path) -> None:
    """The other leaves are compared all the same."""
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", store, str(copy)], check=True)
    split_id = str(value(published, "select split_id from etl.build"))
    part = sorted((copy / split_id / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    findings = look(published, store=str(copy)).findings

    assert {finding.check for finding in findings} == {"store"}
    assert any(part.name in finding.message for finding in findings)


def test_findings_come_as_json_too_and_the_exit_code_is_6(published: str) -> None:
    """One object with all of them."""
    damage(published, "update game_b1.powers set accuracy = accuracy + 1 where id = 17")
    done = run_verify("--dsn", published, "--json", "--executor", "inline://")
    told = json.loads(done.stdout)

    assert done.returncode == 6
    assert "2 findings" in done.stderr
    assert told["findings"][0]["rows"][0] == {
        "id": 17,
        "name": value(published, "select uid from etl.power_key where id = 17"),
        "how": "differs",
        "columns": ["accuracy"],
    }


def test_a_change_on_the_way_is_no_damage(published: str) -> None:
    """Everything is seen in one state of the database."""
    changed = threading.Event()

    def change(*_: object) -> None:
        if not changed.is_set():
            changed.set()
            damage(published, "update game_b1.powers set accuracy = accuracy + 1")

    result = verify(published, executor="inline://", progress=change)

    assert changed.is_set()
    assert result.findings == ()
    assert look(published).findings


@pytest.mark.parametrize(
    "scope",
    [update.Scope(), update.Scope(keep_missing=True), update.Scope(first_record=60)],
    ids=["all of it", "keep missing", "from a record"],
)
def test_what_an_update_leaves_is_proven_against_the_splits_that_it_is_made_of(
    published: str, store: str, scope: update.Scope
) -> None:
    """All of the later split, or a part of it on top of the first; damage is still found."""
    done = update.update(at(store, published), scope)
    result = look(published)
    damage(published, "update game_b1.powers set accuracy = 0.123 where accuracy = 7.5")
    damaged = [finding for finding in found(published, "rows") if finding.table == "powers"]

    assert done.changed
    assert result.findings == ()
    assert result.later_splits == (() if scope.is_whole else (manifest.latest(store),))
    assert {row.columns for finding in damaged for row in finding.rows} == {("accuracy",)}


def test_nothing_published_is_said(dsn: str) -> None:
    """With what to type next."""
    with pytest.raises(UsageError, match="nothing is published"):
        look(dsn)
