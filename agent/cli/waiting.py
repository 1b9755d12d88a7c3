"""Waiting for given jobs, and saying how they ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..client import Client
from ..errors import WaitTimeout
from ..ids import short
from . import render
from .errors import EXIT_FAILED_JOBS
from .progress import Progress, choose_meter, follow
from .tally import counts_text
from .text import duration, job_time_s, plural, why

if TYPE_CHECKING:
    from ..records import JSON

LISTED = 20
ASK_CHUNK = 1000


def wait_for(client: Client, jobs: Sequence[str], *, as_json: bool = False, timeout_s: float | None = None) -> int:
    """Wait until all of ``jobs`` have ended, showing progress; the exit code: 11 unless all are COMPLETE.

    Raises:
        WaitTimeout: some have not ended after ``timeout_s`` seconds.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    meter = choose_meter(quiet=len(jobs) == 1)
    last = follow(client, meter, lambda seen: seen.ended >= seen.total, jobs=jobs, deadline=deadline)
    if last.ended < last.total:
        raise WaitTimeout(f"{last.total - last.ended} of {plural(last.total, 'job')} did not end in the time given")
    complete = last.counts.get("COMPLETE", 0) == last.total
    if as_json:
        records = statuses(client, jobs)
        render.print_json(records if len(jobs) > 1 else records[0])
    elif len(jobs) <= LISTED or not complete:
        _show(statuses(client, jobs), last)
    else:
        render.say(f"{plural(last.total, 'job')}: all COMPLETE")
    return 0 if complete else EXIT_FAILED_JOBS


def statuses(client: Client, jobs: Sequence[str]) -> list[JSON]:
    """How these jobs, which have ended, stand."""
    found: list[JSON] = []
    for start in range(0, len(jobs), ASK_CHUNK):
        body = {"jobs": list(jobs[start : start + ASK_CHUNK]), "mode": "all", "timeout_s": 0}
        found += client.post("/v1/jobs/wait", body, repeatable=True)["jobs"]
    return found


def _show(records: list[JSON], progress: Progress) -> None:
    listed = records if len(records) <= LISTED else [job for job in records if job["state"] != "COMPLETE"][:LISTED]
    rows = (
        (
            render.identifier(job["job_id"]),
            job.get("name", ""),
            job["state"],
            duration(job_time_s(job)),
            why(job),
        )
        for job in listed
    )
    render.table(("JOB", "NAME", "STATE", "TIME", "WHY"), rows)
    if len(records) > 1:
        render.say(f"{plural(len(records), 'job')}: {counts_text(progress.counts)}")
    failed = next((job for job in listed if job["state"] == "FAILED"), None)
    if failed:
        render.note(f"  → lwfm job output --stderr {short(failed['job_id'])}")
