"""One unit of work on the store: records appended, what follows from them, and what is to be done once they are durable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Union

from ..errors import Conflict
from ..models import JobDefn
from ..records import without_none
from ..states import STATES, WORDS, JobState
from ..store import Record, Transaction, exchange, fragments, origins
from ..store.batch import Batch
from ..store.columns import STATUS_TEXTS, split_status
from ..store.jobrow import JobRow
from .events import Rules
from .requests import NewJob, SiteRequest


class StatusChange(NamedTuple):
    """A job came to a new state.

    Args:
        job_id: which. ``workflow_id``: of which workflow. ``site``: where. ``attempt``: which one.
        before: its state before, None for a new job. ``after``: its state now.
        here: whether it is a job of this instance.
    """

    job_id: str
    workflow_id: Optional[str]
    site: str
    attempt: int
    before: Optional[JobState]
    after: JobState
    here: bool = True


@dataclass
class Effects:
    """What is to be done once the records are durable.

    Args:
        changes: jobs that came to a new state, in order.
        pending: jobs to hand to their site: id, and for new ones what is at hand of them.
        handlers_changed: whether a handler was set, fired or unset. ``handlers_used``: those that fired or were unset.
        requests: the requests to the sites of the pending jobs, filled in when the unit of work is complete.
        also: called in the event loop, before the effects of any later unit: for who must miss nothing that comes after
            what this unit has seen.
    """

    changes: list[StatusChange] = field(default_factory=list)
    pending: dict[str, Optional[NewJob]] = field(default_factory=dict)
    handlers_changed: bool = False
    handlers_used: list[str] = field(default_factory=list)
    requests: list[SiteRequest] = field(default_factory=list)
    also: list[Callable[[], None]] = field(default_factory=list)


class JobNow(NamedTuple):
    """Where a job stands, as far as recording its next status needs to know."""

    job_id: str
    state: JobState
    attempt: int
    workflow_id: Optional[str]
    site: str
    retries: int
    origin: str
    started: bool
    adopted: bool = False
    runner: Optional[str] = None


_TOLD_BY_STORE = frozenset({"data_id", "time", "origin", "origin_host", "elsewhere"})
_TRIGGERS = frozenset({"status", "metasheet", "unset"})
"""The kinds of records of other instances from which something may follow here."""


class Recorder:
    """Appends records in one transaction and collects their effects."""

    def __init__(self, transaction: Transaction, rules: Rules):
        self.transaction = transaction
        self.effects = Effects()
        self._rules = rules

    def record(self, kind: str, body: dict[str, Any], uid: Optional[str] = None) -> Record:
        """Append a record and everything that follows from it; returns the record itself."""
        first = self._append(kind, body, uid)
        self._follow(first)
        return first

    def _follow(self, first: Record) -> None:
        """Append everything that follows from a record."""
        following = [first]
        while following:
            cause = following.pop(0)
            for next_kind, next_body, next_uid in self._rules.consequences(self.transaction, cause):
                following.append(self._append(next_kind, next_body, next_uid))

    def record_data(self, sheet: dict[str, Any]) -> Record:
        """Append a metasheet, given as JSON; what the store itself tells of it is left out."""
        given = {key: value for key, value in sheet.items() if value is not None and key not in _TOLD_BY_STORE}
        return self.record("metasheet", given)

    def record_job(self, body: dict[str, Any], uid: Optional[str], defn: JobDefn) -> Record:
        """Append a new job; ``defn`` is what it runs, at hand for its site."""
        record = self._append("job", body, uid)
        if record.uid in self.effects.pending:
            self.effects.pending[record.uid] = NewJob(defn, body)
        return record

    def record_status(
        self, job: JobNow, state: JobState, *, attempt: Optional[int] = None, **facts: Any
    ) -> Optional[Record]:
        """Append a status of ``job``, unless it has ended, or is another instance's: then nothing is recorded and None returned.

        Args:
            job: as read in this transaction.
            state: the new state. ``attempt``: another than the current one.
            facts: ``reason``, ``native_status``, ``time`` and those of :data:`~lwfm.store.columns.FACTS`.
        """
        attempt = attempt or job.attempt
        if (job.state.terminal and attempt <= job.attempt) or not self.is_ours(job):
            return None
        if None in facts.values():
            facts = without_none(facts)
        head: dict[str, Any] = {"job_id": job.job_id, "attempt": attempt, "state": WORDS[state]}
        for name in STATUS_TEXTS:
            if name in facts:
                head[name] = facts.pop(name)
        record, row = self._append_status(head, facts, None)
        if row is None or row.handler_id is not None or self._rules.is_watched(self.transaction, job.job_id):
            self._follow(record)
        return record

    def receive(self, batch: Batch, hashed: Sequence[str]) -> int:
        """Take over records of another instance, with everything that follows from them here; how many were new.

        Its handlers are not ours: they do not fire. Ours do, upon its statuses and its data.

        Args:
            batch: and ``hashed``: the hashes of its rows, from :func:`~lwfm.store.batch.decode`.

        Raises:
            Conflict: it does not continue what is here. InvalidRecord: a record of it cannot be understood.
        """
        new = exchange.examine(self.transaction, batch, hashed)
        if not new:
            return 0
        seen = exchange.are_fragments(self.transaction.connection, new)
        with self._noting_changes(record.body["job_id"] if record.kind == "status" else record.uid for record in new):
            exchange.append(self.transaction, batch, hashed, new)
        self._follow_foreign([record for record in new if record.seq not in seen])
        return len(new)

    def receive_fragments(self, origin: str, given: Sequence[fragments.Fragment]) -> int:
        """The same for records that come without those before them; raises likewise."""
        with self._noting_changes(str(json.loads(item.row.body).get("job_id", item.row.uid)) for item in given):
            new = fragments.receive(self.transaction, origin, given)
        self._follow_foreign(new)
        return len(new)

    def receive_again(self, origin: str, given: Sequence[fragments.Fragment]) -> int:
        """The same for those of these records of which others have left but stubs; how many that were."""
        return self.receive_fragments(origin, fragments.awaited(self.transaction, origin, given))

    @contextmanager
    def _noting_changes(self, job_ids: Iterable[str]) -> Iterator[None]:
        """What the block changes in the states of these jobs, if they are such, is told to who waits for them."""
        touched = set(job_ids)
        known = self.transaction.find_jobs(touched)
        before = {job_id: job.state for job_id in known if (job := self.job_now(job_id)) is not None}
        yield
        for job_id in sorted(self.transaction.find_jobs(touched)):
            job = self.job_now(job_id)
            if job is not None and before.get(job_id) is not job.state:
                was, here = before.get(job_id), self.is_ours(job)
                change = StatusChange(job_id, job.workflow_id, job.site, job.attempt, was, job.state, here)
                self.effects.changes.append(change)

    def _follow_foreign(self, new: Sequence[Record]) -> None:
        """What follows here from records of another instance."""
        for record in new:
            if record.kind in _TRIGGERS:
                self._follow(record)
            elif record.kind in ("handler", "firing"):
                self.effects.handlers_changed = True

    def adopt_again(self, job: JobNow, attempt: int, definition: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
        """Another attempt of a job that was adopted is asked for, which may be to run something else."""
        request = json.dumps({"definition": definition, **beside})
        self.transaction.execute("update local_adopted set request = ? where job_id = ?", (request, job.job_id))
        self.record_status(job, JobState.PENDING, attempt=attempt, reason="another attempt was asked for")

    def job_now(self, job_id: str) -> Optional[JobNow]:
        """Where a job stands, in this transaction; None for an unknown one."""
        row = self.transaction.job(job_id)
        if row is None:
            return None
        return JobNow(
            job_id,
            STATES[row.state],
            row.attempt,
            row.workflow_id,
            row.site,
            row.retries,
            row.origin,
            row.started,
            row.adopted,
            row.runner,
        )

    def is_ours(self, job: Union[JobNow, JobRow]) -> bool:
        """Whether a job is this instance's, or was handed to it: only then is it ours to run, to end, and to tell of."""
        return job.adopted or job.origin == self.transaction.origin

    def adopt(self, job_id: str, origin: str, body: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
        """Take over a job of another instance, to run it here.

        Args:
            job_id: as that has it; ``origin``: that instance's.
            body: ``site`` (of ours), ``definition`` (without its secrets), ``workflow_id``, ``workflow_name``, ``parent_id``.
            beside: what else its request holds, which is not recorded.
        """
        request = json.dumps({"definition": body["definition"], **beside})
        self.transaction.execute("insert into local_adopted values (?,?,?)", (job_id, body["site"], request))
        with self._noting_changes([job_id]):
            self.record("adopt", {"job_id": job_id, "of": origin, **body})
            self.transaction.forget_rows([job_id])
        self.effects.pending[job_id] = None

    def active_job(self, job_id: str) -> JobNow:
        """Like :meth:`job_now`, for a job of this instance that must not have ended.

        Raises:
            Conflict: it has, or it is another instance's.
        """
        job = self.job_now(job_id)
        if job is not None and not self.is_ours(job):
            hint = "what becomes of it is recorded there"
            raise origins.refusal(self.transaction.connection, f"job {job_id}", job.origin, hint)
        if job is None or job.state.terminal:
            state = job.state.value if job else "unknown"
            raise Conflict(f"job {job_id} has ended: {state}", hint="an ended job keeps its state; submit a new one")
        return job

    def _append(self, kind: str, body: dict[str, Any], uid: Optional[str]) -> Record:
        if kind == "status":
            head, facts = split_status(body)
            return self._append_status(head, facts, uid)[0]
        record = self.transaction.append(kind, body, uid)
        if kind == "job":
            state = STATES[body["state"]]
            self.effects.changes.append(StatusChange(record.uid, body.get("workflow_id"), body["site"], 1, None, state))
            if state is JobState.PENDING:
                self.effects.pending[record.uid] = None
        elif kind in ("handler", "firing", "unset"):
            self.effects.handlers_changed = True
            if kind != "handler":
                self.effects.handlers_used.append(body["handler_id"])
        return record

    def _append_status(
        self, head: dict[str, Any], facts: dict[str, Any], uid: Optional[str]
    ) -> tuple[Record, Optional[JobRow]]:
        """Append a status and note what it changes; the record, and the job's row as it is now."""
        job_id, attempt, state = head["job_id"], head["attempt"], STATES[head["state"]]
        row = self.transaction.job(job_id)
        if row is None:
            return self.transaction.append_status(head, facts, None, uid), None
        before, attempt_before = STATES[row.state], row.attempt
        record = self.transaction.append_status(head, facts, row, uid)
        if state is JobState.INFO:
            return record, row
        self.effects.changes.append(StatusChange(job_id, row.workflow_id, row.site, attempt, before, state))
        if state is JobState.PENDING and (before is JobState.READY or attempt > attempt_before):
            self.effects.pending[job_id] = None
        elif state.terminal:
            self.effects.pending.pop(job_id, None)
        return record, row
