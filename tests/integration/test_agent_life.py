"""The agent as a process: starting, refusing to start, being idle, stopping, coming back with all it knew."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm import errors

from support.agents import Agent, new_home, running_agent
from support.waiting import wait_until


@pytest.fixture
def stopped() -> Iterator[Agent]:
    """An agent that has not been started."""
    agent = Agent(new_home())
    yield agent
    agent.close()


def refusal(agent: Agent) -> errors.LwfmError:
    """Why the agent does not start."""
    process, report = agent.launch()
    code = process.wait(30)
    assert report is not None, agent.log()
    error = errors.from_json(report["error"])
    assert code == error.exit_code
    assert "Traceback" not in agent.log()
    return error


# ---------------------------------------------------------------------------------------------- starting


def test_what_it_says_of_itself() -> None:
    with running_agent() as agent:
        worker = agent.worker()
        status = agent.client.get("/v1/agent")
        assert agent.process is not None
        assert status["pid"] == agent.process.pid
        assert status["home"] == str(agent.home.root)
        assert status["socket"] == str(agent.home.socket)
        assert status["store"] == str(agent.home.database)
        assert worker["cores"] >= 1
        assert worker["pid"] in agent.processes()
        for path in (agent.home.socket, agent.home.worker_socket, agent.home.database, agent.home.agent_log):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(agent.home.root.stat().st_mode) == 0o700


def test_one_agent_per_home() -> None:
    with running_agent() as agent:
        second = Agent(agent.home.root)
        error = refusal(second)
        assert isinstance(error, errors.StoreLocked)
        assert agent.process is not None
        assert str(agent.process.pid) in error.message
        assert error.hint
        assert agent.client.get("/v1/agent")["pid"] == agent.process.pid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[local]\n\ncores = = 1\n", "line 3"),
        ("x = 1\n", "outside a section"),
        ("[cluster]\nhost = 'a'\n", "names no driver"),
        ("[local]\ncores = 'two'\n", "cores of [local] must be a whole number"),
        ("[local]\ncores = -1\n", "cores of [local] must be a whole number"),
        ("[local]\nmemory_bytes = true\n", "memory_bytes of [local]"),
        ("['a/b']\ndriver = 'local'\n", "a/b"),
        ("\xff\xfe", "utf-8"),
    ],
)
def test_a_sites_file_that_makes_no_sense_is_named(stopped: Agent, text: str, words: str) -> None:
    stopped.home.sites_file.write_bytes(text.encode("latin-1"))
    error = refusal(stopped)
    assert isinstance(error, errors.ConfigError)
    assert words in error.message
    assert str(stopped.home.sites_file) in error.message


def test_a_site_whose_driver_cannot_be_had_harms_no_other(stopped: Agent) -> None:
    stopped.configure(
        "[nowhere]\ndriver = 'no_such_package:Site'\n[odd]\ndriver = 'json:JSONDecoder'\n[unheard]\ndriver = 'unheard'\n"
    )
    stopped.start()
    assert stopped.wait(stopped.submit("true"))["state"] == "COMPLETE"
    sites = {site["name"]: site for site in stopped.client.get("/v1/sites")["sites"]}
    assert {name: site["state"] for name, site in sites.items()} == {
        "local": "ready", "allocation": "ready", "nowhere": "failed", "odd": "failed", "unheard": "failed",
    }  # fmt: skip
    assert "no_such_package" in sites["nowhere"]["reason"]
    with pytest.raises(errors.ConfigError):
        stopped.submit("true", site="nowhere")


@pytest.mark.parametrize("kind", ["newer", "damaged", "directory"])
def test_a_store_it_cannot_use_is_left_alone(stopped: Agent, kind: str) -> None:
    path = stopped.home.database
    if kind == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute("pragma user_version = 999")
        connection.close()
        expected: type[errors.LwfmError] = errors.StoreTooNew
    elif kind == "damaged":
        path.write_bytes(b"this is no database" * 1000)
        expected = errors.StoreCorrupt
    else:
        path.mkdir()
        expected = errors.StoreError
    before = path.read_bytes() if path.is_file() else b""
    error = refusal(stopped)
    assert isinstance(error, expected)
    assert error.hint
    after = path.read_bytes() if path.is_file() else b""
    assert after[100:] == before[100:]  # beyond the header, in which SQLite notes its journal mode


def test_a_home_that_cannot_be_used(stopped: Agent) -> None:
    (stopped.home.root / "sealed").write_text("in the way")
    error = refusal(stopped)
    assert isinstance(error, errors.ConfigError)
    assert "in the way" in error.message


def test_a_home_with_a_long_path() -> None:
    top = new_home()
    agent = Agent(top / ("x" * 120))
    try:
        agent.start()
        assert len(os.fsencode(agent.home.socket)) < 100
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
    finally:
        agent.close()
        top.rmdir()


# ---------------------------------------------------------------------------------------------- leaving


def test_it_leaves_when_idle_and_takes_its_worker_along() -> None:
    with running_agent(options=["--idle-exit", "1"]) as agent:
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        assert agent.wait_gone() == 0
        wait_until(lambda: not agent.processes(), "the worker to leave")
        assert not agent.home.socket.exists()


def test_it_is_not_idle_while_a_job_runs_or_waits(tmp_path: Path) -> None:
    with running_agent('[local]\ndriver = "local"\ncores = 1\n', ["--idle-exit", "1.5"]) as agent:
        line = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; touch {tmp_path}/done.$LWFM_JOB_ID"
        agent.submit_many([{"command": line, "cwd": "/"}] * 2)
        agent.client.close()
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait_gone(3)
        (tmp_path / "go").touch()
        assert agent.wait_gone() == 0
        assert len(list(tmp_path.glob("done.*"))) == 2


def test_it_is_not_idle_while_an_attached_process_runs() -> None:
    with running_agent(options=["--idle-exit", "1.5"]) as agent, subprocess.Popen(["sleep", "600"]) as process:
        agent.client.post("/v1/jobs/attach", {"definition": {"command": "me"}, "pid": process.pid})
        agent.client.close()
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait_gone(3)
        process.kill()
        assert agent.wait_gone() == 0


@pytest.mark.parametrize("how", ["call", "SIGTERM", "SIGINT"])
def test_stopping_lets_running_jobs_go_on(tmp_path: Path, how: str) -> None:
    with running_agent() as agent:
        job = agent.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo done")
        agent.wait_state(job, "RUNNING")
        if how == "call":
            agent.stop()
        else:
            assert agent.kill(getattr(signal, how)) == 0
        assert not agent.home.socket.exists()
        agent.start()
        quick = agent.submit("true")
        assert agent.wait(quick)["state"] == "COMPLETE"  # the worker that stayed takes new jobs
        assert agent.state(job) == "RUNNING"
        (tmp_path / "go").touch()
        assert agent.wait(job)["state"] == "COMPLETE"
        assert agent.output(job) == b"done\n"


def test_stopping_with_kill_ends_running_jobs() -> None:
    with running_agent() as agent:
        jobs = agent.submit_many([{"command": "sleep 600", "cwd": "/", "resources": {"cores": 0}}] * 3)
        for job in jobs:
            agent.wait_state(job, "RUNNING")
        assert agent.stop(kill=True) == 0
        wait_until(lambda: not agent.processes(), "everything to be gone")
        agent.start()
        found = agent.wait_all(jobs)
        assert {job["state"] for job in found} == {"CANCELLED"}
        assert all("stop" in job["reason"] for job in found)


def test_stopping_answers_who_waits() -> None:
    with running_agent() as agent:
        agent.wait_state(agent.submit("sleep 600"), "RUNNING")
        waiting = agent.new_client()
        process = subprocess.Popen(
            ["curl", "-s", "--unix-socket", str(agent.home.socket), "http://x/v1/jobs/last/output?wait_s=30"],
            stdout=subprocess.DEVNULL,
        )
        assert agent.stop(kill=True) == 0
        process.wait(20)
        with pytest.raises(errors.AgentUnreachable):
            waiting.get("/v1/agent")


# ---------------------------------------------------------------------------------------------- coming back


def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    with running_agent('[local]\ndriver = "local"\ncores = 1\n') as agent:
        workflow = agent.workflow("kept")
        done = agent.submit("echo kept; head -c 200000 /dev/zero", workflow=workflow, meta={"k": 1})
        agent.wait(done)
        running = agent.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo late", workflow=workflow)
        agent.wait_state(running, "RUNNING")
        waiting = agent.submit("echo $MY_TOKEN", workflow=workflow, env={"MY_TOKEN": "s3cret"})
        after = agent.on_job([running, waiting], "true", of=workflow)["job_ids"][0]
        on_data = agent.on_data(
            {"x": 1}, 'test "$MY_TOKEN" = s3cret', of=workflow, defn={"env": {"MY_TOKEN": "s3cret"}}
        )
        agent.client.post("/v1/logs", {"lines": [{"message": "remember me", "workflow": workflow}]})
        before = agent.client.get(f"/v1/workflows/{workflow}/dump")
        origin = agent.client.get("/v1/agent")["origin"]
        for stop in (agent.kill, agent.stop):
            stop()
            agent.start()
            assert agent.client.get(f"/v1/workflows/{workflow}/dump") == before
            assert agent.client.get("/v1/agent")["origin"] == origin
            assert agent.output(done).startswith(b"kept\n\0\0")
            assert agent.state(waiting) == "PENDING"
        (tmp_path / "go").touch()
        agent.put({"x": 1}, workflow=workflow)
        jobs = agent.wait_all([running, waiting, after, *on_data["job_ids"]])
        assert {job["state"] for job in jobs} == {"COMPLETE"}
        assert agent.output(waiting) == b"s3cret\n"
        agent.verify()


def test_an_attached_job_is_still_watched_after_a_restart() -> None:
    with (
        running_agent() as agent,
        subprocess.Popen(["sleep", "600"]) as dies,
        subprocess.Popen(["sleep", "600"]) as reports,
    ):
        definition = {"definition": {"command": "me"}}
        gone, kept = (
            agent.client.post("/v1/jobs/attach", {**definition, "pid": process.pid})["job_id"]
            for process in (dies, reports)
        )
        agent.kill()
        dies.kill()
        dies.wait()
        agent.start()
        assert agent.wait(gone)["state"] == "FAILED"
        assert agent.state(kept) == "RUNNING"
        agent.restart()
        assert agent.cancel(kept, "enough")["state"] == "FINISHING"
        assert reports.wait(20) == -signal.SIGINT
        agent.client.post(
            f"/v1/jobs/{kept}/finish", {"exit_code": None, "signal": "SIGINT", "cause": "cancel", "reason": "enough"}
        )
        found = agent.wait(kept)
        assert (found["state"], found["reason"]) == ("CANCELLED", "enough")


def test_a_process_id_that_is_anothers_by_now_is_not_taken_for_the_job(tmp_path: Path) -> None:
    """The agent was away while the process ended; whoever has its id now must be left in peace."""
    with running_agent() as agent, subprocess.Popen(["sleep", "600"]) as process:
        job = agent.client.post("/v1/jobs/attach", {"definition": {"command": "me"}, "pid": process.pid})["job_id"]
        agent.kill()
        with sqlite3.connect(agent.home.database) as connection:  # as if it had started at another time
            connection.execute("update local_attached set start_s = start_s - 100")
        connection.close()
        agent.start()
        assert agent.cancel(job)["state"] in ("FINISHING", "FAILED", "CANCELLED")
        assert agent.wait(job)["state"] in ("FAILED", "CANCELLED")
        assert process.poll() is None
        process.kill()


def test_a_worker_that_dies_at_once_does_not_take_the_agent_along(stopped: Agent) -> None:
    stopped.home.spool.write_text("in the way")
    stopped.start()
    job = stopped.submit("true")
    assert stopped.client.get("/v1/agent")["workers"] == []
    why = stopped.client.get(f"/v1/jobs/{job}/why")["explanation"]
    assert any("no worker" in line for line in why)
    stopped.home.spool.unlink()
    assert stopped.wait(job)["state"] == "COMPLETE"


def test_sockets_left_by_a_dead_agent_are_no_obstacle() -> None:
    with running_agent() as agent:
        agent.kill()
        assert agent.home.socket.exists()
        agent.start()
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"


def test_the_log_has_no_traceback_after_an_ordinary_day() -> None:
    with running_agent() as agent:
        agent.wait_all(agent.submit_many([{"command": "true", "cwd": "/"}] * 50))
        agent.wait_state(agent.submit("sleep 600"), "RUNNING")
        agent.stop(kill=True)
        log = agent.home.agent_log.read_text()
        assert "Traceback" not in log
        assert "ERROR" not in log
        assert json.dumps(log)
