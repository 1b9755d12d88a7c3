"""The call that says why a job waits, or how it came to its end."""

from __future__ import annotations

from ..errors import NotFound
from ..instance import Instance
from ..states import JobState
from ..store import origins, queries
from .call import JSON, Call
from .selecting import job_meant


async def why(instance: Instance, call: Call) -> JSON:
    """Why a job waits, or how it came to its end; of one of another instance, as of when that is known."""
    job = await job_meant(instance, call)
    lines: list[str] = []
    state = JobState(job["state"])
    whence = {key: job[key] for key in ("origin", "origin_host", "elsewhere") if key in job}
    if "elsewhere" in job:
        whence["known_at"] = await instance.writer.read(origins.last_known, job["origin"])
        lines.append(f"belongs to the instance on {job['elsewhere']}; its last record here is of {whence['known_at']}")
        if not state.terminal:
            lines.append("what has become of it since comes with the next sync")
    if state is JobState.READY:
        lines.append(await _what_it_waits_for(instance, job))
    elif "elsewhere" not in job and not state.terminal:
        lines.extend(_where_it_stands(instance, job, state))
    history = await instance.writer.read(queries.statuses, job["job_id"])
    lines.extend(f"{item['time']} {item['state']}: {item['reason']}" for item in history if item.get("reason"))
    told = {"job_id": job["job_id"], "state": job["state"], "reason": job.get("reason"), "explanation": lines}
    return {**told, **whence}


def _where_it_stands(instance: Instance, job: JSON, state: JobState) -> list[str]:
    """What a job waits for that was not handed to its site, or to a worker; of one that was, whether the site is down."""
    job_id = job["job_id"]
    of_site = (
        instance.sites.polled.why_waiting(job["site"], job_id) or instance.sites.polled.standing(job["site"]).trouble
    )
    if of_site:
        return [of_site]
    if state is not JobState.PENDING:
        return []
    if job_id in instance.dispatcher.flights:
        return ["was given to a worker, and is about to start"]
    lines = [instance.dispatcher.why_waiting(job_id) or "is about to be placed"]
    for resource in instance.dispatcher.describe():
        facts = resource.facts
        used = f"{facts['cores_used']} of {facts['cores']} cores in use, {facts['jobs']} jobs"
        lines.append(f"{resource.resource_id}: {used}")
    return lines


async def _what_it_waits_for(instance: Instance, job: JSON) -> str:
    if not job.get("handler_id"):
        return "waits for its trigger"
    try:
        handler = await instance.writer.read(queries.handler, job["handler_id"])
    except NotFound:  # of another instance, and still on its way here
        return f"waits for its trigger (handler {job['handler_id']})"
    event = handler["event"]
    if handler["kind"] == "data":
        return f"waits for data with {event['match']} (handler {handler['handler_id']})"
    parents = await instance.writer.read(queries.jobs_by_id, event["jobs"])
    wanted = " or ".join(event.get("states") or ["COMPLETE"])
    listed = ", ".join(
        f"{parent['name']} {parent['job_id']} ({parent['state']}{_on(parent)})" for parent in parents[:5]
    )
    more = ", …" if len(parents) > 5 else ""
    return f"waits for {event.get('mode', 'all')} of {len(event['jobs'])} jobs to be {wanted}: {listed}{more}"


def _on(job: JSON) -> str:
    return f" on {job['elsewhere']}" if "elsewhere" in job else ""
