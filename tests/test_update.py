"""Only what differs is changed, in one transaction; ids stay; the way back is an update as well."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from test_coordinator import checksums

import etl
from etl import config, coordinator, db, generate, loaded, sizing, staging, update
from etl.errors import Interrupted, SchemaError, StoreError, UsageError
from etl.model import Event
from etl.plan import Difference, DiffTask
from etl.scope import Scope, scope_of
from etl.store import manifest
from etl.verify import verify

RECORDS = 600


def records_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of a small flat export."""
    path = tmp_path_factory.mktemp("update") / "base.json"
    generate.generate("i12", RECORDS, 5, path)
    return records_of(path)


@pytest.fixture
def split(tmp_path: Path) -> Callable[[list[dict[str, Any]]], config.LoadOptions]:
    """Return a function that splits records and returns the options to load them with."""
    numbers = iter(range(100))

    def make(records: list[dict[str, Any]]) -> config.LoadOptions:
        path = tmp_path / f"source{next(numbers)}.json"
        path.write_text(json.dumps(records))
        manifest = etl.split(str(path), store=str(tmp_path / "store"), executor="inline://")
        return config.LoadOptions(store=str(tmp_path / "store"), split_id=manifest.split_id, executor="inline://")

    return make


def at(options: config.LoadOptions, dsn: str) -> config.LoadOptions:
    return config.LoadOptions(
        store=options.store, split_id=options.split_id, dsn=dsn, executor="inline://", command="test"
    )


def changed_source(base: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, set[str]]]:
    """Return other records, and the names that changed, came and went."""
    after = json.loads(json.dumps(base))
    gone = {after.pop(7)["InternalName"].lower(), after.pop(20)["InternalName"].lower()}
    after[3]["Accuracy"] = 1.75
    after[90]["Level"] += 1
    after[91]["Description"] = "another one"
    changed = {after[n]["InternalName"].lower() for n in (3, 90, 91)}
    new = json.loads(json.dumps(after[50]))
    new["InternalName"] += "_Again"
    other = json.loads(json.dumps(after[51]))
    other.update(InternalName="Set_Bonus.Quite_New.Power", PowersetFullName="Set_Bonus.Quite_New", PowersetName="New")
    after += [new, other]
    return after, {
        "changed": changed,
        "gone": gone,
        "new": {new["InternalName"].lower(), other["InternalName"].lower()},
    }


def ids(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute("select lower(internal_name), id from game.power_directory").fetchall())


def test_a_dry_run_names_exactly_what_differs_and_changes_nothing(base, split, dsn) -> None:
    """Changed, new and gone powers by name."""
    coordinator.load(at(split(base), dsn))
    before = checksums(dsn)
    after, names = changed_source(base)
    result = update.update(at(split(after), dsn), Scope(), dry_run=True)

    assert {kind: set(getattr(result, kind)) for kind in names} == names
    assert result.unchanged == RECORDS - 5
    assert checksums(dsn) == before


def test_an_update_gives_the_tables_of_a_fresh_load(base, split, dsn, empty_dsn) -> None:
    """Row by row, in every table and the view; only ids that are new may differ from those of another database."""
    coordinator.load(at(split(base), dsn))
    before = ids(dsn)
    after, names = changed_source(base)
    options = split(after)
    result = update.update(at(options, dsn), Scope())
    coordinator.load(at(split(base), empty_dsn))
    coordinator.load(at(options, empty_dsn))

    assert result.generation == 2
    assert checksums(dsn) == checksums(empty_dsn)
    now = ids(dsn)
    assert {name: now[name] for name in set(now) & set(before)} == {
        n: i for n, i in before.items() if n not in names["gone"]
    }
    assert not names["gone"] & set(now)


def test_an_update_of_more_than_fits_into_one_task_gives_the_tables_of_a_fresh_load(
    split, tmp_path: Path, dsn, empty_dsn
) -> None:
    """Each worker makes the rows of some; powers of one set may come from two of them."""
    path = tmp_path / "many.json"
    generate.generate("i12", 6_000, 6, path)
    before = records_of(path)
    after = json.loads(json.dumps(before))
    for number, record in enumerate(after):
        record["Description"] = f"number {number}"
    little, options = config.MIB << 8, split(after)
    old = replace(at(split(before), dsn), memory_limit_bytes=little)
    new = replace(at(options, dsn), memory_limit_bytes=little, executor="process://2")
    size = sum(partition.bytes for partition in manifest.read(new.store, new.split_id).partitions)
    assert 2 * sizing.batch_bytes(new, 2) < size

    coordinator.load(old)
    result = update.update(new, Scope())
    coordinator.load(at(options, empty_dsn))

    assert len(result.changed) == result.loaded == len({record["InternalName"].lower() for record in after})
    assert checksums(dsn) == checksums(empty_dsn)


@pytest.mark.parametrize("executor", ["inline://", "process://2"])
def test_the_order_of_a_set_s_own_list_is_that_of_a_fresh_load(executor, tmp_path: Path, dsn, empty_dsn) -> None:
    """For powers that change, that come, and that stay while only the list of their set changes."""
    generate.generate("cod", 200, 5, tmp_path / "all.json")
    records = records_of(tmp_path / "all.json")
    sets: dict[str, list[str]] = {}
    for record in records:
        sets.setdefault(record["full_name"].rpartition(".")[0], []).append(record["full_name"])
    (one, members), (other, others) = sorted(sets.items(), key=lambda item: -len(item[1]))[:2]
    changed = json.loads(json.dumps(records))
    next(record for record in changed if record["full_name"] == members[1])["accuracy"] = 1.75
    new = json.loads(json.dumps(next(record for record in records if record["full_name"] == members[0])))
    new["full_name"] = f"{one}.Quite_New"
    lists = {**sets, one: [members[-1], new["full_name"], *members[:-1]], other: others[::-1]}
    store, splits = str(tmp_path / "store"), []
    for name, powers, orders in (("old", records, sets), ("new", [*changed, new], lists)):
        entities = [
            {"key": key.lower(), "name": key.partition(".")[2], "display_name": key, "power_names": order}
            for key, order in orders.items()
        ]
        (tmp_path / f"{name}.powers.json").write_text(json.dumps(powers))
        (tmp_path / f"{name}.powersets.json").write_text(json.dumps(entities))
        splits.append(etl.split(str(tmp_path / f"{name}.powers.json"), store=store, executor="inline://").split_id)
    old, new_split = (config.LoadOptions(store=store, split_id=split_id, executor=executor) for split_id in splits)
    coordinator.load(replace(old, dsn=dsn))
    update.update(replace(new_split, dsn=dsn), Scope())
    coordinator.load(replace(old, dsn=empty_dsn))
    coordinator.load(replace(new_split, dsn=empty_dsn))
    with psycopg.connect(dsn) as connection:
        query = "select internal_name from game.powers where internal_name like %s order by display_order"
        found = [name for (name,) in connection.execute(query, (f"{one}.%",))]

    assert found == lists[one]
    assert checksums(dsn) == checksums(empty_dsn)


def test_the_change_log_names_the_powers_of_each_update(base, split, dsn) -> None:
    """In the database, by kind."""
    coordinator.load(at(split(base), dsn))
    after, names = changed_source(base)
    update.update(at(split(after), dsn), Scope())
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select kind, lower(internal_name) from etl.change where generation = 2").fetchall()

    assert {kind: {name for k, name in rows if k == kind} for kind in names} == names


def test_created_at_stays_and_updated_at_moves_for_changed_powers_alone(base, split, dsn) -> None:
    """A row that did not change is not written."""
    coordinator.load(at(split(base), dsn))
    query = "select lower(internal_name), created_at, updated_at, ctid::text || tableoid from game_b1.powers"
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = {row[0]: row[1:] for row in connection.execute(query)}
        after, names = changed_source(base)
        update.update(at(split(after), dsn), Scope())
        now = {row[0]: row[1:] for row in connection.execute(query)}

    for name in set(before) & set(now):
        if name in names["changed"]:
            assert now[name][0] == before[name][0]
            assert now[name][1] > before[name][1]
        else:
            assert now[name] == before[name]


def test_rollback_goes_to_the_split_before_the_update_and_forward_again(base, split, dsn) -> None:
    """The store still has it."""
    first = at(split(base), dsn)
    coordinator.load(first)
    before = checksums(dsn)
    after, _ = changed_source(base)
    update.update(at(split(after), dsn), Scope())
    then = checksums(dsn)
    update.rollback(first)
    back = checksums(dsn)
    update.rollback(first)

    assert back == before
    assert checksums(dsn) == then


def test_more_than_a_tenth_gone_is_asked_about(base, split, dsn) -> None:
    """And a refusal changes nothing; --keep-missing leaves them."""
    coordinator.load(at(split(base), dsn))
    half = at(split(base[: RECORDS // 2]), dsn)

    def refuse(question: str) -> None:
        raise UsageError(question)

    with pytest.raises(UsageError, match="lacks"):
        update.update(half, Scope(), confirm=refuse)
    kept = update.update(half, Scope(keep_missing=True), confirm=refuse)
    assert (len(kept.gone), len(ids(dsn))) == (0, RECORDS)
    gone = update.update(half, Scope())
    assert (len(gone.gone), len(ids(dsn))) == (RECORDS // 2, RECORDS // 2)


def test_powers_that_move_to_another_set_are_where_a_fresh_load_puts_them(base, split, dsn, empty_dsn) -> None:
    """Of another archetype, and so in another leaf; receipts speak of the rows that are there."""
    after = json.loads(json.dumps(base))
    homes = sorted({(r["PowersetFullName"], r["PowersetName"], r["ArchetypeName"] or "") for r in base})
    moved = [record for record in after if record["PowersetFullName"] == homes[0][0]][:3]
    for record in moved:
        record["PowersetFullName"], record["PowersetName"], record["ArchetypeName"] = homes[-1]
    coordinator.load(at(split(base), dsn))
    options = split(after)
    result = update.update(at(options, dsn), Scope())
    coordinator.load(at(split(base), empty_dsn))
    coordinator.load(at(options, empty_dsn))

    assert set(result.changed) == {record["InternalName"].lower() for record in moved}
    assert checksums(dsn) == checksums(empty_dsn)
    assert verify(dsn, store=options.store, executor="inline://").findings == ()


def test_a_worker_that_asks_the_server_finds_what_one_does_that_was_told(base, split, dsn, monkeypatch) -> None:
    """Of much the workers ask themselves what is published; of little the coordinator does while they start."""
    after, names = changed_source(base)
    old, new = at(split(base), dsn), at(split(after), dsn)
    coordinator.load(old)
    pairs = {(p.archetype, p.powerset) for o in (old, new) for p in manifest.read(o.store, o.split_id).partitions}
    task = DiffTask(
        schema="game_b1",
        store=new.store,
        split_id=str(new.split_id),
        partitions=tuple(sorted(pairs)),
        first_record=0,
        everything=False,
    )
    monkeypatch.setenv(config.DSN_VARIABLE, dsn)
    with db.connect(dsn) as connection:
        told = msgspec.structs.replace(task, loaded=loaded.digests(connection, task.schema, task.partitions))

    found = staging.difference(task)
    assert found == staging.difference(told)
    assert {kind: {uid for uid, _, _ in getattr(found, kind)} for kind in names} == names


def test_what_is_gone_in_one_task_and_new_in_another_was_moved() -> None:
    """Large updates compare powersets in several tasks, of which each sees one place of a power."""
    found = update._moved(
        [
            Difference(gone=(("a.b.c", "blaster", "a.b"), ("a.b.d", "blaster", "a.b")), same=1),
            Difference(new=(("a.b.c", "tanker", "x.y"), ("x.y.z", "tanker", "x.y"))),
        ]
    )

    assert found == [
        Difference(gone=(("a.b.d", "blaster", "a.b"),), same=1),
        Difference(new=(("x.y.z", "tanker", "x.y"),), changed=(("a.b.c", "tanker", "x.y"),)),
    ]


def test_an_update_to_what_is_there_has_nothing_to_do(base, split, dsn) -> None:
    """The generation stays."""
    options = at(split(base), dsn)
    coordinator.load(options)

    assert update.update(options, Scope()).generation == 0


def test_nothing_published_is_nothing_to_update(base, split, dsn) -> None:
    """With the command to type."""
    with pytest.raises(SchemaError, match="nothing is published"):
        update.update(at(split(base), dsn), Scope())


def test_one_table_is_renewed_from_the_same_split(base, split, dsn) -> None:
    """A damaged row is whole again; the others were not touched."""
    options = at(split(base), dsn)
    coordinator.load(options)
    before = checksums(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update game_b1.power_effects set scale = scale + 1 where power_id % 3 = 0")
    assert checksums(dsn) != before
    result = update.update(options, Scope(tables=("power_effects",), everything=True))

    assert result.renewed == RECORDS
    assert checksums(dsn) == before


def test_one_archetype_and_one_powerset_are_renewed_alone(base, split, dsn) -> None:
    """Nothing outside the part is written."""
    options = at(split(base), dsn)
    coordinator.load(options)
    before = checksums(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.execute(
            "select s.full_name from game.powersets s join game.archetypes a on a.id = s.archetype_id"
            " where a.name = 'npc' and exists (select from game.powers p where p.powerset_id = s.id) limit 1"
        ).fetchone()
        assert name
        connection.execute(
            "update game_b1.powers set accuracy = -1 where archetype_id = (select id from game.archetypes where name = 'npc')"
        )
    part = update.update(options, Scope(powersets=(name[0].lower(),), everything=True))
    whole = update.update(options, Scope(archetypes=("npc",), everything=True))

    assert 0 < part.renewed < whole.renewed < RECORDS
    assert checksums(dsn) == before


def test_records_from_a_number_on_are_added_to_what_is_there(base, split, dsn) -> None:
    """Earlier ones are never lost."""
    coordinator.load(at(split(base[:500]), dsn))
    result = update.update(at(split(base), dsn), Scope(first_record=500, keep_missing=True))

    assert len(result.new) == 100
    assert len(ids(dsn)) == RECORDS


def test_a_stopped_run_from_a_record_on_prints_the_number_that_goes_on(base, split, dsn) -> None:
    """Nothing has changed, so it is the same one."""
    coordinator.load(at(split(base[:500]), dsn))
    scope = Scope(first_record=500, keep_missing=True)
    with pytest.raises(Interrupted) as stopped:
        update.update(at(split(base), dsn), scope, stop=lambda: True)

    assert stopped.value.hint == "etl load --from-record 500"
    assert len(ids(dsn)) == 500


def test_readers_are_not_blocked_and_see_before_or_after(base, split, dsn) -> None:
    """No statement sees a half of an update."""
    coordinator.load(at(split(base), dsn))
    after, _ = changed_source(base)
    one, two = at(split(base), dsn), at(split(after), dsn)
    states, slow, stop = set(), [0.0], threading.Event()
    query = "select (select count(*) from game.powers), (select count(*) from game.power_directory), (select count(*) from game.power_build_summary), (select sum(accuracy) from game.powers)"

    def read() -> None:
        with psycopg.connect(dsn, autocommit=True) as reader:
            while not stop.is_set():
                started = time.perf_counter()
                states.add(reader.execute(query).fetchone())
                slow[0] = max(slow[0], time.perf_counter() - started)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for options in (two, one, two):
        update.update(options, Scope())
    stop.set()
    for reader in readers:
        reader.join()

    assert len(states) == 2
    assert all(a == b == c for a, b, c, _ in states)


def test_an_archetype_that_is_new_to_the_build_gets_a_place(base, split, dsn, empty_dsn) -> None:
    """Its branch is made alone and attached; the tables equal those of a fresh load."""
    without = [record for record in base if not record["InternalName"].lower().startswith(("boosts.", "pool."))]
    options = at(split(base), dsn)
    coordinator.load(at(split(without), dsn))
    update.update(options, Scope())
    coordinator.load(at(split(without), empty_dsn))
    coordinator.load(at(split(base), empty_dsn))

    assert len(without) < RECORDS
    assert checksums(dsn) == checksums(empty_dsn)


def test_a_stopped_update_leaves_nothing_and_goes_on(base, split, dsn) -> None:
    """What it staged goes with its transaction."""
    coordinator.load(at(split(base), dsn))
    before = checksums(dsn)
    after, _ = changed_source(base)
    options = at(split(after), dsn)
    calls = iter([False] * 3)
    with pytest.raises(etl.EtlError):
        update.update(options, Scope(), stop=lambda: next(calls, True))
    assert checksums(dsn) == before
    update.update(options, Scope())

    with psycopg.connect(dsn) as connection:
        left = connection.execute("select relname from pg_class where relname like 'staged%'").fetchall()
    assert left == []


@pytest.mark.parametrize("phase", ["stage", "apply"])
def test_an_update_that_is_stopped_changes_nothing(phase: str, base, split, dsn) -> None:
    """Also where the signal comes while the rows are being replaced."""
    coordinator.load(at(split(base), dsn))
    before = checksums(dsn)
    options = at(split(changed_source(base)[0]), dsn)
    seen: list[str] = []
    with pytest.raises(Interrupted, match="nothing has changed"):
        update.update(options, Scope(), lambda event: seen.append(event.phase), stop=lambda: phase in seen)

    assert seen[-1] == phase
    assert checksums(dsn) == before
    assert update.update(options, Scope()).generation == 2
    assert checksums(dsn) != before


def test_the_server_s_defaults_for_transactions_do_not_matter(base, split, dsn) -> None:
    """An update's last one sees what was committed before each of its statements, and may wait for workers."""
    coordinator.load(at(split(base), dsn))
    options = replace(at(split(changed_source(base)[0]), dsn), executor="process://2")
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
        for setting in (
            "default_transaction_isolation = 'repeatable read'",
            "idle_in_transaction_session_timeout = 100",
            "idle_session_timeout = 100",
        ):
            connection.execute(f'alter database "{name}" set {setting}')  # type: ignore[call-overload]
    result = update.update(options, Scope())
    loaded = coordinator.load(replace(options, fresh=True, retry_timeout_s=0.0))

    assert (len(result.changed), len(result.new), result.generation) == (3, 2, 2)
    assert len(ids(dsn)) == RECORDS == loaded.loaded


@pytest.mark.parametrize("refused", [True, False])
def test_nothing_staged_is_left_where_nothing_was_begun(refused: bool, base, split, dsn) -> None:
    """Neither after a question that was answered with no, nor where nothing differed."""
    coordinator.load(at(split(base), dsn))

    def refuse(_: str) -> None:
        raise UsageError("nothing was done")

    if refused:
        with pytest.raises(UsageError, match="nothing was done"):
            update.update(at(split(base[: RECORDS // 2]), dsn), Scope(), confirm=refuse)
    else:
        update.update(at(split(base[::-1]), dsn), Scope())
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select relname from pg_class where relname like 'staged%'").fetchall()

    assert found == []


def test_a_part_that_changes_while_it_is_read_stops_the_update(base, split, dsn) -> None:
    """What was proven before it was read may have passed for data since; nobody sees any of it."""
    coordinator.load(at(split(base), dsn))
    before = checksums(dsn)
    options = at(split(changed_source(base)[0]), dsn)
    part = min((Path(options.store) / str(options.split_id)).rglob("*.arrow"))
    whole = part.read_bytes()

    def spoil(event: Event) -> None:
        if event.phase == "check":
            part.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])

    with pytest.raises(StoreError, match=f"{part.name}.* damaged"):
        update.update(options, Scope(), spoil)
    assert checksums(dsn) == before
    part.write_bytes(whole)
    update.update(options, Scope())

    assert checksums(dsn) != before


def test_june_to_december_names_what_changed(pack, tmp_path: Path, dsn: str) -> None:
    """371 changed, 36 new and 13 gone powers of 5,140, restricted to June's categories."""
    june = records_of(pack("cod-homecoming-2025.powers"))
    categories = {record["full_name"].partition(".")[0].lower() for record in june}
    december = [
        record
        for record in records_of(pack("codfull-homecoming-20251209.powers"))
        if record["full_name"].partition(".")[0].lower() in categories
    ]
    (tmp_path / "december.json").write_text(json.dumps(december, ensure_ascii=False, separators=(",", ":")))
    store = str(tmp_path / "store")
    etl.split(str(pack("cod-homecoming-2025.powers")), store=store)
    etl.load(store=store, dsn=dsn)
    manifest = etl.split(str(tmp_path / "december.json"), store=store)
    options = config.LoadOptions(store=store, split_id=manifest.split_id, dsn=dsn, executor="process://2")
    planned = update.update(options, Scope(), dry_run=True)
    done = update.update(options, Scope())

    for result in (planned, done):
        assert (len(result.changed), len(result.new), len(result.gone), result.unchanged) == (371, 36, 13, 4_756)
    assert len(ids(dsn)) == 5_163


def test_a_raised_transform_renews_its_table_alone(base, split, dsn) -> None:
    """Etl load of the same split finds receipts of an older transform, and goes the way of update."""
    options = at(split(base), dsn)
    coordinator.load(options)
    before = checksums(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        old = "jsonb_set(versions, '{power_effects}', to_jsonb('0:' || split_part(versions->>'power_effects', ':', 2)))"
        connection.execute(f"update etl.build set versions = {old}")
        connection.execute("update game_b1.power_effects set kind = 'as before'")
    scope = scope_of(options, (), None)
    assert scope == Scope(tables=("power_effects",), everything=True)
    update.update(options, scope)

    assert checksums(dsn) == before
    assert scope_of(options, (), None) is None


def test_the_way_back_from_a_part_of_another_split_compares_all(base, split, dsn) -> None:
    """After --only the build's row still names the first split, but not all rows are of it."""
    first = at(split(base), dsn)
    coordinator.load(first)
    before = checksums(dsn)
    after, _ = changed_source(base)
    update.update(at(split(after), dsn), Scope(archetypes=("npc",), everything=True))
    assert checksums(dsn) != before
    update.rollback(first)

    assert checksums(dsn) == before
    assert update.update(first, Scope()).generation == 0
