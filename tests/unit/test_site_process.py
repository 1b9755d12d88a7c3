"""Drivers in processes of their own: what passes, what is raised, what dies, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm.config import SiteConfig
from lwfm.errors import ConfigError, LoginRequired, LwfmError, NotSupported, ResourcesImpossible, SiteError
from lwfm.models import JobDefn, Resources
from lwfm.sites import process
from lwfm.sites.base import JobRequest, Observation, SiteContext, SiteDriver, StoredData, in_turn
from lwfm.sites.local import LocalRepo
from lwfm.sites.process import ProcessSite
from lwfm.sites.registry import Registry
from lwfm.states import JobState

from support.odd_site import OddSite
from support.waiting import wait_until
from support.wheels import make_wheel

DRIVER = f"{Path(__file__).resolve().parents[1] / 'support' / 'odd_site.py'}:OddSite"
LINK = Path(__file__).resolve().parents[2] / "build" / "link"


class Sites:
    """Makes sites, and closes them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.made: list[ProcessSite] = []

    def __call__(self, driver: str = DRIVER, limit_s: float = 60.0, **options: Any) -> ProcessSite:
        self.made.append(ProcessSite(SiteContext("odd", options, self.home, self.home), driver, limit_s=limit_s))
        return self.made[-1]


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    yield made
    for site in made.made:
        site.close()


def told(site: ProcessSite, what: str) -> Any:
    assert site.run is not None
    return eval(site.run.output(what, "", 0, 0))


def pid_of(site: ProcessSite) -> int:
    return int(told(site, "pid"))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ------------------------------------------------------------------------------------------------- what passes


def test_requests_arrive_as_they_were(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    defn = JobDefn(
        ["echo", "a b", "ü\udcff"], cwd="/tmp", env={"SECRET": "x\ny"}, meta={"a": [1, {"b": None}]},
        resources=Resources(cores=2, memory_bytes=2**50, time_limit_s=0.5, extra={"later": 1}), extra={"more": [1]},
    )  # fmt: skip
    first = JobRequest("j1", 3, defn, "c", {"A": "1"}, {"LWFM_JOB_ID": "j1"}, frozenset({"x", "y"}))
    other = JobRequest("j2", 1, JobDefn("true"), "", {"B": "2"})
    same_name = JobRequest("j3", 1, JobDefn("true"), "", {"B": "3"})
    again = JobRequest("j4", 1, JobDefn("true"), "c", {"A": "1"})
    assert site.run.submit([first, other, same_name]) == dict.fromkeys(
        ["j1", "j2", "j3"], Observation(JobState.PENDING, "Q")
    )
    site.run.submit([again])
    names = {"JobRequest": JobRequest, "JobDefn": JobDefn, "Resources": Resources}
    for request in (first, other, same_name, again):
        seen = eval(site.run.output(f"request {request.job_id}", "", 0, 0), names)
        assert seen == request
        assert dict(seen.environment) == dict(request.environment)


def test_answers_arrive_as_they_were(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    assert site.repo is not None
    assert site.spin is not None
    said = site.run.status(["a", "b"])["b"]
    assert said == OddSite(site.context).run.status(["b"])["b"]  # type: ignore[union-attr]
    assert site.run.output("bytes", "", 0, 0) == bytes(range(256)) * 4096
    stored = StoredData("u", "p\udcff", "h", 2**60, "f" * 64)
    assert site.repo.get(stored, Path("/x")) == stored
    assert [item.facts for item in site.spin.list()] == [{"cores": 4, "names": ["a"]}]
    assert site.spin.create("node", {"n": 1}).to_json() == {
        "resource_id": "made", "kind": "node", "state": "pending", "facts": {"n": 1},
    }  # fmt: skip


def test_many_are_cheap(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    environment = {f"VARIABLE_{number}": "x" * 200 for number in range(200)}
    requests = [JobRequest(f"j{number}", 1, JobDefn(["true"]), "c", environment) for number in range(1000)]
    site.start()
    begin = time.process_time()
    assert len(site.run.submit(requests)) == 1000
    assert len(site.run.status([f"j{number}" for number in range(10_000)])) == 10_000
    assert time.process_time() - begin < 2.0, "this side's own time; it takes a tenth of this"


def test_nothing_secret_in_arguments_or_environment(sites: Sites) -> None:
    site = sites(token="s3cret-option")
    assert site.run is not None
    site.run.submit([JobRequest("j", 1, JobDefn("true", env={"T": "s3cret-env"}), "c", {"E": "s3cret-context"})])
    assert b"s3cret" not in told(site, "argv")
    assert "s3cret" not in repr(told(site, "environ"))


def test_what_it_prints_is_in_its_log(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    site.run.cancel("print", 1, "this")
    log = sites.home / "sites" / "odd.log"
    assert log.read_text() == "printed this\nand complained\nfrom a program\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_library_of_the_driver_stays_out_of_the_agent(sites: Sites) -> None:
    """And the driver's process has nothing of the agent's."""
    site = sites()
    loaded = told(site, "modules")
    assert not {"tornado", "sqlite_utils", "click", "psutil", "asyncio"} & set(loaded)


# ------------------------------------------------------------------------------------------------- what is raised


def test_errors_travel(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    with pytest.raises(ResourcesImpossible, match="0 cores") as impossible:
        site.run.check(JobDefn("true", resources=Resources(cores=1)))
    assert impossible.value.hint == "ask for none"
    with pytest.raises(SiteError, match="of my own") as own:
        site.run.cancel("own", 1, "")
    assert (own.value.transient, own.value.hint) == (True, "a hint")
    with pytest.raises(SiteError, match="KeyError: 'thing'"):
        site.run.cancel("other", 1, "")
    assert "Traceback" in (sites.home / "sites" / "odd.log").read_text()
    with pytest.raises(SiteError, match="SystemExit"):
        site.run.cancel("exit", 1, "")
    assert site.run.status([]) == {}


def test_a_login_asks_here(sites: Sites) -> None:
    site = sites()
    assert site.auth is not None
    asked: list[tuple[str, bool]] = []

    def ask(prompt: str, secret: bool) -> str:
        asked.append((prompt, secret))
        return {"user": "me", "password": "sesame"}[prompt]

    def nobody(prompt: str, secret: bool) -> str:
        raise LoginRequired("nobody is there")

    def fail(prompt: str, secret: bool) -> str:
        raise ZeroDivisionError

    with pytest.raises(LoginRequired, match="nobody is there"):
        site.auth.login(nobody)
    with pytest.raises(ZeroDivisionError):
        site.auth.login(fail)
    assert site.auth.is_auth_current() is False
    site.auth.login(ask)
    assert asked == [("user", False), ("password", True)]
    assert site.auth.is_auth_current() is True


def test_a_pillar_that_is_not_there(sites: Sites) -> None:
    site = sites(spinless=True)
    assert site.spin is not None, "nobody knows yet"
    with pytest.raises(NotSupported, match="no spin pillar"):
        site.spin.list()
    assert site.spin is None


@pytest.mark.parametrize(
    ("driver", "options", "said"),
    [
        (DRIVER, {"begin": "raise"}, "ValueError: no such luck"),
        (DRIVER, {"begin": "exit"}, "SystemExit: enough"),
        (DRIVER.replace("OddSite", "OddRun"), {}, "not a SiteDriver"),
        (DRIVER.replace("odd_site", "no_site"), {}, "there is no driver"),
        ("no_such_module:Class", {}, "cannot be imported"),
        ("nothing-of-the-kind", {}, "there is no driver"),
    ],
)
def test_a_driver_that_cannot_be_made(sites: Sites, driver: str, options: dict[str, Any], said: str) -> None:
    site = sites(driver, **options)
    for _ in range(3):  # also while it is left alone
        with pytest.raises(ConfigError, match=said):
            site.start()
    assert site.state == "failed"
    assert said.split(":")[-1].strip() in site.trouble


# ------------------------------------------------------------------------------------------------- what dies


def test_after_its_death_there_is_another(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that it dies in fails; the next one does not."""
    monkeypatch.setattr(process, "AT_ONCE_S", 0.0)
    site = sites()
    assert site.run is not None
    request = JobRequest("j", 1, JobDefn("true"), "c", {"A": "1"})
    site.run.submit([request])
    pids = [pid_of(site)]
    with pytest.raises(SiteError, match="has ended with exit code 9") as died:
        site.run.cancel("die", 1, "")
    assert died.value.transient
    for _ in range(3):
        pids.append(pid_of(site))
        os.kill(pids[-1], signal.SIGKILL)
        wait_until(lambda: is_gone(pids[-1]), "its end")
    site.run.submit([request])
    assert b"'A': '1'" in site.run.output("request j", "", 0, 0), "a new process is told the environment again"
    assert len({*pids, pid_of(site)}) == 5


def test_who_waits_is_told_of_its_death(sites: Sites) -> None:
    site = sites()
    assert site.run is not None
    run, raised = site.run, []

    def hang() -> None:
        try:
            run.cancel("hang", 1, "")
        except LwfmError as error:
            raised.append(error)

    thread = threading.Thread(target=hang)
    pid = pid_of(site)
    thread.start()
    wait_until((sites.home / "hanging").exists, "the call")
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert "SIGKILL" in raised[0].message


def test_one_that_dies_at_once_is_left_alone_between(sites: Sites) -> None:
    site = sites(begin="die")
    said = []
    for _ in range(4):
        with pytest.raises(SiteError) as died:
            site.start()
        assert died.value.transient
        said.append(died.value.message)
    assert "started again in" not in said[1]
    assert "exit code 7; it is started again in" in said[2]
    with pytest.raises(SiteError) as died:
        site.start(at_once=True)
    assert "started again in" not in died.value.message


def test_a_call_that_hangs_ends_with_the_process(sites: Sites) -> None:
    site = sites(limit_s=1.0)
    assert site.run is not None
    pid = pid_of(site)
    with pytest.raises(SiteError, match="not answered within 1 s"):
        site.run.cancel("hang", 1, "")
    wait_until(lambda: is_gone(pid), "its end")
    assert pid_of(site) != pid


def test_one_that_hangs_while_it_is_made_can_be_closed(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    site = sites(begin="hang")
    raised: list[LwfmError] = []

    def start() -> None:
        try:
            site.start()
        except LwfmError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: site._newest is not None, "its process")
    site.close()
    thread.join(20)
    assert raised


def test_closing_lets_it_close(sites: Sites) -> None:
    site = sites()
    pid = pid_of(site)
    site.close()
    assert (sites.home / "closed").exists()
    assert is_gone(pid)
    with pytest.raises(SiteError, match="closed"):
        site.start()


@pytest.mark.parametrize("options", [{}, {"begin": "hang"}], ids=["in a call", "while it is made"])
def test_it_ends_with_the_agent(tmp_path: Path, options: dict[str, str]) -> None:
    """Whatever kills that."""
    code = (
        "import threading; from pathlib import Path; from lwfm.sites.base import SiteContext;"
        f" from lwfm.sites.process import ProcessSite; home = Path({str(tmp_path)!r});"
        f" site = ProcessSite(SiteContext('odd', {options!r}, home, home), {DRIVER!r});"
        " threading.Thread(target=site.run.cancel, args=('hang', 1, '')).start()\n"
        "while site._newest is None: pass\n"
        "print(site._newest.process.pid, flush=True)"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(LINK)}
    )
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    agent.kill()
    agent.wait()
    agent.stdout.close()
    wait_until(lambda: is_gone(pid), "the end of the driver's process")


# ------------------------------------------------------------------------------------------------- turns


def test_calls_to_one_pillar_wait_for_each_other(sites: Sites) -> None:
    """And those to others do not wait for them."""
    site = sites()
    assert site.repo is not None
    assert site.run is not None
    file = sites.home / "file"
    file.touch()
    urls: list[str] = []
    repo = site.repo
    threads = [threading.Thread(target=lambda: urls.append(repo.put(file, None, {}).url)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (sites.home / "file.1.begun").exists(), "the first")
    assert site.run.status([]) == {}
    file.unlink()
    for thread in threads:
        thread.join(20)
    assert urls == ["odd://1"] * 3
    assert not (sites.home / "file.2.begun").exists()


def test_in_the_agent_they_wait_likewise(tmp_path: Path) -> None:
    run = OddSite(SiteContext("odd", {}, tmp_path, tmp_path)).run
    assert run is not None
    assert in_turn(run.status) is in_turn(run.submit)
    assert in_turn(run.check) is not in_turn(run.submit)
    run.__class__.thread_safe = True
    try:
        assert in_turn(run.status) is not in_turn(run.submit)
    finally:
        run.__class__.thread_safe = False


# ------------------------------------------------------------------------------------------------- the registry


class OwnProcess(SiteDriver):
    """Asks for a process of its own."""

    own_process = True

    def __init__(self, context: SiteContext):
        super().__init__(context)
        assert context.nodes is None
        raise AssertionError("made in the agent")


def registry(home: Path, **configs: SiteConfig) -> Registry:
    nodes: Any = object()
    return Registry(configs, lambda config: SiteContext(config.name, config.options, home, home, nodes))


def driver_of(found: Registry, name: str) -> SiteDriver:
    (driver,) = found.make(name).values()
    return driver


def test_which_drivers_have_their_own_process(tmp_path: Path) -> None:
    found = registry(
        tmp_path,
        asked=SiteConfig("asked", DRIVER, {}, process=True),
        plain=SiteConfig("plain", DRIVER),
        wants=SiteConfig("wants", f"{__file__}:OwnProcess"),
        nodes=SiteConfig("nodes", "local", {}, process=True),
    )
    assert isinstance(driver_of(found, "asked"), ProcessSite)
    assert type(driver_of(found, "plain")).__name__ == "OddSite"
    assert isinstance(driver_of(found, "wants"), ProcessSite)
    with pytest.raises(ConfigError, match="uses the agent's nodes"):
        found.make("nodes")
    assert found.describe("asked")["state"] == "not started"
    assert found.describe("asked")["pillars"] == []
    found.start("asked")
    assert found.describe("asked")["pillars"] == ["auth", "run", "repo", "spin"]
    found.close()


def test_a_changed_site_gets_another_process(tmp_path: Path) -> None:
    found = registry(tmp_path, odd=SiteConfig("odd", DRIVER, {}, process=True))
    first = driver_of(found, "odd")
    assert isinstance(first, ProcessSite)
    pid = pid_of(first)
    found.configure({"odd": SiteConfig("odd", DRIVER, {"spinless": True}, process=True)})
    found.start("odd")
    assert found.describe("odd")["pillars"] == ["auth", "run", "repo"]
    wait_until(lambda: is_gone(pid), "the end of the first")
    found.close()


def test_one_that_reports_by_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "reporting.py"
    driver.write_text(
        "from support_odd import OddSite\n"
        "class Reporting(OddSite):\n"
        "    def __init__(self, context):\n"
        "        super().__init__(context)\n"
        "        self.run.reports_itself = True\n"
    )
    (tmp_path / "support_odd.py").write_text(Path(DRIVER.partition(":")[0]).read_text())
    site = ProcessSite(SiteContext("odd", {}, tmp_path, tmp_path), "reporting.py:Reporting")
    with pytest.raises(ConfigError, match="reports by itself"):
        site.start()
    site.close()


def test_a_driver_that_takes_too_long_to_start(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_LIMIT_S", 0.5)
    with pytest.raises(SiteError, match=r"not answered within 0\.5 s"):
        sites(begin="hang").start()


# ------------------------------------------------------------------------------------------------- pillars of several drivers


def test_pillars_of_several_drivers(tmp_path: Path) -> None:
    """Those that use the agent's nodes stay in the agent; each driver is made once."""
    found = registry(
        tmp_path,
        mixed=SiteConfig("mixed", DRIVER, {"x": 1}, process=True, pillars={"repo": "local", "spin": "local"}),
        part=SiteConfig("part", None, {}, pillars={"run": DRIVER}),
    )
    drivers = found.make("mixed")
    assert list(drivers) == [DRIVER, "local"]
    run, repo = found.pillar("mixed", "run"), found.pillar("mixed", "repo")
    assert isinstance(run, process.ProcessRun)
    assert isinstance(repo, LocalRepo)
    assert found.describe("mixed")["state"] == "not started"
    assert found.describe("mixed")["pillars"] == ["repo", "spin"]
    assert run.status([]) == {}
    described = found.describe("mixed")
    assert described["pillars"] == ["auth", "run", "repo", "spin"]
    assert described["driver"] == f"{DRIVER}, repo: local, spin: local"
    assert {driver.context.options["x"] for driver in drivers.values()} == {1}
    assert found.describe("part")["pillars"] == ["run"]
    with pytest.raises(NotSupported, match="no repo pillar"):
        found.pillar("part", "repo")
    found.close()


def test_one_of_several_that_cannot_be_made(tmp_path: Path) -> None:
    """The others are closed again."""
    found = registry(tmp_path, mixed=SiteConfig("mixed", DRIVER, {}, pillars={"repo": "none"}))
    with pytest.raises(ConfigError, match="there is no driver 'none'"):
        found.pillar("mixed", "run")
    assert found.describe("mixed")["state"] == "failed"
    assert (tmp_path / "closed").exists()


# ------------------------------------------------------------------------------------------------- entry points


def test_a_driver_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by the name of its entry point."""
    files = {"tiny_driver.py": "from lwfm.sites.base import SiteDriver\nclass Tiny(SiteDriver):\n    pass\nother = 5\n"}
    points = "[lwfm.sites]\ntiny = tiny_driver:Tiny\nodd = tiny_driver:other\nlost = tiny_driver:Lost\n"
    wheel = make_wheel(tmp_path, "tiny_driver", "1.0", files, points)
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    configs = {name: SiteConfig(name, name) for name in ("tiny", "odd", "lost", "none")}
    found = registry(tmp_path, **configs)
    assert type(driver_of(found, "tiny")).__module__ == "tiny_driver"
    with pytest.raises(ConfigError, match="not a SiteDriver"):
        found.make("odd")
    with pytest.raises(ConfigError, match="Lost"):
        found.make("lost")
    with pytest.raises(ConfigError, match="there is no driver 'none'"):
        found.make("none")
    found.close()
