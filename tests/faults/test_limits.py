"""Limits of the host: descriptors, processes, memory; clocks that jump; processes that are stopped for longer than all patience.

What cannot be done now is refused with its reason or waits; when the cause is gone all goes on by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lwfm.errors import AgentBusy, LwfmError

from support import cluster as bed
from support.agents import Agent, running_agent
from support.allocations import an_allocation
from support.cluster import Cluster
from support.faulty import a_clock, a_group, limited
from support.journals import Journal
from support.peers import Place
from support.waiting import wait_until

cluster = bed.cluster
JSON = dict[str, Any]


def pid_of(agent: Agent) -> int:
    assert agent.process is not None
    return agent.process.pid


def files_limit(pid: int) -> int:
    """The limit on descriptors, which is one on their numbers, that a process has just reached, but for gaps."""
    return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1


def memory_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def troubles(agent: Agent) -> list[str]:
    return [item["about"] for item in agent.client.get("/v1/agent")["troubles"]]


@contextmanager
def callers(agent: Agent, more: int) -> Iterator[None]:
    """Connections that say nothing: as many as take the last descriptor, and ``more``."""
    opened: list[socket.socket] = []
    try:
        while more > 0:
            more -= bool(troubles(agent))
            assert len(opened) < 100
            caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            caller.settimeout(5)
            caller.connect(str(agent.home.socket))
            opened.append(caller)
        yield
    finally:
        for caller in opened:
            caller.close()


def test_the_agent_has_no_descriptors_left(tmp_path: Path) -> None:
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    with running_agent() as agent:
        running = agent.submit(journal.command(f"while [ ! -e {go} ]; do sleep 0.05; done"))
        wait_until(lambda: journal.count("start") == 1, "the job to run", on_timeout=agent.log)
        with limited(pid_of(agent), "files", files_limit(pid_of(agent))):
            with callers(agent, 2):
                fresh = agent.new_client()
                told = fresh.get("/v1/agent")
                assert [item["about"] for item in told["troubles"]] == ["connections"]
                with pytest.raises(AgentBusy, match="no file descriptors left") as refused:
                    fresh.post("/v1/jobs", {"context": {}, "jobs": [{"command": "true"}]})
                assert "ulimit -n" in (refused.value.hint or "")
                done = Place(agent.home.root, "caller").lwfm("submit", "--", "true")
                assert (done.returncode, "no file descriptors left" in done.stderr) == (7, True), done.stderr
                go.touch()  # who was there before is served as ever
                assert agent.wait(running)["state"] == "COMPLETE"
            assert agent.new_client().get("/v1/agent")["pid"] == pid_of(agent)
        wait_until(lambda: not troubles(agent), "the trouble to be over", on_timeout=agent.log)
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        assert agent.log().count("no file descriptors left") < 10, "it is told once, not again and again"


def test_nobody_is_let_in_and_nothing_burns(tmp_path: Path) -> None:
    """With none of the spare descriptors left, the agent neither answers new callers nor turns in circles."""
    with running_agent() as agent:
        agent.worker()
        pid = pid_of(agent)
        with limited(pid, "files", files_limit(pid)), callers(agent, 20):
            before = cpu_seconds(pid)
            time.sleep(1.5)  # what it uses meanwhile is what is measured
            assert cpu_seconds(pid) - before < 0.5
        assert agent.new_client().get("/v1/agent")["pid"] == pid
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_worker_has_no_descriptors_left(tmp_path: Path) -> None:
    """It needs none to start a job and to see how it ended; what was printed is told later, whole."""
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        loop = agent.worker()["pid"]
        taken = set(map(int, os.listdir(f"/proc/{loop}/fd")))
        with limited(loop, "files", next(number for number in range(100) if number not in taken)):
            jobs = agent.submit_many([{"command": journal.command("echo printed"), "cwd": "/"}] * 5)
            wait_until(lambda: journal.count("end") == 5, "the jobs to run", on_timeout=agent.log)
        assert {job["state"] for job in agent.wait_all(jobs)} == {"COMPLETE"}
        assert [agent.output(job) for job in jobs] == [b"printed\n"] * 5
        assert agent.worker()["pid"] == loop


@pytest.mark.root
def test_no_more_processes_can_be_started(tmp_path: Path) -> None:
    """Jobs wait for that, as long as it takes; a worker whose loop dies meanwhile gets another when it can."""
    journal = Journal(tmp_path / "journal")
    with running_agent() as agent:
        agent.wait(agent.submit("true"))
        loop = agent.worker()["pid"]
        keeper = int(Path(f"/proc/{loop}/stat").read_text().rpartition(")")[2].split()[1])
        with a_group("pids", f"lwfm-test-{os.getpid()}", "pids.max", 2, keeper, loop):
            jobs = agent.submit_many([{"command": journal.command(), "cwd": "/"}] * 5)
            trouble = wait_until(lambda: agent.worker().get("trouble"), "the worker's word", on_timeout=agent.log)
            assert trouble == "the node could not start a process: Resource temporarily unavailable"
            group = Path(f"/sys/fs/cgroup/pids/lwfm-test-{os.getpid()}")
            if group.exists():
                (group / "pids.max").write_text("1")
            os.kill(loop, signal.SIGKILL)
            wait_until(lambda: "the loop cannot be started" in agent.log(), "the keeper's word", on_timeout=agent.log)
        assert {job["state"] for job in agent.wait_all(jobs)} == {"COMPLETE"}
        assert agent.worker()["pid"] != loop
        journal.judge([agent.job(job) for job in jobs], {job: agent.statuses(job) for job in jobs})


def test_the_agent_has_no_memory_left() -> None:
    with running_agent() as agent:
        first = agent.submit("true")
        agent.wait(first)
        pid = pid_of(agent)
        large = [{"command": ["true", "x" * 200_000]} for _ in range(300)]
        with limited(pid, "memory", memory_bytes(pid) + (24 << 20)):
            with pytest.raises(LwfmError):
                agent.submit_many(large)
            assert agent.alive
            assert agent.new_client().get("/v1/agent")["pid"] == pid
            assert agent.wait(agent.submit("true"))["state"] == "COMPLETE", "little things go on"
        agent.client.close()
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        agent.verify()
        listed = agent.client.get("/v1/jobs", {"limit": 0})["jobs"]
        assert len(listed) == 3, "what was refused is not there"


def test_the_clock_jumps(tmp_path: Path) -> None:
    """By days, forwards and backwards, while jobs run: none is ended by that, and records keep their order."""
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    clock = a_clock(tmp_path)
    with running_agent(env=clock.env, options=["--idle-exit", "600"]) as agent:
        limit = {"cores": 0, "time_limit_s": 300}
        command = journal.command(f"while [ ! -e {go} ]; do sleep 0.05; done")
        jobs = [agent.submit(command, cwd="/", resources=limit, env={"LD_PRELOAD": ""})]
        for days in (2, -3, 0, 400, -400):
            clock.jump(days * 86400)
            told = agent.client.get("/v1/agent")
            assert told["pid"] == pid_of(agent)
            jobs.append(agent.submit(command, cwd="/", resources=limit, env={"LD_PRELOAD": ""}))
            assert agent.wait(agent.submit("true", env={"LD_PRELOAD": ""}))["state"] == "COMPLETE"
            wait_until(lambda: all(agent.state(job) == "RUNNING" for job in jobs), "all to run", on_timeout=agent.log)
        days_apart = {agent.job(job)["submitted_at"][:10] for job in jobs}
        assert len(days_apart) == 5, "the clock did jump"
        clock.jump(0)
        go.touch()
        ended = agent.wait_all(jobs)
        journal.judge(ended, {job: agent.statuses(job) for job in jobs})
        assert {job["state"] for job in ended} == {"COMPLETE"}
        logged = agent.client.post("/v1/store/check", {})
        assert logged["ok"], logged["problems"]
        assert agent.restart().wait(agent.submit("true"))["state"] == "COMPLETE"
        assert {agent.state(job) for job in jobs} == {"COMPLETE"}


def test_it_is_nice() -> None:
    """Where there are others: the agent, all its threads, its worker, and the jobs there."""
    with running_agent('[local]\ndriver = "local"\nnice = 7\n') as agent:
        job = agent.submit(["nice"])
        assert agent.wait(job)["state"] == "COMPLETE"
        assert agent.output(job) == b"%d\n" % max(7, os.getpriority(os.PRIO_PROCESS, 0))
        pid = pid_of(agent)
        assert min(os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir(f"/proc/{pid}/task")) >= 7
        assert os.getpriority(os.PRIO_PROCESS, agent.worker()["pid"]) >= 7


@pytest.mark.slow
@pytest.mark.slurm
def test_stopped_for_longer_than_all_patience(cluster: Cluster, tmp_path: Path) -> None:
    """SIGSTOP of the agent: nothing is held against its nodes. Of a worker: its node is lost, and what it had is tried again."""
    sites = '[local]\ndriver = "local"\nnode_lost_s = 2\n'
    with an_allocation(cluster, nodes=2, sites=sites) as inside:
        journal, go = Journal(inside.home / "journal"), inside.home / "go"
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(
            4, journal.command(f"while [ ! -e {go} ]; do sleep 0.1; done"), "--retries", "1", "--cwd", "/"
        )
        wait_until(lambda: journal.count("start") == 4, "the jobs to run", timeout_s=60, on_timeout=inside.log)
        stopped = inside.pids(inside.hosts[0], "agent serve")
        with paused(*stopped):
            time.sleep(5)  # more than twice the patience, which is what is tried
        log = inside.home / "agent.log"
        wait_until(lambda: "was stopped, or starved" in log.read_text(), "the agent to notice", on_timeout=inside.log)
        time.sleep(1)  # two rounds of judging nodes
        assert {job["state"] for job in inside.wait_states(jobs, "RUNNING").values()} == {"RUNNING"}
        assert "is lost" not in log.read_text()
        with paused(*inside.pids(inside.hosts[1], "worker --rendezvous")):
            wait_until(lambda: "is lost" in log.read_text(), "the node to be lost", timeout_s=25, on_timeout=inside.log)
        inside.wait_nodes()
        go.touch()
        done = inside.wait_states(jobs, "COMPLETE", "FAILED")
        assert {job["state"] for job in done.values()} == {"COMPLETE"}
        assert sorted({job["attempt"] for job in done.values()}) == [1, 2]
        starts = [(line.job, line.attempt) for line in journal.lines() if line.what == "start"]
        assert len(starts) == len(set(starts)) == 4 + sum(job["attempt"] - 1 for job in done.values())
        assert json.loads(inside.run("store", "check", "--json"))["ok"]
        inside.run("agent", "stop")


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """These processes are stopped until the block ends."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
