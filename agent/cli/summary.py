"""What is told at the end of a run: which jobs ended how, what data came of it, and where to look next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..client.calls import path_of
from ..ids import short
from . import render
from .tally import counts_text, own_counts
from .text import duration, harmless, job_time_s, plural, size, some_properties, why

if TYPE_CHECKING:
    from ..records import JSON

LISTED_JOBS = 30
"""With more jobs than this, those of one name and state share a line."""
GROUPED_JOBS = 20_000
"""With more than this, only the states are counted."""
LISTED_FAILURES = 10
LISTED_DATA = 20


def collect(client: Client, workflows: list[JSON], script_job: str, unset_handlers: int) -> JSON:
    """The summary of a run as JSON: ``workflow``, ``jobs``, ``failed``, ``data``, ``more_data``.

    Args:
        workflows: the run's own, then those its script made; these are summed up under ``made`` in the same form.
    """
    summary = _collect_one(client, workflows[0])
    summary.update(script_job=script_job, unset_handlers=unset_handlers)
    if len(workflows) > 1:
        summary["made"] = [_collect_one(client, workflow) for workflow in workflows[1:]]
    return summary


def _collect_one(client: Client, workflow: JSON) -> JSON:
    workflow_id = workflow["workflow_id"]
    fresh: JSON = client.get(path_of("workflows", workflow_id))
    jobs: list[JSON] = []
    mine = {"workflow": workflow_id, "origin": "here"}
    if sum(own_counts(fresh).values()) <= GROUPED_JOBS:
        jobs = client.get("/v1/jobs", {**mine, "limit": 0})["jobs"]
        jobs.sort(key=lambda job: (job.get("started_at") or "~", job["job_id"]))  # in the order in which they ran
    failed = client.get("/v1/jobs", {**mine, "state": "FAILED", "limit": LISTED_FAILURES})["jobs"]
    data = client.get("/v1/data", {**mine, "op": "put", "limit": LISTED_DATA + 1})["data"]
    return {
        "workflow": fresh,
        "jobs": jobs,
        "failed": failed,
        "data": data[:LISTED_DATA],
        "more_data": len(data) > LISTED_DATA,
    }


def show(summary: JSON) -> None:
    """The summary for a person."""
    for one in [summary, *summary.get("made", ())]:
        _show_one(one)
    if summary["unset_handlers"]:
        render.say()
        unset = plural(summary["unset_handlers"], "handler")
        render.say(f"{unset} still waited for data when all else had ended: unset (--keep-handlers leaves them).")
    _show_next(summary["workflow"]["workflow_id"], summary)


def _show_one(summary: JSON) -> None:
    workflow = summary["workflow"]
    counts = own_counts(workflow)
    total = sum(counts.values())
    render.say()
    render.say(
        f"Workflow {harmless(workflow['name'])} ({short(workflow['workflow_id'])}): {plural(total, 'job')}, {counts_text(counts)}"
    )
    render.say()
    jobs = summary["jobs"]
    if jobs and len(jobs) <= LISTED_JOBS:
        render.table(("JOB", "NAME", "STATE", "TIME", "CPU", "MEMORY", "WHY"), map(_job_row, jobs))
    elif jobs:
        render.table(("NAME", "STATE", "JOBS", "TIME EACH", "CPU IN ALL"), _groups(jobs))
    if len(jobs) > LISTED_JOBS or not jobs:
        _show_failures(summary["failed"])
    if summary["data"]:
        render.say()
        render.table(("DATA", "SIZE", "PROPERTIES"), map(_data_row, reversed(summary["data"])))
        if summary["more_data"]:
            render.say(f"... and more: lwfm find --workflow {short(workflow['workflow_id'])}")


def _show_next(workflow_id: str, summary: JSON) -> None:
    render.say()
    render.say(f"More: lwfm job list --workflow {short(workflow_id)}")
    if summary["failed"]:
        render.say(f"      lwfm job output --stderr {short(summary['failed'][0]['job_id'])}")
    if summary["data"]:
        newest = summary["data"][0]
        path = _from_here(newest["path"]) if newest.get("path") else newest["data_id"]
        render.say(f"      lwfm lineage {harmless(shlex.quote(path))}")


def _job_row(job: JSON) -> tuple[str, ...]:
    return (
        short(job["job_id"]),
        job.get("name", ""),
        job["state"],
        duration(job_time_s(job)),
        duration(job.get("cpu_seconds")),
        size(job.get("peak_rss_bytes")),
        why(job),
    )


def _groups(jobs: Iterable[JSON]) -> Iterable[tuple[str, ...]]:
    groups: dict[tuple[str, str], list[JSON]] = {}
    for job in jobs:
        groups.setdefault((job.get("name", ""), job["state"]), []).append(job)
    for (name, state), members in groups.items():
        times = [job_time_s(job) or 0.0 for job in members]
        cpu = sum(job.get("cpu_seconds") or 0.0 for job in members)
        yield name, state, str(len(members)), duration(sum(times) / len(times)), duration(cpu)


def _show_failures(failed: list[Any]) -> None:
    if failed:
        render.say()
        render.table(
            ("FAILED", "NAME", "WHY"), ((short(job["job_id"]), job.get("name", ""), why(job)) for job in failed)
        )


def _data_row(sheet: JSON) -> tuple[str, ...]:
    return (
        _from_here(str(sheet.get("path") or sheet.get("url") or "")),
        size(sheet.get("size_bytes")),
        some_properties(sheet.get("properties")),
    )


def _from_here(path: str) -> str:
    """``path`` as seen from this directory, where it lies below."""
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else path
