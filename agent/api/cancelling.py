"""The calls that ask for the end of jobs: recorded first, then told to whoever has them."""

from __future__ import annotations

from collections.abc import Sequence

from ..instance import Instance
from ..recording import attached
from ..recording.bodies import job_ids_of, text_of
from ..recording.recorder import JobNow, Recorder
from ..recording.recovery import is_claimed
from ..states import JobState
from ..store import origins, queries
from ..store.atrest import ENDED
from .call import JSON, Call

CANCELLED_BY_USER = "cancelled by the user"
_OPEN_OF_WORKFLOW = f"select id, origin from jobs where workflow_id = ? and state not in {ENDED} order by id"  # noqa: S608


async def cancel(instance: Instance, call: Call) -> JSON:
    """Ask for the end of a job."""
    reason = str(call.body().get("reason") or CANCELLED_BY_USER)

    def work(recorder: Recorder) -> tuple[str, list[JobNow]]:
        job_id = queries.resolve(recorder.transaction.connection, "job", call.arguments[0])
        return job_id, _cancel(instance, recorder, [job_id], reason)

    job_id, to_tell = await instance.writer.write(work)
    _tell(instance, to_tell, reason)
    return await instance.writer.read(queries.job, job_id)


async def cancel_many(instance: Instance, call: Call) -> JSON:
    """Ask for the end of several jobs, or of all of a workflow that have not ended; what others have of that is counted."""
    body = call.body()
    reason = str(body.get("reason") or CANCELLED_BY_USER)
    given = job_ids_of({"jobs": body.get("jobs") or []})

    def work(recorder: Recorder) -> tuple[JSON, list[JobNow]]:
        connection, here = recorder.transaction.connection, recorder.transaction.origin
        ids = [queries.resolve(connection, "job", job_id) for job_id in given]
        found: list[tuple[str, str]] = []
        if body.get("workflow"):
            workflow = queries.resolve(connection, "workflow", text_of(body, "workflow"))
            found = connection.execute(_OPEN_OF_WORKFLOW, (workflow,)).fetchall()
        ids += [job_id for job_id, origin in found if origin == here]
        elsewhere = origins.count_others(connection, [origin for _, origin in found])
        open_jobs = [job for job in map(recorder.job_now, dict.fromkeys(ids)) if job and not job.state.terminal]
        open_jobs.sort(key=lambda job: job.state is not JobState.READY)  # so that no end starts what is to be cancelled
        to_tell = _cancel(instance, recorder, [job.job_id for job in open_jobs], reason)
        return {"cancelled": len(open_jobs), **({"elsewhere": elsewhere} if elsewhere else {})}, to_tell

    answer, to_tell = await instance.writer.write(work)
    _tell(instance, to_tell, reason)
    return answer


async def end_jobs(instance: Instance, job_ids: Sequence[str], reason: str) -> None:
    """Ask for the end of these jobs."""
    to_tell = await instance.writer.write(lambda recorder: _cancel(instance, recorder, job_ids, reason))
    _tell(instance, to_tell, reason)


def _cancel(instance: Instance, recorder: Recorder, job_ids: Sequence[str], reason: str) -> list[JobNow]:
    """Record that jobs shall end; those whose sites are to be told."""
    to_tell = []
    for job_id in job_ids:
        placed = (
            is_claimed(recorder, job_id)
            or attached.is_attached(recorder, job_id)
            or instance.sites.has(recorder, job_id)
        )
        job = instance.service.cancel(recorder, job_id, reason, placed=placed)
        if job is not None:
            to_tell.append(job)
    return to_tell


def _tell(instance: Instance, jobs: Sequence[JobNow], reason: str) -> None:
    """Tell those who have these jobs that they shall end."""
    for job in jobs:
        if not instance.attached.interrupt(job.job_id):
            instance.sites.cancel(job.site, job.job_id, job.attempt, reason)
