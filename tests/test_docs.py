import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import ROOT, run

from etl import errors, generate
from etl.cli import cli

DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("partitions/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that call it; groups come before what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def written_commands() -> list[tuple[str, str]]:
    """Return (file, line) of every ``etl …`` that a shell block of the documents shows, comments left out."""
    found = []
    for path in DOCS:
        for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
            if language in ("sh", "bash", "console", ""):
                lines = block.replace("\\\n", " ").splitlines()
                found += [(path.name, line) for line in lines if line.lstrip("$ ").startswith("etl ")]
    return found


def words_of(line: str) -> list[str]:
    """Return the arguments of a command line: up to a pipe, a list or a redirection."""
    words = shlex.split(line.lstrip("$ "), comments=True)[1:]
    ends = [number for number, word in enumerate(words) if re.match(r"[|<>&;]", word)]
    return words[: ends[0]] if ends else words


def parse(words: list[str]) -> None:
    """Parse a command line as ``etl`` would, without running it."""
    group: click.Command = cli
    context = click.Context(cli)
    while isinstance(group, click.Group):
        context = group.make_context("etl", list(words), parent=None, resilient_parsing=False)
        _, group, words = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[assignment]
        assert group is not None
    group.make_context("etl", list(words), parent=context)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(path: tuple[str, ...]) -> None:
    """A sentence, and a line to copy."""
    command = COMMANDS[path]
    text = inspect.cleandoc(command.help or "")
    example = re.search(r"^Example: (.*)$", text, re.MULTILINE)

    assert text.splitlines()[0].endswith(".")
    assert example, f"etl {' '.join(path)} has no example"
    assert " ".join(path).split()[0] in example[1]
    if example[1].startswith("etl "):
        parse(words_of(example[1]))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is(path: tuple[str, ...]) -> None:
    """By its help, or by the choices that it shows."""
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert (
                parameter.help
                or isinstance(parameter.type, click.Choice)
                or parameter.show_default
                or parameter.required
            )


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_in_the_readme(path: tuple[str, ...]) -> None:
    """In the table of all commands, or in an example."""
    if path != ("db",):
        assert f"`etl {' '.join(path)}`" in README


def test_every_command_of_the_readme_exists() -> None:
    """The table promises nothing else."""
    named = set(re.findall(r"`etl ([a-z]+(?: [a-z]+)?)", README))
    known = {" ".join(path) for path in COMMANDS}

    assert {name for name in named if name not in known and name.split()[0] not in known} == set()


@pytest.mark.parametrize(("file", "line"), written_commands())
def test_every_command_line_in_the_documents_parses(file: str, line: str) -> None:
    """Its commands and options are those that there are."""
    parse(words_of(line))


def test_the_pipeline_of_the_readme_runs_as_it_is_written(tmp_path: Path, dsn: str) -> None:
    """Every command line of its shell blocks, in order, on a small export of the same names."""
    generate.generate("cod", 400, 1, tmp_path / "powers.json")
    lines = [line for file, line in written_commands() if file == "README.md"]
    assert [words_of(line)[0] for line in lines][:2] == ["split", "load"]
    for line in lines:
        words = words_of(line)
        environment = {"DATABASE_URL": dsn}
        if words[0] in ("power", "powerset"):
            words = [*words[:1], _one_of(words[0], dsn), *words[2:]]
        if "--dsn" in words:
            words[words.index("--dsn") + 1] = dsn
        done = run(*words, cwd=tmp_path, environment=environment)

        assert done.returncode == 0, f"{line}\n{done.stderr}"


def _one_of(kind: str, dsn: str) -> str:
    """Return a name that the small export really has."""
    import psycopg

    query = {
        "power": "select internal_name from game.power_directory order by id limit 1",
        "powerset": "select full_name from game.powersets order by id limit 1",
    }[kind]
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row
    return str(row[0])


@pytest.mark.parametrize("query", [block for language, block in FENCE.findall(README) if language == "sql"])
def test_the_queries_of_the_readme_run(query: str, tmp_path: Path, dsn: str) -> None:
    """On a small export, whatever they find."""
    import psycopg

    generate.generate("i12", 60, 1, tmp_path / "powers.json")
    assert run("rebuild", "powers.json", "--jobs", "1", "--dsn", dsn, cwd=tmp_path).returncode == 0
    with psycopg.connect(dsn) as connection:
        assert connection.execute(query).description  # type: ignore[call-overload]


def error_classes(base: type[errors.EtlError] = errors.EtlError) -> Iterator[type[errors.EtlError]]:
    yield base
    for kind in base.__subclasses__():
        yield from error_classes(kind)


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    """Every code that a class has is explained in the README, and in the help of ``etl``."""
    codes = {kind.exit_code for kind in error_classes()}
    rows = re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}

    assert documented == codes | {0, 3, 143}
    for code in documented:
        assert re.search(rf"\b{code}\b", cli.help or "")


def test_no_document_that_is_named_is_missing() -> None:
    """Links inside the repository resolve, to headings as well."""
    broken = []
    for path in DOCS:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, heading = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (heading and heading not in headings(file)):
                broken.append(f"{path.relative_to(ROOT)}: {target}")

    assert broken == []


def headings(path: Path) -> set[str]:
    """Return the anchors that a file's headings make."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_table_of_floors_names_files_that_there_are() -> None:
    """And every file and folder of the package is in it."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    named = {name.rstrip("/") for _, files in rows for name in re.findall(r"`([^`]+)`", files)}
    package = [*(ROOT / "etl").glob("*.py"), *(path.parent for path in (ROOT / "etl").glob("*/__init__.py"))]
    there = {path.name for path in package} - {"__init__.py", "__main__.py"}

    assert named == there


def test_every_file_that_code_refers_to_exists() -> None:
    """A comment that names a document, a script or an SQL file names one that is there."""
    missing = []
    for path in sorted((ROOT / "etl").rglob("*.py")):
        for name in re.findall(r"\b((?:docs|scripts|partitions|sql)/[\w./-]+\.(?:md|py|sql))", path.read_text("utf-8")):
            if not (ROOT / name).exists():
                missing.append(f"{path.relative_to(ROOT)}: {name}")

    assert missing == []
