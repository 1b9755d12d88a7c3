"""SIGKILL of the agent at random moments, of its worker, of both; SIGSTOP of the agent. The promises hold throughout."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, TypeVar

import pytest

from lwfm.client.calls import path_of
from lwfm.errors import AgentUnreachable

from support.agents import TERMINAL, Agent, running_agent
from support.journals import Journal
from support.waiting import wait_until

T = TypeVar("T")
JSON = dict[str, Any]
KILLS = 10
PLAIN, HEADS, FAN = 600, 150, 10
"""Plain jobs; jobs with one that follows each; followers that each of the last ones waits for. Together with the jobs that
files trigger: a thousand."""
FILES = 85
RUNNING = 100


def persistently(call: Callable[[], T]) -> T:
    """Make a repeatable call until an agent is there to answer it."""

    def attempt() -> list[T]:
        try:
            return [call()]
        except AgentUnreachable:
            return []

    return wait_until(attempt, "an agent that answers", timeout_s=60)[0]


class Submitter(threading.Thread):
    """Submits a thousand jobs while the agent is killed and comes back."""

    def __init__(self, agent: Agent, journal: Journal, workflow: str, tmp: Path) -> None:
        super().__init__(daemon=True)
        self.agent = Agent(
            agent.home.root
        )  # with connections of its own: those of the other are closed when it is killed
        self.journal, self.workflow, self.tmp = journal, workflow, tmp
        self.handlers: list[JSON] = []
        self.error: list[BaseException] = []

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error.append(error)

    def work(self) -> None:
        defn = {"command": self.journal.command(), "cwd": "/"}
        each = self.on("data", "each file", match={"declared": True}, repeat=True, defn=defn)
        heads = self.submit([dict(defn) for _ in range(HEADS)])
        followers: list[str] = []
        for number in range(PLAIN // 50):
            files = [f"{self.tmp}/out{number}.{n}" for n in range(FILES * 50 // PLAIN + 1)]
            writing = [
                {**defn, "command": self.journal.command(f": > {file}"), "outputs": [file], "retries": 1}
                for file in files
            ]
            self.submit([*writing, *(dict(defn) for _ in range(50 - len(files)))])
            for head in heads[number::12]:
                followers += self.on("job", f"after {head}", jobs=[head], defn=defn)["job_ids"]
            while len(followers) >= FAN:
                group, followers = followers[:FAN], followers[FAN:]
                self.on("job", f"fan {group[0]}", jobs=group, defn=defn)
        self.each = each

    def submit(self, definitions: Sequence[JSON]) -> list[str]:
        given = [{"job_id": str(uuid.uuid4()), **item} for item in definitions]
        return persistently(lambda: self.agent.submit_many(given, workflow=self.workflow))

    def on(self, kind: str, name: str, **event: Any) -> JSON:
        """Set a handler, unless it was set when the answer was lost."""
        tries = 0

        def call() -> JSON:
            nonlocal tries
            tries += 1
            if tries > 1:
                listed = self.agent.client.get("/v1/handlers", {"limit": 0})["handlers"]
                known: list[JSON] = [item for item in listed if item["event"]["name"] == name]
                if known:
                    return known[0]
            return self.agent.on(kind, {"name": name, **event}, of=self.workflow)

        handler = persistently(call)
        self.handlers.append(handler)
        return handler


def all_ended(agent: Agent) -> list[JSON]:
    """Wait until every job has ended; all jobs."""
    while True:
        jobs: list[JSON] = agent.client.get("/v1/jobs", {"limit": 0})["jobs"]
        going_on = [job["job_id"] for job in jobs if job["state"] not in TERMINAL]
        if not going_on:
            return jobs
        agent.wait_all(going_on)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_agent_is_killed_at_random_during_a_thousand_jobs(tmp_path: Path) -> None:
    seed = int(os.environ.get("LWFM_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"LWFM_TEST_SEED={seed}")  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        submitter = Submitter(agent, journal, agent.workflow(), tmp_path)
        submitter.start()
        for threshold in sorted(dice.sample(range(900), KILLS)):
            wait_until(
                lambda due=threshold: journal.count("start") >= due or not submitter.is_alive(),  # type: ignore[misc]
                f"the start of job {threshold}",
                timeout_s=60,
                on_timeout=agent.log,
            )
            time.sleep(dice.random() * 0.02)  # not to wait for anything: to die somewhere else each time
            agent.kill()
            agent.start()
        submitter.join(120)
        assert not submitter.is_alive(), agent.log()
        assert not submitter.error, submitter.error
        jobs = all_ended(agent)
        dump = agent.client.get(path_of("workflows", submitter.workflow, "dump"))
        statuses: dict[str, list[JSON]] = {job["job_id"]: [] for job in jobs}
        for status in dump["statuses"]:
            statuses[status["job_id"]].append(status)
        journal.judge(jobs, statuses)
        assert {job["state"] for job in jobs} == {"COMPLETE"}
        assert {job["attempt"] for job in jobs} == {1}
        firings = [(firing["handler_id"], firing["trigger_id"]) for firing in dump["firings"]]
        assert len(set(firings)) == len(firings)
        files = {sheet["path"] for sheet in dump["data"]}
        assert len(dump["data"]) == len(files) == sum(1 for path in tmp_path.iterdir() if path.name.startswith("out"))
        fired = {handler["handler_id"]: handler["fired"] for handler in dump["handlers"]}
        assert fired.pop(submitter.each["handler_id"]) == len(files)
        assert set(fired.values()) == {1}
        assert len(jobs) == PLAIN + HEADS + len(fired) + len(files) >= 1000
        agent.verify()


def wait_running(agent: Agent, journal: Journal, tmp: Path, count: int = RUNNING) -> list[str]:
    """Start jobs that run until there is a file ``go``, and wait until all of them do."""
    body = f"while [ ! -e {tmp}/go ]; do sleep 0.05; done"
    defn = {"command": journal.command(body), "cwd": "/", "resources": {"cores": 0}}
    ids = agent.submit_many([{**defn, "name": f"r{n}"} for n in range(count)])
    wait_until(lambda: journal.count("start") == count, "all jobs to run", timeout_s=60, on_timeout=agent.log)
    return ids


def worker_pids(agent: Agent) -> tuple[int, int]:
    """The worker's keeper and its loop."""
    loop = agent.worker()["pid"]
    (keeper,) = [pid for pid, words in agent.processes().items() if " worker --connect" in words and pid != loop]
    return keeper, loop


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["loop", "keeper", "keeper and loop", "agent and loop", "all"])
def test_the_worker_is_killed_while_jobs_run(victims: str, tmp_path: Path) -> None:
    """What can be known of the jobs is: at least that none is called COMPLETE that is not, and none is run twice."""
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        ids = wait_running(agent, journal, tmp_path)
        keeper, loop = worker_pids(agent)
        if "agent" in victims or victims == "all":
            agent.kill()
        if "keeper" in victims or victims == "all":
            os.kill(keeper, signal.SIGKILL)
        if victims != "keeper":
            os.kill(loop, signal.SIGKILL)
        if not agent.alive:
            agent.start()
        wait_until(lambda: victims == "keeper" or agent.worker()["pid"] != loop, "another worker", on_timeout=agent.log)
        more = agent.submit_many([{"command": journal.command(), "cwd": "/"} for _ in range(5)])
        (tmp_path / "go").touch()
        jobs = agent.wait_all([*ids, *more])
        journal.judge(jobs, {job: agent.statuses(job) for job in [*ids, *more]})
        states = {job["job_id"]: job["state"] for job in jobs}
        assert {states[job] for job in more} == {"COMPLETE"}
        assert {states[job] for job in ids} <= {"COMPLETE", "FAILED"}
        if victims in ("loop", "keeper", "agent and loop"):
            assert set(states.values()) == {"COMPLETE"}, "the keeper, or the loop, could know how they ended"
        for job in jobs:
            if job["state"] == "FAILED":
                assert job["native_status"] == "lost"
                assert "UNKNOWN" in agent.states(job["job_id"])
        assert journal.count("start") == len(jobs)
        agent.verify()


def test_a_lost_job_is_tried_again_when_that_was_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    body = f"[ $LWFM_ATTEMPT -gt 1 ] || while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    with running_agent() as agent:
        job = agent.submit(journal.command(body), retries=1)
        once = agent.submit(journal.command(body))
        wait_until(lambda: journal.count("start") == 2, "the jobs to run", on_timeout=agent.log)
        for pid in worker_pids(agent):
            os.kill(pid, signal.SIGKILL)
        first = [line.pid for line in journal.lines()]
        for pid in first:  # the jobs die with their node's worker
            os.killpg(pid, signal.SIGKILL)
        found = agent.wait(job)
        assert (found["state"], found["attempt"]) == ("COMPLETE", 2)
        (end,) = [status["ended_attempt"] for status in agent.statuses(job) if "ended_attempt" in status]
        assert end["native_status"] == "lost"
        found = agent.wait(once)
        assert (found["state"], found["native_status"]) == ("FAILED", "lost")
        assert agent.states(once)[-2:] == ["UNKNOWN", "FAILED"]
        journal.judge([agent.job(job), found], {name: agent.statuses(name) for name in (job, once)})


def test_a_worker_whose_spool_is_gone_is_given_up(tmp_path: Path) -> None:
    """The claims of a worker that will not come back are settled, and its node is not counted any more."""
    journal = Journal(tmp_path / "journal")
    with running_agent(options=["--idle-exit", "1"]) as agent:
        ids = wait_running(agent, journal, tmp_path, 5)
        old = agent.worker()["worker_id"]
        for pid in worker_pids(agent):
            os.kill(pid, signal.SIGKILL)
        spool = agent.home.spool
        spool.rename(spool.with_name("gone"))
        jobs = agent.wait_all(ids)
        assert {(job["state"], job["native_status"]) for job in jobs} == {("FAILED", "lost")}
        assert [node["worker_id"] for node in agent.client.get("/v1/agent")["workers"]] != [old]
        assert len(agent.client.get("/v1/agent")["workers"]) == 1
        (tmp_path / "go").touch()
        assert agent.wait_gone() == 0  # nothing is thought to be with the old worker any more: it leaves when idle


def test_the_agent_is_stopped_for_two_seconds(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        ids = wait_running(agent, journal, tmp_path, 20)
        handlers = [agent.on_job(job, journal.command())["job_ids"][0] for job in ids]
        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        wait_until(lambda: journal.count("end") == 20, "the jobs to end without the agent")
        time.sleep(2)
        agent.process.send_signal(signal.SIGCONT)
        jobs = agent.wait_all([*ids, *handlers])
        journal.judge(jobs, {job["job_id"]: agent.statuses(job["job_id"]) for job in jobs})
        assert {job["state"] for job in jobs} == {"COMPLETE"}
        agent.verify()


def test_what_runs_while_no_agent_does_is_known_afterwards(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        running = wait_running(agent, journal, tmp_path, 10)
        failing = agent.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo late; exit 4")
        agent.wait_state(failing, "RUNNING")
        after = agent.on_job(running, journal.command())["job_ids"][0]
        agent.kill()
        (tmp_path / "go").touch()
        wait_until(lambda: journal.count("end") == 10, "the jobs to end without an agent")
        agent.start()
        assert agent.wait(after)["state"] == "COMPLETE"
        assert {job["state"] for job in agent.wait_all(running)} == {"COMPLETE"}
        assert agent.wait(failing)["exit_code"] == 4
        assert agent.output(failing) == b"late\n"
