"""Drivers in virtual environments: made, made anew, told when they cannot be; and two that could not live in one Python."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lwfm.config import VenvConfig
from lwfm.errors import ConfigError, SiteError
from lwfm.sites import skeleton
from lwfm.sites.base import SiteContext
from lwfm.sites.process import ProcessSite, log_of
from lwfm.sites.sandbox import Venv

from support.agents import running_agent
from support.pythons import name_of, supported
from support.waiting import wait_until
from support.wheels import make_wheel

SUPPORT = Path(__file__).resolve().parents[1] / "support"
ENTRY = "[console_scripts]\ntiny-tool = tiny:main\n"
MODULE = """
import subprocess
VERSION = {version!r}
def main():
    print("tool of", VERSION)
def tool():
    return subprocess.run(["tiny-tool"], capture_output=True, text=True, check=True).stdout.strip()
"""


def requirements(directory: Path, version: str) -> Path:
    """A file that asks for a version of a package that was made here."""
    make_wheel(directory / "wheels", "tiny", version, {"tiny.py": MODULE.format(version=version)}, ENTRY)
    file = directory / f"tiny-{version}.txt"
    file.write_text(f"--no-index\n--find-links wheels\ntiny=={version}\n")
    return file


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


def venv(home: Path, *, path: str = "env", asks: str | None = None, python: str | None = None) -> Venv:
    return Venv("mine", VenvConfig(path, asks, python), home, home / "sites" / "mine.log")


def version_in(command: list[str]) -> str:
    """Which version of the package there is."""
    done = subprocess.run([command[0], "-I", "-c", "import tiny; print(tiny.VERSION)"], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_two_drivers_that_contradict_each_other_serve_one_workflow(tmp_path: Path) -> None:
    sites = ""
    for name, version in (("old", "1.0"), ("new", "2.0")):
        (tmp_path / name).mkdir()
        sites += (
            f'[{name}]\ndriver = "{SUPPORT / "versioned_site.py"}:VersionedSite"\ndirectory = "{tmp_path / name}"\n'
            f'venv = "venvs/{name}"\nrequirements = "{requirements(tmp_path, version)}"\n'
        )
    with running_agent(sites=sites) as agent:
        workflow = agent.workflow()
        first = agent.submit('echo "$TINY, $TOOL"', site="old", workflow=workflow)
        handler = agent.on_job([first], 'echo "$TINY, $TOOL"', site="new", of=workflow)
        second = handler["job_ids"][0]
        assert [agent.wait(job)["state"] for job in (first, second)] == ["COMPLETE"] * 2
        assert agent.output(first) == b"1.0, tool of 1.0\n"
        assert agent.output(second) == b"2.0, tool of 2.0\n"
        assert {agent.job(job)["workflow_id"] for job in (first, second)} == {workflow}
        agent.restart()
        again = agent.submit('echo "$TINY"', site="old")
        assert agent.wait(again)["state"] == "COMPLETE"
        venvs = [path.name for path in (agent.home.root / "venvs").iterdir() if path.is_dir() and not path.is_symlink()]
        assert len(venvs) == 2, "they are made once"


def test_an_installed_driver_is_found_in_the_environment(tmp_path: Path) -> None:
    """By its entry point, which the agent's own Python does not have; another pillar is the agent's."""
    files = {"mine_site.py": Path(skeleton.__file__).read_text()}
    points = "[lwfm.sites]\nmine-there = mine_site:SkeletonSite\n"
    make_wheel(tmp_path / "wheels", "mine_site", "1.0", files, points)
    (tmp_path / "asks.txt").write_text("--no-index\n--find-links wheels\nmine_site\n")
    sites = (
        f'[mixed]\ndriver = "mine-there"\npillars.repo = "local"\ndirectory = "{tmp_path}"\n'
        f'venv = "{tmp_path}/env"\nrequirements = "{tmp_path}/asks.txt"\n'
    )
    with running_agent(sites=sites) as agent:
        job = agent.submit("echo there", site="mixed")
        assert agent.wait(job)["state"] == "COMPLETE"
        assert agent.output(job) == b"there\n"
        stored = agent.client.post(
            "/v1/data", {"path": str(tmp_path / "asks.txt"), "site": "mixed", "site_path": "kept"}
        )
        assert stored["site"] == "mixed"
        assert (agent.home.repository / "kept").read_text() == (tmp_path / "asks.txt").read_text()
        checks = agent.client.post("/v1/sites/mixed/check", {})["checks"]
        assert [item["ok"] for item in checks] == [True] * 4, checks


def test_it_is_made_anew_when_its_requirements_have_changed(tmp_path: Path, stopping: threading.Event) -> None:
    asks = requirements(tmp_path, "1.0")
    made = venv(tmp_path, asks=asks.name)
    first = made.make(stopping)
    assert version_in(first) == "1.0"
    assert made.make(stopping) == first
    asks.write_bytes(requirements(tmp_path, "2.0").read_bytes())
    second = made.make(stopping)
    assert version_in(second) == "2.0"
    assert second[0] != first[0]
    left = sorted(path.name for path in tmp_path.iterdir() if "env" in path.name and not path.name.endswith("lock"))
    assert left == sorted({"env", os.path.basename(os.path.realpath(tmp_path / "env"))})


def test_two_agents_make_one(tmp_path: Path, stopping: threading.Event) -> None:
    asks = requirements(tmp_path, "1.0").name
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append(venv(tmp_path, asks=asks).make(stopping))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(made) == 3
    assert made[0] == made[1] == made[2]


def test_what_cannot_be_installed_is_told(tmp_path: Path, stopping: threading.Event) -> None:
    asks = requirements(tmp_path, "1.0")
    asks.write_text(asks.read_text().replace("1.0", "9.9"))
    with pytest.raises(ConfigError, match=r"No matching distribution found for tiny==9\.9|no version of tiny==9\.9"):
        venv(tmp_path, asks=asks.name).make(stopping)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and "env" in path.name]
    assert "tiny" in (tmp_path / "sites" / "mine.log").read_text()


def test_what_was_left_half_done_is_removed(tmp_path: Path, stopping: threading.Event) -> None:
    (tmp_path / ".env-lwfm-1-2" / "bin").mkdir(parents=True)
    (tmp_path / ".env-other").mkdir()
    venv(tmp_path).make(stopping)
    assert not (tmp_path / ".env-lwfm-1-2").exists()
    assert (tmp_path / ".env-other").exists()


def test_it_can_be_stopped(tmp_path: Path, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits for somebody else's commands, which hold the lock even when their agent has died."""
    tool = tmp_path / "programs" / "uv"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho $$ > "$0.pid"\nexec sleep 600\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    raised: list[SiteError] = []

    def make() -> None:
        try:
            venv(tmp_path).make(stopping)
        except SiteError as error:
            raised.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (tmp_path / "programs" / "uv.pid").exists(), "the command")
    stopping.set()
    for thread in threads:
        thread.join(20)
    assert [error.transient for error in raised] == [True, True]


def test_what_somebody_else_has_made_is_used_as_it_is(tmp_path: Path, stopping: threading.Event) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    before = sorted((tmp_path / "env").rglob("*"))
    assert venv(tmp_path).make(stopping)[0] == str(tmp_path / "env" / "bin" / "python")
    with pytest.raises(ConfigError, match="was not made by lwfm"):
        venv(tmp_path, asks=requirements(tmp_path, "1.0").name).make(stopping)
    assert sorted((tmp_path / "env").rglob("*")) == before


def test_what_is_no_environment_is_refused(tmp_path: Path, stopping: threading.Event) -> None:
    (tmp_path / "env").mkdir()
    with pytest.raises(ConfigError, match="no virtual environment"):
        venv(tmp_path).make(stopping)
    with pytest.raises(ConfigError, match="cannot read the requirements"):
        venv(tmp_path, path="other", asks="none.txt").make(stopping)
    with pytest.raises(ConfigError, match=r"(no Python|No interpreter found for Python) 3\.99"):
        venv(tmp_path, path="other", python="3.99").make(stopping)


@pytest.mark.parametrize("python", supported(), ids=name_of)
def test_a_driver_runs_on_another_python(tmp_path: Path, python: str) -> None:
    """In an environment that holds nothing at all."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    context = SiteContext("mine", {}, tmp_path, tmp_path)
    site = ProcessSite(
        context, f"{SUPPORT / 'odd_site.py'}:OddSite", Venv("mine", VenvConfig("env"), tmp_path, log_of(context))
    )
    assert site.run is not None
    try:
        assert site.run.output("prefix", "", 0, 0) == repr(str(tmp_path / "env")).encode()
        loaded = eval(site.run.output("modules", "", 0, 0))
        assert "lwfm.sites.host" in loaded
        assert not {"psutil", "click", "tornado"} & set(loaded)
    finally:
        site.close()


def test_with_uv_where_it_is(tmp_path: Path, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is asked: a program of that name that notes it, and does as pip does."""
    tool = tmp_path / "programs" / "uv"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'case "$1" in\nvenv) exec {sys.executable} -m venv "$5" ;;\npip) exec "$4" -m pip install "$5" "$6" ;;\nesac\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    asks = requirements(tmp_path, "1.0")
    made = venv(tmp_path, asks=asks.name, python="3.12").make(stopping)
    assert version_in(made) == "1.0"
    fresh = os.path.realpath(tmp_path / "env")
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"venv --no-project --python 3.12 {fresh}", f"pip install --python {fresh}/bin/python -r {asks}",
    ]  # fmt: skip
