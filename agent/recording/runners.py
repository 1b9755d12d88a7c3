"""Jobs of ours that another instance runs, when it turns out which instance is to be found at their site now, as a unit of work."""

from __future__ import annotations

from typing import Optional

from ..records import JSON
from ..states import JobState
from ..store import Connection, origins
from .recorder import JobNow, Recorder

_HANDED = (
    "select id, runner from jobs where site = ? and origin = ? and runner is not null"
    " and state in ('PENDING', 'RUNNING', 'UNKNOWN') order by id"
)
_SAID = (
    "select origin, attempt, state from statuses where job_id = ? and state <> 'INFO' order by status_key desc, id desc"
)
_OPEN = ("PENDING", "RUNNING", "FINISHING")


def meet(recorder: Recorder, site: str, runner: str, host: str) -> JSON:
    """Record what follows for the jobs at a site of its being ``runner``, on ``host``, that answers there.

    Of jobs that another instance has nothing is known any more: it was lost with its home, or is somewhere else. They are
    UNKNOWN, until that one answers again: then they are what it has said last.

    Returns:
        ``lost`` and ``found``: the ids of the jobs that have become unknown, and known again.
    """
    transaction = recorder.transaction
    connection = transaction.connection
    met = origins.family(connection, runner)
    lost, found = [], []
    for job_id, known in connection.execute(_HANDED, (site, transaction.origin)).fetchall():
        job = recorder.job_now(job_id)
        if job is None:
            continue
        if known != runner and origins.family(connection, known) != met:
            if job.state is not JobState.UNKNOWN:
                was = origins.name(connection, known)
                reason = f"another instance answers at site {site} than the one on {was} that has it"
                recorder.record_status(job, JobState.UNKNOWN, reason=reason)
                lost.append(job_id)
        elif job.state is JobState.UNKNOWN:
            said = _last_said(connection, transaction.origin, met, job)
            if said is not None:
                recorder.record_status(job, said, reason=f"the instance on {host} that has it answers again")
                found.append(job_id)
    return {"lost": lost, "found": found}


def _last_said(connection: Connection, own: str, runner: str, job: JobNow) -> Optional[JobState]:
    """The state in which the runner of a job had it last, if we have said since that it is unknown."""
    said = connection.execute(_SAID, (job.job_id,)).fetchall()
    if not said or said[0][0] != own:
        return None
    for origin, attempt, state in said:
        if attempt == job.attempt and origin != own and origins.family(connection, origin) == runner:
            return JobState(state) if state in _OPEN else None
    adopted = connection.execute("select origin from adoptions where job_id = ?", (job.job_id,)).fetchall()
    return JobState.PENDING if any(origins.family(connection, origin) == runner for (origin,) in adopted) else None
