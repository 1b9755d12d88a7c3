"""What becomes of the jobs that were handed to a batch scheduler: asked of it in one question for all, and of their exit records.

What is concluded from both is told by :mod:`.verdict`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Optional

from ...paths import user_name
from ...states import JobState
from ..base import Observation
from .commands import BatchCommands
from .ledger import Entry, Ledger, Submission
from .record import ExitRecord
from .scheduler import ENDING, SUCCEEDED, UNKNOWN, BatchJob
from .script import STANDS_DOWN
from .verdict import of_ended, of_gone, of_listed, of_record, with_hint

_logger = logging.getLogger(__name__)


class Following:
    """Follows jobs. One caller at a time.

    Args:
        commands: the scheduler. ``ledger``: what was handed to it. ``grace_s``: how late exit records may be seen here.
    """

    def __init__(self, commands: BatchCommands, ledger: Ledger, grace_s: float):
        self._commands = commands
        self._scheduler = commands.scheduler
        self._ledger = ledger
        self._grace_s = grace_s
        self._odd_words: set[str] = set()

    def id_in(self, submission: Submission, number: int) -> Optional[str]:
        """The scheduler's id of one of the jobs of a submission; None: not known."""
        if submission.native is None or not submission.is_array:
            return submission.native
        return self._scheduler.element(submission.native, number)

    def ask(self, job_ids: Sequence[str]) -> dict[str, Observation]:
        """What is known of jobs; those of which nothing is are left out.

        Raises:
            SiteError: the scheduler does not answer.
        """
        said: dict[str, Observation] = {}
        entries: list[Entry] = []
        for job_id in dict.fromkeys(job_ids):
            entry = self._ledger.entry(job_id)
            if entry is not None:
                entries.append(entry)
                continue
            told = self._of_ended(job_id)
            if told is not None:
                said[job_id] = told
        if not entries:
            return said
        jobs = self._commands.jobs(user_name())
        by_id = {job.job_id: job for job in jobs}
        self.settle(entries, jobs)
        over: list[tuple[Entry, str, Optional[BatchJob]]] = []
        for entry in entries:
            native = entry.claimed_by or self.id_in(entry.submission, entry.number)
            if native is None:
                if self._ledger.is_cancelled(entry.job_id, entry.attempt):
                    reason = f"cancelled before {self._scheduler.name} was known to have it"
                    said[entry.job_id] = self._end(entry, Observation(JobState.CANCELLED, "stood down", None, reason))
                continue
            job = by_id.get(native)
            if job is None or job.phase == ENDING or of_listed(job, native, self._scheduler.name) is None:
                over.append((entry, native, job))
            else:
                said[entry.job_id] = self._listed(entry, native, job)
        if over:
            self._look_at(over, by_id, said)
        return said

    def settle(self, entries: Sequence[Entry], jobs: Sequence[BatchJob]) -> None:
        """Find the scheduler's ids of submissions that were not answered, by their marks."""
        open_ones = {entry.submission.mark: entry.submission for entry in entries if entry.submission.native is None}
        for job in jobs if open_ones else ():
            submission = open_ones.get(job.mark or "")
            if submission is not None and submission.native is None:
                native = self._scheduler.whole(job.job_id) if submission.is_array else job.job_id
                self._ledger.taken(submission, native)

    def _look_at(
        self,
        over: Sequence[tuple[Entry, str, Optional[BatchJob]]],
        by_id: Mapping[str, BatchJob],
        said: dict[str, Observation],
    ) -> None:
        """Judge those that are not at work, as the scheduler has it."""
        self._ledger.refresh([entry.job_id for entry, _, _ in over])
        records = {entry.job_id: self._ledger.record(entry.job_id, entry.attempt) for entry, _, _ in over}
        rest: list[tuple[Entry, str, Optional[BatchJob]]] = []
        for entry, native, job in over:
            kept = records[entry.job_id]
            if kept is not None and kept.caught is None:
                word = job.native_state if job is not None and job.phase != ENDING else None
                said[entry.job_id] = self._end(entry, of_record(kept, kept.native, word), by_record=True)
                continue
            if kept is None:
                native, job = self._by_claim(entry, native, job, by_id)
            listed = None if job is None else self._still_listed(entry, native, job)
            if listed is not None:
                said[entry.job_id] = listed
            else:
                rest.append((entry, native, job))
        accounts = self._commands.ended([native for _, native, job in rest if job is None])
        for entry, native, job in rest:
            told = self._judge(entry, native, job or accounts.get(native), records[entry.job_id])
            if told is not None:
                said[entry.job_id] = told

    def _by_claim(
        self, entry: Entry, native: str, job: Optional[BatchJob], by_id: Mapping[str, BatchJob]
    ) -> tuple[str, Optional[BatchJob]]:
        """The job of the scheduler that really runs it: it may have been submitted twice."""
        claim = self._ledger.claim(entry.job_id, entry.attempt)
        if claim is None or claim.native == native:
            return native, job
        _logger.info("job %s is run by %s, not by %s", entry.job_id, claim.native, native)
        entry.claimed_by = claim.native
        return claim.native, by_id.get(claim.native)

    def _still_listed(self, entry: Entry, native: str, job: BatchJob) -> Optional[Observation]:
        if job.phase == ENDING:
            facts = {"host": job.hosts[0]} if job.hosts else {}
            return Observation(JobState.RUNNING, job.native_state, native, None, facts)
        if of_listed(job, native, self._scheduler.name) is None:
            return None
        return self._listed(entry, native, job)

    def _listed(self, entry: Entry, native: str, job: BatchJob) -> Observation:
        entry.missing_since = None
        if job.phase == UNKNOWN and job.native_state not in self._odd_words:
            self._odd_words.add(job.native_state)
            _logger.warning("%s says %s of job %s: not known here", self._scheduler.name, job.native_state, native)
        listed = of_listed(job, native, self._scheduler.name)
        assert listed is not None
        return listed

    def _judge(
        self, entry: Entry, native: str, job: Optional[BatchJob], record: Optional[ExitRecord]
    ) -> Optional[Observation]:
        """What is said of a job that is not listed, or listed as ended; None: nothing yet."""
        now = time.monotonic()
        if entry.missing_since is None:
            entry.missing_since = now
        waited = now - entry.missing_since >= self._grace_s
        name = self._scheduler.name
        cancelled = self._ledger.is_cancelled(entry.job_id, entry.attempt)
        if cancelled and record is None and self._has_stood_down(entry, job, waited=waited):
            word = "gone" if job is None else job.native_state
            return self._end(entry, Observation(JobState.CANCELLED, word, native, "cancelled before it began"))
        if job is not None:
            told = of_ended(job, native, name, record, waited=waited, cancelled=cancelled)
        else:
            place = str(self._ledger.jobs_directory)
            told = of_gone(native, name, record, place, cancelled=cancelled, waited=waited)
        if told is None or not told.state.terminal:
            return told
        if record is None and told.state is JobState.FAILED:
            told = with_hint(told, self._ledger.last_words(entry.submission))
        return self._end(entry, told)

    def _has_stood_down(self, entry: Entry, job: Optional[BatchJob], *, waited: bool) -> bool:
        """Whether a job that was to be cancelled never began; it does not begin any more.

        Slurm keeps nothing of an element that was cancelled while it waited.
        """
        if self._ledger.claim(entry.job_id, entry.attempt) is not None:
            return False
        return job is None or job.exit_code == STANDS_DOWN or (waited and job.outcome != SUCCEEDED)

    def _end(self, entry: Entry, told: Observation, *, by_record: bool = False) -> Observation:
        """A job has ended."""
        sizes = self._ledger.sizes(entry.job_id, entry.attempt)
        said = Observation(told.state, told.native_status, told.native_id, told.reason, {**told.facts, **sizes})
        self._ledger.end(entry, said, by_record=by_record)
        return said

    def _of_ended(self, job_id: str) -> Optional[Observation]:
        """What is kept of a job that has ended."""
        kept = self._ledger.ended(job_id)
        if kept is None:
            return None
        attempt, record, told = kept
        sizes = self._ledger.sizes(job_id, attempt)
        if record is not None:
            said = of_record(record, record.native)
            return Observation(said.state, said.native_status, said.native_id, said.reason, {**said.facts, **sizes})
        assert told is not None
        return Observation(**{**told, "state": JobState(told["state"])})
