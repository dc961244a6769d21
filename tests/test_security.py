"""Nobody gets more rights than needed; passwords appear nowhere; the audit trail stays as it was written."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import ROOT, run
from places import private_server
from psycopg import conninfo, sql
from split_support import cod, save

from etl import generate, migrations, postgres

SECRET = "sw0rdfish-and-more"
SQL_BLOCK = re.compile(r"^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)
SETUP, OWNER_GRANTS, READER_GRANTS = SQL_BLOCK.findall((ROOT / "docs/security.md").read_text(encoding="utf-8"))


def as_role(dsn: str, role: str) -> str:
    """The DSN with which a session is that role from its first statement on."""
    return conninfo.make_conninfo(dsn, options=f"-c role={role}")


@pytest.fixture
def roles(empty_dsn: str) -> Iterator[str]:
    """A database set up as docs/security.md says; the roles are of the whole server, so they go again."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(SETUP.replace("database game", f"database {name}").encode())
        with psycopg.connect(as_role(empty_dsn, "etl_owner"), autocommit=True) as owner:
            migrations.migrate(owner)
            owner.execute(OWNER_GRANTS.encode())
        yield empty_dsn
        for role in ("etl_reader", "etl_loader", "etl_owner"):
            connection.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(role)))
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def refused(dsn: str, role: str, statement: str) -> None:
    """The server must say no."""
    with (
        psycopg.connect(as_role(dsn, role), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_the_roles_of_the_documents_suffice_and_are_held_to_it(roles: str, tmp_path: Path) -> None:
    """Loading, updating, replaying, verifying, going back, pruning; reading; and nothing beyond that."""
    path = tmp_path / "powers.json"
    generate.generate("cod", 120, 3, path, dirty=0.1)
    loader = ("--dsn", as_role(roles, "etl_loader"))
    here = ("--executor", "inline://", "--quiet")

    def done(*words: str | Path) -> str:
        result = run(*words, *loader, cwd=tmp_path)
        assert result.returncode in (0, 3), result.stderr
        return result.stdout

    run("split", path, *here, cwd=tmp_path)
    done("load", *here)
    with psycopg.connect(as_role(roles, "etl_loader"), autocommit=True) as connection:
        connection.execute(READER_GRANTS.encode())
    reader = psycopg.connect(as_role(roles, "etl_reader"), autocommit=True)
    before = reader.execute("select count(*) from game.powers").fetchone()
    generate.generate("cod", 140, 3, path)
    done("update", path, "--yes", *here)
    done("rejects", "replay", *here)
    done("rebuild", path, *here)
    done("rebuild", path, "--batch-size", "50", *here)
    done("verify", *here)
    done("rollback", "--yes")
    done("prune", "--yes")
    done("log", "--audit")
    for relation in ("powers", "power_build_summary", "power_directory", "import_logs", "power_effects"):
        assert reader.execute(f"select count(*) from game.{relation}".encode()).fetchone() is not None
    assert reader.execute("select count(*) from game.powers").fetchone() != before
    reader.close()

    for statement in (
        "select * from etl.build",
        "select * from game_b2.powers",
        "delete from game_b2.powers",
        "create table game.mine ()",
    ):
        refused(roles, "etl_reader", statement)
    for statement in (
        "update etl.audit set who = 'nobody'",
        "delete from etl.audit",
        "truncate etl.audit",
        "drop table etl.audit",
        "alter table etl.audit disable trigger all",
        "insert into etl.audit (at, who, host, command, live_schema, outcome) values (now(), 'a', 'b', 'c', 'd', 'e')",
        "insert into etl.audit (db_user, who, host, command, live_schema, outcome) values ('x', 'a', 'b', 'c', 'd', 'e')",
        "drop schema etl cascade",
        "insert into etl.migration (version, name) values (99, 'x')",
    ):
        refused(roles, "etl_loader", statement)


def test_the_audit_trail_says_who_did_what_and_how_it_ended(dsn: str, tmp_path: Path) -> None:
    """A line when something begins, one when it ended; not even its owner changes one by accident."""
    save(tmp_path / "powers.json", [cod()])
    to = ("--dsn", dsn)
    for words in (["rebuild", "powers.json"], ["rebuild", "powers.json"], ["rollback", "--yes"]):
        more = ["--executor", "inline://"] if words[0] == "rebuild" else []
        assert run(*words, *more, *to, cwd=tmp_path).returncode == 0
    failed = run("rebuild", "powers.json", "--executor", "inline://", "--publish-timeout", "1ms", *to, cwd=tmp_path)
    lines = json.loads(run("log", "--audit", "--json", *to).stdout)[::-1]
    shown = run("log", "--audit", *to)

    wanted = [("etl rebuild", o) for o in ("begun", "done")] * 2 + [("etl rollback", o) for o in ("begun", "done")]
    assert [(" ".join(line["command"].split()[:2]), line["outcome"]) for line in lines[:6]] == wanted
    assert lines[6]["outcome"] == "begun"
    assert (failed.returncode == 0) == (lines[7]["outcome"] == "done")
    assert {line["who"] for line in lines}
    assert all(line["host"] and line["db_user"] and line["at"] for line in lines)
    assert "etl rollback" in shown.stdout
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in ("update etl.audit set who = 'x'", "delete from etl.audit", "truncate etl.audit"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(statement.encode())


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def columns_with(dsn: str, text: str) -> list[str]:
    """Every text of the ledger and the audit trail that holds something."""
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "select c.relname from pg_class c where c.relnamespace = 'etl'::regnamespace and c.relkind = 'r'"
        ).fetchall()
        return [
            name
            for (name,) in names
            if connection.execute(
                sql.SQL("select exists (select from etl.{} t where t::text like %s)").format(sql.Identifier(name)),
                (f"%{text}%",),
            ).fetchone()
            == (True,)
        ]


@pytest.mark.parametrize("form", ["option", "keywords", "environment"])
def test_a_password_appears_nowhere(form: str, dsn: str, tmp_path: Path) -> None:
    """Neither in what is printed, logged, stored or written down, nor in process titles; whether it works or not."""
    parts = conninfo.conninfo_to_dict(dsn)
    whole = conninfo.make_conninfo(dsn, password=SECRET)
    url = f"postgresql://{parts['user']}:{SECRET}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"
    given = {"option": ["--dsn", url], "keywords": ["--dsn", whole], "environment": []}[form]
    environment = {"DATABASE_URL": url} if form == "environment" else {}
    save(tmp_path / "powers.json", [cod(), cod("Pool.Set.A", effects=3)])
    titles: list[str] = []
    said = []
    for words in (
        ["rebuild", "powers.json", "--jobs", "1"],
        ["rejects", "list"],
        ["verify", "--jobs", "1"],
        ["log", "--audit"],
        ["db", "status"],
        ["load", "--schema", "pg_x"],
    ):
        done = run("-vv", *words, *given, cwd=tmp_path, environment=environment)
        said.append(done.stdout + done.stderr)
    wrong = [text.replace(f"dbname={parts['dbname']}", "dbname=nowhere").replace(f"/{parts['dbname']}", "/nowhere")
             for text in given]  # fmt: skip
    down = {name: value.replace(parts["dbname"], "nowhere") for name, value in environment.items()}
    said.append(run("-vv", "load", "--jobs", "1", *wrong, cwd=tmp_path, environment=down).stderr)
    with psycopg.connect(dsn) as connection:
        titles += [str(row) for row in connection.execute("select application_name, query from pg_stat_activity")]

    assert all(text for text in said)
    assert not [text for text in said if SECRET in text]
    assert not [title for title in titles if SECRET in title]
    assert files_with(tmp_path, SECRET) == []
    assert columns_with(dsn, SECRET) == []


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """Make an authority (ca.crt), another one (other.crt), and a certificate of localhost by the first (server.crt)."""
    for name in ("ca", "other"):
        words = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2"]
        openssl(folder, "req", "-x509", *words, "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr",
            "-subj", "/CN=localhost")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.crt", "-days", "2", "-extfile", "names")  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Connection parameters of the system's PostgreSQL over TCP, which takes nobody without TLS and a password."""
    found = postgres.system_binaries()
    if not found or not shutil.which("openssl"):
        pytest.skip("this machine has no PostgreSQL in /usr/lib/postgresql/*/bin, or no openssl")
    certificates(tmp_path)
    port = free_port()
    with private_server(found[0], {"listen_addresses": "127.0.0.1", "port": port}) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            ((data,), (rules,)) = (
                connection.execute(f"select current_setting('{name}')".encode()).fetchone() or ("",)
                for name in ("data_directory", "hba_file")
            )
            owner = Path(data).stat()
            for name in ("server.key", "server.crt"):
                target = Path(data, name)
                shutil.copy(tmp_path / name, target)
                os.chown(target, owner.st_uid, owner.st_gid)
                target.chmod(0o600)
            with Path(rules).open("a") as file:
                file.write("hostssl all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("alter system set ssl = on")
            connection.execute(f"alter role etl password '{SECRET}'")
            connection.execute("select pg_reload_conf()")
        yield {
            "host": "localhost",
            "port": str(port),
            "user": "etl",
            "dbname": conninfo.conninfo_to_dict(dsn)["dbname"],
            "sslmode": "verify-full",
            "sslrootcert": str(tmp_path / "ca.crt"),
        }  # type: ignore[misc]


def test_tls_parameters_reach_libpq_in_every_process(tls: dict[str, str], tmp_path: Path) -> None:
    """sslmode=verify-full loads through workers; another authority, or another name of the host, is refused."""
    save(tmp_path / "powers.json", [cod(), cod("Pool.Set.A")])

    def rebuild(**changes: str) -> subprocess.CompletedProcess[str]:
        where = conninfo.make_conninfo(**{**tls, **changes})
        words = ("rebuild", "powers.json", "--jobs", "1", "--dsn", where)
        return run(*words, cwd=tmp_path, environment={"PGPASSWORD": SECRET})

    good = rebuild()
    strange = rebuild(sslrootcert=str(tmp_path / "other.crt"))
    misnamed = rebuild(host="127.0.0.1")
    plain = rebuild(sslmode="disable")
    again = run("db", "status", "--json", environment={
        "PGPASSWORD": SECRET, "PGHOST": "localhost", "PGPORT": tls["port"], "PGUSER": "etl", "PGDATABASE": tls["dbname"],
        "PGSSLMODE": "verify-full", "PGSSLROOTCERT": tls["sslrootcert"],
    })  # fmt: skip

    assert good.returncode == 0, good.stderr
    assert json.loads(again.stdout)["published_build"] == 1
    for done, word in ((strange, "certificate verify failed"), (misnamed, "does not match"), (plain, "pg_hba.conf")):
        assert done.returncode == 4, done.stderr
        assert word in done.stderr
        assert SECRET not in done.stderr


FORBIDDEN = re.compile(r"""\.execute\(\s*(f["']|["'][^"']*["']\s*%|["'][^"']*["']\.format)|sql\.SQL\(\s*f["']""")


@pytest.mark.parametrize("path", sorted((ROOT / "etl").rglob("*.py")), ids=lambda path: path.stem)
def test_no_value_meets_sql_text(path: Path) -> None:
    """No f-string, % or format() makes a statement anywhere in the package."""
    assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []
