"""The calls of the API on jobs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Optional

from .. import hostlist
from ..config import LOCAL_SITE
from ..errors import Conflict, InvalidRecord, LwfmError, NotFound
from ..host import processes
from ..instance import Instance
from ..matching import parse_terms
from ..models import JobDefn
from ..recording import attached
from ..recording.bodies import Adopted, definitions_of, job_ids_of, text_of
from ..recording.execution import record_ended
from ..recording.handlers import active_count
from ..recording.recorder import JobNow, Recorder
from ..recording.recovery import is_claimed
from ..recording.watch import Progress, changed_since
from ..states import JobState, parse_state
from ..store import origins, queries, stubs
from ..store.batch import check_place
from .server import JSON, Call, Raw, number_of

MAX_WAIT_S = 60.0
MAX_OUTPUT_BYTES = 8 * 1024 * 1024
MAX_TREE_JOBS = 2000
CANCELLED_BY_USER = "cancelled by the user"
NOT_THERE_YET_S = 0.5
"""How long a request for output waits for a job that no worker has at the moment."""
OUTPUT_S = 60.0
"""So long a site may take to give a piece of an output."""
MAX_GATHER_S = 5.0
PROGRESS_PAUSE_S = 0.05
"""How long changes are gathered before who follows is told, unless all has ended."""
_OPEN_OF_WORKFLOW = (
    "select id, origin from jobs where workflow_id = ? and state not in ('COMPLETE', 'FAILED', 'CANCELLED') order by id"
)


async def submit(instance: Instance, call: Call) -> JSON:
    """Record jobs and hand them to their sites."""
    body = call.body()
    definitions = definitions_of(body)
    placements = await instance.place(body.get("site"), definitions)
    return await instance.writer.write(instance.service.submit, body, definitions, placements)


async def adopt(instance: Instance, call: Call) -> JSON:
    """Take over jobs of another instance, to run them at sites of this one."""
    body = call.body()
    origin, given = text_of(body, "origin"), body.get("jobs")
    check_place(origin, 0)
    if origin == instance.store.origin:
        raise InvalidRecord("these jobs are of this very instance", hint="is the site this instance itself?")
    if not isinstance(given, list):
        raise InvalidRecord("jobs must be a list")
    adopted = [Adopted.from_json(job) for job in given]
    refused = await _refused(instance, adopted)
    answer = await instance.writer.write(
        instance.service.adopt, origin, [job for job in adopted if job.job_id not in refused]
    )
    answer["jobs"] += [{"job_id": job_id, "refused": reason} for job_id, reason in refused.items()]
    return answer


async def _refused(instance: Instance, jobs: Sequence[Adopted]) -> dict[str, str]:
    """Those that their sites would never run, and why; where all are well, those that ask for the same are judged once."""
    by_site: dict[str, list[Adopted]] = {}
    for job in jobs:
        by_site.setdefault(job.site, []).append(job)
    refused = {}
    for site, listed in by_site.items():
        try:
            await instance.place([site], [job.defn for job in listed])
        except LwfmError as all_together:
            if len(listed) == 1:
                refused[listed[0].job_id] = all_together.message
            else:
                for job in listed:
                    refused.update(await _refused(instance, [job]))
    return refused


async def check(instance: Instance, call: Call) -> JSON:
    """Let the sites judge a definition; nothing is recorded."""
    body = call.body()
    await instance.place(body.get("site"), [JobDefn.from_json(body.get("definition"))])
    return {}


async def hand_over(instance: Instance, call: Call) -> JSON:
    """Record which other instance runs jobs of this one from now on."""
    body = call.body()
    runner = text_of(body, "runner")
    check_place(runner, 0)
    host = text_of(body, "host")[:200]
    jobs = body.get("jobs")
    if not isinstance(jobs, list) or not all(
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and type(item[1]) is int for item in jobs
    ):
        raise InvalidRecord("jobs must be a list of [id, attempt]")
    return await instance.writer.write(instance.service.hand_over, [(item[0], item[1]) for item in jobs], runner, host)


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
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"jobs": found}


async def origins_of(instance: Instance, call: Call) -> Sequence[str]:
    """The instances that ``origin`` in a query means; none where it is not there."""
    given = call.value("origin")
    return await instance.writer.read(origins.resolve, given) if given else ()


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
    """Why a job waits, or how it came to its end; of one of another instance, as of when that is known."""
    job = await get(instance, call)
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
    elif "elsewhere" not in job and (of_site := _of_polled_site(instance, job, state)):
        lines.append(of_site)
    elif state is JobState.PENDING and "elsewhere" not in job and not instance.dispatcher.has(job["job_id"]):
        lines.append(instance.dispatcher.why_waiting(job["job_id"]) or "is about to be placed")
        for resource in instance.dispatcher.describe():
            facts = resource.facts
            lines.append(
                f"{resource.resource_id}: {facts['cores_used']} of {facts['cores']} cores in use, {facts['jobs']} jobs"
            )
    elif state is JobState.PENDING and "elsewhere" not in job:
        lines.append("was given to a worker, and is about to start")
    history = (await statuses(instance, call))["statuses"]
    lines.extend(f"{item['time']} {item['state']}: {item['reason']}" for item in history if item.get("reason"))
    told = {"job_id": job["job_id"], "state": job["state"], "reason": job.get("reason"), "explanation": lines}
    return {**told, **whence}


def _of_polled_site(instance: Instance, job: JSON, state: JobState) -> Optional[str]:
    """What a job waits for that was not handed to its site; of one that was, whether the site is down."""
    if state.terminal:
        return None
    waits = instance.polled.why_waiting(job["site"], job["job_id"])
    return waits or instance.polled.standing(job["site"]).trouble


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


async def output(instance: Instance, call: Call) -> Raw:
    """A piece of what a job printed."""
    stream = call.value("stream") or "stdout"
    if stream not in ("stdout", "stderr"):
        raise InvalidRecord(f"stream must be stdout or stderr, not {stream!r}")
    offset, limit = int(call.number("offset", 0)), int(call.number("limit", MAX_OUTPUT_BYTES)) or MAX_OUTPUT_BYTES
    limit, wait_s = min(limit, MAX_OUTPUT_BYTES), min(call.number("wait_s", 0), 30.0)
    job = await get(instance, call)
    attempt = int(call.number("attempt", job["attempt"]))
    if not 1 <= attempt <= job["attempt"]:
        raise NotFound(f"there is no attempt {attempt} of job {job['job_id']}", hint=f"it has had {job['attempt']}")
    site = job.get("adopted_at") or job["site"]
    if "elsewhere" in job and "adopted_at" not in job:
        if attempt >= job["attempt"] and not JobState(job["state"]).terminal:
            raise _not_here(job)  # no worker of ours has it, and nobody waits for what only a sync can bring
        return await _kept(instance, call, attempt, stream, offset, limit)
    if job["site"] != LOCAL_SITE and _is_kept(job, stream, attempt):
        try:
            return await _kept(instance, call, attempt, stream, offset, limit)
        except NotFound:
            if "runner" not in job or "adopted_at" in job:
                raise  # else the instance that has run it has it still
    run = await instance.pillar(site, "run")
    if not run.reports_itself:
        data = await instance.call_site(site, run.output, job["job_id"], stream, offset, limit, run_s=OUTPUT_S)
        return _piece(data, offset, offset + len(data), ended=not data and JobState(job["state"]).terminal)
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
            with instance.watch.ends() as ends:
                instance.watch.expect(ends, [job["job_id"]])
                await ends.wait(min(wait_s, NOT_THERE_YET_S))
        return _piece(b"", offset, 0, ended=False)
    return await _kept(instance, call, attempt, stream, offset, limit)


def _is_kept(job: JSON, stream: str, attempt: int) -> bool:
    """Whether all that an attempt has printed is here, or nowhere else any more."""
    size = job.get(f"{stream}_bytes")
    whole = size == 0 or (size is not None and size == (job.get(stream) or {}).get("size"))
    return attempt < job["attempt"] or (JobState(job["state"]).terminal and whole)


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
        try:
            return instance.outputs.read(connection, found, offset, limit), int((found or {}).get("size", 0)), True
        except NotFound:
            by, output_bytes = job.get("runner") or job["origin"], int((found or {}).get("size", 0))
            pruned_at = stubs.outputs_pruned_at(connection, by, job["time"], output_bytes)
            if pruned_at is not None:
                where = f" at the instance on {job['elsewhere']}" if "elsewhere" in job else ""
                raise NotFound(
                    f"what job {job_id} has printed was pruned{where} on {pruned_at[:10]}",
                    hint="an instance that had brought it may still have it",
                ) from None
            if "elsewhere" not in job:
                raise
            raise _not_here(job) from None

    data, size, settled = await instance.writer.read(read)
    return _piece(data, offset, size, ended=settled and offset + len(data) >= size)


def _not_here(job: JSON) -> NotFound:
    """What is said where the output of a job of another instance is asked for and was not brought here."""
    when = "" if JobState(job["state"]).terminal else " once it has ended"
    return NotFound(
        f"what job {job['job_id']} has printed is not here: it belongs to the instance on {job['elsewhere']}",
        hint=f"lwfm sync pull {job.get('origin_host') or 'HOST'} --outputs brings it{when}",
    )


def _piece(data: bytes, offset: int, size: int, *, ended: bool) -> Raw:
    headers = {"Lwfm-Offset": str(offset + len(data)), "Lwfm-Size": str(size), "Lwfm-Ended": "1" if ended else "0"}
    return Raw(data, headers)


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
            or instance.is_with_site(recorder, job_id)
        )
        job = instance.service.cancel(recorder, job_id, reason, placed=placed)
        if job is not None:
            to_tell.append(job)
    return to_tell


def _tell(instance: Instance, jobs: Sequence[JobNow], reason: str) -> None:
    for job in jobs:
        instance.tell_cancel(job.job_id, job.site, job.attempt, reason)


async def emit(instance: Instance, call: Call) -> JSON:
    """Record a status that the caller tells."""
    return await instance.writer.write(instance.service.emit_status, call.arguments[0], call.body())


async def wait(instance: Instance, call: Call) -> JSON:
    """Answer when the jobs have ended, or the time is up."""
    body = call.body()
    given = job_ids_of(body)
    any_of_them = body.get("mode") == "any"
    timeout_s = min(number_of(body, "timeout_s"), MAX_WAIT_S)

    with instance.watch.ends(any_of_them=any_of_them) as ends:

        def look(recorder: Recorder) -> tuple[list[str], bool]:
            connection = recorder.transaction.connection
            ids = [_whole(connection, job_id) for job_id in given]
            states = _states_of(connection, ids)
            for job_id in ids:
                if job_id not in states:
                    queries.resolve(connection, "job", job_id)
            going_on = [job_id for job_id in ids if not JobState(states[job_id]).terminal]
            wanted = bool(going_on) and not (any_of_them and len(going_on) < len(ids))
            if wanted:
                recorder.effects.also.append(lambda: instance.watch.expect(ends, going_on))
            return ids, wanted

        ids, wanted = await instance.writer.write(look)
        if wanted:
            await ends.wait(timeout_s)
    found = await instance.writer.read(queries.jobs_by_id, ids)
    ended = [JobState(job["state"]).terminal for job in found]
    return {"jobs": found, "done": any(ended) if any_of_them else all(ended)}


def _whole(connection: Any, job_id: str) -> str:
    """The id that ``job_id`` begins; one that is whole is taken for right, which is quicker for many."""
    return job_id if len(job_id) == 36 and job_id.isascii() else queries.resolve(connection, "job", job_id)


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
    _check_here(instance, body.get("context"))
    pid, start_s = instance.attached.identify(body.get("pid"))

    def work(recorder: Recorder) -> JSON:
        job = instance.service.attach(recorder, body)
        job_id = job["job_id"]
        if job.get("native_status") != "attached":
            return job  # told again after its end, or the id of another job
        attached.remember(recorder, job_id, pid, start_s)
        recorder.effects.also.append(lambda: instance.attached.watch(job_id, pid, start_s, processes.boot_id()))
        return job

    return await instance.writer.write(work)


def _check_here(instance: Instance, context: object) -> None:
    """A process of another host is not watched: here its number is nobody's, or somebody else's.

    Raises:
        Conflict: the caller runs on another host.
    """
    host = context.get("host") if isinstance(context, dict) else None
    if isinstance(host, str) and not hostlist.same_host(host, instance.host):
        raise Conflict(
            f"the agent of {instance.home.root} runs on {instance.host}, and follows no script on {host}",
            hint=f"run it on {instance.host}, or in an instance of its own: LWFM_HOME=DIR",
        )


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
    """How far the jobs that a workflow has at this instance, or a set of jobs, have come; answers when that has changed."""
    body = call.body() or {name: call.value(name) for name in ("workflow", "jobs", "since", "timeout_s", "gather_s")}
    since, timeout_s = int(number_of(body, "since")), min(number_of(body, "timeout_s"), MAX_WAIT_S)
    if body.get("workflow"):
        workflow = await instance.writer.read(queries.resolve, "workflow", str(body["workflow"]))
        followed = instance.watch.workflow(workflow) or await _follow_workflow(instance, workflow)
    else:
        workflow = None
        followed = await _follow_jobs(instance, body.get("jobs"))
    if since == followed.revision:
        await changed_since(followed, since, timeout_s)
        gather_until = time.monotonic() + min(number_of(body, "gather_s") or PROGRESS_PAUSE_S, MAX_GATHER_S)
        while _active(followed) and time.monotonic() < gather_until:  # noqa: ASYNC110 - each change shall not wake us
            await asyncio.sleep(PROGRESS_PAUSE_S)
    revision = followed.revision
    counts = {state: count for state, count in followed.counts.items() if count}
    active, waiting = _active(followed), 0
    if workflow:
        active = active or await instance.writer.write(active_count, workflow)
        waiting = await instance.writer.read(queries.count_waiting_handlers, workflow)
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
    await instance.writer.read(instance.elsewhere.of)  # which may take a moment, so that it need not below

    def look(recorder: Recorder) -> None:
        counts = queries.own_job_counts(recorder.transaction.connection, instance.elsewhere, workflow)
        recorder.effects.also.append(lambda: followed.append(instance.watch.follow(workflow, counts)))

    followed: list[Progress] = []
    await instance.writer.write(look)
    return followed[0]


async def _follow_jobs(instance: Instance, given: Any) -> Progress:
    ids = given.split(",") if isinstance(given, str) else given
    if not isinstance(ids, list) or not ids or not all(isinstance(job_id, str) for job_id in ids):
        raise InvalidRecord("give a workflow, or the ids of jobs")
    key = hashlib.sha256(",".join(ids).encode("utf-8", "surrogatepass")).hexdigest()
    followed = instance.watch.group(key)
    if followed is not None:
        return followed

    def look(recorder: Recorder) -> None:
        connection = recorder.transaction.connection
        whole = [_whole(connection, job_id) for job_id in ids]
        counts = Counter(_states_of(connection, whole).values())
        recorder.effects.also.append(lambda: groups.append(instance.watch.follow_group(key, whole, counts)))

    groups: list[Progress] = []
    await instance.writer.write(look)
    return groups[0]
