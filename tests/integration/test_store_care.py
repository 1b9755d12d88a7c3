"""Real agents whose stores are copied while they work, and repaired by the command when they are damaged."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lwfm.errors import AgentError
from lwfm.store import maintenance
from lwfm.store.connection import connect

from support.agents import Agent, running_agent
from support.damage import overwrite, pages_of_log, roots_of, rows
from support.peers import Network, Place, a_network
from support.ssh_server import sshd_program
from support.waiting import wait_until


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if sshd_program() is None:
        pytest.skip("there is no sshd")
    with a_network(tmp_path) as made:
        yield made


def keep_busy(agent: Agent, until: threading.Event, told: list[str]) -> None:
    """Write to the store all the time; what was acknowledged is in ``told``."""
    client = agent.new_client()
    number = 0
    while not until.is_set():
        client.post("/v1/logs", {"lines": [{"message": f"line {number} {part} " + "x" * 500} for part in range(20)]})
        told.append(f"line {number} 0 ")
        number += 1
    client.close()


def check_snapshot(path: Path, before: list[str]) -> None:
    """It is sound, and has at least all that was acknowledged before."""
    with closing(connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert maintenance.check(connection)["problems"] == []
        said = {row[0].partition("x")[0] for row in connection.execute("select message from logs")}
    assert set(before) <= said


def test_a_snapshot_while_the_agent_works(tmp_path: Path) -> None:
    with running_agent() as agent:
        enough, told = threading.Event(), list[str]()
        busy = threading.Thread(target=keep_busy, args=(agent, enough, told))
        busy.start()
        try:
            for number in range(3):
                wait_until(lambda: len(told) > 20, "something to copy")
                before = list(told)
                target = tmp_path / f"snapshot{number}.db"
                answer = agent.client.post("/v1/store/snapshot", {"file": str(target)})
                assert answer["file"] == str(target)
                check_snapshot(target, before)
        finally:
            enough.set()
            busy.join()
        agent.verify()


def test_snapshots_are_made_by_themselves_and_the_oldest_go() -> None:
    with running_agent("[local]\nsnapshot_every_s = 0.2\nsnapshots_kept = 2\n") as agent:
        directory = agent.home.root / "snapshots"
        seen: set[Path] = set()

        def three() -> bool:
            agent.client.post("/v1/logs", {"lines": [{"message": "more"}]})
            seen.update(directory.glob("*.db"))
            return len(seen) >= 3

        wait_until(three, "three snapshots", timeout_s=60, on_timeout=agent.log)
        wait_until(lambda: len(list(directory.glob("*.db"))) <= 2, "the oldest to be gone")
        told = agent.client.get("/v1/store/snapshots")
        assert (told["every_s"], told["kept"], told["directory"]) == (0.2, 2, str(directory))
        assert 1 <= len(told["snapshots"]) <= 2
        agent.stop()
        for path in directory.glob("*.db"):
            check_snapshot(path, [])


def test_an_agent_that_leaves_gives_up_the_snapshot(tmp_path: Path) -> None:
    with running_agent() as agent:
        for number in range(10):
            agent.client.post("/v1/logs", {"lines": [{"message": f"{number} {i} " + "y" * 3000} for i in range(200)]})
        target = tmp_path / "snapshot.db"
        outcome: list[str] = []

        def ask() -> None:
            try:
                agent.new_client().post("/v1/store/snapshot", {"file": str(target)})
                outcome.append("made")
            except AgentError as error:
                outcome.append(error.message)
            except Exception as error:
                outcome.append(str(error))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: any(tmp_path.glob(".snapshot*")) or target.exists(), "it to begin")
        assert agent.stop() == 0
        asking.join(30)
        assert outcome
        assert not list(tmp_path.glob(".snapshot*"))
        if target.exists():
            check_snapshot(target, [])
        agent.start().verify()


def test_what_is_missing_is_asked_of_the_peers(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    for _ in range(4):
        near.wait_all(near.submit_many([{"command": ["echo", "x" * 400]} for _ in range(20)]))
    network.synced(near, far)
    near.write_logs(3)
    origin = near.client.get("/v1/agent")["origin"]
    near.leave()
    before = rows(near.home.database)
    overwrite(near.home.database, *sorted(pages_of_log(near.home.database))[3:6])
    done = near.lwfm("store", "repair", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["changed"], told["missing"], told["pulled"]) == ("file", [], [{"peer": "far", "error": None}])
    assert told["kept"] is not None
    assert told["renewed"] is not None
    near.client.close()
    assert near.client.get("/v1/agent")["origin"] != origin
    assert before <= rows(near.home.database)
    near.wait(near.submit("true"))
    network.synced(near, far)
    network.equal(near, far)
    near.verify()
    shown = near.lwfm("store", "repair")
    assert "all is well, nothing was changed" in shown.stdout


def test_what_no_peer_has_is_said(network: Network) -> None:
    near = network.place("near")
    near.wait_all(near.submit_many([{"command": ["echo", "x" * 400]} for _ in range(60)]))
    near.leave()
    overwrite(near.home.database, sorted(pages_of_log(near.home.database))[3])
    done = near.lwfm("store", "repair")
    assert done.returncode == 8
    assert "missing: records " in done.stdout
    assert "the damaged file is kept in " in done.stdout
    assert near.lwfm("store", "check").returncode == 0


def test_a_job_that_runs_is_gone_on_with_when_no_record_is_missing(tmp_path: Path) -> None:
    with running_agent() as agent:
        job = agent.submit(f"until test -e {tmp_path}/go; do sleep 0.05; done; echo done")
        agent.wait_state(job, "RUNNING")
        agent.stop()
        overwrite(agent.home.database, *roots_of(agent.home.database, "jobs"))
        place = Place(agent.home.root, "near", agent.env)
        told = json.loads(place.lwfm("store", "repair", "--json").stdout)
        assert (told["changed"], told["missing"], told["renewed"]) == ("file", [], None)
        assert place.lwfm("agent", "stop").returncode == 0
        (tmp_path / "go").touch()
        agent.start()
        assert agent.wait(job)["state"] == "COMPLETE"
        assert agent.output(job) == b"done\n"
        agent.verify()
