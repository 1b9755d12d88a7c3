"""``lwfm site new``: what it writes works as it is, keeps the contract, and overwrites nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lwfm.cli import new_site
from lwfm.errors import Conflict, InvalidRecord

from support.agents import environment, running_agent


def lwfm(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a directory."""
    command = [sys.executable, "-m", "lwfm", *words]
    home = environment(LWFM_HOME=str(directory / "home"), PYTEST_ADDOPTS="")
    return subprocess.run(command, cwd=directory, env=home, capture_output=True, text=True, timeout=300)


def test_what_it_writes_keeps_the_contract_and_runs_jobs(tmp_path: Path) -> None:
    done = lwfm(tmp_path, "site", "new", "my-lab")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_lab_site.py", "test_my_lab_site.py"]
    section = done.stdout[done.stdout.index("[my-lab]") : done.stdout.index("then:")]
    assert str(tmp_path / "home" / "sites.toml") in done.stdout
    tested = lwfm(tmp_path, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_lab_site.py")
    assert " passed" in tested.stdout, tested.stdout + tested.stderr
    assert "failed" not in tested.stdout
    with running_agent(sites=section) as agent:
        job = agent.submit("echo from the lab", site="my-lab")
        assert agent.wait(job)["state"] == "COMPLETE"
        assert agent.output(job) == b"from the lab\n"
        assert (tmp_path / "my-lab-site" / "jobs" / job).is_dir()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_mine_site.py").write_text("precious")
    with pytest.raises(Conflict, match="is there already"):
        new_site.write("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine_site.py"]
    assert (tmp_path / "test_mine_site.py").read_text() == "precious"


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "-x", "ü", "a.b", "x-"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRecord):
        new_site.write(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_name_is_everywhere(tmp_path: Path) -> None:
    written = new_site.write("Big_one", tmp_path)
    for path in (written.driver, written.test):
        text = path.read_text()
        ast.parse(text)
        assert "keleton" not in text
        assert "NAME" not in text
        assert "MODULE" not in text
    assert "class BigOneSite(SiteDriver)" in written.driver.read_text()
    assert "test_big_one_site.py" in written.driver.read_text()
