"""The first powers of a database, enrolled leaf by leaf, have the ids that registering them beforehand gives."""

from pathlib import Path

import psycopg
import pytest
from split_support import i12, save
from test_coordinator import checksums, options

import etl
from etl import coordinator, generate
from etl.errors import Incomplete, Interrupted, Refused
from etl.model import Event
from etl.verify import verify

RECORDS = 900
KEYS = """
    select conname, pg_get_constraintdef(oid)
    from pg_constraint
    where conrelid = 'etl.power_key'::regclass and contype in ('p', 'u')
    order by 1
"""


@pytest.fixture(scope="session", params=["cod", "i12"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An export with prerequisites among its powers and with records that the transform sets aside."""
    folder = tmp_path_factory.mktemp(f"enrol-{request.param}")
    generate.generate(request.param, RECORDS, 11, folder / "all.json", dirty=0.05)
    etl.split(str(folder / "all.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


def registry(dsn: str) -> list[tuple[int, str]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select id, uid from etl.power_key order by id").fetchall()


def leaves(dsn: str) -> tuple[int, int]:
    """How many leaves of table powers have a receipt, and how many tables of leaves are attached."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select (select count(*) from etl.receipt where table_name = 'powers'), (select count(*) from pg_inherits i"
            " join pg_class c on c.oid = i.inhrelid where c.relkind = 'r' and c.relname like 'powers\\_%')"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_enrolled_powers_have_the_ids_that_registration_gives(store: str, dsn: str, empty_dsn: str) -> None:
    """A database whose names were registered before any power was loaded is the slow twin: registry and tables agree."""
    loaded = coordinator.load(options(store, dsn))
    coordinator.load(options(store, empty_dsn, schema="first", tables=("archetypes", "powersets")))
    before = registry(empty_dsn)
    coordinator.load(options(store, empty_dsn))

    assert loaded.loaded > 0 < loaded.rejected
    assert [number for number, _ in registry(dsn)] == list(range(1, len(before) + 1))
    assert registry(dsn) == before == registry(empty_dsn)
    assert checksums(dsn) == checksums(empty_dsn)
    assert not verify(dsn).findings


@pytest.mark.parametrize("how", ["a foreign key", "a view", "a reader"])
def test_a_registry_that_others_lean_on_keeps_its_keys(how: str, store: str, dsn: str, empty_dsn: str) -> None:
    """It is filled as it is then; nobody is waited for, and what leans on it stays."""
    leaning = {
        "a foreign key": "create table public.notes (power bigint references etl.power_key (id))",
        "a view": "create view public.names as select id, uid from etl.power_key group by id",
        "a reader": "lock table etl.power_key in access share mode",
    }
    coordinator.load(options(store, empty_dsn))
    with psycopg.connect(dsn) as connection:
        connection.execute(leaning[how])
        if how != "a reader":
            connection.commit()
        coordinator.load(options(store, dsn))
        connection.commit()
        here = connection.execute(KEYS).fetchall()
    with psycopg.connect(empty_dsn) as connection:
        there = connection.execute(KEYS).fetchall()

    assert [name for name, _ in here] == ["power_key_pkey", "power_key_uid_key"]
    assert here == there
    assert registry(dsn) == registry(empty_dsn)


def test_references_between_leaves_are_resolved(store: str, dsn: str) -> None:
    """A required power that is in the build has its id beside its name, whichever leaf it is in; no other has one."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn) as connection:
        wrong = connection.execute(
            "select p.required_uid, p.required_power_id, d.id from game.power_prerequisites p"
            " left join etl.power_key k on k.uid = p.required_uid and p.required_kind = 'power'"
            " left join game.power_directory d on d.id = k.id"
            " where d.id is distinct from p.required_power_id"
        ).fetchall()
        resolved = connection.execute(
            "select count(*), count(*) filter (where r.archetype_id <> d.archetype_id) from game.power_prerequisites p"
            " join game.power_directory d on d.id = p.power_id"
            " join game.power_directory r on r.id = p.required_power_id"
        ).fetchone()

    assert wrong == []
    assert resolved is not None
    assert resolved[0] > 0, resolved


def test_a_load_that_was_stopped_gives_the_same_ids(store: str, dsn: str, empty_dsn: str) -> None:
    """Its leaves have numbered their powers already; nothing is in the registry until all have."""
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        coordinator.load(
            options(store, dsn), seen.append, stop=lambda: sum(event.phase == "load" for event in seen) > 5
        )
    stopped, (loaded, attached) = registry(dsn), leaves(dsn)
    again = coordinator.load(options(store, dsn))
    coordinator.load(options(store, empty_dsn))

    assert stopped == []
    assert 0 < attached <= loaded, "leaves are attached as they are loaded"
    assert again.leaves_kept > 0
    assert registry(dsn) == registry(empty_dsn)
    assert checksums(dsn) == checksums(empty_dsn)


def test_another_load_that_registers_first_is_noticed(store: str, dsn: str) -> None:
    """No id is given twice: the slower of two first loads publishes nothing, and the same command does it over."""

    def overtake(event: Event) -> None:
        if event.phase == "finish" and not registry(dsn):
            coordinator.load(options(store, dsn, schema="other"))

    with pytest.raises(Incomplete, match="another run has given powers their ids") as raised:
        coordinator.load(options(store, dsn), overtake)
    registered = registry(dsn)
    result = coordinator.load(options(store, dsn))

    assert raised.value.hint == "run the same command again"
    assert registered == registry(dsn) != []
    assert result.leaves_kept == 0
    assert checksums(dsn)["powers"] == checksums(dsn, "other")["powers"]


def test_an_enrolment_that_was_overtaken_while_it_stood_still_begins_again(
    store: str, dsn: str, tmp_path: Path
) -> None:
    """Names of another export are in the registry by then: the build that numbered its powers from 1 is dropped."""
    generate.generate("i12", 60, 12, tmp_path / "few.json")
    etl.split(str(tmp_path / "few.json"), store=str(tmp_path / "few"), executor="inline://")
    seen: list[Event] = []
    with pytest.raises(Interrupted):
        coordinator.load(
            options(store, dsn), seen.append, stop=lambda: sum(event.phase == "load" for event in seen) > 5
        )
    coordinator.load(options(str(tmp_path / "few"), dsn, schema="other"))
    result = coordinator.load(options(store, dsn))

    assert result.leaves_kept == 0
    assert not verify(dsn).findings
    assert not verify(dsn, "other").findings


def test_names_that_the_server_refuses_end_the_load(dsn: str, tmp_path: Path) -> None:
    """No record is at fault, since all names are put down whichever are tried: none is set aside, and there is an end."""
    save(tmp_path / "i12.json", [i12(f"Blaster_Ranged.Fire_Blast.{name}") for name in ("Flares", "Fire_Ball")])
    etl.split(str(tmp_path / "i12.json"), store=str(tmp_path / "store"), executor="inline://")

    def forbid(event: Event) -> None:
        if event.phase == "load" and event.unit == "rows" and not event.done:
            with psycopg.connect(dsn) as connection:
                connection.execute("alter table game_b1.enrolment add check (uid not like '%flares')")

    with pytest.raises(Refused, match="enrolment"):
        coordinator.load(options(str(tmp_path / "store"), dsn), forbid)
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "select (select count(*) from etl.reject), (select count(*) from etl.receipt)"
        ).fetchone()

    assert left is not None
    assert left[0] == 0
    assert registry(dsn) == []
