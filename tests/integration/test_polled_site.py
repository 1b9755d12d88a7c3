"""A site that must be asked: its jobs look like local ones, whatever happens to the agent, the site or its answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors
from lwfm.client import Client
from lwfm.errors import LwfmError

from support.agents import LINK, Agent, running_agent
from support.waiting import wait_until


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Where the site's jobs leave what they did."""
    directory = tmp_path / "traces"
    directory.mkdir()
    return directory


def section(name: str, directory: Path, more: str = "") -> str:
    """What ``sites.toml`` says of a site."""
    directory.mkdir(exist_ok=True)
    return f'[{name}]\ndriver = "support.shell_site:ShellSite"\ndirectory = "{directory}"\npoll_s = 0.05\n{more}\n'


def agent_with(sites: str) -> Any:
    """An agent with sites that need what tests have."""
    support = str(Path(__file__).resolve().parents[1])
    return running_agent(sites=sites, env={"PYTHONPATH": os.pathsep.join([str(LINK), support])})


@pytest.fixture(params=["in the agent", "in its own process"])
def agent(traces: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent that knows the site ``shell``."""
    more = "process = true" if request.param == "in its own process" else ""
    with agent_with(section("shell", traces, more)) as running:
        yield running


@pytest.fixture
def two(traces: Path) -> Iterator[Agent]:
    """An agent that knows the sites ``a``, which takes one job at a time, and ``b``."""
    sites = section("a", traces / "a", "max_jobs = 1\ncores = 2") + section("b", traces / "b", "cores = 4")
    with agent_with(sites) as running:
        yield running


def waiting_for(path: Path) -> str:
    """A command that runs until a file is there."""
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


def submitted(directory: Path) -> list[str]:
    """The jobs that came to a site."""
    return sorted(path.name.split(".")[0] for path in directory.glob("*.submitted"))


def test_jobs_end_as_they_do_locally(agent: Agent) -> None:
    """States, exit codes, reasons and output."""
    good = agent.submit("echo out; echo err >&2", site="shell")
    bad = agent.submit("exit 3", site="shell")
    done = agent.wait(good)
    assert (done["state"], done["exit_code"], done["native_status"]) == ("COMPLETE", 0, "exit 0")
    assert agent.wait(bad)["reason"] == "exit code 3"
    assert agent.output(good, "stdout") == b"out\n"
    assert agent.output(good, "stderr") == b"err\n"


def test_a_job_there_fires_a_job_here(agent: Agent) -> None:
    """Statuses that are asked for trigger like those that are told."""
    first = agent.submit("true", site="shell")
    handler = agent.on_job([first], "true")
    assert agent.wait(handler["job_ids"][0])["state"] == "COMPLETE"


def test_a_lost_answer_is_not_a_second_submission(agent: Agent, traces: Path) -> None:
    """What the site says decides, not what was not heard."""
    (traces / "lose-answer").touch()
    job = agent.submit(f"echo ran >> {traces}/journal", site="shell")
    assert agent.wait(job)["state"] == "COMPLETE"
    assert (traces / "journal").read_text() == "ran\n"


def test_a_site_that_is_down_heals(agent: Agent, traces: Path) -> None:
    """Nothing is concluded from silence; the reason is on record."""
    (traces / "down").touch()
    job = agent.submit("true", site="shell")
    wait_until(
        lambda: any("is down" in (item.get("reason") or "") for item in agent.statuses(job)), "the trouble is recorded"
    )
    assert agent.job(job)["state"] == "PENDING"
    (traces / "down").unlink()
    assert agent.wait(job)["state"] == "COMPLETE"


def test_the_agent_may_die_meanwhile(agent: Agent, traces: Path) -> None:
    """A restart asks before it hands anything over."""
    job = agent.submit(f"while [ ! -e {traces}/go ]; do sleep 0.05; done; echo ran >> {traces}/journal", site="shell")
    wait_until(lambda: agent.job(job)["state"] == "RUNNING", "it runs")
    agent.restart()
    (traces / "go").touch()
    assert agent.wait(job)["state"] == "COMPLETE"
    assert (traces / "journal").read_text() == "ran\n"


def test_cancel_reaches_the_site(agent: Agent, traces: Path) -> None:
    """The site's word ends the job."""
    job = agent.submit(f"while [ ! -e {traces}/{'{'}go{'}'} ]; do sleep 0.05; done", site="shell")
    wait_until(lambda: agent.job(job)["state"] == "RUNNING", "it runs")
    agent.cancel(job)
    assert agent.wait(job)["state"] == "CANCELLED"
    (traces / "{go}").touch()


def driver_processes(agent: Agent) -> list[int]:
    """The processes of drivers that run."""
    return [pid for pid, words in agent.processes().items() if "site-host" in words]


def test_the_process_of_a_driver_may_die(agent: Agent, traces: Path) -> None:
    """The next question starts another; nothing is run twice, and nobody need do anything."""
    job = agent.submit(f"while [ ! -e {traces}/go ]; do sleep 0.05; done; echo ran >> {traces}/journal", site="shell")
    wait_until(lambda: agent.job(job)["state"] == "RUNNING", "it runs")
    for pid in driver_processes(agent):
        os.kill(pid, signal.SIGKILL)
    (traces / "go").touch()
    assert agent.wait(job)["state"] == "COMPLETE"
    assert (traces / "journal").read_text() == "ran\n"


def test_a_driver_that_takes_long_to_load_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Neither the start of the agent nor other sites; nor does one that hangs."""
    driver = Path(__file__).resolve().parents[1] / "support" / "odd_site.py"
    section = f'driver = "{driver}:OddSite"\nbegin = "hang"\nprocess = true\n'
    with running_agent(sites=f"[slow]\n{section}[slower]\n{section}") as agent:
        assert {item["name"]: item["state"] for item in agent.client.get("/v1/sites")["sites"]} == {
            "local": "ready", "allocation": "ready", "slow": "starting", "slower": "starting",
        }  # fmt: skip
        asking = threading.Thread(target=_submit_in_vain, args=(agent.new_client(),), daemon=True)
        asking.start()
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        assert asking.is_alive(), "the site cannot have answered"
    asking.join(30)


def test_nor_does_one_in_the_agent_that_takes_long_to_make(tmp_path: Path) -> None:
    """Of a site that is configured while the agent runs."""
    driver = Path(__file__).resolve().parents[1] / "support" / "odd_site.py"
    with running_agent() as agent:
        agent.configure(f'[slow]\ndriver = "{driver}:OddSite"\nbegin = "wait"\n')
        asking = threading.Thread(target=_submit_in_vain, args=(agent.new_client(),), daemon=True)
        asking.start()
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        assert asking.is_alive(), "its driver cannot be there"
        (agent.home.root / "go").touch()
        asking.join(30)
        assert len(agent.client.get("/v1/jobs", {"site": "slow"})["jobs"]) == 1


def _submit_in_vain(client: Client) -> None:
    try:
        client.post("/v1/jobs", {"jobs": [{"command": "true"}], "site": "slow"})
    except LwfmError:
        pass
    finally:
        client.close()


def test_cancel_is_told_after_a_restart_too(agent: Agent, traces: Path) -> None:
    """What was asked for before the agent died is asked of the site by the next one."""
    job = agent.submit(waiting_for(traces / "go"), site="shell")
    wait_until(lambda: agent.job(job)["state"] == "RUNNING", "it runs")
    (traces / "deaf").touch()
    agent.cancel(job)
    assert agent.job(job)["state"] == "FINISHING"
    agent.restart()
    (traces / "deaf").unlink()
    assert agent.wait(job)["state"] == "CANCELLED"
    (traces / "go").touch()


def test_a_deaf_site_takes_other_jobs(agent: Agent, traces: Path) -> None:
    """A cancel that fails keeps nothing else from happening."""
    job = agent.submit(waiting_for(traces / "go"), site="shell")
    wait_until(lambda: agent.job(job)["state"] == "RUNNING", "it runs")
    (traces / "deaf").touch()
    agent.cancel(job)
    assert agent.wait(agent.submit("true", site="shell"))["state"] == "COMPLETE"
    assert any("was not told to stop it" in (item.get("reason") or "") for item in agent.statuses(job))
    (traces / "deaf").unlink()
    assert agent.wait(job)["state"] == "CANCELLED"
    (traces / "go").touch()


def test_a_failed_attempt_is_followed_by_another(agent: Agent, traces: Path) -> None:
    """As it is locally, with what each attempt has printed."""
    command = f"echo attempt $LWFM_ATTEMPT; [ -e {traces}/second ] || {{ touch {traces}/second; exit 4; }}"
    done = agent.wait(agent.submit(command, site="shell", retries=2))
    assert (done["state"], done["attempt"]) == ("COMPLETE", 2)
    assert agent.output(done["job_id"], attempt=1) == b"attempt 1\n"
    assert agent.output(done["job_id"]) == b"attempt 2\n"
    assert "attempt 1 of 3 failed: exit code 4; trying again" in [
        s.get("reason") for s in agent.statuses(done["job_id"])
    ]


def test_what_is_small_is_kept_and_what_is_declared_is_recorded(agent: Agent, traces: Path, tmp_path: Path) -> None:
    """Once the job has ended they are here, whatever becomes of the site; what is large stays there."""
    (tmp_path / "in").write_text("in")
    command = f"cat {tmp_path}/in > {tmp_path}/out; echo small; head -c 100000 /dev/zero >&2"
    files = {"inputs": [f"{tmp_path}/in"], "outputs": [f"{tmp_path}/out"]}
    job = agent.submit(command, site="shell", **files)
    agent.wait(job)
    wait_until(lambda: "stdout_bytes" in agent.job(job), "its output is here")
    assert len(agent.output(job, "stderr")) == 100_000
    (traces / "down").touch()
    assert agent.output(job) == b"small\n"
    with pytest.raises(errors.SiteError, match="the site is down"):
        agent.output(job, "stderr")
    found = agent.client.get("/v1/data", {"job": job})["data"]
    assert {(item["op"], item["site"], Path(item["path"]).name) for item in found} == {
        ("get", "shell", "in"),
        ("put", "shell", "out"),
    }
    assert len({item["sha256"] for item in found}) == 1
    agent.verify()


def test_the_first_of_several_sites_that_takes_it(two: Agent, traces: Path) -> None:
    """What does not fit goes elsewhere; if all refuse, the error says why for each."""
    job = two.submit("true", site="a,b", resources={"cores": 3})
    done = two.wait(job)
    assert (done["state"], done["site"]) == ("COMPLETE", "b")
    assert done["definition"]["sites"] == ["a", "b"]
    with pytest.raises(errors.ResourcesImpossible, match=r"site a: 9 cores, .*; site b: 9 cores, where there are 4"):
        two.submit("true", site=["a", "b"], resources={"cores": 9})
    with pytest.raises(errors.UnknownSite):
        two.submit("true", site="a,nowhere")


def test_a_site_that_is_down_is_left_while_it_has_nothing(two: Agent, traces: Path) -> None:
    """The job goes on to the next, also to this node; one that has no other waits and tells why."""
    (traces / "a" / "down").touch()
    moved, here = two.submit("true", site="a,b"), two.submit("true", site=["a", "local"])
    stays = two.submit("true", site="a")
    assert (two.wait(moved)["site"], two.wait(here)["site"]) == ("b", "local")
    wait_until(lambda: "is down" in str(two.statuses(stays)), "it is told")
    site = two.client.get("/v1/sites/a")
    assert (site["state"], site["reason"], site["waiting"]) == ("down", "the site is down", 1)
    why = two.client.get(f"/v1/jobs/{stays}/why")["explanation"]
    assert why[0].startswith("site a is down since ")
    later = two.submit("true", site="a,b")
    assert "site a is down since" in two.statuses(later)[0]["reason"]
    assert two.wait(later)["site"] == "b"
    two.restart()
    (traces / "a" / "down").unlink()
    assert two.wait(stays)["state"] == "COMPLETE"
    assert two.client.get("/v1/sites/a")["state"] == "ready"
    assert submitted(traces / "a") == [stays]


def test_a_site_that_refuses_passes_it_on(two: Agent, traces: Path) -> None:
    """And a job fired by a handler does so as well."""
    (traces / "a" / "refuse").touch()
    first = two.submit("true", site="a,b")
    handler = two.on_job([first], "true", site=["a", "b"])
    done = two.wait(handler["job_ids"][0])
    assert (done["state"], done["site"]) == ("COMPLETE", "b")
    refused = two.wait(two.submit("true", site="a"))
    assert (refused["state"], refused["reason"]) == ("FAILED", "site a did not take it: no such queue")


def test_so_many_jobs_at_once(two: Agent, traces: Path) -> None:
    """The others wait here, through a restart, and say so."""
    jobs = [two.submit(waiting_for(traces / f"go{number}"), site="a") for number in range(3)]
    urgent = two.submit("true", site="a", priority=9)
    wait_until(lambda: two.state(jobs[0]) == "RUNNING", "the first runs")
    why = two.client.get(f"/v1/jobs/{jobs[1]}/why")["explanation"]
    assert "max_jobs" in why[0]
    two.restart()
    assert submitted(traces / "a") == [jobs[0]]
    assert two.cancel(jobs[2])["state"] == "CANCELLED"
    (traces / "go0").touch()
    two.wait(urgent)
    wait_until(lambda: two.state(jobs[1]) == "RUNNING", "the next runs")
    (traces / "go1").touch()
    assert two.wait(jobs[1])["state"] == "COMPLETE"
    assert len(submitted(traces / "a")) == 3


def test_a_login_heals_at_once(two: Agent, traces: Path) -> None:
    """Until then jobs say what they wait for."""
    (traces / "b" / "login").touch()
    job = two.submit("true", site="b")
    wait_until(lambda: "lwfm site login b" in str(two.statuses(job)), "it asks for a login")
    assert two.client.get("/v1/sites/b")["state"] == "login"
    checks = two.client.post("/v1/sites/b/check", {"pillars": ["auth"]})["checks"]
    assert [(item["ok"], item["message"]) for item in checks] == [(False, "a login is needed: lwfm site login b")]
    assert two.client.post("/v1/sites/b/login", {})["questions"] == [{"prompt": "code", "secret": True}]
    assert two.client.post("/v1/sites/b/login", {"answers": ["sesame"]})["current"] is True
    assert two.wait(job)["state"] == "COMPLETE"


def test_a_site_that_hangs_holds_up_nobody_else(two: Agent, traces: Path) -> None:
    """Neither other sites, nor the API, nor the agent's leaving."""
    (traces / "a" / "hang").touch()
    stuck = [two.submit("true", site="a") for _ in range(40)]
    assert two.wait(two.submit("true", site="b"))["state"] == "COMPLETE"
    assert two.wait(two.submit("true"))["state"] == "COMPLETE"
    check = two.client.post("/v1/sites/a/check", {"pillars": ["run"], "timeout_s": 0.2}, timeout_s=30)["checks"]
    assert check[0]["ok"] is False
    assert "busy" in check[0]["message"] or "not answered" in check[0]["message"]
    assert two.client.post("/v1/sites/b/check", {}, timeout_s=30)["checks"][1]["ok"] is True
    began = time.monotonic()
    two.stop()
    assert time.monotonic() - began < 20
    (traces / "a" / "hang").unlink()
    two.start()
    assert {job["state"] for job in two.wait_all(stuck)} == {"COMPLETE"}
    assert len(submitted(traces / "a")) == 40


def test_each_pillar_is_tried(two: Agent, traces: Path) -> None:
    """And with a job, where that is asked for; nothing is left behind."""
    answer = two.client.post("/v1/sites/b/check", {"run": True})
    assert [(item["pillar"], item["ok"], item["offered"]) for item in answer["checks"]] == [
        ("auth", True, True),
        ("run", True, True),
        ("repo", True, True),
        ("spin", True, False),
        ("run a job", True, True),
    ]
    assert list((traces / "b" / "repository").iterdir()) == []
    (traces / "b" / "down").touch()
    checks = {item["pillar"]: item for item in two.client.post("/v1/sites/b/check", {})["checks"]}
    assert (checks["run"]["ok"], checks["run"]["message"]) == (False, "the site is down")
    assert checks["repo"]["ok"] is True
    with pytest.raises(errors.InvalidRecord, match="pillars"):
        two.client.post("/v1/sites/b/check", {"pillars": ["nonsense"]})
