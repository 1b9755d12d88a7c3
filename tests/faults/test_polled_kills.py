"""The agent dies while it has to do with a site that must be asked: nothing runs twice, is lost, or is told twice."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, Callable, TypeVar

import pytest

from lwfm.client.calls import path_of
from lwfm.errors import AgentUnreachable

from support.agents import LINK, TERMINAL, Agent, running_agent
from support.waiting import wait_until

T = TypeVar("T")
POINTS = (
    "turns.handed", "turns.handed:2", "turns.submitted", "turns.submitted:2", "turns.refused", "turns.asked", "turns.asked:2",
    "turns.cancelled", "turns.again", "bringing.fetched", "bringing.fetched:3", "writer.after_commit:6",
)  # fmt: skip


class Stubborn:
    """A caller that starts the agent again when it has died."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.deaths = 0

    def do(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except AgentUnreachable:
                self.agent.wait_gone()
                self.deaths += 1
                self.agent.start()

    def submit(self, command: str, **keys: Any) -> str:
        job_id = str(uuid.uuid4())
        self.do(lambda: self.agent.submit(command, job_id=job_id, **keys))
        return job_id


@pytest.mark.parametrize("point", POINTS)
def test_killed_there(point: str, tmp_path: Path) -> None:
    support = str(Path(__file__).resolve().parents[1])
    sites = ""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sites += f'[{name}]\ndriver = "support.shell_site:ShellSite"\ndirectory = "{tmp_path / name}"\npoll_s = 0.05\n'
    (tmp_path / "a" / "refuse").touch()
    journal = tmp_path / "journal"
    note = f"echo $LWFM_JOB_ID $LWFM_ATTEMPT | tee -a {journal}"
    env = {"PYTHONPATH": os.pathsep.join([str(LINK), support])}
    with running_agent(sites=sites, env=env, first_env={"LWFM_FAULTPOINT": point}) as agent:
        caller = Stubborn(agent)
        plain = [caller.submit(note, site="b") for _ in range(3)]
        moved = caller.submit(note, site="a,b")
        flaky = caller.submit(f"{note}; [ $LWFM_ATTEMPT = 2 ]", site="b", retries=2)
        endless = caller.submit(f"{note}; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", site="b")
        caller.do(lambda: agent.wait_state(endless, "RUNNING"))
        caller.do(lambda: agent.cancel(endless))
        everything = [*plain, moved, flaky, endless]
        caller.do(lambda: agent.wait_all(everything))

        def brought() -> bool:
            return caller.do(lambda: all("stdout_bytes" in agent.job(job) for job in everything))

        wait_until(brought, "all outputs are here")
        (tmp_path / "go").touch()
        assert caller.deaths == 1, f"the agent never came to {point}"
        runs = Counter(journal.read_text().splitlines())
        assert runs == Counter([*(f"{job} 1" for job in everything), f"{flaky} 2"])
        for job in everything:
            found = agent.job(job)
            assert found["state"] == ("CANCELLED" if job == endless else "COMPLETE")
            assert found["site"] == "b"
            states = [status["state"] for status in agent.statuses(job)]
            ends = [state for state in states if state in TERMINAL]
            assert len(ends) == 2, "the end, and what it has left"
            assert len(set(ends)) == 1
        outputs = [agent.client.get_bytes(path_of("jobs", job, "output")).body.decode() for job in plain]
        assert outputs == [f"{job} 1\n" for job in plain]
        agent.verify()
