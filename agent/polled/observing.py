"""From what a site says of its jobs to what the thread records, as units of work on the store: once each, however often it is said.

Jobs that have ended meanwhile, by whoever's word, stay as they are; one that is to be stopped is heard of again when it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ..data.outputs import OutputStore
from ..models import Metasheet
from ..recording.execution import record_retry
from ..recording.recorder import JobNow, Recorder
from ..sites.base import Observation
from ..states import JobState
from ..store import queries
from ..store.columns import FACTS
from .handover import BRING, THERE, Mark, mark_of, set_mark, unmark

STREAMS = ("stdout", "stderr")


class Heard(NamedTuple):
    """What came of a site's answer.

    Args:
        changed: whether anything was recorded. ``going_on``: the jobs that the site has.
        ended: those that have ended with this. ``again``: those that failed, and are to be tried again.
        over: those that have ended otherwise, or are another's.
    """

    changed: bool
    going_on: list[str]
    ended: list[str]
    again: list[str]
    over: list[str]


def record_observations(recorder: Recorder, site: str, said: Mapping[str, Observation]) -> Heard:
    """Record what a site says, apart from failures upon which there is another attempt: see :func:`record_failures`."""
    heard = Heard(False, [], [], [], [])
    changed = False
    recorder.transaction.find_jobs(list(said))
    for job_id, observed in said.items():
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or not recorder.is_ours(job) or job.site != site:
            heard.over.append(job_id)
            continue
        if _of_another_attempt(job, observed):
            continue
        if _tries_again(job, observed):
            heard.again.append(job_id)
            continue
        mark = mark_of(recorder, job_id)
        if _is_news(recorder, job, observed):
            recorder.record_status(job, observed.state, **_told(observed))
            changed = True
        if observed.state.terminal:
            heard.ended.append(job_id)
            set_mark(recorder, job_id, Mark(site, job.attempt, BRING))
        else:
            heard.going_on.append(job_id)
            if mark is None or mark.stage != THERE:
                set_mark(recorder, job_id, Mark(site, job.attempt, THERE))
    return heard._replace(changed=changed)


def record_failures(
    recorder: Recorder,
    site: str,
    said: Mapping[str, Observation],
    brought: Mapping[str, Mapping[str, bytes]],
    outputs: OutputStore,
) -> bool:
    """These attempts have failed, and the next ones begin; ``brought``: what they have printed, as far as it was had."""
    changed = False
    for job_id, observed in said.items():
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or not recorder.is_ours(job) or job.site != site:
            continue
        if _of_another_attempt(job, observed) or not _tries_again(job, observed):
            continue
        unmark(recorder, job_id)
        told = _told(observed)
        reason = told.pop("reason", None)
        told.update(_kept(recorder, brought.get(job_id, {}), outputs))
        record_retry(recorder, job, reason, {key: value for key, value in told.items() if value is not None})
        changed = True
    return changed


def record_missing(recorder: Recorder, job_ids: Sequence[str]) -> list[str]:
    """The site knows nothing any more of these, which it had; those that have ended with that."""
    ended = []
    for job_id in job_ids:
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or not recorder.is_ours(job):
            continue
        if job.state is JobState.FINISHING:
            recorder.record_status(job, JobState.CANCELLED, reason="cancelled; its site knows it no more")
            ended.append(job_id)
        elif job.state is not JobState.UNKNOWN:
            recorder.record_status(job, JobState.UNKNOWN, reason=f"site {job.site} knows it no more")
    return ended


def record_brought(
    recorder: Recorder, job_id: str, printed: Mapping[str, bytes], sheets: Sequence[Metasheet], outputs: OutputStore
) -> None:
    """Record what a job that has ended has printed, and its declared files; once, however often it is tried."""
    mark, job = mark_of(recorder, job_id), recorder.job_now(job_id)
    if mark is None or mark.stage != BRING:
        return
    unmark(recorder, job_id)
    if job is None or not job.state.terminal or job.attempt != mark.attempt or not recorder.is_ours(job):
        return
    for sheet in sheets:
        recorder.record_data({**sheet.to_json(), "job_id": job_id, "workflow_id": job.workflow_id})
    facts = _kept(recorder, printed, outputs)
    if facts:
        known = queries.job(recorder.transaction.connection, job_id)
        same = {name: known[name] for name in ("reason", "native_status", "time") if known.get(name)}
        head = {"job_id": job_id, "attempt": job.attempt, "state": job.state.value}
        recorder.record("status", {**head, **same, **facts})


def _is_news(recorder: Recorder, job: JobNow, observed: Observation) -> bool:
    if job.state is JobState.FINISHING and not observed.state.terminal:
        return False
    query = "select native_status, native_id from jobs where id = ?"
    native, native_id = recorder.transaction.execute(query, (job.job_id,)).fetchone()
    return (job.state, native, native_id) != (observed.state, observed.native_status, observed.native_id)


def _of_another_attempt(job: JobNow, observed: Observation) -> bool:
    attempt = observed.facts.get("attempt")
    return attempt is not None and attempt != job.attempt


def _tries_again(job: JobNow, observed: Observation) -> bool:
    return observed.state is JobState.FAILED and job.attempt <= job.retries and job.state is not JobState.FINISHING


def _told(observed: Observation) -> dict[str, Optional[Any]]:
    facts = {name: value for name, value in observed.facts.items() if name in FACTS}
    own = {"native_status": observed.native_status, "native_id": observed.native_id, "reason": observed.reason}
    return {**facts, **own}


def _kept(recorder: Recorder, printed: Mapping[str, bytes], outputs: OutputStore) -> dict[str, Any]:
    """The facts that tell what was printed, which is in the store from now on."""
    facts: dict[str, Any] = {}
    for stream, data in printed.items():
        facts[f"{stream}_bytes"] = len(data)
        if data:
            facts[stream] = outputs.keep(recorder.transaction, data)
    return facts
