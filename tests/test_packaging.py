import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SQL = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "sql").rglob("*.sql"))
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "etl").rglob("*.py"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist, and the wheel that was built from it."""
    if find_spec("build") is None or find_spec("hatchling") is None:
        pytest.skip("build and hatchling are not installed: pip install '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def wheel(folder: Path) -> zipfile.ZipFile:
    """Open the only wheel of a folder."""
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(folder: Path) -> Message:
    """Return the wheel's METADATA."""
    with wheel(folder) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_sql_file(built: Path) -> None:
    """Nothing that the program reads stays behind in the checkout."""
    with wheel(built) as archive:
        names = set(archive.namelist())

    assert {f"etl/{name}" for name in SQL} <= names
    assert {*MODULES, "etl/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    """Sources, SQL, tests and the licence."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {*SQL, *MODULES, "LICENSE", "README.md", "pyproject.toml", "tests/conftest.py"} <= names


@pytest.mark.slow
def test_the_metadata_names_project_and_licence(built: Path) -> None:
    """What a package index shows."""
    found = metadata(built)

    assert found["Name"] == "hero-etl"
    assert found["License-Expression"] == "MIT"
    assert found["Requires-Python"] == ">=3.11"
    assert "embedded" in (found.get_all("Provides-Extra") or [])


@pytest.mark.slow
def test_an_installed_wheel_finds_its_sql(built: Path, tmp_path: Path) -> None:
    """Away from the checkout, the files inside the package are the ones that are read."""
    with wheel(built) as archive:
        archive.extractall(tmp_path)
    program = "from etl import resources; print(*resources.sql_files('migrations')); print(resources.__file__)"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()

    assert said[0].split() == [name.removeprefix("sql/") for name in SQL if name.startswith("sql/migrations/")]
    assert said[1].startswith(str(tmp_path))
