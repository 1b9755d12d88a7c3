"""What is said of a job of a batch scheduler, from what the scheduler lists and the exit record that the job's script left. Pure.

A terminal state comes from the exit record, or from what the scheduler keeps of jobs that have ended, and from nothing else:

1. An exit record of a job that nobody has stopped is what happened, whatever the scheduler says.
2. Of one that was stopped, the scheduler knows why: its time limit, a person, another job that came first.
3. Where it keeps nothing of the job, the request for its end counts, if there was one.
4. Else nothing is known: UNKNOWN, once records have had the time to be seen here.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

from ... import hostlist
from ...clock import utc_text
from ...states import JobState
from ..base import Observation
from .record import ExitRecord
from .scheduler import CANCELLED, ENDED, FAILED, KILLED, PENDING, RUNNING, SUCCEEDED, BatchJob

_FROM_SIGNALS = 128


def of_record(record: ExitRecord, native_id: str, native_state: Optional[str] = None) -> Observation:
    """What an exit record says by itself."""
    facts = facts_of(record)
    native = native_state or f"exit {record.status}"
    if record.status == 0 and not record.missing and record.cause is None:
        return Observation(JobState.COMPLETE, native, native_id, None, facts)
    return Observation(JobState.FAILED, native, native_id, _failure(record), facts)


def of_listed(job: BatchJob, native_id: str, scheduler: str) -> Optional[Observation]:
    """What the scheduler says of a job that has not ended; None: it has."""
    facts: dict[str, Any] = {}
    if job.hosts:
        facts["host"] = job.hosts[0]
    if len(job.hosts) > 1:
        facts["hosts"] = hostlist.fold(job.hosts)
    if job.phase == PENDING:
        return Observation(JobState.PENDING, job.native_state, native_id, job.reason)
    if job.phase == RUNNING:
        if job.started_at is not None:
            facts["started_at"] = utc_text(job.started_at)
        return Observation(JobState.RUNNING, job.native_state, native_id, None, facts)
    if job.phase == ENDED:
        return None
    reason = f"{scheduler} says {job.native_state}, which is not known here"
    return Observation(JobState.UNKNOWN, job.native_state, native_id, reason, facts)


def of_ended(
    job: BatchJob,
    native_id: str,
    scheduler: str,
    record: Optional[ExitRecord],
    *,
    waited: bool,
    cancelled: bool = False,
) -> Optional[Observation]:
    """What became of a job that the scheduler says has ended; None: its exit record may still come.

    Args:
        job: as the scheduler has it. ``native_id``: its id. ``scheduler``: who says so.
        record: the exit record, if there is one. ``waited``: whether there was time enough for one to be seen here.
        cancelled: whether its end was asked for.
    """
    facts: Mapping[str, Any] = {} if record is None else facts_of(record)
    told = f"{scheduler} says {job.native_state}"
    reason = f"{told}: the job {job.told}" if job.told else f"{told}: {job.reason}" if job.reason else told
    if job.outcome == CANCELLED or (job.outcome == KILLED and cancelled):
        return Observation(JobState.CANCELLED, job.native_state, native_id, reason, facts)
    if job.outcome is None:
        return Observation(JobState.UNKNOWN, job.native_state, native_id, f"{told}, which does not tell how", facts)
    own_word = job.outcome == SUCCEEDED or job.told is None  # it ended as its script did
    if record is not None and own_word:
        return of_record(record, native_id, job.native_state)
    if own_word and not waited:
        return None
    if job.exit_code is not None:
        facts = {**facts, "exit_code": job.exit_code}
    if job.outcome in (FAILED, KILLED):
        if record is None and own_word:
            reason += "; its script has left no exit record"
        return Observation(JobState.FAILED, job.native_state, native_id, reason, facts)
    reason = f"{told}; its script's exit record has not been seen here"
    return Observation(JobState.COMPLETE, job.native_state, native_id, reason, facts)


def of_gone(
    native_id: str, scheduler: str, record: Optional[ExitRecord], place: str, *, cancelled: bool, waited: bool
) -> Optional[Observation]:
    """What is said of a job of which the scheduler keeps nothing; None: nothing yet.

    Args:
        native_id, scheduler, record, waited: as of :func:`of_ended`.
        place: where its exit record should be. ``cancelled``: whether its end was asked for.
    """
    if record is not None and record.caught is None:
        return of_record(record, native_id)
    if not waited:
        return None
    if cancelled:
        facts = {} if record is None else facts_of(record)
        return Observation(JobState.CANCELLED, "gone", native_id, f"cancelled; {scheduler} keeps nothing of it", facts)
    if record is not None:
        reason = f"ended by SIG{record.caught}, which came from {scheduler}; it no longer knows why"
        return Observation(JobState.FAILED, "gone", native_id, reason, facts_of(record))
    reason = (
        f"{scheduler} does not list the job {native_id} any more and its accounting tells nothing of it,"
        f" and there is no exit record in {place}"
    )
    return Observation(JobState.UNKNOWN, "gone", native_id, reason)


def with_hint(said: Observation, hint: Optional[str]) -> Observation:
    """The same, its reason with what the scheduler has written about the job."""
    return replace(said, reason=f"{said.reason}: {hint}") if hint and said.reason else said


def facts_of(record: ExitRecord) -> dict[str, Any]:
    """What an exit record tells beside the state."""
    facts: dict[str, Any] = {"host": record.host, "exit_code": record.status}
    if record.cause is not None:
        del facts["exit_code"]  # the command's own is not known, or there is none
    hosts = record.hosts.split(",") if record.hosts else []
    if len(hosts) > 1:
        facts["hosts"] = hostlist.fold(hosts)
    else:
        facts["cpu_seconds"] = record.cpu_seconds  # of what runs on other nodes it tells nothing
    for name in ("started_at", "ended_at"):
        value = getattr(record, name)
        facts[name] = None if value is None else utc_text(value)
    return {name: value for name, value in facts.items() if value is not None}


def _failure(record: ExitRecord) -> str:
    if record.cause == "time_limit":
        return "its time limit was reached"
    if record.cause == "not_started":
        return f"its directory cannot be entered on {record.host}"
    if record.cause is not None:
        return record.cause.replace("_", " ")
    if record.status == 0:
        return "exit code 0, but it did not write its declared output " + ", ".join(record.missing)
    hint = {126: ": the shell could not run a command", 127: ": the shell did not find a command"}.get(
        record.status, ""
    )
    if record.status > _FROM_SIGNALS:
        try:
            hint = f": it, or a command in it, was ended by {signal.Signals(record.status - _FROM_SIGNALS).name}"
        except ValueError:
            hint = ""
    return f"exit code {record.status}{hint}"
