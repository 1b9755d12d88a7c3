"""The built file does what the checkout does, on every Python of this machine, in an empty home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from support.onefile import ROOT, Pyz
from support.pythons import name_of, pythons, supported, too_old

pytestmark = pytest.mark.artifact
MakePyz = Callable[..., Pyz]


@pytest.mark.parametrize("python", supported(), ids=name_of)
def test_every_python_runs_the_smallest_workflow_and_keeps_data(make_pyz: MakePyz, python: str) -> None:
    """Put, find and lineage; a job puts data from inside, by the same file."""
    pyz = make_pyz(python)
    assert pyz("--version").startswith("lwfm ")
    summary = json.loads(pyz("run", "--json", str(ROOT / "examples" / "hello.py")))
    assert summary["workflow"]["job_counts"] == {"COMPLETE": 2}
    assert (pyz.home / ".lwfm" / "thread.db").stat().st_mode & 0o777 == 0o600
    script = "echo 42 > result.txt && lwfm put result.txt --meta kind=answer --meta T=0.70"
    job = pyz("submit", "--wait", "--", "sh", "-c", script).split()[0]
    (found,) = json.loads(pyz("find", "--json", "kind=answer", "T=0.7"))
    assert found["job_id"] == job
    lineage = json.loads(pyz("lineage", "--json", "--up", str(pyz.home / "result.txt")))
    assert job in {node["id"] for node in lineage["nodes"]}
    assert json.loads(pyz("store", "check", "--json"))["ok"] is True
    findings = json.loads(pyz("doctor", "--json"))
    assert [finding for finding in findings if finding["result"] != "ok"] == []
    told = {finding["subject"]: finding["message"] for finding in findings}
    assert f"CPython {name_of(python)}." in told["python"]
    assert f"cp{name_of(python).replace('.', '')}-{os.uname().machine} (base, lwfm, worker)" in told["archive"]
    assert "cryptography" in told["ssh"]  # the parts that only some have are those of this Python


def test_there_are_several_pythons_to_try() -> None:
    """On a machine that keeps several, as that of the checks, the test above must have seen them."""
    if not os.environ.get("CI") and len(supported()) < 2:
        pytest.skip("this machine has one Python only; name others in LWFM_TEST_PYTHONS")
    assert len(supported()) >= 2, pythons()


@pytest.mark.parametrize("python", too_old(), ids=name_of)
def test_an_old_python_is_told_what_to_do(make_pyz: MakePyz, python: str) -> None:
    done = make_pyz(python).run("job", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"this is Python {name_of(python)}" in done.stderr
    assert "CPython 3.9 to 3.14" in done.stderr


def test_it_runs_as_a_program(pyz: Pyz) -> None:
    assert os.access(pyz.archive, os.X_OK)
    done = subprocess.run([str(pyz.archive), "--version"], env=pyz.environment, capture_output=True, text=True)
    assert done.stdout.startswith("lwfm "), done


def test_it_may_have_any_name(pyz: Pyz) -> None:
    """As somebody has it who puts it on the PATH: its agent and its jobs are started by the same file."""
    pyz.archive = Path(shutil.copy(pyz.archive, pyz.home / "lwfm"))
    pyz.python = shutil.which("python3", path="/usr/bin") or pyz.python  # where lwfm is not installed
    assert pyz("submit", "--wait", "--", "lwfm", "log", "here")
    assert str(pyz.archive) in pyz("doctor")


def test_an_impossible_request_is_refused_with_its_numbers(pyz: Pyz) -> None:
    """One line of what is wrong, one of what to do, no traceback."""
    done = pyz.run("submit", "--cores", "100000", "--", "true")
    assert done.returncode == 5
    assert "100000 cores" in done.stderr
    assert "Traceback" not in done.stderr


def _environment_of_the_users(directory: Path) -> Path:
    """A virtual environment with a package of the user's, and with one that has the name of one of ours."""
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    (packages / "of_the_user.py").write_text("ANSWER = 42\n")
    (packages / "click.py").write_text("WHOSE = 'the user s'\n")
    (packages / "psutil.py").write_text("raise ImportError('a broken one of the user s')\n")
    return directory


SCRIPT = """
import importlib.util, json, sys
import click, of_the_user
from lwfm import LwfManager, JobDefn
lwf = LwfManager()
done = lwf.wait(lwf.get_site("local").run.submit(JobDefn(["true"])))
ours = [name for name in ("tornado", "rich", "sqlite_utils", "fabric") if importlib.util.find_spec(name)]
print(json.dumps([of_the_user.ANSWER, click.WHOSE, str(done.state), ours, sys.prefix]))
"""


@pytest.mark.parametrize("how", ["named", "active"])
@pytest.mark.parametrize("command", ["run", "python"])
def test_a_script_sees_the_library_and_the_packages_of_its_environment_alone(
    make_pyz: MakePyz, tmp_path: Path, how: str, command: str
) -> None:
    environment = _environment_of_the_users(tmp_path / "env")
    (tmp_path / "script.py").write_text(SCRIPT)
    pyz = make_pyz()
    words = ["--venv", str(environment)] if how == "named" else []
    if how == "active":
        pyz.environment["VIRTUAL_ENV"] = str(environment)
    printed = pyz(command, *words, str(tmp_path / "script.py")).splitlines()
    answer = next(json.loads(line) for line in printed if line.startswith("["))
    assert answer == [42, "the user s", "COMPLETE", [], str(environment)]


def test_the_packages_of_the_caller_do_not_come_before_ours(pyz: Pyz, tmp_path: Path) -> None:
    for name in ("click", "psutil", "tornado", "rich", "sqlite_utils"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} is not ours')\n")
    assert pyz("submit", "--wait", "--", "true", PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize("found", ["3.7", "2.7"])
def test_an_environment_of_an_old_python_is_refused(pyz: Pyz, tmp_path: Path, found: str) -> None:
    environment = _environment_of_the_users(tmp_path / "env")
    (environment / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {found}.3\n")
    (tmp_path / "script.py").write_text("")
    done = pyz.run("run", "--venv", str(environment), str(tmp_path / "script.py"))
    assert done.returncode == 2
    assert f"Python {found}; lwfm needs 3.9" in done.stderr
