"""agent/ is one package with one name, and what is installed is what was checked out."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import lwfm

ROOT = Path(__file__).resolve().parents[2]


def test_agent_is_not_importable_beside_lwfm() -> None:
    assert importlib.util.find_spec("agent") is None, "every class would exist twice: is the checkout on sys.path?"


def test_lwfm_is_the_checkout() -> None:
    assert Path(lwfm.__file__).resolve() == ROOT / "agent" / "__init__.py"


def test_version_is_that_of_the_metadata() -> None:
    assert lwfm.__version__ == metadata.version("lwfm")


def test_the_command_is_installed() -> None:
    commands = [entry for entry in metadata.distribution("lwfm").entry_points if entry.group == "console_scripts"]
    assert [(entry.name, entry.value) for entry in commands] == [("lwfm", "lwfm.__main__:main")]


def test_importing_lwfm_imports_no_dependency() -> None:
    heavy = {"click", "matplotlib", "psutil", "rich", "sqlite3", "sqlite_utils", "tornado"}
    code = "import sys, lwfm; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())


def test_what_migrations_need_is_loaded_when_one_is_due(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, lwfm.sync.session\n"
        "from lwfm.store import Store\n"
        "Store.open(pathlib.Path(sys.argv[1]), host='here', user='ada', home='/').close()\n"
        "print('sqlite_utils' in sys.modules, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "thread.db")]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert told == [["True", "False"], ["False", "False"]]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-I", "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (wheel,) = directory.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_all_of_agent_as_lwfm_and_nothing_else(wheel_names: set[str]) -> None:
    agent = ROOT / "agent"
    files = {path.relative_to(agent).as_posix() for path in agent.rglob("*") if path.is_file()}
    wanted = {f"lwfm/{name}" for name in files if "__pycache__" not in name}
    assert {name for name in wheel_names if ".dist-info/" not in name} == wanted
    assert "lwfm/py.typed" in wheel_names


@pytest.mark.parametrize("lock", sorted((ROOT / "build").glob("*.lock")), ids=lambda path: path.name)
def test_lock_files_pin_with_hashes_and_name_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert re.findall(r"^[a-z].*==", text, re.MULTILINE)
    assert "://" not in text
    assert "--index-url" not in text
    for requirement in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in requirement, requirement


def test_entry_script_shows_its_help_without_set_up(tmp_path: Path) -> None:
    script = tmp_path / "a checkout" / "lwfm.sh"
    script.parent.mkdir()
    script.write_bytes((ROOT / "lwfm.sh").read_bytes())
    done = subprocess.run(["bash", str(script), "help"], capture_output=True, text=True, check=True)
    assert "./lwfm.sh test" in done.stdout
    assert [path.name for path in script.parent.iterdir()] == ["lwfm.sh"]


@pytest.mark.parametrize("python", ["/bin/false", "no-such-python"])
def test_entry_script_refuses_a_python_that_is_none(tmp_path: Path, python: str) -> None:
    script = tmp_path / "lwfm.sh"
    script.write_bytes((ROOT / "lwfm.sh").read_bytes())
    done = subprocess.run(
        ["bash", str(script), "--version"],
        env={"PATH": "/usr/bin:/bin", "LWFM_PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"LWFM_PYTHON={python} is not a Python 3.9 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
