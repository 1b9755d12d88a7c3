"""After a restart: what the store says was going on, held against what workers say is going on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..clock import utc_now
from ..data.outputs import OutputStore
from ..states import JobState
from ..store import Connection, origins
from ..store.parts import marks
from . import presence
from .execution import record_lost
from .recorder import Recorder

_OVER = "the batch job that this was to run in has ended"
_RELEASE = "delete from local_claims where job_id = ? and attempt = ?"


@dataclass
class Reconciliation:
    """What came of comparing a worker's word with the store's.

    Args:
        held: jobs that the worker has, as the store has them; True: started.
        again: jobs that were to go to it but never came there: to be placed again.
        stop: jobs it should no longer have, with the reason: to be cancelled there.
    """

    held: dict[str, bool] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    stop: list[tuple[str, int, str]] = field(default_factory=list)


def reconcile(
    recorder: Recorder,
    worker_id: str,
    host: str,
    known: Mapping[tuple[str, int], str],
    outputs: OutputStore,
    place: str = "",
) -> Reconciliation:
    """Settle the claims on a worker that has just said which jobs it knows.

    A claim on an earlier worker of the same host (its spool is gone) can never be answered: those jobs are lost. What is with
    workers of other hosts is their business, and so is what is with workers of another allocation on this one.

    Args:
        recorder: the unit of work.
        worker_id, host: the worker. ``known``: its (job, attempt) pairs, and ``queued``, ``running`` or ``ended``.
        outputs: where outputs are kept. ``place``: which created allocation it is of; empty: of none.
    """
    result = Reconciliation()
    transaction = recorder.transaction
    found = transaction.execute("select worker_id, host, place from local_workers").fetchall()
    places = {earlier: (on, of) for earlier, on, of in found}
    transaction.execute(
        "insert or replace into local_workers (worker_id, host, seen_at, place) values (?, ?, ?, ?)",
        (worker_id, host, utc_now(), place),
    )
    claims = transaction.execute("select job_id, attempt, worker_id from local_claims order by job_id").fetchall()
    for job_id, attempt, claimed_by in claims:
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or job.attempt != attempt or not recorder.is_ours(job):
            release(recorder, job_id, attempt)
            if (job_id, attempt) in known and known[job_id, attempt] != "ended":
                result.stop.append((job_id, attempt, "the job has ended for the agent"))
        elif (job_id, attempt) in known:
            if claimed_by != worker_id:  # the same spool under a new name: the node was restarted
                _hand_over(recorder, job_id, worker_id)
            result.held[job_id] = known[job_id, attempt] != "queued"
            if job.state is JobState.FINISHING:
                result.stop.append((job_id, attempt, "cancel requested"))
        elif claimed_by != worker_id and places.get(claimed_by, (host, place)) != (host, place):
            continue
        elif claimed_by != worker_id:
            release(recorder, job_id, attempt)
            reason = "the worker that had it is gone, and its spool with it (was the node restarted?)"
            record_lost(recorder, job_id, attempt, reason, host, outputs)
        else:
            release(recorder, job_id, attempt)
            if job.state is JobState.PENDING:
                result.again.append(job_id)
            elif job.state is JobState.FINISHING and not job.started:
                recorder.record_status(job, JobState.CANCELLED, reason="cancelled before it was started")
            else:
                record_lost(recorder, job_id, attempt, "the worker's spool no longer knows the job", host, outputs)
    claimed = {(job_id, attempt) for job_id, attempt, _ in claims}
    for job_id, attempt in known:
        if (job_id, attempt) not in claimed and known[job_id, attempt] != "ended":
            result.stop.append((job_id, attempt, "the agent does not know that it runs here"))
    return result


def lose(recorder: Recorder, worker_id: str, reason: str, outputs: OutputStore, state: str = presence.LOST) -> int:
    """Nothing more is expected of a worker: whatever it has is lost, or tried again where that was asked for.

    A worker that comes back all the same is told to stop what it still runs (:func:`reconcile`).

    Returns:
        How many jobs it had.
    """
    transaction = recorder.transaction
    row = transaction.execute("select host from local_workers where worker_id = ?", (worker_id,)).fetchone()
    claims = transaction.execute(
        "select job_id, attempt from local_claims where worker_id = ?", (worker_id,)
    ).fetchall()
    for job_id, attempt in claims:
        release(recorder, job_id, attempt)
        record_lost(recorder, job_id, attempt, reason, row[0] if row else "", outputs)
    transaction.execute("delete from local_workers where worker_id = ?", (worker_id,))
    presence.went(recorder, worker_id, state, reason)
    return len(claims)


def workers_at(connection: Connection, place: str) -> list[str]:
    """The workers of a created allocation that have ever come and were not given up."""
    found = connection.execute("select worker_id from local_workers where place = ? order by worker_id", (place,))
    return [str(row[0]) for row in found]


def claimants(connection: Connection) -> dict[str, str]:
    """The workers that have jobs, or parts of them, or are known to be there, and where each was last seen."""
    hosts = dict(connection.execute("select worker_id, host from local_workers").fetchall())
    found = {str(row[0]) for row in connection.execute("select distinct worker_id from local_claims")}
    for gang in gangs(connection):
        found.update(gang.parts)
    there = presence.present(connection, origins.own(connection))
    return {
        worker_id: hosts.get(worker_id) or (there[worker_id].host if worker_id in there else "")
        for worker_id in found | set(there)
    }


class Gang(NamedTuple):
    """A job over several nodes that was given to a worker: the others are those of its further nodes."""

    job_id: str
    worker_id: str
    parts: tuple[str, ...]


def gangs(connection: Connection) -> list[Gang]:
    """The jobs over several nodes that are with workers."""
    found = connection.execute("select job_id, worker_id, parts from local_claims where parts is not null")
    return [Gang(job_id, worker_id, tuple(json.loads(parts))) for job_id, worker_id, parts in found.fetchall()]


def claim(recorder: Recorder, worker_id: str, jobs: Sequence[tuple[str, int]], parts: Sequence[str] = ()) -> list[str]:
    """Make durable that these attempts go to that worker. Those that do not wait for room any more do not go.

    Args:
        recorder: the unit of work.
        worker_id: the worker. ``jobs``: (job, attempt) pairs. ``parts``: the workers of further nodes, for each of the jobs.

    Returns:
        The jobs that go.
    """
    transaction = recorder.transaction
    listed = json.dumps(list(parts)) if parts else None
    found = transaction.find_jobs([job_id for job_id, _ in jobs])
    going = []
    for job_id, attempt in jobs:
        job = transaction.job(job_id) if job_id in found else None
        if job is None or not recorder.is_ours(job):
            continue
        if job.state == JobState.PENDING.value and job.attempt == attempt:
            going.append((job_id, attempt, worker_id, listed))
    transaction.connection.executemany("insert or replace into local_claims values (?,?,?,?)", going)
    return [claim[0] for claim in going]


def settle_dropped(recorder: Recorder, job_id: str, attempt: int) -> None:
    """A job did not go to any worker after all: one that was to be stopped has ended with that."""
    job = recorder.job_now(job_id)
    if job is not None and job.attempt == attempt and job.state is JobState.FINISHING:
        release(recorder, job_id, attempt)
        recorder.record_status(job, JobState.CANCELLED, reason="cancelled before it was started")


def is_claimed(recorder: Recorder, job_id: str) -> bool:
    """Whether a worker has the job, or is being given it."""
    return recorder.transaction.execute("select 1 from local_claims where job_id = ?", (job_id,)).fetchone() is not None


def release(recorder: Recorder, job_id: str, attempt: int) -> None:
    """No worker has this attempt of the job any more."""
    recorder.transaction.execute_later(_RELEASE, (job_id, attempt))


def unplaced(recorder: Recorder, sites: list[str]) -> list[str]:
    """The jobs at these sites that wait for room and were not given to any worker, oldest first."""
    found = recorder.transaction.execute(
        "select j.id from jobs j left join local_adopted a on a.job_id = j.id"  # noqa: S608 - only marks
        f" where j.state = 'PENDING' and coalesce(a.site, j.site) in ({marks(sites)}) and (j.origin = ? or a.job_id is not null)"
        " and j.id not in (select job_id from local_claims) order by j.id",
        (*sites, recorder.transaction.origin),
    )
    return [str(row[0]) for row in found]


def lay_to_rest(recorder: Recorder) -> None:
    """Nothing of this instance runs any more, nor will: what had not been started has ended with that, the rest is not known.

    For one whose work was all in a batch job that has ended.
    """
    query = "select id from jobs where origin = ? and state in ('READY', 'PENDING', 'RUNNING', 'FINISHING') order by id"
    while True:  # an end may have started another job
        found = recorder.transaction.execute(query, (recorder.transaction.origin,)).fetchall()
        if not found:
            return
        for (job_id,) in found:
            job = recorder.active_job(job_id)
            if job.started or is_claimed(recorder, job_id):
                release(recorder, job_id, job.attempt)
                recorder.record_status(job, JobState.UNKNOWN, reason=f"{_OVER}, and nothing told how this did")
            else:
                recorder.record_status(job, JobState.CANCELLED, reason=f"{_OVER} before this was started")


def _hand_over(recorder: Recorder, job_id: str, worker_id: str) -> None:
    recorder.transaction.execute("update local_claims set worker_id = ? where job_id = ?", (worker_id, job_id))
