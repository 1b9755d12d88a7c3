"""Which nodes there were, and when: recorded when a worker comes and when it goes, so that what was used can be held against it.

A worker that is cut off for a while has not gone. The agent may be gone while its workers are there; then what became of them
is recorded by the next one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple, Optional

from ..capacity import Capacity
from ..store import Connection
from .recorder import Recorder

UP, LOST, LEFT = "up", "lost", "left"
REPLACED = "another worker has come on its node"
OF_A_HOST = 8
"""So many of the last workers of a host are looked at for those that have been replaced."""
_LAST = (
    "select host, allocation, state, cores, memory_bytes, gpus from nodes where worker_id = ? and origin = ?"
    " order by id desc limit 1"
)
_ON_HOST = "select worker_id from nodes where host = ? and origin = ? group by worker_id order by max(id) desc limit ?"
_PRESENT = """
    select worker_id, host, allocation from nodes n where origin = ? and state = ? and not exists (
        select 1 from nodes where worker_id = n.worker_id and origin = n.origin and id > n.id)
"""


def came(recorder: Recorder, worker_id: str, host: str, allocation: str, capacity: Capacity) -> None:
    """A worker is there. One that was on its host before is not, if that has another name and is not of another allocation.

    Args:
        recorder: the unit of work.
        worker_id: the worker. ``host``: its node. ``allocation``: of which; empty for none. ``capacity``: what of it is ours.
    """
    transaction = recorder.transaction
    now = (host, allocation or None, UP, capacity.cores, capacity.memory_bytes, capacity.gpus)
    if transaction.execute(_LAST, (worker_id, transaction.origin)).fetchone() == now:
        return
    place = _place(recorder, worker_id)
    for (known,) in transaction.execute(_ON_HOST, (host, transaction.origin, OF_A_HOST)).fetchall():
        if known != worker_id and _place(recorder, known, place) == place:
            went(recorder, known, LEFT, REPLACED)
    _record(recorder, worker_id, host, allocation, UP, capacity)


def went(recorder: Recorder, worker_id: str, state: str, reason: str) -> None:
    """A worker is not there any more: it has ``left``, or its node is ``lost``."""
    last = recorder.transaction.execute(_LAST, (worker_id, recorder.transaction.origin)).fetchone()
    if last is not None and last[2] == UP:
        _record(recorder, worker_id, last[0], last[1], state, reason=reason)


def all_left(recorder: Recorder, reason: str) -> None:
    """All workers have been told to leave, but for those of allocations that were asked for: they wait for the next agent."""
    for worker_id in present(recorder.transaction.connection, recorder.transaction.origin):
        if not _place(recorder, worker_id):
            went(recorder, worker_id, LEFT, reason)


def _place(recorder: Recorder, worker_id: str, unknown: str = "") -> str:
    """The created allocation that a worker is of; empty for none."""
    query = "select place from local_workers where worker_id = ?"
    found = recorder.transaction.execute(query, (worker_id,)).fetchone()
    return unknown if found is None else str(found[0])


class Node(NamedTuple):
    """The node that a worker is on, and the allocation that is of, if any."""

    host: str
    allocation: Optional[str]


def present(connection: Connection, origin: str) -> dict[str, Node]:
    """The workers that are there as far as is recorded, and where."""
    return {row[0]: Node(row[1], row[2]) for row in connection.execute(_PRESENT, (origin, UP)).fetchall()}


def _record(
    recorder: Recorder,
    worker_id: str,
    host: str,
    allocation: Optional[str],
    state: str,
    capacity: Optional[Capacity] = None,
    reason: Optional[str] = None,
) -> None:
    body = {"worker_id": worker_id, "host": host, "state": state}
    if allocation:
        body["allocation"] = allocation
    if reason:
        body["reason"] = reason
    recorder.record("node", body if capacity is None else {**body, **asdict(capacity)})
