"""An agent whose store holds what other instances have recorded: it shows that, and neither runs it nor waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lwfm.client.calls import path_of
from lwfm.errors import Conflict, NotFound
from lwfm.ids import new_id
from lwfm.store import Store

from support.agents import Agent, environment, running_agent
from support.foreign import Elsewhere
from support.waiting import wait_until

JSON = dict[str, Any]


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


def bring(agent: Agent, *instances: Elsewhere) -> None:
    """Bring what is new to the store, while no agent has it."""
    agent.stop()
    store = Store.open(agent.home.database, host="test", user="test", home=str(agent.home.root))
    for instance in instances:
        instance.bring(store)
    store.close()
    agent.start()


def lwfm(agent: Agent, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lwfm", *words], env=environment(LWFM_HOME=str(agent.home.root)), text=True,
        capture_output=True, check=False, timeout=120, cwd="/",
    )  # fmt: skip


def listed(agent: Agent, *words: str) -> list[JSON]:
    found: list[JSON] = json.loads(lwfm(agent, *words, "--json").stdout)
    return found


def test_they_are_shown_with_where_they_come_from(agent: Agent) -> None:
    there = Elsewhere("c1.example.org")
    far = there.workflow("far")
    job = there.job("simulate", "RUNNING", workflow_id=far)
    there.put("/scratch/out", sha256="a" * 64, job_id=job, properties={"kind": "out"})
    there.log("half way", job_id=job)
    there.on_jobs(job)
    mine = agent.submit("true")
    agent.wait(mine)
    assert "ORIGIN" not in lwfm(agent, "job", "list").stdout
    bring(agent, there)
    for words in (
        ["job", "list"],
        ["workflow", "list"],
        ["find", "kind=out"],
        ["handler", "list"],
        ["search", "simulate"],
    ):
        title, *rows = lwfm(agent, *words).stdout.splitlines()
        assert "ORIGIN" in title, words
        assert any(" c1 " in row for row in rows), words
    assert "  c1  " in lwfm(agent, "log").stdout
    shown = lwfm(agent, "job", "show", job).stdout
    assert "origin     c1\n" in shown
    assert "(this instance)" in lwfm(agent, "job", "show", mine).stdout
    assert "elsewhere  1 RUNNING" in lwfm(agent, "workflow", "show", far).stdout
    assert "simulate  RUNNING  on c1" in lwfm(agent, "lineage", "/scratch/out").stdout
    why = lwfm(agent, "job", "why", job).stdout
    assert f"belongs to the instance on c1; its last record here is of {there.records[-1].wall_utc}" in why
    for origin in ("c1", "c1.example.org", there.origin[:6]):
        assert {row["job_id"] for row in listed(agent, "job", "list", "--origin", origin)} >= {job}
        assert mine not in {row["job_id"] for row in listed(agent, "job", "list", "--origin", origin)}
    assert [row["job_id"] for row in listed(agent, "job", "list", "--origin", "here")] == [mine]
    assert listed(agent, "workflow", "list", "--origin", "here") == []
    unknown = lwfm(agent, "find", "--origin", "nowhere")
    assert unknown.returncode == 3
    assert "known are: here, c1" in unknown.stderr
    agent.verify()


def test_why_they_wait_as_far_as_is_known(agent: Agent) -> None:
    there = Elsewhere("c1")
    cause = there.job("simulate")
    _, ready = there.on_jobs(cause)
    body = {"state": "READY", "site": "local", "definition": {"command": "x"}, "handler_id": new_id()}
    early = there.record("job", body)  # its handler is recorded after it, and has not come yet
    bring(agent, there)
    mine = agent.on_job(cause, "true")["job_ids"][0]

    def told(job: str) -> JSON:
        answer: JSON = agent.client.get(path_of("jobs", job, "why"))
        return answer

    for job in (cause, ready, early):
        answer = told(job)
        assert (answer["elsewhere"], answer["known_at"]) == ("c1", there.records[-1].wall_utc)
        assert "next sync" in answer["explanation"][1]
        assert not any("cores in use" in line or "is about to" in line for line in answer["explanation"])
    assert f"waits for its trigger (handler {body['handler_id']})" in told(early)["explanation"]
    for job in (ready, mine):
        assert any(f"{cause} (PENDING on c1)" in line for line in told(job)["explanation"])
    assert "elsewhere" not in told(mine)


def test_they_are_neither_run_nor_counted_nor_ended(agent: Agent) -> None:
    there, flow = Elsewhere("c1"), agent.workflow()
    jobs = [there.job("touch /nowhere", state, workflow_id=flow) for state in (None, "RUNNING", "FINISHING", "UNKNOWN")]
    handler, ready = there.on_data({"k": 1}, workflow=flow)
    bring(agent, there)
    agent.worker()
    assert agent.client.get("/v1/agent")["jobs"] == {}
    mine = agent.submit("sleep 1000", workflow=flow)
    agent.wait_state(mine, "RUNNING")
    agent.put({"k": 1}, workflow=flow)
    agent.restart()
    agent.worker()
    assert agent.client.get("/v1/agent")["jobs"] == {"RUNNING": 1}
    for job in (*jobs[:2], ready):
        with pytest.raises(Conflict, match="belongs to the instance on c1"):
            agent.cancel(job)
        with pytest.raises(Conflict, match="belongs to the instance on c1"):
            agent.client.post("/v1/jobs/cancel", {"jobs": [mine, job]})
        with pytest.raises(Conflict, match="belongs to the instance on c1"):
            agent.emit(job, "COMPLETE")
        with pytest.raises(Conflict, match="belongs to the instance on c1"):
            agent.client.post(path_of("jobs", job, "finish"), {"exit_code": 0})
    with pytest.raises(Conflict, match="belongs to the instance on c1"):
        agent.client.delete(path_of("handlers", handler))
    assert agent.state(mine) == "RUNNING"
    answer = agent.client.post("/v1/jobs/cancel", {"workflow": flow})
    assert answer == {"cancelled": 1, "elsewhere": {"c1": 5}}
    assert agent.wait(mine)["state"] == "CANCELLED"
    assert [agent.state(job) for job in jobs] == ["PENDING", "RUNNING", "FINISHING", "UNKNOWN"]
    assert agent.client.post(path_of("workflows", flow, "close"), {})["unset"] == []
    assert (agent.handler(handler)["state"], agent.state(ready)) == ("waiting", "READY")
    agent.verify()


def test_nothing_waits_for_them_but_who_asks_for_it(agent: Agent) -> None:
    there, flow = Elsewhere("c1"), agent.workflow()
    job = there.job("x", "RUNNING", workflow_id=flow)
    bring(agent, there)
    progress = agent.client.get("/v1/progress", {"workflow": flow})
    assert (progress["active"], progress["counts"]) == (0, {})
    followed = agent.client.post("/v1/progress", {"jobs": [job]})
    assert (followed["active"], followed["counts"]) == (1, {"RUNNING": 1})
    assert agent.client.post("/v1/jobs/wait", {"jobs": [job], "timeout_s": 0.1})["done"] is False
    there.status(job, "COMPLETE")
    bring(agent, there)
    assert agent.client.post("/v1/jobs/wait", {"jobs": [job], "timeout_s": 5})["done"] is True


def test_a_run_ends_although_jobs_elsewhere_have_not(agent: Agent, tmp_path: Any) -> None:
    """Neither those of its workflow, nor one that a handler of it waits for; and it is not theirs that it resumes."""
    there = Elsewhere("c1")
    far = there.job("x", "RUNNING")
    flow = agent.workflow("study")
    there.job("y", "FAILED", workflow_id=flow)
    there.job("y", "RUNNING", workflow_id=flow)
    script = tmp_path / "study.py"
    script.write_text(
        "from lwfm import JobDefn, JobEvent, LwfManager\n"
        "lwf = LwfManager()\n"
        "lwf.get_site('local').run.submit('true')\n"
        f"lwf.set_event(JobEvent('{far}', 'COMPLETE', JobDefn('true')))\n"
    )
    there.job("script", "RUNNING", workflow_id=flow, definition={"meta": {"script": str(script)}})
    bring(agent, there)
    done = lwfm(agent, "run", "--workflow", "study", "--resume", "--json", str(script))
    assert done.returncode == 0, done.stderr
    assert "there is no earlier run of this script" in done.stderr
    summary = json.loads(done.stdout)
    assert sorted(job["state"] for job in summary["jobs"]) == ["COMPLETE", "COMPLETE", "READY"]
    again = lwfm(agent, "run", "--workflow", "study", "--resume", "--json", str(script))
    assert again.returncode == 0, again.stderr
    assert "there is no earlier run" not in again.stderr


def test_what_they_printed_is_not_waited_for(agent: Agent) -> None:
    there = Elsewhere("c1")
    running, silent, ended = there.job("x", "RUNNING", site="elsewhere"), there.job("x", "COMPLETE"), there.job("x")
    there.status(ended, "COMPLETE", stdout={"size": 5, "sha256": "a" * 64}, stdout_bytes=5)
    bring(agent, there)
    for job in (running, ended):
        with pytest.raises(NotFound, match="belongs to the instance on c1") as told:
            agent.output(job, wait_s=30)
        assert told.value.hint is not None
        assert "lwfm sync pull c1 --outputs" in told.value.hint
        assert lwfm(agent, "job", "output", "--follow", job).returncode == 3
    assert lwfm(agent, "job", "output", "--follow", "--attempt", "7", running).returncode == 3
    assert agent.output(silent) == b""


def test_an_agent_is_idle_all_the_same(agent: Agent) -> None:
    there = Elsewhere()
    for state in (None, "RUNNING"):
        there.job("x", state)
    bring(agent, there)
    agent.stop()
    agent.options = ["--idle-exit", "0.2"]
    agent.start()
    wait_until(lambda: not agent.alive, "the agent to leave", on_timeout=agent.log)
    agent.wait_gone()
