"""The instances to sync with: what is remembered of them, and when each is due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm.clock import utc_text
from lwfm.errors import InvalidRecord, NotFound
from lwfm.store import Connection, origins
from lwfm.sync import peers

from support.replicas import StoreReplica, sync
from support.threads import Thread

NOW = 1_800_000_000.0


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    made = Thread(tmp_path)
    yield made
    made.close()


@pytest.fixture
def connection(thread: Thread) -> Connection:
    return thread.connection


def put(connection: Connection, name: str = "cluster", **body: Any) -> dict[str, Any]:
    return peers.put(connection, {"name": name, "address": {"host": "login"}, **body})


def test_what_is_given_is_remembered_and_the_rest_stays(connection: Connection) -> None:
    put(connection, every_s=300, data={"data": True})
    peers.note(connection, "cluster", {"error": None, "origin": "a" * 32, "host": "login1"})
    peers.put(connection, {"name": "cluster", "every_s": 60})
    (peer,) = peers.listed(connection)
    assert (peer["every_s"], peer["data"], peer["host"]) == (60, {"data": True}, "login1")
    peers.put(connection, {"name": "cluster", "every_s": None, "data": None})
    found = peers.find(connection, "cluster")
    assert found is not None
    assert "every_s" not in found
    assert "data" not in found


def test_what_came_of_another_one_of_that_name_is_not_noted(connection: Connection) -> None:
    before = put(connection)["added_at"]
    peers.remove(connection, "cluster")
    put(connection)
    with pytest.raises(NotFound):
        peers.note(connection, "cluster", {"error": None, "added_at": before})
    (peer,) = peers.listed(connection)
    assert "last_attempt" not in peer
    peers.note(connection, "cluster", {"error": None, "added_at": peer["added_at"]})


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 101, None, 7, "a\n"])
def test_a_name_that_cannot_be_is_refused(connection: Connection, name: Any) -> None:
    with pytest.raises(InvalidRecord, match="peer's name"):
        peers.put(connection, {"name": name, "address": {"host": "login"}})


@pytest.mark.parametrize("body", [{}, {"address": None}, {"address": "login"}, {"address": {"host": 7}}])
def test_a_peer_needs_an_address(connection: Connection, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord, match="address"):
        peers.put(connection, {"name": "cluster", **body})


@pytest.mark.parametrize("every_s", [0, 4.9, -5, True, "5m", [60]])
def test_a_time_that_cannot_be_is_refused(connection: Connection, every_s: Any) -> None:
    with pytest.raises(InvalidRecord, match="every"):
        put(connection, every_s=every_s)
    assert peers.listed(connection) == []


def test_a_peer_is_forgotten_once(connection: Connection) -> None:
    put(connection)
    peers.remove(connection, "cluster")
    assert peers.find(connection, "cluster") is None
    with pytest.raises(NotFound):
        peers.remove(connection, "cluster")
    with pytest.raises(NotFound):
        peers.note(connection, "cluster", {"error": None})


def test_failures_are_counted_until_it_goes_well(connection: Connection) -> None:
    put(connection)
    for count in (1, 2, 3):
        peer = peers.note(connection, "cluster", {"error": "no route"})
        assert (peer["failures"], peer["error"]) == (count, "no route")
        assert "last_success" not in peer
    peer = peers.note(connection, "cluster", {"error": None, "skew_s": 0.5})
    assert (peer["failures"], peer["skew_s"], peer["last_success"]) == (0, 0.5, peer["last_attempt"])
    stored = peers.find(connection, "cluster")
    assert stored is not None
    assert "error" not in stored


@pytest.mark.parametrize(
    ("every_s", "failures", "ago_s", "due_s"),
    [
        (None, 0, 10, None),
        (60, 0, 10, 50),
        (60, 0, 61, 0),
        (60, 1, 61, 59),
        (60, 3, 0, 480),
        (60, 10, 0, 3600),
        (60, 500, 0, 3600),
        (7200, 0, 0, 7200),
        (7200, 4, 0, 7200),
        (60, 0, -500, 0),
    ],
)
def test_when_it_is_due(every_s: Any, failures: int, ago_s: float, due_s: Any) -> None:
    """What fails is tried less and less often, but at least once an hour; a clock that was set back does not stop it."""
    peer = {"every_s": every_s, "failures": failures, "last_attempt": utc_text(NOW - ago_s)}
    due = peers.due_in_s(peer, NOW)
    assert due == (due_s if due_s is None else pytest.approx(due_s, abs=0.01))


def test_one_that_was_never_tried_is_due_now() -> None:
    assert peers.due_in_s({"every_s": 60}, time.time()) == 0


def test_an_instance_is_called_as_the_peer_it_is(thread: Thread, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    far = Thread(tmp_path / "far")
    job = far.submit("true")
    sync(StoreReplica(thread), StoreReplica(far))
    assert origins.name(thread.connection, far.store.origin) != "cluster"
    put(thread.connection)
    peers.note(thread.connection, "cluster", {"error": None, "origin": far.store.origin})
    assert origins.name(thread.connection, far.store.origin) == "cluster"
    assert origins.resolve(thread.connection, "cluster") == [far.store.origin]
    assert thread.state(job) == "PENDING"
    far.close()
