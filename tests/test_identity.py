"""What users built on schema game survives every publication: its objects keep their identity."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import etl
from etl import config, coordinator, db, generate, publish

PUBLICATIONS = 10
RECORDS = (150, 210)

OBJECTS = """
    select c.relname, c.oid, pg_get_userbyid(c.relowner), c.relacl::text, c.reloptions, obj_description(c.oid, 'pg_class'),
           array(select concat_ws(' ', a.attname, a.atttypid::regtype, a.attacl::text, col_description(c.oid, a.attnum))
                 from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 order by a.attnum)
    from pg_class c where c.relnamespace = 'game'::regnamespace order by 1"""
SCHEMA = """
    select n.oid, pg_get_userbyid(n.nspowner), n.nspacl::text, obj_description(n.oid, 'pg_namespace'),
           array(select concat_ws(' ', d.defaclobjtype, pg_get_userbyid(d.defaclrole), d.defaclacl::text)
                 from pg_default_acl d where d.defaclnamespace = n.oid)
    from pg_namespace n where n.nspname = 'game'"""
USERS_WORK = """
    grant usage on schema game to identity_reader;
    grant select on game.powers, game.powersets to identity_reader;
    grant select (id, name) on game.power_build_summary to identity_reader;
    alter default privileges in schema game grant select on tables to identity_reader;
    comment on schema game is 'what planners read';
    comment on view game.powers is 'every power there is';
    comment on column game.powers.name is 'short name';
    alter view game.archetypes set (security_barrier = true);
    grant create on schema game to identity_owner;
    alter view game.powersets owner to identity_owner;
    create view public.my_powers as select p.name, s.full_name from game.powers p join game.powersets s on s.id = p.powerset_id;
    create function public.my_count() returns bigint language sql stable as 'select count(*) from game.powers';
    create function public.my_loop() returns bigint language plpgsql as
        'declare n bigint := 0; r record; begin for r in select id from game.powers loop n := n + 1; end loop; return n; end';
    create table public.favourites (power_id bigint primary key references etl.power_key);
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two splits, one of each number of records."""
    folders = []
    for seed, records in enumerate(RECORDS, 3):
        folder = tmp_path_factory.mktemp("identity")
        generate.generate("i12", records, seed, folder / "i12.json")
        etl.split(str(folder / "i12.json"), store=str(folder / "store"), executor="inline://")
        folders.append(str(folder / "store"))
    return folders


@pytest.fixture
def roles(server_dsn: str, dsn: str) -> Iterator[None]:
    """Somebody who reads, and somebody who owns a view."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for role in ("identity_reader", "identity_owner"):
            connection.execute(f"create role {role}")
        yield
        for role in ("identity_reader", "identity_owner"):
            connection.execute(f"drop owned by {role} cascade")
            connection.execute(f"drop role {role}")


def rebuild(store: str, dsn: str) -> int:
    return coordinator.load(config.LoadOptions(store=store, dsn=dsn, executor="inline://", fresh=True)).build


def test_ten_publications_change_no_identity_and_users_objects_show_each(
    stores: list[str], dsn: str, roles: None
) -> None:
    """Oids, owners, grants, default privileges, comments and options are equal; what was built on the views goes on."""
    builds = [rebuild(stores[0], dsn)]
    with db.connect(dsn) as connection:
        connection.execute(USERS_WORK)
        connection.execute("insert into public.favourites select id from game.powers order by id limit 20")
        connection.execute("prepare mine as select count(*) from game.powers where id > $1")
        before = [connection.execute(text).fetchall() for text in (OBJECTS, SCHEMA)]
        shown = []
        for number in range(1, PUBLICATIONS + 1):
            if len(builds) < 3:
                builds.append(rebuild(stores[number % 2], dsn))
            else:
                publish.publish(connection, "game", builds[number % 2])
            asked = ("select count(*) from my_powers", "select my_count()", "select my_loop()", "execute mine (0)")
            shown.append([connection.execute(text).fetchone() for text in asked])  # type: ignore[call-overload]
        connection.execute("set role identity_reader")
        read = connection.execute(
            "select count(*) from game.powers join game.powersets s on s.id = powerset_id"
        ).fetchone()
        connection.execute("reset role")

        assert [connection.execute(text).fetchall() for text in (OBJECTS, SCHEMA)] == before
        assert shown == [[(RECORDS[number % 2],)] * 4 for number in range(1, PUBLICATIONS + 1)]
        assert read == (RECORDS[PUBLICATIONS % 2],)
        assert connection.execute(
            "select count(*) from public.favourites join etl.power_key on id = power_id"
        ).fetchone() == (20,)


def test_a_reference_to_a_power_that_is_gone_still_holds(stores: list[str], dsn: str) -> None:
    """The key registry keeps ids that no build has any more, and gives them back to the same power."""
    rebuild(stores[0], dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table public.favourites (power_id bigint primary key references etl.power_key)")
        connection.execute("insert into public.favourites select id from game.powers")
        named = "select d.internal_name, d.id from game.power_directory d join public.favourites f on f.power_id = d.id"
        first = set(connection.execute(named).fetchall())
        rebuild(stores[1], dsn)
        assert set(connection.execute(named).fetchall()) < first
        rebuild(stores[0], dsn)

        assert set(connection.execute(named).fetchall()) == first
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("delete from etl.power_key")


def test_stores_differ(stores: list[str]) -> None:
    """Else the tests above would prove nothing."""
    assert len({(Path(store) / "LATEST").read_text() for store in stores}) == 2
