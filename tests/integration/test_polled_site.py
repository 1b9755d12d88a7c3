"""A site that must be asked: its jobs look like local ones, whatever happens to the agent, the site or its answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(params=["in the agent", "in its own process"])
def agent(traces: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent that knows the site ``shell``."""
    support = str(Path(__file__).resolve().parents[1])
    sites = f'[shell]\ndriver = "support.shell_site:ShellSite"\ndirectory = "{traces}"\n'
    if request.param == "in its own process":
        sites += "process = true\n"
    with running_agent(sites=sites, env={"PYTHONPATH": os.pathsep.join([str(LINK), support])}) as running:
        yield running


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
