"""The agent dies at a named point in the midst of a workflow. After a restart nothing is lost, doubled, run again or wrongly
called COMPLETE: the agent's word is held against a journal that the jobs keep themselves.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Callable, TypeVar

import pytest

from lwfm.client.calls import path_of
from lwfm.errors import AgentUnreachable

from support.agents import TERMINAL, Agent, running_agent
from support.journals import Journal

T = TypeVar("T")
JSON = dict[str, Any]
LEAVES, FLAKY = 6, 4


class Driver:
    """A client that does not give up: when the agent has died, it is started again and the call repeated."""

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

    def submit(self, definitions: list[JSON], workflow: str) -> list[str]:
        """Submit with ids of our own, so that it can be repeated."""
        given = [{"job_id": str(uuid.uuid4()), "cwd": "/", **defn} for defn in definitions]
        return self.do(lambda: self.agent.submit_many(given, workflow=workflow))

    def on(self, kind: str, name: str, **event: Any) -> JSON:
        """Set a handler, unless it was set when the answer was lost."""

        def call() -> JSON:
            listed = self.agent.client.get("/v1/handlers", {"limit": 0})["handlers"]
            known: list[JSON] = [item for item in listed if item["event"]["name"] == name]
            return known[0] if known else self.agent.on(kind, {"name": name, **event}, of=self.workflow)

        return self.do(call)

    workflow = ""

    def new_workflow(self) -> str:
        def call() -> str:
            listed = self.agent.client.get("/v1/workflows")["workflows"]
            return str(listed[0]["workflow_id"]) if listed else self.agent.workflow()

        self.workflow = self.do(call)
        return self.workflow

    def finish(self) -> list[JSON]:
        """Wait until every job has ended but those that wait for data; all jobs."""

        def call() -> list[JSON]:
            while True:
                jobs: list[JSON] = self.agent.client.get("/v1/jobs", {"limit": 0})["jobs"]
                going_on = [job["job_id"] for job in jobs if job["state"] not in TERMINAL]
                if not going_on:
                    return jobs
                self.agent.wait_all(going_on[:20])

        return self.do(call)


def run_workflow(driver: Driver, journal: Journal, tmp: Path) -> dict[str, JSON]:
    """Leaves that write declared files; chains behind them; a fan-in; jobs that need another attempt; one that fails; handlers
    on the files. Returns the handlers by name."""
    work = journal.command
    workflow = driver.new_workflow()
    handlers = {}
    handlers["each file"] = driver.on(
        "data", "each file", match={"declared": True}, repeat=True, defn={"command": work(), "cwd": "/"}
    )
    handlers["three files"] = driver.on(
        "data", "three files", match={"declared": True}, repeat=3, defn={"command": work(), "cwd": "/"}
    )
    leaves = driver.submit(
        [{"command": work(f"echo x > {tmp}/out{n}"), "outputs": [f"{tmp}/out{n}"]} for n in range(LEAVES)], workflow
    )
    flaky_body = '[ "$LWFM_ATTEMPT" -ge 2 ]'
    flaky = driver.submit([{"command": work(flaky_body), "retries": 2} for _ in range(FLAKY)], workflow)
    failing = driver.submit([{"command": work("false")}], workflow)[0]
    chain = []
    for n, leaf in enumerate(leaves):
        first = handlers[f"first {n}"] = driver.on(
            "job", f"first {n}", jobs=[leaf], defn={"command": work(), "cwd": "/"}
        )
        second = handlers[f"second {n}"] = driver.on(
            "job", f"second {n}", jobs=first["job_ids"], defn={"command": work(), "cwd": "/"}
        )
        chain += second["job_ids"]
    for n, job in enumerate(flaky):
        handlers[f"flaky {n}"] = driver.on("job", f"flaky {n}", jobs=[job], defn={"command": work(), "cwd": "/"})
    defn = {"command": work(), "cwd": "/"}
    handlers["all"] = driver.on("job", "all", jobs=chain, defn=defn)
    handlers["any"] = driver.on("job", "any", jobs=chain, mode="any", defn=defn)
    handlers["failed"] = driver.on("job", "failed", jobs=[failing], states=["FAILED"], defn=defn)
    handlers["never"] = driver.on("job", "never", jobs=[failing], defn=defn)
    handlers["never after"] = driver.on("job", "never after", jobs=handlers["never"]["job_ids"], defn=defn)
    return handlers


def judge(agent: Agent, journal: Journal, jobs: list[JSON], handlers: dict[str, JSON]) -> None:
    """All of the promises."""
    journal.judge(jobs, {job["job_id"]: agent.statuses(job["job_id"]) for job in jobs})
    dump = agent.client.get(path_of("workflows", jobs[0]["workflow_id"], "dump"))
    firings = [(firing["handler_id"], firing["trigger_id"]) for firing in dump["firings"]]
    assert len(set(firings)) == len(firings), "a handler fired twice for the same record"
    fired = {name: agent.handler(handler["handler_id"]) for name, handler in handlers.items()}
    expected = dict.fromkeys(handlers, 1)
    expected.update({"each file": LEAVES, "three files": 3, "never": 0, "never after": 0})
    assert {name: handler["fired"] for name, handler in fired.items()} == expected
    assert len(set(fired["each file"]["job_ids"])) == LEAVES
    states = {job["job_id"]: job["state"] for job in jobs}
    assert [states[fired[name]["job_ids"][0]] for name in ("never", "never after")] == ["CANCELLED"] * 2
    count = len(handlers) - 2 + LEAVES + 3 - 2 + LEAVES + FLAKY
    assert sorted(states.values()) == ["CANCELLED"] * 2 + ["COMPLETE"] * count + ["FAILED"]
    files = [sheet["path"] for sheet in dump["data"] if sheet["op"] == "put"]
    assert len(set(files)) == len(files) == LEAVES, "a file was recorded twice, or not at all"
    agent.verify()


POINTS = [
    *(f"writer.before_commit:{count}" for count in (6, 36)),
    *(f"writer.after_commit:{count}" for count in (15, 34)),
    *(f"writer.before_effects:{count}" for count in (10, 30)),
    *(f"dispatcher.claimed:{count}" for count in (1, 4)),
    *(f"dispatcher.sent:{count}" for count in (1, 4)),
    *(f"workers.recorded:{count}" for count in (1, 7)),
    *(f"execution.retry:{count}" for count in (1, 3)),
]


@pytest.mark.parametrize("point", POINTS)
def test_the_agent_dies_at_a_point(point: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with running_agent(first_env={"LWFM_FAULTPOINT": point}) as agent:
        driver = Driver(agent)
        handlers = run_workflow(driver, journal, tmp_path)
        jobs = driver.finish()
        assert driver.deaths == 1, f"{point} was not reached"
        judge(agent, journal, jobs, handlers)


@pytest.mark.parametrize("point", ["instance.placing", "instance.started", "workers.settling", "workers.settled"])
def test_the_agent_dies_again_while_it_starts(point: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        driver = Driver(agent)
        handlers = run_workflow(driver, journal, tmp_path)
        agent.kill()
        process, report = agent.launch(LWFM_FAULTPOINT=point)
        agent.process = process
        assert agent.wait_gone() == -9, f"{point} was not reached: {report}"
        agent.start()
        jobs = driver.finish()
        judge(agent, journal, jobs, handlers)
