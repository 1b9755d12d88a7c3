"""Jobs on their way to sites that must be asked, as units of work on the store: what was handed over, what comes back, what moves.

Before a job is handed over that is made durable, in a mark of this instance's own (``local_settings``; not history). A job without
one has certainly not been handed over: it can be cancelled at once, and can go to another site. The mark stays until the attempt
has ended, and beyond, until what the job printed was brought here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ..models import JobDefn
from ..placing.candidates import Choice
from ..recording.recorder import JobNow, Recorder
from ..recording.requests import SiteRequest
from ..sites.base import JobRequest
from ..states import JobState
from ..store import Connection
from .backlog import Waiting

HANDED, THERE, BRING = "handed", "there", "bring"
"""A mark's stages: handed over, perhaps; the site has it; it has ended, and what it printed is to be brought."""
Build = Callable[[Connection, Mapping[str, None]], Sequence[SiteRequest]]
Choose = Callable[[Sequence[str], JobDefn], Choice]
_PREFIX = "polled:"
_ALL = "select key, value from local_settings where key >= 'polled:' and key < 'polled;'"
_OPEN = "('PENDING', 'RUNNING', 'FINISHING', 'UNKNOWN')"


class Mark(NamedTuple):
    """How far an attempt of a job has come at its site."""

    site: str
    attempt: int
    stage: str


class Resumed(NamedTuple):
    """A job that has not ended, as an agent finds it when it starts; ``stage``: of its mark."""

    site: str
    job: Waiting
    state: JobState
    reason: str
    stage: Optional[str]


def mark_of(recorder: Recorder, job_id: str) -> Optional[Mark]:
    """A job's mark."""
    query = "select value from local_settings where key = ?"
    row = recorder.transaction.execute(query, (_PREFIX + job_id,)).fetchone()
    return Mark(*json.loads(row[0])) if row else None


def set_mark(recorder: Recorder, job_id: str, mark: Mark) -> None:
    """Set or change a job's mark."""
    statement = "insert or replace into local_settings values (?, ?)"
    recorder.transaction.execute_later(statement, (_PREFIX + job_id, json.dumps(mark)))


def unmark(recorder: Recorder, job_id: str) -> None:
    """Nothing of the job is with a site any more, nor to be brought from there."""
    recorder.transaction.execute("delete from local_settings where key = ?", (_PREFIX + job_id,))


def release(recorder: Recorder, job_id: str) -> None:
    """The job has ended, by whoever's word."""
    mark = mark_of(recorder, job_id)
    if mark is not None and mark.stage != BRING:
        unmark(recorder, job_id)


def is_with_site(recorder: Recorder, job: JobNow) -> bool:
    """Whether a job has been handed to its site, perhaps."""
    return job.state not in (JobState.READY, JobState.PENDING) or mark_of(recorder, job.job_id) is not None


def hand_over(recorder: Recorder, site: str, jobs: Sequence[Waiting], build: Build) -> list[JobRequest]:
    """Make durable that these go to their site now; the requests. What waits for it no more does not go."""
    going = []
    recorder.transaction.find_jobs([job.job_id for job in jobs])
    for waiting in jobs:
        job = recorder.job_now(waiting.job_id)
        if job is None or job.state is not JobState.PENDING or not recorder.is_ours(job):
            continue
        if job.attempt == waiting.attempt and job.site == site:
            going.append(job.job_id)
            set_mark(recorder, job.job_id, Mark(site, job.attempt, HANDED))
    return [item.request for item in build(recorder.transaction.connection, dict.fromkeys(going))]


def take_back(recorder: Recorder, job_ids: Iterable[str]) -> None:
    """The site has nothing of these: those that wait do so as before, those that were to be stopped have ended with that."""
    for job_id in job_ids:
        unmark(recorder, job_id)
        job = recorder.job_now(job_id)
        if job is not None and job.state is JobState.FINISHING:
            recorder.record_status(job, JobState.CANCELLED, reason="cancelled before the site had it")


def note_there(recorder: Recorder, site: str, job_ids: Iterable[str]) -> list[str]:
    """The site has these; those of them that have not ended."""
    going_on = []
    for job_id in job_ids:
        job = recorder.job_now(job_id)
        if job is not None and not job.state.terminal and recorder.is_ours(job):
            set_mark(recorder, job_id, Mark(site, job.attempt, THERE))
            going_on.append(job_id)
    return going_on


def record_trouble(recorder: Recorder, job_ids: Sequence[str], reason: str) -> None:
    """Tell these jobs of their site's trouble; they stay as they are."""
    for job_id in job_ids:
        job = recorder.job_now(job_id)
        if job is not None and not job.state.terminal and recorder.is_ours(job):
            recorder.record("status", {"job_id": job_id, "attempt": job.attempt, "state": "INFO", "reason": reason})


def record_refused(recorder: Recorder, site: str, refused: Mapping[str, str], build: Build, choose: Choose) -> None:
    """The site has refused these jobs, with its reasons: each goes to the next of its sites that may take it, or has failed."""
    for request in build(recorder.transaction.connection, dict.fromkeys(refused)):
        job_id, defn = request.request.job_id, request.request.defn
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or not recorder.is_ours(job):
            continue
        unmark(recorder, job_id)
        if job.state is JobState.FINISHING:
            recorder.record_status(job, JobState.CANCELLED, reason="cancelled before the site had it")
            continue
        gone = {*_refusals(recorder, job_id), site}
        left = [other for other in candidates_in(defn) if other not in gone]
        choice = choose(left, defn) if left else None
        if choice is None or choice.site is None:
            others = choice.why if choice is not None else ""
            reason = f"site {site} did not take it: {refused[job_id]}" + (f"; {others}" if others else "")
            recorder.record_status(job, JobState.FAILED, reason=reason)
        else:
            _move(recorder, job, choice.site, f"site {site} did not take it: {refused[job_id]}", refused_by=site)


def move(
    recorder: Recorder, site: str, job_ids: Sequence[str], build: Build, choose: Choose, trouble: str
) -> list[str]:
    """Send jobs that wait for a site in trouble, and were never handed over, to another of theirs that takes them now.

    Returns:
        Those that went.
    """
    gone: list[str] = []
    for request in build(recorder.transaction.connection, dict.fromkeys(job_ids)):
        job_id, defn = request.request.job_id, request.request.defn
        job = recorder.job_now(job_id)
        if job is None or job.state is not JobState.PENDING or job.site != site or not recorder.is_ours(job):
            continue
        if mark_of(recorder, job_id) is not None:
            continue
        refused = _refusals(recorder, job_id)
        others = [other for other in candidates_in(defn) if other != site and other not in refused]
        choice = choose(others, defn) if others else None
        if choice is not None and choice.site is not None and not choice.waits:
            _move(recorder, job, choice.site, trouble)
            gone.append(job_id)
    return gone


def candidates_in(defn: JobDefn) -> list[str]:
    """The sites that a recorded definition names, where it names several."""
    listed = defn.extra.get("sites")
    return [site for site in listed if isinstance(site, str)] if isinstance(listed, (list, tuple)) else []


def waiting_of(request: JobRequest) -> Waiting:
    """A job as it waits for its site."""
    defn = request.defn
    return Waiting(request.job_id, request.attempt, defn.priority, len(candidates_in(defn)) > 1)


def resume(recorder: Recorder, local: Sequence[str]) -> tuple[list[Resumed], dict[str, list[str]]]:
    """The open jobs at sites other than ``local``; and by site the ended ones, whose output is still to be brought."""
    transaction = recorder.transaction
    marks = {key[len(_PREFIX) :]: Mark(*json.loads(value)) for key, value in transaction.execute(_ALL, ()).fetchall()}
    no_place = ",".join("?" * len(local))
    found = transaction.execute(
        "select j.id, coalesce(a.site, j.site) as place, attempt, state, reason, definition"  # noqa: S608
        f" from jobs j left join local_adopted a on a.job_id = j.id where state in {_OPEN} and place not in ({no_place})"
        " and (origin = ? or a.job_id is not null) and j.id not in (select job_id from local_attached) order by j.id",
        (*local, transaction.origin),
    ).fetchall()
    jobs, cancelled = [], []
    for job_id, site, attempt, state, reason, definition in found:
        mark = marks.pop(job_id, None)
        stage = mark.stage if mark is not None and mark.attempt == attempt else None
        if stage is None and state == JobState.FINISHING.value and not _was_seen(recorder, job_id):
            cancelled.append(job_id)
            continue
        defn: dict[str, Any] = json.loads(definition)
        waiting = Waiting(job_id, attempt, defn.get("priority") or 0, len(defn.get("sites") or ()) > 1)
        jobs.append(Resumed(site, waiting, JobState(state), reason or "", stage))
    take_back(recorder, cancelled)
    bring: dict[str, list[str]] = {}
    for job_id, mark in marks.items():
        if mark.stage == BRING:
            bring.setdefault(mark.site, []).append(job_id)
        else:
            unmark(recorder, job_id)
    return jobs, bring


def _was_seen(recorder: Recorder, job_id: str) -> bool:
    """Whether a site has ever said something of the job."""
    query = "select 1 from jobs where id = ? and (native_id is not null or started_at is not null)"
    return recorder.transaction.execute(query, (job_id,)).fetchone() is not None


def _move(recorder: Recorder, job: JobNow, site: str, why: str, **facts: Any) -> None:
    recorder.record_status(job, JobState.PENDING, site=site, reason=f"{why}; goes to site {site}", **facts)
    recorder.effects.pending[job.job_id] = None


def _refusals(recorder: Recorder, job_id: str) -> set[str]:
    """The sites that have refused the job."""
    query = "select facts from statuses where job_id = ? and facts like '%refused_by%'"
    found = recorder.transaction.execute(query, (job_id,)).fetchall()
    return {str(json.loads(facts).get("refused_by")) for (facts,) in found}
