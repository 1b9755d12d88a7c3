"""Cancelling a job in every state it can be in, once and again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm import errors

from support.agents import Agent, running_agent
from support.waiting import wait_until


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent('[local]\ndriver = "local"\ncores = 1\n') as running:
        yield running


def cancelled(agent: Agent, job: str, reason: str) -> list[str]:
    """Cancel a job three times; the states it went through."""
    for _ in range(3):
        assert agent.cancel(job, reason)["state"] in ("CANCELLED", "FINISHING")
    found = agent.wait(job)
    assert (found["state"], found["reason"]) == ("CANCELLED", reason)
    assert agent.cancel(job, "again")["reason"] == reason
    return agent.states(job)


def test_ready(agent: Agent) -> None:
    handler = agent.on_data({"never": 1}, "true", repeat=2)
    first, second = handler["job_ids"]
    assert cancelled(agent, first, "changed my mind") == ["READY", "CANCELLED"]
    assert agent.handler(handler["handler_id"])["state"] == "waiting"
    assert cancelled(agent, second, "that one too") == ["READY", "CANCELLED"]
    assert agent.handler(handler["handler_id"])["state"] == "unset"


def test_pending_while_it_waits_for_room(agent: Agent) -> None:
    running = agent.submit(["sleep", "600"])
    agent.wait_state(running, "RUNNING")
    waiting = agent.submit(["sleep", "601"], resources={"cores": 1})
    why = agent.client.get(f"/v1/jobs/{waiting}/why")
    assert "waits for room" in why["explanation"][0]
    assert cancelled(agent, waiting, "it took too long") == ["PENDING", "CANCELLED"]
    assert cancelled(agent, running, "free the core") == ["PENDING", "RUNNING", "FINISHING", "CANCELLED"]
    after = agent.submit("true")
    assert agent.wait(after)["state"] == "COMPLETE"


def test_queued_at_the_worker(agent: Agent) -> None:
    """A burst of short jobs makes the agent send more ahead than there is room for."""
    ids = agent.submit_many([{"command": ["true"], "cwd": "/"} for _ in range(300)])
    for job in ids[100:]:
        agent.cancel(job, "enough")
    states = {job["state"] for job in agent.wait_all(ids)}
    assert states <= {"COMPLETE", "CANCELLED"}
    for job in ids:
        seen = agent.states(job)
        assert seen[0] == "PENDING"
        assert seen[-1] in ("COMPLETE", "CANCELLED")
        assert len([state for state in seen if state in ("COMPLETE", "CANCELLED", "FAILED")]) == 1
    status = agent.client.get("/v1/agent")["workers"][0]
    assert (status["cores_used"], status["jobs"]) == (0, 0)


def test_running_with_its_whole_tree(agent: Agent, tmp_path: Path) -> None:
    script = f"setsid sleep 600 & echo $! > {tmp_path}/child; sleep 600"
    job = agent.submit(script, grace_s=0.3)
    written = tmp_path / "child"
    child = int(wait_until(lambda: written.read_text() if written.exists() else "", "the child"))
    assert cancelled(agent, job, "wrong input") == ["PENDING", "RUNNING", "FINISHING", "CANCELLED"]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_running_and_deaf(agent: Agent) -> None:
    job = agent.submit("trap '' TERM; echo ready; while true; do sleep 0.05; done", grace_s=0.2)
    wait_until(lambda: agent.output(job) == b"ready\n", "the job to be deaf")
    cancelled(agent, job, "listen!")
    assert agent.job(job)["signal"] == "SIGKILL"


def test_running_and_ending_well_on_the_signal(agent: Agent) -> None:
    """It was cancelled, whatever its exit code: it did not prove that it did its work."""
    job = agent.submit("trap 'exit 0' TERM; echo ready; while true; do sleep 0.05; done")
    wait_until(lambda: agent.output(job) == b"ready\n", "the job to listen")
    cancelled(agent, job, "enough")


def test_a_cancelled_job_is_not_tried_again(agent: Agent) -> None:
    job = agent.submit("echo ready; sleep 600", retries=3)
    agent.wait_state(job, "RUNNING")
    cancelled(agent, job, "really")
    assert agent.job(job)["attempt"] == 1


def test_ended(agent: Agent) -> None:
    for command, state in (("true", "COMPLETE"), ("exit 1", "FAILED")):
        job = agent.submit(command)
        agent.wait(job)
        before = agent.statuses(job)
        assert agent.cancel(job)["state"] == state
        assert agent.statuses(job) == before


def test_unknown(agent: Agent) -> None:
    with pytest.raises(errors.NotFound):
        agent.cancel("no-such-job")


def test_several_at_once_and_a_whole_workflow(agent: Agent) -> None:
    workflow = agent.workflow()
    running = agent.submit(["sleep", "600"], workflow=workflow)
    waiting = agent.submit(["sleep", "600"], workflow=workflow)
    cleanup = agent.on_job(running, "echo cleaning", states=["CANCELLED"], of=workflow)["job_ids"][0]
    other = agent.submit(["sleep", "600"])
    agent.wait_state(running, "RUNNING")
    body = {"workflow": workflow, "reason": "all of it"}
    assert agent.client.post("/v1/jobs/cancel", body)["cancelled"] == 3
    assert {job["state"] for job in agent.wait_all([running, waiting, cleanup])} == {"CANCELLED"}
    assert [agent.job(job)["reason"] for job in (running, waiting, cleanup)] == ["all of it"] * 3
    assert agent.client.post("/v1/jobs/cancel", body)["cancelled"] == 0
    assert agent.client.post("/v1/jobs/cancel", {"jobs": [other, other, running]})["cancelled"] == 1
    agent.wait(other)
    with pytest.raises(errors.NotFound):
        agent.client.post("/v1/jobs/cancel", {"jobs": [other, "nonsense"]})


def test_a_thousand_that_wait(agent: Agent) -> None:
    blocker = agent.submit(["sleep", "600"])
    agent.wait_state(blocker, "RUNNING")
    workflow = agent.workflow()
    ids = agent.submit_many([{"command": ["true"], "cwd": "/"} for _ in range(1000)], workflow=workflow)
    assert agent.client.post("/v1/jobs/cancel", {"workflow": workflow})["cancelled"] == 1000
    assert {job["state"] for job in agent.wait_all(ids)} == {"CANCELLED"}
    assert agent.client.get("/v1/agent")["workers"][0]["jobs"] == 1
    agent.cancel(blocker)
    agent.wait(blocker)


# ---------------------------------------------------------------------------------------------- jobs of others


def attach(agent: Agent, process: subprocess.Popen[bytes], **definition: object) -> str:
    body = {
        "definition": {"command": ["me"], **definition},
        "pid": process.pid,
        "context": {"cwd": "/", "host": socket.gethostname()},
    }
    job = agent.client.post("/v1/jobs/attach", body)
    assert (job["state"], job["native_status"], job["native_id"]) == ("RUNNING", "attached", str(process.pid))
    return str(job["job_id"])


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def test_an_attached_job_is_interrupted(agent: Agent, process: subprocess.Popen[bytes]) -> None:
    job = attach(agent, process)
    assert agent.cancel(job, "no more")["state"] == "FINISHING"
    assert process.wait(20) == -signal.SIGINT
    found = agent.wait(job)
    assert found["state"] == "CANCELLED"
    assert agent.cancel(job)["state"] == "CANCELLED"


def test_an_attached_job_whose_process_has_just_gone_can_be_cancelled(
    agent: Agent, process: subprocess.Popen[bytes]
) -> None:
    job = attach(agent, process)
    process.kill()
    process.wait()
    assert agent.cancel(job, "too late")["state"] in ("FINISHING", "FAILED")
    assert agent.wait(job)["state"] in ("CANCELLED", "FAILED")


def test_an_attached_job_reports_its_own_end(agent: Agent, process: subprocess.Popen[bytes]) -> None:
    job = attach(agent, process)
    body = {"exit_code": 0, "cpu_seconds": 1.5, "stdout": {"size": 3, "data": "aGkK"}}
    assert agent.client.post(f"/v1/jobs/{job}/finish", body)["state"] == "COMPLETE"
    found = agent.job(job)
    assert (found["exit_code"], found["cpu_seconds"]) == (0, 1.5)
    assert agent.output(job) == b"hi\n"
    with pytest.raises(errors.Conflict):
        agent.client.post(f"/v1/jobs/{job}/finish", body)


def test_attaching_with_a_job_id_can_be_repeated(agent: Agent, process: subprocess.Popen[bytes]) -> None:
    job_id = "00000000-0000-7000-8000-0000000000aa"
    assert attach(agent, process, job_id=job_id) == attach(agent, process, job_id=job_id) == job_id
    assert agent.states(job_id) == ["READY", "RUNNING"]
    agent.client.post(f"/v1/jobs/{job_id}/finish", {"exit_code": 0})
    again = {"definition": {"command": ["me"], "job_id": job_id}, "pid": process.pid}
    assert agent.client.post("/v1/jobs/attach", again)["state"] == "COMPLETE"
    process.kill()
    process.wait()
    assert agent.states(job_id) == ["READY", "RUNNING", "COMPLETE"]
    agent.verify()


def test_attaching_a_process_that_is_not_there(agent: Agent) -> None:
    for pid in (2**22 + 1, -1, 0, 1, "1", None, True):
        with pytest.raises(errors.InvalidRecord, match="process"):
            agent.client.post("/v1/jobs/attach", {"definition": {"command": ["me"]}, "pid": pid})


def test_attaching_a_process_of_another_host(agent: Agent, process: subprocess.Popen[bytes]) -> None:
    """Where several hosts share a home, the same number is another process here, which must not be told to end."""
    body = {"definition": {"command": ["me"]}, "pid": process.pid, "context": {"host": "elsewhere"}}
    with pytest.raises(errors.Conflict, match="follows no script on elsewhere"):
        agent.client.post("/v1/jobs/attach", body)
    host = {"host": socket.gethostname().partition(".")[0]}
    assert agent.client.post("/v1/jobs/attach", {**body, "context": host})["state"] == "RUNNING"


def test_an_attached_process_that_goes_away_silently_has_failed(agent: Agent, process: subprocess.Popen[bytes]) -> None:
    job = attach(agent, process)
    process.kill()
    process.wait()
    found = agent.wait(job)
    assert found["state"] == "FAILED"
    assert str(process.pid) in found["reason"]
