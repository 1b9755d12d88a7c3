"""A home that hosts share: one owner at a time, by a lease; what becomes of it when hosts, agents and the file system fail."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Optional

import pytest

from lwfm.errors import LwfmError
from lwfm.store import maintenance
from lwfm.store.connection import connect

from support.agents import Agent
from support.shared import SharedDisk, needs_hosts
from support.waiting import wait_until

pytestmark = [needs_hosts, pytest.mark.root]
LOST = 8
"""The exit code of an agent that is not the owner any more."""


@pytest.fixture
def disk() -> Iterator[SharedDisk]:
    with SharedDisk() as made:
        yield made


def messages(disk: SharedDisk) -> list[str]:
    """What the log of the thread says, read from the file itself, between two transactions of whoever may have it open."""

    def read() -> Optional[tuple[str, ...]]:
        with closing(sqlite3.connect(f"file:{disk.backing}/home/thread.db?mode=ro", uri=True)) as connection:
            try:
                return ("", *(row[0] for row in connection.execute("select message from logs order by id")))
            except sqlite3.OperationalError:  # there is a journal: one is under way
                return None

    return list(wait_until(read, "the store to be at rest"))[1:]


def say(agent: Agent, message: str) -> None:
    agent.client.post("/v1/logs", {"lines": [{"message": message}]})


class Speakers:
    """Callers that write to the store of an agent all the time, while the block runs; what was ``acknowledged`` to them."""

    def __init__(self, agent: Agent, name: str, count: int = 3, lines: int = 1):
        self.agent = agent
        self.acknowledged: list[str] = []
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._speak, args=(f"{name}.{number}", lines)) for number in range(count)
        ]

    def __enter__(self) -> Speakers:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.acknowledged) > 40, "something to be written", timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.ended()

    def ended(self) -> None:
        """Wait until all have ended: an agent that is gone answers nobody."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _speak(self, name: str, lines: int) -> None:
        client = self.agent.new_client()
        with contextlib.suppress(LwfmError):  # the file is stale, or the agent is gone
            for number in itertools.count():
                if self._enough.is_set():
                    break
                said = [f"{name}.{number}.{part} " + "x" * 300 for part in range(lines)]
                client.post("/v1/logs", {"lines": [{"message": message} for message in said]})
                self.acknowledged += said
        client.close()


def lost(speakers: Speakers, disk: SharedDisk) -> Counter[str]:
    """What was acknowledged, and is not in the store."""
    return Counter(speakers.acknowledged) - Counter(messages(disk))


def test_a_second_agent_on_another_host_names_the_owner_and_refuses(disk: SharedDisk) -> None:
    one, other = disk.host("n1"), disk.host("n2")
    agent = one.agent().start()
    agent.wait(agent.submit("true"))
    assert agent.client.get("/v1/agent")["journal_mode"] == "delete"
    _, report = other.agent().launch()
    assert report is not None
    assert report["error"]["code"] == "AgentElsewhere"
    for told in ("runs on n1", f"pid {agent.pid} on n1, since 20", "last heard of at 20"):
        assert told in report["error"]["message"]
    assert "--take-over" in report["error"]["hint"]
    done = other.lwfm("agent", "status", code=7)
    assert "runs on n1" in done.stderr
    say(agent, "goes on")
    assert messages(disk) == ["goes on"]


def test_an_owner_on_another_host_that_listens_is_used_from_there(disk: SharedDisk) -> None:
    one, other = disk.host("n1"), disk.host("n2")
    (disk.root / "hosts").write_text("n1\n")
    agent = one.agent().start(LWFM_HOSTFILE=str(disk.root / "hosts"), SLURM_SUBMIT_HOST="localhost")
    wait_until(lambda: list(agent.home.allocations.glob("*/agent.json")), "it to listen")
    job = json.loads(other.lwfm("submit", "--json", "--", "hostname").stdout)
    told = json.loads(other.lwfm("agent", "status", "--json").stdout)
    assert (told["host"], told["pid"]) == ("n1", agent.pid)
    assert agent.output(agent.wait(job["jobs"][0]["job_id"] if "jobs" in job else job["job_id"])["job_id"]) == b"n1\n"


def test_whoever_leaves_can_be_followed_at_once_from_another_host(disk: SharedDisk) -> None:
    one, other = disk.host("n1"), disk.host("n2")
    agent = one.agent().start()
    say(agent, "first")
    origin = agent.client.get("/v1/agent")["origin"]
    assert agent.stop() == 0
    follower = other.agent().start()
    say(follower, "second")
    assert follower.client.get("/v1/agent")["origin"] == origin
    assert messages(disk) == ["first", "second"]
    follower.verify()


def test_an_owner_that_was_killed_is_followed_only_where_that_is_known(disk: SharedDisk) -> None:
    """On its own host, also after that was started anew; elsewhere it may be cut off and live."""
    one, other = disk.host("n1"), disk.host("n2")
    agent = one.agent().start()
    say(agent, "first")
    agent.kill()
    _, report = other.agent().launch()
    assert report is not None
    assert report["error"]["code"] == "AgentElsewhere"
    agent.start()  # its process is gone
    say(agent, "second")
    one.down()
    _, report = other.agent().launch()
    assert report is not None
    assert report["error"]["code"] == "AgentElsewhere"
    one.up()
    agent.start()
    say(agent, "third")
    assert messages(disk) == ["first", "second", "third"]
    agent.verify()
    log = agent.home.agent_log.read_text()
    assert "its process is gone" in log
    assert "its host has been started anew" in log


def test_an_owner_that_stood_still_while_its_store_was_taken_over_acknowledges_nothing_more(disk: SharedDisk) -> None:
    """It is stopped while it writes, and goes on after the other one has written: nothing that either has acknowledged is lost."""
    one, other = disk.host("n1"), disk.host("n2")
    agent = one.agent().start()
    speakers = Speakers(agent, "one").__enter__()
    before = agent.home.database.stat().st_ino
    os.kill(agent.pid, signal.SIGSTOP)
    refused = other.lwfm("agent", "start", code=7)
    assert "runs on n1" in refused.stderr
    told = json.loads(other.lwfm("agent", "start", "--take-over", "--json").stdout)
    assert told["host"] == "n2"
    follower = other.agent()
    for number in range(50):
        say(follower, f"other {number}")
    os.kill(agent.pid, signal.SIGCONT)
    assert agent.wait_gone() == LOST
    speakers.ended()
    assert not lost(speakers, disk)
    assert messages(disk)[-50:] == [f"other {number}" for number in range(50)]
    follower.verify()
    assert agent.home.database.stat().st_ino != before, "it could still have written to it"
    log = agent.home.agent_log.read_text()
    assert "the lease was taken over by pid" in log
    assert "ends without another word to the store" in log


def test_an_owner_that_lives_is_not_ousted_on_its_own_host(disk: SharedDisk) -> None:
    one = disk.host("n1")
    agent = one.agent().start()
    _, report = one.agent().launch("--take-over")
    assert report is not None
    assert report["error"]["code"] == "StoreLocked"
    assert f"kill -9 {agent.pid}" in report["error"]["hint"]
    say(agent, "goes on")


def test_a_file_system_that_fails_for_a_while_is_waited_for(disk: SharedDisk) -> None:
    one = disk.host("n1")
    agent = one.agent().start()
    for error in ("EIO", "ESTALE"):
        one.fail(f"{error} * lease")
        asked = threading.Thread(target=say, args=(agent, error))
        asked.start()
        asked.join(1.5)
        assert asked.is_alive(), "it was acknowledged although nobody knows whose the store is"
        one.fail()
        asked.join(30)
        assert not asked.is_alive()
    assert messages(disk) == ["EIO", "ESTALE"]
    agent.verify()


def test_a_lease_that_was_removed_is_lost(disk: SharedDisk) -> None:
    agent = disk.host("n1").agent().start()
    say(agent, "first")
    for path in agent.home.lease.iterdir():
        path.unlink()
    assert agent.wait_gone() == LOST
    agent.start()
    say(agent, "second")
    assert messages(disk) == ["first", "second"]


def test_a_snapshot_is_made_while_the_one_connection_is_written_to(disk: SharedDisk) -> None:
    agent = disk.host("n1").agent().start()
    with Speakers(agent, "one", count=2, lines=20) as speakers:
        before = list(speakers.acknowledged)
        answer = agent.client.post("/v1/store/snapshot", {"file": str(disk.home / "snapshot.db")})
    with closing(connect(f"file:{disk.backing}/home/snapshot.db?mode=ro", uri=True)) as connection:
        assert maintenance.check(connection)["problems"] == []
        said = Counter(row[0] for row in connection.execute("select message from logs"))
        assert connection.execute("select count(*) from log").fetchone() == (answer["records"],)
    assert not Counter(before) - said
    agent.verify()


def test_an_owner_that_is_killed_again_and_again_loses_nothing(disk: SharedDisk) -> None:
    agent = disk.host("n1").agent().start()
    every = []
    for number in range(3):
        with Speakers(agent, str(number)) as speakers:
            agent.kill()
            speakers.ended()
        every.append(speakers)
        agent.start()
        agent.verify()
    assert not any(lost(speakers, disk) for speakers in every)
