"""Which nodes there were, and when: recorded when a worker comes and when it goes, so that what was used can be held against it.

A worker that is cut off for a while has not gone. The agent may be gone while its workers are there; then what became of them
is recorded by the next one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple, Optional

from .capacity import Capacity
from .recorder import Recorder
from .store import Connection

UP, LOST, LEFT = "up", "lost", "left"
REPLACED = "another worker has come on its node"
_LAST = """
    select worker_id, host, allocation, state, cores, memory_bytes, gpus from nodes n
    where origin = ? and id = (select max(id) from nodes where worker_id = n.worker_id and origin = n.origin)
"""


def came(recorder: Recorder, worker_id: str, host: str, allocation: str, capacity: Capacity) -> None:
    """A worker is there. One that was on its host before is not, if that has another name and is not of another allocation.

    Args:
        recorder: the unit of work.
        worker_id: the worker. ``host``: its node. ``allocation``: of which; empty for none. ``capacity``: what of it is ours.
    """
    now = (host, allocation or None, UP, capacity.cores, capacity.memory_bytes, capacity.gpus)
    places = _places(recorder)
    for known, *last in recorder.transaction.execute(_LAST, (recorder.transaction.origin,)).fetchall():
        if known == worker_id and tuple(last) == now:
            return
        same = last[0] == host and places.get(known, places.get(worker_id)) == places.get(worker_id)
        if known != worker_id and same and last[2] == UP:
            _record(recorder, known, host, last[1], LEFT, reason=REPLACED)
    _record(recorder, worker_id, host, allocation, UP, capacity)


def went(recorder: Recorder, worker_id: str, state: str, reason: str) -> None:
    """A worker is not there any more: it has ``left``, or its node is ``lost``."""
    query = _LAST + " and worker_id = ? and state = ?"
    found = recorder.transaction.execute(query, (recorder.transaction.origin, worker_id, UP)).fetchone()
    if found is not None:
        _record(recorder, worker_id, found[1], found[2], state, reason=reason)


def all_left(recorder: Recorder, reason: str) -> None:
    """All workers have been told to leave, but for those of allocations that were asked for: they wait for the next agent."""
    places = _places(recorder)
    for worker_id in present(recorder.transaction.connection, recorder.transaction.origin):
        if not places.get(worker_id):
            went(recorder, worker_id, LEFT, reason)


def _places(recorder: Recorder) -> dict[str, str]:
    """The created allocation that each worker is of; empty for those of none."""
    return dict(recorder.transaction.execute("select worker_id, place from local_workers").fetchall())


class Place(NamedTuple):
    """Where a worker is: its node, and the allocation that is of, if any."""

    host: str
    allocation: Optional[str]


def present(connection: Connection, origin: str) -> dict[str, Place]:
    """The workers that are there as far as is recorded, and where."""
    found = connection.execute(_LAST + " and state = ?", (origin, UP)).fetchall()
    return {row[0]: Place(row[1], row[2]) for row in found}


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
