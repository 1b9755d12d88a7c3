"""The calls of the API on jobs: submitted and taken over, shown, and those that their callers run, told of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import hostlist
from ..errors import Conflict, InvalidRecord, LwfmError
from ..host import processes
from ..instance import Instance
from ..instance.placement import place
from ..matching import parse_terms
from ..models import JobDefn
from ..recording import attached, runners
from ..recording.bodies import Adopted, definitions_of, text_of
from ..recording.execution import record_ended
from ..recording.recorder import Recorder
from ..states import parse_state
from ..store import queries
from ..store.batch import check_place
from .call import JSON, Call
from .selecting import job_meant, origins_of, whole_id

MAX_TREE_JOBS = 2000


async def submit(instance: Instance, call: Call) -> JSON:
    """Record jobs and hand them to their sites."""
    body = call.body()
    definitions = definitions_of(body)
    placements = await place(instance.sites, body.get("site"), definitions)
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
    asked = body.get("runner")
    if asked is not None and asked != instance.store.origin:
        return {"jobs": [], "runner": instance.store.origin}  # it is another one that was to have them
    refused = await _refused(instance, adopted)
    answer = await instance.writer.write(
        instance.service.adopt, origin, [job for job in adopted if job.job_id not in refused]
    )
    answer["jobs"] += [{"job_id": job_id, "refused": reason} for job_id, reason in refused.items()]
    return {**answer, "runner": instance.store.origin}


async def _refused(instance: Instance, jobs: Sequence[Adopted]) -> dict[str, str]:
    """Those that their sites would never run, and why; where all are well, those that ask for the same are judged once."""
    by_site: dict[str, list[Adopted]] = {}
    for job in jobs:
        by_site.setdefault(job.site, []).append(job)
    refused = {}
    for site, listed in by_site.items():
        try:
            await place(instance.sites, [site], [job.defn for job in listed])
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
    await place(instance.sites, body.get("site"), [JobDefn.from_json(body.get("definition"))])
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


async def meet(instance: Instance, call: Call) -> JSON:
    """Record which other instance is to be found at a site of this one."""
    body = call.body()
    runner = text_of(body, "origin")
    check_place(runner, 0)
    return await instance.writer.write(runners.meet, call.arguments[0], runner, text_of(body, "host")[:200])


async def listing(instance: Instance, call: Call) -> JSON:
    """Jobs, newest first."""
    states = [parse_state(word).value for given in call.values("state") for word in given.split(",") if word]
    found = await instance.writer.read(
        queries.list_jobs,
        states=states,
        workflow=await whole_id(instance, "workflow", call.value("workflow")),
        parent=await whole_id(instance, "job", call.value("parent")),
        site=call.value("site"),
        name=call.value("name"),
        words=call.value("text"),
        match=parse_terms(call.values("match")),
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"jobs": found}


async def get(instance: Instance, call: Call) -> JSON:
    """One job with all its details."""
    return await job_meant(instance, call)


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


async def emit(instance: Instance, call: Call) -> JSON:
    """Record a status that the caller tells."""
    return await instance.writer.write(instance.service.emit_status, call.arguments[0], call.body())


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
