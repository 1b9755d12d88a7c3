"""Killing the worker: every job still ends once, is started once, and its end is the truth or said to be unknown."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from support.fake_agent import FakeAgent, WorkerProcess, alive, run_message
from support.waiting import wait_until
from support.worker_fixtures import StartWorker, agent, place, start_worker

__all__ = ["agent", "place", "start_worker"]


def kill_loop(worker: WorkerProcess, agent: FakeAgent) -> None:
    """SIGKILL the loop, and wait until the next one has greeted."""
    loop = worker.loop_pid(agent)
    os.kill(loop, signal.SIGKILL)
    agent.wait(lambda: agent.hellos[-1]["pid"] != loop and agent.connected, "the next loop")


def starts(place: Path) -> list[str]:
    """The lines the jobs wrote when they ran."""
    journal = place / "ran"
    return journal.read_text().split() if journal.exists() else []


def counted(place: Path, name: str, then: str) -> str:
    """A shell line that leaves a trace of every time it is started, then goes on."""
    return f"echo {name} >> {place}/ran; {then}"


def test_running_jobs_keep_their_exit_codes_when_the_loop_is_killed(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    worker = start_worker()
    agent.wait_connected()
    hold = place / "hold"
    hold.touch()
    wait_for = f"while [ -e {hold} ]; do sleep 0.02; done"
    keys = [
        agent.run(f"j{n}", shell=counted(place, f"j{n}", f"{wait_for}; echo out{n}; exit {n}"), cores=0)
        for n in range(50)
    ]
    agent.wait(lambda: len(agent.started) == 50, "50 jobs to run")
    kill_loop(worker, agent)
    assert sorted(job[0] for job in agent.hellos[-1]["jobs"]) == sorted(key[0] for key in keys)
    kill_loop(worker, agent)
    hold.unlink()
    agent.wait(lambda: len(agent.ended) == 50, "50 ends", 60)
    for n, key in enumerate(keys):
        ended = agent.ended[key]
        assert (ended["cause"], ended["exit_code"]) == ("exit", n)
        assert ended["cpu_seconds"] > 0
        assert ended["started"] == agent.started[key]["time"]
        assert ended["stdout"]["size"] == len(f"out{n}\n")
    assert sorted(starts(place)) == sorted(key[0] for key in keys)
    assert not agent.duplicates
    # And the next loop works like any other.
    assert agent.wait_ended(agent.run("after", "sh", "-c", "exit 9"))["exit_code"] == 9


def test_jobs_that_end_while_there_is_no_loop(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker()
    agent.wait_connected()
    keys = [agent.run(f"j{n}", shell=f"sleep 0.3; kill -{n} $$", cores=0) for n in (9, 11, 15)]
    agent.wait(lambda: len(agent.started) == 3, "the jobs to run")
    loop = worker.loop_pid(agent)
    os.kill(worker.keeper, signal.SIGSTOP)  # so that no new loop comes before they have ended
    os.kill(loop, signal.SIGKILL)
    pids = [agent.started[key]["pid"] for key in keys]
    wait_until(lambda: not any(alive(pid) for pid in pids), "the jobs to end")
    os.kill(worker.keeper, signal.SIGCONT)
    agent.wait(lambda: len(agent.ended) == 3, "the ends")
    assert [agent.ended[key]["signal"] for key in keys] == ["SIGKILL", "SIGSEGV", "SIGTERM"]
    assert not agent.duplicates


def test_adopted_jobs_are_watched_and_stopped(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker()
    agent.wait_connected()
    eat = f"{sys.executable} -c 'import time; x = bytearray(50_000_000); time.sleep(1000)'"
    limited = agent.run("limited", "sleep", "1000", cores=0, time_limit_s=1.5)
    cancelled = agent.run("cancelled", shell="(setsid sleep 1000 &) ; sleep 1000", cores=0)
    watched = agent.run("watched", shell=f"{eat} & wait", cores=0)
    greedy = agent.run(
        "greedy",
        shell=f"while ! [ -e {place}/go ]; do sleep 0.05; done; {eat} & wait",
        cores=0,
        memory_bytes=30_000_000,
    )
    agent.wait(lambda: len(agent.started) == 4, "the jobs to run")
    kill_loop(worker, agent)
    assert agent.wait_ended(limited)["cause"] == "time_limit"
    agent.send({"t": "cancel", "job": "cancelled", "attempt": 1, "reason": "enough"})
    ended = agent.wait_ended(cancelled)
    assert (ended["cause"], ended["reason"], ended["signal"]) == ("cancel", "enough", "SIGTERM"), worker.log()
    (place / "go").touch()
    assert agent.wait_ended(greedy)["cause"] == "memory_limit"
    agent.send({"t": "cancel", "job": "watched", "attempt": 1})
    assert agent.wait_ended(watched)["peak_rss_bytes"] > 50_000_000


def test_a_cancel_goes_on_in_the_next_loop(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker()
    agent.wait_connected()
    key = agent.run("j", shell='trap "" TERM; while :; do sleep 0.05; done')
    agent.wait_started(key)
    agent.send({"t": "cancel", "job": "j", "attempt": 1, "reason": "enough", "grace_s": 1000}, {"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the cancel to have been heard")
    kill_loop(worker, agent)
    ended = agent.wait_ended(key)  # after the job's own time of grace
    assert (ended["cause"], ended["reason"], ended["signal"]) == ("cancel", "enough", "SIGKILL")


@pytest.mark.parametrize("seed", range(5))
def test_loop_killed_at_random(seed: int, agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    chance = random.Random(seed)
    worker = start_worker("--cores", "4")
    agent.wait_connected()
    messages = []
    for n in range(300):
        then = f"exit {n % 100}" if n % 2 else f"sleep 0.0{n % 8}; kill -{9 if n % 4 else 15} $$"
        messages.append(run_message(f"j{n}", shell=counted(place, f"j{n}", then)))
    agent.send(*messages)
    for _ in range(4):  # the fifth within ten seconds would be one too many: see the test below
        target = len(agent.ended) + chance.randrange(1, 50)
        agent.wait(lambda t=target: len(agent.ended) >= min(t, 300), "some more ends")  # type: ignore[misc]
        time.sleep(chance.random() * 0.01)  # at any moment within a job's life
        if chance.random() < 0.3:
            agent.cut()
            agent.wait_connected()
        kill_loop(worker, agent)
        # A job that the worker does not name is not with it: as an agent does, send it again.
        named = {job[0] for job in agent.hellos[-1]["jobs"]}
        missing = [m for m in messages if m["job"] not in named and (m["job"], 1) not in agent.ended]
        if missing:
            agent.send(*missing)
    agent.wait(lambda: len(agent.ended) == 300, "300 ends", 60)
    assert not agent.duplicates
    assert sorted(starts(place)) == sorted(message["job"] for message in messages)
    for n in range(300):
        ended = agent.ended[f"j{n}", 1]
        assert ended["cause"] == "exit", f"{ended}\n{worker.log()}"
        if n % 2:
            assert ended["exit_code"] == n % 100
        else:
            assert ended["signal"] == ("SIGKILL" if n % 4 else "SIGTERM")


def test_connection_cut_at_random(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    chance = random.Random(7)
    start_worker("--cores", "4")
    agent.wait_connected()
    messages = [run_message(f"j{n}", shell=counted(place, f"j{n}", f"exit {n % 50}")) for n in range(300)]
    for begin in range(0, 300, 20):
        agent.send(*messages[begin : begin + 20])
        if chance.random() < 0.7:
            agent.cut()
            hellos = len(agent.hellos)
            agent.wait(lambda h=hellos: len(agent.hellos) > h and agent.connected, "the worker")  # type: ignore[misc]
        named = {job[0] for job in agent.hellos[-1]["jobs"]}
        agent.send(*[m for m in messages[: begin + 20] if m["job"] not in named and (m["job"], 1) not in agent.ended])
    agent.wait(lambda: len(agent.ended) == 300, "300 ends", 60)
    assert not agent.duplicates
    assert sorted(starts(place)) == sorted(message["job"] for message in messages)
    assert all(agent.ended[f"j{n}", 1]["exit_code"] == n % 50 for n in range(300))


def test_keeper_and_loop_killed(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker("--cores", "1")
    agent.wait_connected()
    gone = agent.run("gone", shell=counted(place, "gone", "sleep 0.5; exit 3"), cores=0)
    stays = agent.run(
        "stays", shell=counted(place, "stays", f"while ! [ -e {place}/go ]; do sleep 0.05; done"), cores=0
    )
    stopped = agent.run("stopped", "sleep", "1000", cores=0)
    holds = agent.run("holds", shell=f"while ! [ -e {place}/go ]; do sleep 0.05; done", cores=1)
    waits = agent.run("waits", shell=counted(place, "waits", "exit 6"))
    agent.wait(lambda: len(agent.started) == 4, "the jobs to run")
    worker.kill_all(agent)
    pid = agent.started[gone]["pid"]
    wait_until(lambda: not alive(pid), "the job to end alone")
    start_worker("--cores", "1")
    ended = agent.wait_ended(gone)
    assert (ended["cause"], ended["exit_code"]) == ("lost", None)
    assert "killed" in ended["reason"]
    agent.wait(lambda: len(agent.hellos) == 2, "the next worker")
    states = {job: state for job, _, state in agent.hellos[-1]["jobs"]}
    assert states["stays"] == states["stopped"] == "running"
    agent.send({"t": "cancel", "job": "stopped", "attempt": 1, "reason": "enough"})
    assert agent.wait_ended(stopped)["cause"] == "cancel"
    assert waits not in agent.started  # its core is still taken by a job of the first worker
    (place / "go").touch()
    assert agent.wait_ended(stays)["cause"] == "lost"
    assert agent.wait_ended(holds)["cause"] == "lost"
    assert agent.wait_ended(waits)["exit_code"] == 6
    assert sorted(starts(place)) == ["gone", "stays", "waits"]
    assert not agent.duplicates


def test_keeper_killed(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker()
    agent.wait_connected()
    hold = f"while ! [ -e {place}/go ]; do sleep 0.05; done; exit 8"
    adopted = agent.run("adopted", shell=hold, cores=0)
    agent.wait_started(adopted)
    kill_loop(worker, agent)
    own = agent.run("own", shell=hold, cores=0)
    agent.wait_started(own)
    loop = worker.loop_pid(agent)
    worker.process.kill()
    worker.process.wait(10)
    wait_until(lambda: "the keeper was killed; going on without" in worker.log(), "the loop to notice")
    assert alive(loop)
    second = start_worker()
    assert second.wait() == 0  # the loop still has the spool
    (place / "go").touch()
    assert agent.wait_ended(own)["exit_code"] == 8
    assert agent.wait_ended(adopted)["cause"] == "lost"
    assert agent.wait_ended(agent.run("after", "sh", "-c", "exit 2"))["exit_code"] == 2
    assert len(agent.hellos) == 2


def test_a_loop_that_does_not_stay_alive(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker()
    for n in range(1, 6):
        agent.wait(lambda n=n: len(agent.hellos) == n and agent.connected, "a loop")  # type: ignore[misc]
        os.kill(agent.hellos[-1]["pid"], signal.SIGKILL)
    assert worker.wait() == 1
    assert "giving up" in worker.log()


def test_torn_journal(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker("--cores", "1")
    agent.wait_connected()
    agent.wait_started(agent.run("runs", "sleep", "1000"))
    queued = agent.run("waits", "sh", "-c", "exit 3")
    agent.send({"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the job to be taken")
    worker.kill_all(agent)
    os.kill(agent.started["runs", 1]["pid"], signal.SIGKILL)
    journal = place / "spool" / "journal"
    with journal.open("ab") as target:
        target.write(b'not a line\n{"t":"unheard of"}\n{"t":"ended","n":999,"jo')
    start_worker("--cores", "1")
    assert agent.wait_ended(queued)["exit_code"] == 3
    assert agent.wait_ended(("runs", 1))["cause"] == "lost"


def test_another_boot(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker("--cores", "1")
    agent.wait_connected()
    runs = agent.run("runs", "sleep", "1000")
    pid = agent.wait_started(runs)["pid"]
    agent.run("waits", "touch", f"{place}/ran-twice")
    agent.send({"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the job to be taken")
    worker.kill_all(agent)
    journal = place / "spool" / "journal"
    journal.write_text(journal.read_text().replace(agent.hellos[0]["boot_id"], "another-boot"))
    start_worker("--cores", "1")
    ended = agent.wait_ended(runs)
    assert ended["cause"] == "lost"
    assert "restarted" in ended["reason"]
    assert alive(pid)  # by its number alone no process is taken for a job's
    assert agent.hellos[-1]["worker"] != agent.hellos[0]["worker"]
    assert [job[0] for job in agent.hellos[-1]["jobs"]] == ["runs"]
    assert not (place / "ran-twice").exists()


def test_full_disk(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker("--cores", "1")
    agent.wait_connected()
    first = agent.run("first", shell=f"while ! [ -e {place}/go ]; do sleep 0.05; done; echo out; exit 3")
    agent.wait_started(first)
    loop = worker.loop_pid(agent)
    size = (place / "spool" / "journal").stat().st_size
    _, hard = resource.prlimit(loop, resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
    second = agent.run("second", shell=f"touch {place}/second; exit 4")
    wait_until(lambda: "no job is started until" in worker.log(), "the worker to notice")
    (place / "go").touch()
    pid = agent.started[first]["pid"]
    wait_until(lambda: not alive(pid), "the first job to end")
    agent.send({"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the worker to answer")
    assert first not in agent.ended
    assert not (place / "second").exists()
    resource.prlimit(loop, resource.RLIMIT_FSIZE, (hard, hard))
    assert agent.wait_ended(first)["exit_code"] == 3
    assert agent.wait_ended(second)["exit_code"] == 4
    assert (place / "second").exists()
    assert worker.loop_pid(agent) == loop
    kill_loop(worker, agent)  # and the journal is whole
    assert agent.wait_ended(agent.run("third", "sh", "-c", "exit 5"))["exit_code"] == 5
    assert not agent.duplicates
