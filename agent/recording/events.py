"""The rules: which records follow from a record. Evaluated in the transaction that appends it.

A status may satisfy job handlers, or put them out of reach; a metasheet may satisfy data handlers; a firing starts the
handler's job; unsetting a handler cancels the jobs it will never start. A firing is keyed by (handler, trigger record),
and all of this is one transaction: a handler has fired with its job pending, or it has not fired.

A handler fires only at its home: at the instance that recorded it. There the records of other instances trigger it like its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Optional

from ..ids import derived_id
from ..models import JobEvent, MetadataEvent
from ..records import without_none
from ..states import STATES, TERMINAL, JobState, implied_by
from ..store import Record, Transaction

Append = tuple[str, dict[str, Any], Optional[str]]
"""A record to append: its kind, its body, and its id where that is given."""

_NOTHING_TO_RUN = "the job it was to run has ended without it"


class Rules:
    """Finds what follows. Keeps only what can be told again from the store, to be quick; see :meth:`reset`."""

    def __init__(self) -> None:
        self._reached: dict[str, int] = {}
        self._out_of_reach: dict[str, int] = {}
        self._watched: Optional[set[str]] = None

    def reset(self) -> None:
        """Forget what was learned in a transaction that was undone."""
        self._watched = None
        self._reached.clear()
        self._out_of_reach.clear()

    def is_watched(self, transaction: Transaction, job: str) -> bool:
        """Whether a handler waits for what becomes of a job."""
        if self._watched is None:
            found = transaction.execute(
                "select hj.job_id from handler_jobs hj join handlers h on h.id = hj.handler_id"
                " where h.state = 'waiting' and h.origin = ?",
                (transaction.origin,),
            )
            self._watched = {row[0] for row in found}
        return job in self._watched

    def consequences(self, transaction: Transaction, record: Record) -> Iterator[Append]:
        """The records that follow directly from ``record``, which has been appended."""
        if record.kind == "status":
            yield from self._after_status(transaction, record)
        elif record.kind == "metasheet":
            yield from self._after_data(transaction, record)
        elif record.kind == "handler" and record.body["kind"] == "job":
            if self._watched is not None:
                self._watched.update(record.body["event"]["jobs"])
            yield from self._judge(transaction, record.uid, None)
        elif record.kind == "firing":
            yield from _after_firing(transaction, record)
        elif record.kind == "unset":
            yield from _after_unset(transaction, record)

    def _after_status(self, transaction: Transaction, record: Record) -> Iterator[Append]:
        job, state = record.body["job_id"], STATES[record.body["state"]]
        if self.is_watched(transaction, job):
            watching = transaction.execute("select handler_id from handler_jobs where job_id = ?", (job,)).fetchall()
            for (handler,) in watching:
                yield from self._judge(transaction, handler, record)
        row = transaction.job(job)
        if state.terminal and row is not None and row.handler_id is not None:
            yield from _without_jobs(transaction, job)

    def _judge(self, transaction: Transaction, handler: str, trigger: Optional[Record]) -> Iterator[Append]:
        """Fire a job handler if its condition holds, unset it if it never will, else leave it waiting."""
        row = transaction.execute(
            "select event from handlers where id = ? and state = 'waiting' and origin = ?",
            (handler, transaction.origin),
        ).fetchone()
        if row is None:
            return
        event = _job_event(row[0])
        satisfied = self._satisfied(transaction, handler, event, trigger)
        if satisfied is not None:
            self._forget(handler)
            trigger_id, trigger_job = satisfied
            yield _firing(transaction, handler, trigger_id, trigger_job=trigger_job)
        elif not event.keep:
            reason = self._unreachable(transaction, handler, event, trigger)
            if reason:
                self._forget(handler)
                yield "unset", {"handler_id": handler, "reason": reason}, None

    def _forget(self, handler: str) -> None:
        self._reached.pop(handler, None)
        self._out_of_reach.pop(handler, None)

    def _satisfied(
        self, transaction: Transaction, handler: str, event: JobEvent, trigger: Optional[Record]
    ) -> Optional[tuple[str, str]]:
        """The status record and the job that satisfied the handler last, if it is satisfied."""
        jobs = event.job_ids
        if event.mode == "any":
            candidates = (trigger.body["job_id"],) if trigger else jobs
            for job in candidates:
                status = _reaching_status(transaction, job, event)
                if status:
                    return status, job
            return None
        position = self._reached.get(handler, 0)
        while position < len(jobs) and _reaching_status(transaction, jobs[position], event):
            position += 1
        self._reached[handler] = position
        if position < len(jobs):
            return None
        if trigger is not None:
            return trigger.uid, trigger.body["job_id"]
        return _reaching_status(transaction, jobs[-1], event) or "", jobs[-1]

    def _unreachable(
        self, transaction: Transaction, handler: str, event: JobEvent, trigger: Optional[Record]
    ) -> Optional[str]:
        """Why the handler can never be satisfied, if so."""
        wanted = " or ".join(state.value for state in event.awaited)
        if event.mode == "all":
            candidates = (trigger.body["job_id"],) if trigger else event.job_ids
            for job in candidates:
                state = _state(transaction, job)
                if state in TERMINAL and not _reaching_status(transaction, job, event):
                    return f"job {job} ended {state}, so that it cannot become {wanted}"
            return None
        position = self._out_of_reach.get(handler, 0)
        while position < len(event.job_ids) and _state(transaction, event.job_ids[position]) in TERMINAL:
            position += 1
        self._out_of_reach[handler] = position
        return f"all its jobs have ended, none of them {wanted}" if position == len(event.job_ids) else None

    def _after_data(self, transaction: Transaction, record: Record) -> Iterator[Append]:
        body = record.body
        if body.get("op") == "get":
            return
        waiting = transaction.execute(
            "select id, event, workflow_id from handlers where kind = 'data' and state = 'waiting' and origin = ? order by id",
            (transaction.origin,),
        ).fetchall()
        for handler, text, workflow in waiting:
            event = _data_event(text)
            scope = event.workflow or workflow
            if scope not in (None, "any", body.get("workflow_id")):
                continue
            if event.matcher().accepts(body.get("properties") or {}):
                yield _firing(transaction, handler, record.uid, trigger_data=record.uid, trigger_job=body.get("job_id"))


def _firing(
    transaction: Transaction,
    handler: str,
    trigger: str,
    *,
    trigger_job: Optional[str] = None,
    trigger_data: Optional[str] = None,
) -> Append:
    body: dict[str, Any] = {"handler_id": handler, "trigger_id": trigger}
    (fire_limit,) = transaction.execute("select fire_limit from handlers where id = ?", (handler,)).fetchone()
    if fire_limit is None:
        body["job_id"] = derived_id(trigger, "firing", handler, transaction.origin)
    else:
        waiting = transaction.execute(
            "select id from jobs where handler_id = ? and state = 'READY' order by id limit 1", (handler,)
        ).fetchone()
        if waiting is None:
            return "unset", {"handler_id": handler, "reason": _NOTHING_TO_RUN}, None
        body["job_id"] = waiting[0]
    if trigger_job:
        body["trigger_job"] = trigger_job
    if trigger_data:
        body["trigger_data"] = trigger_data
    return "firing", body, derived_id(trigger, "firing-record", handler, transaction.origin)


def _after_firing(transaction: Transaction, record: Record) -> Iterator[Append]:
    """The handler's job becomes PENDING; that of a handler without limit is made now. What fired elsewhere has its job there."""
    job, handler = record.body["job_id"], record.body["handler_id"]
    if record.origin != transaction.origin:
        return
    cause = record.body.get("trigger_data") or record.body.get("trigger_job")
    reason = f"triggered by {'data' if record.body.get('trigger_data') else 'job'} {cause}"
    if _state(transaction, job) is not None:
        if _state(transaction, job) == JobState.READY.value:
            yield "status", {"job_id": job, "attempt": 1, "state": JobState.PENDING.value, "reason": reason}, None
            yield from _without_jobs(transaction, job)
        return
    row = transaction.execute(
        "select event, site, workflow_id, parent_id, context_id from handlers where id = ?", (handler,)
    ).fetchone()
    event, site, workflow, parent, context = row
    body = {
        "state": JobState.PENDING.value, "site": site, "workflow_id": workflow, "parent_id": parent, "context_id": context,
        "handler_id": handler, "definition": json.loads(event)["defn"], "reason": reason,
        "trigger_job": record.body.get("trigger_job"), "trigger_data": record.body.get("trigger_data"),
    }  # fmt: skip
    yield "job", without_none(body), job


def _after_unset(transaction: Transaction, record: Record) -> Iterator[Append]:
    handler, reason = record.body["handler_id"], record.body.get("reason") or "its handler was unset"
    waiting = transaction.execute(
        "select j.id from jobs j join handlers h on h.id = j.handler_id where h.id = ?1 and h.origin = ?2 and j.origin = ?2"
        " and j.state = 'READY' order by j.id",
        (handler, transaction.origin),
    )
    for (job,) in waiting.fetchall():
        yield "status", {"job_id": job, "attempt": 1, "state": JobState.CANCELLED.value, "reason": reason}, None


def _without_jobs(transaction: Transaction, job: str) -> Iterator[Append]:
    """A handler that waits, while the jobs it was to run have ended without it, has nothing left to do."""
    row = transaction.execute(
        "select h.id from jobs j join handlers h on h.id = j.handler_id where j.id = ? and h.state = 'waiting'"
        " and h.origin = ? and h.fire_limit is not null"
        " and not exists (select 1 from jobs r where r.handler_id = h.id and r.state = 'READY')",
        (job, transaction.origin),
    ).fetchone()
    if row:
        yield "unset", {"handler_id": row[0], "reason": _NOTHING_TO_RUN}, None


def _state(transaction: Transaction, job: str) -> Optional[str]:
    row = transaction.job(job)
    return row.state if row else None


def _reaching_status(transaction: Transaction, job: str, event: JobEvent) -> Optional[str]:
    """The first status of a job that shows it has reached one of the event's states; None while there is none."""
    wanted = frozenset(event.awaited)
    found = transaction.execute("select id, state from statuses where job_id = ? order by hlc, id", (job,)).fetchall()
    for status, state in found:
        if implied_by(JobState(state)) & wanted:
            return str(status)
    return None


@lru_cache(maxsize=256)
def _job_event(text: str) -> JobEvent:
    return JobEvent.from_json(_to_run(text))


@lru_cache(maxsize=256)
def _data_event(text: str) -> MetadataEvent:
    return MetadataEvent.from_json(_to_run(text))


def _to_run(text: str) -> dict[str, Any]:
    """An event as it was recorded, without what it says beside its job: a notification is that job's work."""
    event: dict[str, Any] = json.loads(text)
    event.pop("notify", None)
    return event
