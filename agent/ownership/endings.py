"""Which allocations have ended: the scheduler is asked, and where it does not answer nothing is concluded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..paths import user_name
from ..sites.batch.commands import find_scheduler
from ..sites.batch.scheduler import ENDED


def ended(names: Sequence[str]) -> dict[str, str]:
    """Those of these allocations that have ended, as ``slurm-4711``, and what the scheduler says of how; maybe nothing.

    Raises:
        SiteError: the scheduler does not answer.
    """
    scheduler = find_scheduler()
    if scheduler is None:
        return {}
    prefix = f"{scheduler.name}-"
    ids = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    if not ids:
        return {}
    listed = {job.job_id: job for job in scheduler.jobs(user_name())}
    gone = [job_id for job_id in ids if job_id not in listed]
    told = {**scheduler.ended(gone), **{job_id: job for job_id, job in listed.items() if job.phase == ENDED}}
    return {
        name: f": {told[job_id].native_state}" if job_id in told else ""
        for job_id, name in ids.items()
        if job_id not in listed or listed[job_id].phase == ENDED
    }


def askable(names: Iterable[str]) -> set[str]:
    """Those of these allocations that are of the scheduler which can be asked here."""
    scheduler = find_scheduler()
    return set() if scheduler is None else {name for name in names if name.startswith(f"{scheduler.name}-")}


def all_ended(names: Sequence[str]) -> dict[str, str]:
    """The same for somebody who knows that they have, and needs not ask."""
    return dict.fromkeys(names, "")
