"""Waiting for jobs and following their progress: woken by what happens, for as long as asked and no longer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors

from support.agents import Agent, running_agent

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "go"


def gated(agent: Agent, gate: Path, **keys: Any) -> str:
    """A job that runs until ``gate`` is there."""
    return agent.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", resources={"cores": 0}, **keys)


def wait(agent: Agent, jobs: list[str], mode: str = "all", timeout_s: float = 60) -> JSON:
    answer: JSON = agent.new_client().post("/v1/jobs/wait", {"jobs": jobs, "mode": mode, "timeout_s": timeout_s})
    return answer


def test_a_wait_is_woken(agent: Agent, gate: Path) -> None:
    """Sixty seconds would be too long for this test."""
    jobs = [gated(agent, gate), gated(agent, gate)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, agent, jobs)
        gate.touch()
        answer = waiting.result(30)
    assert answer["done"]
    assert [job["job_id"] for job in answer["jobs"]] == jobs


def test_many_wait_for_many(agent: Agent, gate: Path) -> None:
    jobs = [gated(agent, gate) for _ in range(5)]
    barrier = threading.Barrier(41)

    def one(number: int) -> JSON:
        barrier.wait(20)
        return wait(agent, jobs[number % 5 :], "any" if number % 2 else "all")

    with ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(one, number) for number in range(40)]
        barrier.wait(20)
        gate.touch()
        assert all(found.result(30)["done"] for found in waiting)


def test_any_answers_with_the_first(agent: Agent, gate: Path) -> None:
    slow, quick = gated(agent, gate), agent.submit("true")
    answer = wait(agent, [slow, quick], "any")
    assert answer["done"]
    assert {job["job_id"]: job["state"] for job in answer["jobs"]}[quick] == "COMPLETE"
    assert wait(agent, [slow, quick], "any")["done"]
    assert not wait(agent, [slow, quick], "all", 0.01)["done"]
    gate.touch()
    assert wait(agent, [slow, quick], "all")["done"]


def test_the_time_is_up(agent: Agent, gate: Path) -> None:
    job = gated(agent, gate)
    for timeout_s in (0, 0.05):
        answer = wait(agent, [job], timeout_s=timeout_s)
        assert not answer["done"]
        assert answer["jobs"][0]["state"] in ("PENDING", "RUNNING")
    gate.touch()
    assert wait(agent, [job])["done"]


def test_what_has_ended_is_answered_at_once(agent: Agent) -> None:
    job = agent.submit("true")
    agent.wait(job)
    assert wait(agent, [job, job])["done"]
    assert wait(agent, [])["jobs"] == []


def test_by_prefix_and_last(agent: Agent, gate: Path) -> None:
    job = gated(agent, gate)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait, agent, [name]) for name in (job[:35], "last")]
        gate.touch()
        assert [found.result(30)["jobs"][0]["job_id"] for found in waiting] == [job, job]


@pytest.mark.parametrize("jobs", [["nonsense"], ["0" * 36], "last", [5], None, {"a": 1}])
def test_for_what_does_not_exist(agent: Agent, jobs: object) -> None:
    with pytest.raises(errors.UsageError):
        agent.client.post("/v1/jobs/wait", {"jobs": jobs, "timeout_s": 30})


def test_for_a_job_that_is_triggered_and_retried(agent: Agent, gate: Path) -> None:
    job = gated(agent, gate)
    handler = agent.on_job(job, "[ $LWFM_ATTEMPT = 3 ]", defn={"retries": 5})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, agent, handler["job_ids"])
        gate.touch()
        (found,) = waiting.result(30)["jobs"]
    assert (found["state"], found["attempt"]) == ("COMPLETE", 3)


def test_a_wait_whose_caller_has_gone_harms_nobody(agent: Agent, gate: Path) -> None:
    job = gated(agent, gate)
    client = agent.new_client()
    for _ in range(3):
        with pytest.raises(errors.AgentUnreachable):
            client.post("/v1/jobs/wait", {"jobs": [job], "timeout_s": 60}, timeout_s=0.05)
    client.close()
    gate.touch()
    assert wait(agent, [job])["done"]


# ---------------------------------------------------------------------------------------------- progress


def follow_to_the_end(agent: Agent, query: JSON) -> list[JSON]:
    """Every answer until nothing is active."""
    client, answers = agent.new_client(), []
    since = 0
    while True:
        answer = client.post("/v1/progress", {**query, "since": since, "timeout_s": 60})
        assert answer["revision"] >= since
        since = answer["revision"]
        answers.append(answer)
        if not answer["active"]:
            client.close()
            return answers


@pytest.mark.parametrize("of", ["workflow", "jobs"])
def test_progress_is_followed_to_the_end(agent: Agent, gate: Path, of: str) -> None:
    workflow = agent.workflow()
    jobs = [gated(agent, gate, workflow=workflow) for _ in range(3)]
    jobs += agent.submit_many([{"command": "true"}] * 20 + [{"command": "false"}] * 4, workflow=workflow)
    query: JSON = {"workflow": workflow} if of == "workflow" else {"jobs": jobs}
    with ThreadPoolExecutor(2) as pool:
        following = [pool.submit(follow_to_the_end, agent, query) for _ in range(2)]
        gate.touch()
        for answers in following:
            last = answers.result(60)[-1]
            assert last["counts"] == {"COMPLETE": 23, "FAILED": 4}
            assert (last["total"], last["active"], last["waiting_handlers"]) == (27, 0, 0)
    assert all(sum(answer["counts"].values()) == answer["total"] for answer in following[0].result())


def test_progress_counts_what_handlers_add(agent: Agent, gate: Path) -> None:
    workflow = agent.workflow()
    job = gated(agent, gate, workflow=workflow)
    agent.on_data({"never": 2}, "true", of=workflow)
    after = agent.on_job(job, "true", of=workflow)["job_ids"]
    query = {"workflow": workflow}
    before = agent.client.get("/v1/progress", query)
    assert (before["total"], before["waiting_handlers"]) == (3, 2)
    agent.submit("true", workflow=workflow)
    gate.touch()
    agent.wait_all(after)
    answers = follow_to_the_end(agent, query)
    assert answers[-1]["counts"] == {"COMPLETE": 3, "READY": 1}
    assert answers[-1]["waiting_handlers"] == 1


def test_progress_of_many_groups(agent: Agent) -> None:
    """More groups than are remembered, some of the same jobs; the oldest are forgotten, the counts stay right."""
    jobs = agent.submit_many([{"command": "true"}] * 70)
    for number in range(len(jobs)):
        agent.client.post("/v1/progress", {"jobs": jobs[: number + 1]})
    agent.wait_all(jobs)
    for number in (0, 5, 69):
        answer = agent.client.post("/v1/progress", {"jobs": jobs[: number + 1]})
        assert answer["counts"] == {"COMPLETE": number + 1}


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"jobs": ""},
        {"workflow": "nonsense"},
        {"jobs": "nonsense"},
        {"workflow": "last", "since": "x"},
        {"jobs": [5]},
    ],
)
def test_progress_of_what_makes_no_sense(agent: Agent, query: JSON) -> None:
    agent.workflow()
    for call in (agent.client.get, agent.client.post):
        with pytest.raises(errors.UsageError):
            call("/v1/progress", query)
