"""A changed definition, a new table or a new view loads alone; the other relations stay those of the build below."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from test_coordinator import checksums

import etl
from etl import builds, config, coordinator, db, ddl, generate, resources, update
from etl.errors import DatabaseError, Interrupted, MismatchError, SchemaError
from etl.scope import Scope, scope_of
from etl.verify import verify


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """400 records of a small flat export, of a few archetypes."""
    path = tmp_path_factory.mktemp("renewal") / "base.json"
    generate.generate("i12", 2_000, 7, path)
    records: list[dict[str, Any]] = json.loads(path.read_text())
    few = ("Boosts.", "Set_Bonus.", "Pool.", "Inherent.", "Blaster_Ranged.", "Tanker_Defense.")
    return [record for record in records if record["InternalName"].startswith(few)][:400]


@pytest.fixture
def options(base: list[dict[str, Any]], tmp_path: Path, dsn: str) -> config.LoadOptions:
    """Return how to load a split of the export."""
    return split(base, tmp_path, dsn)


def split(records: list[dict[str, Any]], place: Path, dsn: str, **more: Any) -> config.LoadOptions:
    source = place / f"{len(list(place.iterdir()))}.json"
    source.write_text(json.dumps(records))
    manifest = etl.split(str(source), store=str(place / "store"), executor="inline://")
    return config.LoadOptions(
        store=str(place / "store"), split_id=manifest.split_id, dsn=dsn, executor="inline://", command="test", **more
    )


@pytest.fixture
def redefine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Return a function that replaces a text in a file of ``sql/``, for this process."""
    changes: list[tuple[str, str, str]] = []
    original = resources.sql_text

    def changed(path: str) -> str:
        text = original(path)
        for name, old, new in changes:
            if name == path:
                assert old in text
                text = text.replace(old, new)
        return text

    monkeypatch.setattr(resources, "sql_text", changed)
    return lambda path, old, new: changes.append((path, old, new))


MORE = ("tables/power_effects.sql", "    kind text", "    season text default 'winter',\n    kind text")


def kinds(dsn: str, schema: str) -> dict[str, str]:
    """Return what each relation of a build is: a table, a partitioned one, a view, a materialized view."""
    with psycopg.connect(dsn) as connection:
        query = (
            "select relname, relkind from pg_class where relnamespace = %s::regnamespace"
            " and relkind in ('r', 'p', 'v', 'm') and not relispartition"
        )
        return {name: str(kind) for name, kind in connection.execute(query, (schema,))}


def findings(options: config.LoadOptions) -> tuple[object, ...]:
    return verify(options.dsn, store=options.store, executor="inline://").findings


def without(sums: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in sums.items() if name not in names}


def test_a_changed_definition_renews_its_table_alone(options, redefine) -> None:
    """The rows of the other tables are those that were there; readers see the new column."""
    coordinator.load(options)
    before = checksums(options.dsn)
    redefine(*MORE)
    assert scope_of(options, (), None) is None
    result = coordinator.load(options)

    assert (result.build, result.generation, result.renewed) == (2, 2, ("power_effects",))
    found = kinds(options.dsn, "game_b2")
    assert found.pop("power_effects") == "p"
    assert set(found.values()) == {"v"}
    assert without(checksums(options.dsn), "power_effects") == without(before, "power_effects")
    with psycopg.connect(options.dsn) as connection:
        rows = connection.execute("select season, count(*) from game.power_effects group by 1").fetchall()
        logged = connection.execute("select distinct table_name from etl.leaf_log where build = 2").fetchall()
    assert rows == [("winter", before["power_effects"][0])]
    assert logged == [("power_effects",)]
    assert findings(options) == ()
    assert coordinator.load(options).nothing_to_do


def test_a_renewal_that_stops_holds_nothing_of_the_published_build(options, redefine) -> None:
    """A foreign key of an unfinished build would refuse an update its powersets, and a drop would wait for readers."""
    coordinator.load(options)
    redefine("tables/powers.sql", "    ai_report text,", "    season text default 'winter',\n    ai_report text,")
    keys = (
        "select conname from pg_constraint join pg_class c on c.oid = conrelid join pg_class r on r.oid = confrelid"
        " where c.relnamespace = 'game_b2'::regnamespace and r.relnamespace = 'game_b1'::regnamespace and conparentid = 0"
    )
    with psycopg.connect(options.dsn, autocommit=True) as connection:
        connection.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " if new.finished_at is not null then raise exception 'not yet'; end if; return new; end $$"
        )
        connection.execute("create trigger refuse before update on etl.build for each row execute function refuse()")
        with pytest.raises(DatabaseError, match="not yet"):
            coordinator.load(options)
        assert connection.execute(keys).fetchall() == []
        assert connection.execute("select to_regclass('game_b2.power_build_summary') is not null").fetchone() == (True,)
        connection.execute("drop trigger refuse on etl.build")
        result = coordinator.load(options)

        assert (result.build, result.leaves_loaded, result.renewed) == (2, 0, ("powers", "power_build_summary"))
        assert connection.execute(keys).fetchall() == [("powers_powerset_id_fkey",)]
    assert findings(options) == ()


def test_a_new_table_loads_alone(options) -> None:
    """What an earlier load left out."""
    coordinator.load(replace(options, tables=("archetypes", "powersets", "powers")))
    result = coordinator.load(options)
    renewed = checksums(options.dsn)
    coordinator.load(replace(options, fresh=True))

    assert result.renewed == (
        "power_effects",
        "power_prerequisites",
        "power_enhancement_compatibility",
        "power_set_categories",
    )
    assert renewed == checksums(options.dsn)
    assert findings(options) == ()


def test_one_more_table_is_named(options) -> None:
    """--tables adds it to those that are published."""
    coordinator.load(replace(options, tables=("powers",)))
    more = replace(options, tables=("power_effects",))
    assert scope_of(more, (), None) is None
    result = coordinator.load(more)

    assert result.renewed == ("power_effects",)
    assert set(result.rows) == {"powers", "power_effects"}
    assert scope_of(more, (), None) == Scope(tables=("power_effects",), everything=True)


def test_a_changed_view_is_made_alone(base, options, redefine) -> None:
    """No leaf is loaded."""
    coordinator.load(options)
    redefine("views/01_power_build_summary.sql", "    p.display_order\n", "    p.display_order,\n    p.radius_feet\n")
    result = coordinator.load(options)

    assert result.renewed == ("power_build_summary",)
    assert result.leaves_loaded == 0
    assert kinds(options.dsn, "game_b2")["power_build_summary"] == "m"
    with psycopg.connect(options.dsn) as connection:
        row = connection.execute("select count(radius_feet) from game.power_build_summary").fetchone()
    assert row == (len(base),)
    assert findings(options) == ()


def test_what_has_foreign_keys_to_a_table_is_made_with_it(options, redefine) -> None:
    """Powers with their powersets, and the view of both."""
    coordinator.load(options)
    redefine("tables/powersets.sql", "    name text", "    season text default 'winter',\n    name text")
    result = coordinator.load(options)

    assert result.renewed == ("powersets", "powers", "power_build_summary")
    assert findings(options) == ()


def test_another_directory_needs_a_fresh_build(options, redefine) -> None:
    """Everything else is found by it."""
    coordinator.load(options)
    redefine("tables/power_directory.sql", "internal_name text", 'internal_name text collate "C"')
    result = coordinator.load(options)

    assert result.renewed == ()
    assert set(kinds(options.dsn, "game_b2").values()) == {"r", "p", "m"}


def test_an_update_of_a_renewed_build_is_that_of_a_whole_one(base, options, redefine, tmp_path, dsn) -> None:
    """Through the views: rows, new archetypes and the summary; and back again."""
    first = split(base[:300], tmp_path, dsn)
    coordinator.load(first)
    redefine(*MORE)
    coordinator.load(first)
    before = checksums(dsn)
    changed = json.loads(json.dumps(base))
    changed[4]["Accuracy"] = 1.75
    new = json.loads(json.dumps(base[5]))
    new.update(InternalName="Moon_Buff.Moon.One", PowersetFullName="Moon_Buff.Moon", PowersetName="Moon")
    after = split([*changed, new], tmp_path, dsn)
    update.update(after, Scope())
    updated = checksums(dsn)
    assert findings(after) == ()
    update.rollback(first)
    assert checksums(dsn) == before
    coordinator.load(replace(after, fresh=True))

    assert updated == checksums(dsn)


def test_an_update_before_the_renewal_names_the_command(base, options, redefine, tmp_path, dsn) -> None:
    """Rows of a new shape have no place in a table of the old one."""
    coordinator.load(options)
    redefine(*MORE)
    with pytest.raises(SchemaError, match=r"power_effects.*\n?.*etl load --split"):
        update.update(split(base[:390], tmp_path, dsn), Scope())


def test_a_stopped_renewal_goes_on(options, redefine, monkeypatch) -> None:
    """Leaves that are done are not loaded again."""
    coordinator.load(options)
    redefine(*MORE)
    seen: list[int] = []

    def stop() -> bool:
        with psycopg.connect(options.dsn) as connection:
            rows = connection.execute(
                "select from etl.receipt where build = 2 and table_name = 'power_effects'"
            ).fetchall()
        seen.append(len(rows))
        return len(rows) >= 2

    with pytest.raises(Interrupted):
        coordinator.load(options, stop=stop)
    assert kinds(options.dsn, "game")["power_effects"] == "v"
    result = coordinator.load(options)

    assert result.build == 2
    assert result.leaves_kept == max(seen)
    assert findings(options) == ()


def test_a_stopped_renewal_of_what_is_published_no_more_is_begun_anew(base, options, redefine, tmp_path, dsn) -> None:
    """It would stand on a build that is not the published one."""
    coordinator.load(options)
    redefine(*MORE)
    with pytest.raises(Interrupted):
        coordinator.load(options, stop=lambda: True)
    other = split(base[:390], tmp_path, dsn)
    coordinator.load(replace(other, fresh=True))
    coordinator.load(replace(options, fresh=True))

    assert set(kinds(dsn, "game_b4").values()) == {"r", "p", "m"}
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select to_regnamespace('game_b2')").fetchone() == (None,)
    assert findings(options) == ()


def test_published_powers_are_never_set_aside_by_a_renewal(options, redefine, monkeypatch) -> None:
    """A table would lack what the others have."""
    from etl import leaf
    from etl.model import Reject

    coordinator.load(options)
    redefine(*MORE)
    build = leaf.tables.build

    def refusing(form: str, batch: Any, *arguments: Any) -> Any:
        made, _ = build(form, batch, *arguments)
        one = Reject(
            source="0", file=None, ordinal=batch["ordinal"][0].as_py(), offset=1, uid="some.one", stage="transform", code="wrong_type",
            reason="it is too long", raw="{}",
        )  # fmt: skip
        return made, [one]

    monkeypatch.setattr(leaf.tables, "build", refusing)
    with pytest.raises(MismatchError, match="published powers would be set aside"):
        coordinator.load(options)
    with psycopg.connect(options.dsn) as connection:
        assert connection.execute("select build from etl.live").fetchone() == (1,)


def test_the_build_below_stays_until_nothing_stands_on_it(options, redefine, dsn) -> None:
    """Prune, rollback, and prune again."""
    coordinator.load(options)
    redefine(*MORE)
    coordinator.load(options)
    coordinator.load(replace(options, fresh=True))
    with db.connect(dsn) as connection:
        assert builds.prune(connection, "game", 2) == []
        builds.rollback(connection, "game")
        assert findings(options) == ()
        builds.rollback(connection, "game")
        coordinator.load(replace(options, fresh=True))
        gone = builds.prune(connection, "game", 2)

        assert [build.build for build in gone] == [2, 1]
        assert [build.build for build in builds.overview(connection, "game")] == [4, 3]


def test_late_indexes_are_built_where_the_tables_are(options, redefine, dsn) -> None:
    """Deferred indexes of what a renewal has from below."""
    late = replace(options, indexes="deferred")
    coordinator.load(late)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop index game_b1.idx_power_name_powerset")
    redefine(*MORE)
    coordinator.load(late)

    assert findings(options) == ()


def test_two_renewals_stand_side_by_side(options, redefine) -> None:
    """Views point to where the rows are, not to other views."""
    coordinator.load(options)
    redefine(*MORE)
    coordinator.load(options)
    redefine("tables/power_prerequisites.sql", "-- index", "\n-- index")
    coordinator.load(options)

    with db.connect(options.dsn) as connection:
        homes = {name: ddl.home(connection, "game_b3", name) for name in ("powers", "power_effects")}
        homes["power_prerequisites"] = ddl.home(connection, "game_b3", "power_prerequisites")
    assert homes == {"powers": "game_b1", "power_effects": "game_b2", "power_prerequisites": "game_b3"}
    assert findings(options) == ()


def test_a_column_that_goes_is_null_and_another_type_is_refused(options, redefine, dsn) -> None:
    """The views of the live schema keep their identity, and with it the order of their columns."""
    coordinator.load(options)
    redefine(*MORE)
    coordinator.load(options)
    with psycopg.connect(dsn) as connection:
        columns = [column.name for column in connection.execute("select * from game.power_effects limit 1").description]
        before = connection.execute("select 'game.power_effects'::regclass::oid").fetchone()
    redefine("tables/power_effects.sql", "    season text default 'winter',\n", "")
    coordinator.load(options)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select 'game.power_effects'::regclass::oid").fetchone() == before
        found = connection.execute("select count(*), count(season) from game.power_effects").fetchone()
    assert columns[-1] == "season"
    assert found is not None
    assert found[0] > 0 == found[1]
    redefine("tables/power_effects.sql", "    kind text,\n", "    kind varchar,\n")
    with pytest.raises(SchemaError, match=r"power_effects\.kind is character varying now, and text in view"):
        coordinator.load(options)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select build from etl.live").fetchone() == (3,)
