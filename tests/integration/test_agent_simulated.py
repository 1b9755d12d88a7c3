"""Many nodes and many jobs: an agent with simulated workers loses nothing, doubles nothing, and leaves no claim behind."""

from __future__ import annotations

import random
import socket
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lwfm.wire import Decoder, encode

from support.agents import Agent, new_home
from support.simulated_workers import SimulatedWorkers, spool_taken
from support.waiting import wait_until

JSON = dict[str, Any]
JOBS = 2000
WORKERS = 16


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent that gets no worker of its own."""
    held = Agent(new_home())
    with spool_taken(held.home.spool):
        try:
            yield held.start()
        finally:
            held.close()


def definitions(seed: int, count: int) -> list[JSON]:
    """Jobs of many kinds."""
    dice = random.Random(seed)
    made: list[JSON] = []
    for number in range(count):
        defn: JSON = {"command": ["true", str(number)], "cwd": "/"}
        if dice.random() < 0.2:
            defn["resources"] = {"cores": dice.randint(0, 1), "memory_bytes": dice.choice([2**20, 2**30])}
        if dice.random() < 0.2:
            defn["meta"] = {"T": round(dice.random(), 3), "kind": dice.choice("abc")}
        if dice.random() < 0.1:
            defn["name"] = f"name {number} äöü"
        if dice.random() < 0.1:
            defn["retries"] = 2
        if dice.random() < 0.1:
            defn["env"] = {"API_TOKEN": "hidden", "OTHER": str(number)}
        made.append(defn)
    return made


def submitted(agent: Agent, workflow: str, made: list[JSON]) -> list[str]:
    """Submit them in calls of some hundred."""
    ids: list[str] = []
    for first in range(0, len(made), 250):
        ids += agent.submit_many(made[first : first + 250], workflow=workflow)
    return ids


def check(agent: Agent, workflow: str, ids: list[str], fired: dict[str, str]) -> None:
    """All are complete, each status of each was recorded once, nothing is left over, and the tables are the log's."""
    count = len(ids) + len(fired)
    assert agent.client.get(f"/v1/workflows/{workflow}")["job_counts"] == {"COMPLETE": count}
    with sqlite3.connect(f"file:{agent.home.database}?mode=ro", uri=True) as store:
        found = store.execute("select job_id, attempt, group_concat(state, ' ') from"
                              " (select * from statuses order by status_key) group by job_id, attempt")  # fmt: skip
        histories = {(job, attempt): states for job, attempt, states in found}
        for job in ids:
            assert histories.pop((job, 1)) == "PENDING RUNNING COMPLETE", job
        for handler, job in fired.items():
            assert histories.pop((job, 1)) == "READY PENDING RUNNING COMPLETE", job
            assert store.execute("select count(*) from firings where handler_id = ?", (handler,)).fetchone() == (1,)
        assert not histories
        hosts = dict(store.execute("select host, count(*) from jobs group by host"))
        assert sum(hosts.values()) == count
        assert set(hosts) <= {f"simulated-{number:04d}" for number in range(1, WORKERS + 1)}
        assert store.execute("select count(*) from local_claims").fetchone() == (0,)
        facts = store.execute("select distinct exit_code, attempt, native_status, stdout_bytes from jobs").fetchall()
        assert facts == [(0, 1, "exit", 0)]
        assert not store.execute("select 1 from jobs where started_at is null or ended_at is null").fetchall()
    verified = agent.client.post("/v1/store/check", {})
    assert verified["ok"], verified
    assert not list(agent.home.sealed.glob("*.json")), "secrets of ended jobs"


def test_every_job_of_many_nodes_is_recorded_once(agent: Agent) -> None:
    workflow = agent.workflow()
    made = definitions(1, JOBS)
    ids = submitted(agent, workflow, made[: JOBS // 2])  # these wait until the workers come
    dice = random.Random(2)
    handlers = [agent.on_job(job, "true", of=workflow) for job in dice.sample(ids, 20)]
    fired = {handler["handler_id"]: handler["job_ids"][0] for handler in handlers}
    simulated = SimulatedWorkers(agent.home.worker_socket, workers=WORKERS, cores=4, jobs=JOBS + len(fired))
    try:
        assert simulated.told()["ready"] == WORKERS
        ids += submitted(agent, workflow, made[JOBS // 2 :])
        told = simulated.told()
    finally:
        simulated.close()
    assert told["ended"] == JOBS + len(fired)
    assert told["repeated"] == 0, "jobs that were sent twice"
    assert told["busy_workers"] > 1
    check(agent, workflow, ids, fired)
    assert "ERROR" not in agent.log()


@pytest.mark.parametrize("seed", [1, 2])
def test_an_agent_killed_in_the_midst_of_many_loses_and_doubles_nothing(agent: Agent, seed: int) -> None:
    workflow = agent.workflow()
    ids = submitted(agent, workflow, definitions(seed, JOBS))
    dice = random.Random(seed)
    simulated = SimulatedWorkers(agent.home.worker_socket, workers=WORKERS, cores=4, jobs=JOBS)

    def complete() -> int:
        with sqlite3.connect(f"file:{agent.home.database}?mode=ro", uri=True) as store:
            found = store.execute("select coalesce(sum(jobs), 0) from job_counts where state = 'COMPLETE'").fetchone()
            return int(found[0])

    try:
        for share in sorted(dice.uniform(0.0, 0.8) for _ in range(3)):
            wait_until(lambda share=share: complete() >= share * JOBS, f"{share:.0%} of the jobs", on_timeout=agent.log)  # type: ignore[misc]
            agent.restart()
        while "done" not in (told := simulated.told()):
            pass
    finally:
        simulated.close()
    assert told["ended"] == JOBS
    check(agent, workflow, ids, {})


def test_what_one_worker_tells_and_cannot_be_recorded_is_no_fault_of_the_others(agent: Agent) -> None:
    """What several tell at the same time is recorded together; one that talks nonsense spoils it for itself alone."""
    workflow = agent.workflow()
    over = threading.Event()
    simulated = SimulatedWorkers(agent.home.worker_socket, workers=WORKERS, cores=4, jobs=JOBS)
    try:
        assert simulated.told()["ready"] == WORKERS
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(agent.home.worker_socket))
            greet(line)
            talker = threading.Thread(target=talk_nonsense, args=(line, over))
            talker.start()
            try:
                ids = submitted(agent, workflow, definitions(3, JOBS))
                told = simulated.told()
            finally:
                over.set()
                talker.join()
            line.setblocking(False)
            with pytest.raises(BlockingIOError):
                line.recv(1)  # nothing of it was acknowledged
    finally:
        simulated.close()
    assert told["repeated"] == 0
    check(agent, workflow, ids, {})
    assert "nonsense" in agent.log()


def greet(line: socket.socket) -> None:
    """Say hello as a worker on a node that has room for nothing."""
    node: JSON = {"cores": [], "memory_bytes": 0, "gpus": []}
    hello = {
        "t": "hello",
        "protocols": [1],
        "worker": "nonsense",
        "pid": 1,
        "host": "nonsense",
        "node": node,
        "jobs": [],
    }
    line.sendall(encode([hello]))
    decoder = Decoder()
    answers: list[JSON] = []
    while not answers:
        answers += decoder.feed(line.recv(65536))
    assert [answer["t"] for answer in answers] == ["welcome"]


def talk_nonsense(line: socket.socket, over: threading.Event) -> None:
    """Tell of what cannot be recorded, again and again."""
    number = 0
    while not over.wait(0.002):
        number += 1
        line.sendall(encode([{"t": "started", "n": number, "job": "nobody", "attempt": "nonsense", "time": "now"}]))
