"""The calls of the API on jobs."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from .. import attached, processes
from ..errors import InvalidRecord
from ..execution import record_ended
from ..instance import Instance
from ..matching import parse_terms
from ..recorder import Recorder
from ..recovery import is_claimed
from ..service import active_count, definitions_of, job_ids_of
from ..states import JobState, parse_state
from ..store import queries
from ..watch import Progress, changed_since
from .server import JSON, Call, Raw

MAX_WAIT_S = 60.0
MAX_OUTPUT_BYTES = 8 * 1024 * 1024
MAX_TREE_JOBS = 2000
PROGRESS_PAUSE_S = 0.05
"""How long changes are gathered before who follows is told, unless all has ended."""


async def submit(instance: Instance, call: Call) -> JSON:
    """Record jobs and hand them to their sites."""
    body = call.body()
    definitions = definitions_of(body)
    instance.check(str(body.get("site") or "local"), definitions)
    return await instance.writer.write(instance.service.submit, body, definitions)


async def listing(instance: Instance, call: Call) -> JSON:
    """Jobs, newest first."""
    read = instance.writer.read
    workflow, parent = call.value("workflow"), call.value("parent")
    if workflow:
        workflow = await read(queries.resolve, "workflow", workflow)
    if parent:
        parent = await read(queries.resolve, "job", parent)
    states = [parse_state(word).value for given in call.values("state") for word in given.split(",") if word]
    found = await read(
        queries.list_jobs,
        states=states,
        workflow=workflow,
        parent=parent,
        site=call.value("site"),
        name=call.value("name"),
        words=call.value("text"),
        match=parse_terms(call.values("match")),
        limit=call.limit(),
    )
    return {"jobs": found}


async def get(instance: Instance, call: Call) -> JSON:
    """One job with all its details."""
    return await instance.writer.read(lambda c: queries.job_details(c, queries.resolve(c, "job", call.arguments[0])))


async def statuses(instance: Instance, call: Call) -> JSON:
    """All statuses of a job."""
    return {
        "statuses": await instance.writer.read(
            lambda c: queries.statuses(c, queries.resolve(c, "job", call.arguments[0]))
        )
    }


async def tree(instance: Instance, call: Call) -> JSON:
    """A job and what it started, and what those started."""

    def grow(connection: Any, job_id: str, seen: set[str]) -> JSON:
        seen.add(job_id)
        grown = []
        for child in queries.children(connection, job_id):
            if child not in seen and len(seen) < MAX_TREE_JOBS:
                grown.append(grow(connection, child, seen))
        return {"job": queries.job(connection, job_id), "children": grown}

    return await instance.writer.read(lambda c: grow(c, queries.resolve(c, "job", call.arguments[0]), set()))


async def why(instance: Instance, call: Call) -> JSON:
    """Why a job waits, or how it came to its end."""
    job = await get(instance, call)
    lines: list[str] = []
    state = JobState(job["state"])
    if state is JobState.READY:
        lines.append(await _what_it_waits_for(instance, job))
    elif state is JobState.PENDING and not instance.dispatcher.has(job["job_id"]):
        lines.append(f"waits for room: {instance.dispatcher.waiting} jobs wait in all")
        for resource in instance.dispatcher.describe():
            facts = resource.facts
            lines.append(
                f"{resource.resource_id}: {facts['cores_used']} of {facts['cores']} cores in use, {facts['jobs']} jobs"
            )
        if not instance.workers.connections:
            lines.append("no worker is connected at the moment")
    elif state is JobState.PENDING:
        lines.append("was given to a worker, and is about to start")
    history = (await statuses(instance, call))["statuses"]
    lines.extend(f"{item['time']} {item['state']}: {item['reason']}" for item in history if item.get("reason"))
    return {"job_id": job["job_id"], "state": job["state"], "reason": job.get("reason"), "explanation": lines}


async def _what_it_waits_for(instance: Instance, job: JSON) -> str:
    if not job.get("handler_id"):
        return "waits for its trigger"
    handler = await instance.writer.read(queries.handler, job["handler_id"])
    event = handler["event"]
    if handler["kind"] == "data":
        return f"waits for data with {event['match']} (handler {handler['handler_id']})"
    parents = await instance.writer.read(queries.jobs_by_id, event["jobs"])
    wanted = " or ".join(event.get("states") or ["COMPLETE"])
    listed = ", ".join(f"{parent['name']} {parent['job_id']} ({parent['state']})" for parent in parents[:5])
    more = ", …" if len(parents) > 5 else ""
    return f"waits for {event.get('mode', 'all')} of {len(event['jobs'])} jobs to be {wanted}: {listed}{more}"


async def output(instance: Instance, call: Call) -> Raw:
    """A piece of what a job printed."""
    stream = call.value("stream") or "stdout"
    if stream not in ("stdout", "stderr"):
        raise InvalidRecord(f"stream must be stdout or stderr, not {stream!r}")
    offset, limit = int(call.number("offset", 0)), int(call.number("limit", MAX_OUTPUT_BYTES)) or MAX_OUTPUT_BYTES
    limit, wait_s = min(limit, MAX_OUTPUT_BYTES), min(call.number("wait_s", 0), 30.0)
    job = await get(instance, call)
    attempt = int(call.number("attempt", job["attempt"]))
    live = await instance.workers.output(job["job_id"], attempt, stream, offset, limit, wait_s)
    if live is not None:
        data, ended, size = live
        return (
            _piece(data, offset, size, ended=False)
            if not ended
            else await _kept(instance, call, attempt, stream, offset, limit)
        )
    if attempt == job["attempt"] and not JobState(job["state"]).terminal:
        if wait_s:
            await instance.watch.ended([job["job_id"]], any_of_them=True, timeout_s=min(wait_s, 0.5))
        return _piece(b"", offset, 0, ended=False)
    return await _kept(instance, call, attempt, stream, offset, limit)


async def _kept(instance: Instance, call: Call, attempt: int, stream: str, offset: int, limit: int) -> Raw:
    """A piece of the output of an attempt that has ended."""

    def read(connection: Any) -> tuple[bytes, int, bool]:
        job_id = queries.resolve(connection, "job", call.arguments[0])
        job = queries.job_details(connection, job_id)
        found, settled = job.get(stream), JobState(job["state"]).terminal or attempt < job["attempt"]
        if attempt != job["attempt"]:
            ends = [
                status["ended_attempt"] for status in queries.statuses(connection, job_id) if "ended_attempt" in status
            ]
            found = next((end.get(stream) for end in ends if end["attempt"] == attempt), None)
        if not settled:
            return b"", 0, False
        return instance.outputs.read(connection, found, offset, limit), int((found or {}).get("size", 0)), True

    data, size, settled = await instance.writer.read(read)
    return _piece(data, offset, size, ended=settled and offset + len(data) >= size)


def _piece(data: bytes, offset: int, size: int, *, ended: bool) -> Raw:
    headers = {"Lwfm-Offset": str(offset + len(data)), "Lwfm-Size": str(size), "Lwfm-Ended": "1" if ended else "0"}
    return Raw(data, headers)


async def cancel(instance: Instance, call: Call) -> JSON:
    """Ask for the end of a job."""
    reason = str(call.body().get("reason") or "cancelled by the user")

    def work(recorder: Recorder) -> tuple[str, Any]:
        job_id = queries.resolve(recorder.transaction.connection, "job", call.arguments[0])
        placed = (
            is_claimed(recorder, job_id)
            or bool(instance.attached.pid_of(job_id))
            or not instance.is_local(recorder, job_id)
        )
        return job_id, instance.service.cancel(recorder, job_id, reason, placed=placed)

    job_id, to_tell = await instance.writer.write(work)
    if to_tell is not None:
        instance.tell_cancel(job_id, to_tell.site, to_tell.attempt, reason)
    return await instance.writer.read(queries.job, job_id)


async def emit(instance: Instance, call: Call) -> JSON:
    """Record a status that the caller tells."""
    return await instance.writer.write(instance.service.emit_status, call.arguments[0], call.body())


async def wait(instance: Instance, call: Call) -> JSON:
    """Answer when the jobs have ended, or the time is up."""
    body = call.body()
    given = job_ids_of(body)
    any_of_them = body.get("mode") == "any"
    timeout_s = min(float(body.get("timeout_s") or 0), MAX_WAIT_S)

    def look(recorder: Recorder) -> tuple[list[str], list[str]]:
        connection = recorder.transaction.connection
        ids = [job_id if len(job_id) == 36 else queries.resolve(connection, "job", job_id) for job_id in given]
        states = _states_of(connection, ids)
        for job_id in ids:
            if job_id not in states:
                queries.resolve(connection, "job", job_id)
        return ids, [job_id for job_id in ids if not JobState(states[job_id]).terminal]

    ids, open_ids = await instance.writer.write(look)
    if open_ids and not (any_of_them and len(open_ids) < len(ids)):
        await instance.watch.ended(open_ids, any_of_them=any_of_them, timeout_s=timeout_s)
    found = await instance.writer.read(queries.jobs_by_id, ids)
    ended = [JobState(job["state"]).terminal for job in found]
    return {"jobs": found, "done": any(ended) if any_of_them else all(ended)}


def _states_of(connection: Any, ids: list[str]) -> dict[str, str]:
    states: dict[str, str] = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        marks = ",".join("?" * len(part))
        states.update(connection.execute(f"select id, state from jobs where id in ({marks})", part))  # noqa: S608 - only marks
    return states


async def attach(instance: Instance, call: Call) -> JSON:
    """Record a job that the caller executes, and watch its process."""
    body = call.body()
    pid, start_s = instance.attached.identify(body.get("pid"))

    def work(recorder: Recorder) -> JSON:
        job = instance.service.attach(recorder, body)
        attached.remember(recorder, job["job_id"], pid, start_s)
        return job

    job = await instance.writer.write(work)
    instance.attached.watch(job["job_id"], pid, start_s, processes.boot_id())
    return job


async def finish(instance: Instance, call: Call) -> JSON:
    """The caller tells how the job it executed has ended."""
    body = call.body()

    def work(recorder: Recorder) -> JSON:
        connection = recorder.transaction.connection
        job = recorder.active_job(queries.resolve(connection, "job", call.arguments[0]))
        attached.release(recorder, job.job_id)
        started = queries.job(connection, job.job_id).get("started_at")
        message = {"cause": "exit", **body, "started": started}
        record_ended(recorder, job.job_id, job.attempt, message, instance.host, instance.outputs, [])
        return queries.job(connection, job.job_id)

    return await instance.writer.write(work)


async def progress(instance: Instance, call: Call) -> JSON:
    """How far a workflow, or a set of jobs, has come; answers when that has changed."""
    body = call.body() or {name: call.value(name) for name in ("workflow", "jobs", "since", "timeout_s")}
    since, timeout_s = int(body.get("since") or 0), min(float(body.get("timeout_s") or 0), MAX_WAIT_S)
    if body.get("workflow"):
        workflow = await instance.writer.read(queries.resolve, "workflow", str(body["workflow"]))
        followed = instance.watch.workflow(workflow) or await _follow_workflow(instance, workflow)
    else:
        workflow = None
        followed = await _follow_jobs(instance, body.get("jobs"))
    if followed.revision <= since:
        await changed_since(followed, since, timeout_s)
        if _active(followed):
            await asyncio.sleep(PROGRESS_PAUSE_S)
    revision = followed.revision
    counts = {state: count for state, count in followed.counts.items() if count}
    active, waiting = _active(followed), 0
    if workflow:
        active = active or await instance.writer.write(active_count, workflow)
        waiting = len(await instance.writer.read(queries.list_handlers, workflow=workflow, state="waiting", limit=0))
    return {
        "revision": revision,
        "counts": counts,
        "total": sum(counts.values()),
        "waiting_handlers": waiting,
        "active": active,
    }


def _active(followed: Progress) -> int:
    return sum(followed.counts[state] for state in ("PENDING", "RUNNING", "FINISHING", "UNKNOWN"))


async def _follow_workflow(instance: Instance, workflow: str) -> Progress:
    counts = await instance.writer.write(lambda recorder: queries.job_counts(recorder.transaction.connection, workflow))
    return instance.watch.follow(workflow, counts)


async def _follow_jobs(instance: Instance, given: Any) -> Progress:
    ids = given.split(",") if isinstance(given, str) else given
    if not isinstance(ids, list) or not ids or not all(isinstance(job_id, str) for job_id in ids):
        raise InvalidRecord("give a workflow, or the ids of jobs")
    key = hashlib.sha256(",".join(ids).encode()).hexdigest()
    followed = instance.watch.group(key)
    if followed is not None:
        return followed

    def look(recorder: Recorder) -> tuple[list[str], dict[str, int]]:
        connection = recorder.transaction.connection
        whole = [job_id if len(job_id) == 36 else queries.resolve(connection, "job", job_id) for job_id in ids]
        states = _states_of(connection, whole)
        counts: dict[str, int] = {}
        for state in states.values():
            counts[state] = counts.get(state, 0) + 1
        return whole, counts

    whole, counts = await instance.writer.write(look)
    return instance.watch.follow_group(key, whole, counts)
