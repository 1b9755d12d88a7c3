"""The calls of the API on the agent, on workflows, handlers and logs, and the table of all routes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from ..errors import InvalidRecord
from ..instance import Instance
from ..matching import parse_terms
from ..models import JobDefn
from ..store import lineage, queries
from ..sync import peers
from . import contents, data, housekeeping, jobs, sites, stores, sync
from .server import JSON, Call, Route, route


async def agent_status(instance: Instance, call: Call) -> JSON:
    """What the agent is, and how busy: with the jobs of this instance."""
    counts = await instance.writer.read(queries.own_job_counts, instance.elsewhere)
    return {**instance.describe(), "jobs": counts, "peers": await instance.writer.read(peers.listed)}


async def node_list(instance: Instance, call: Call) -> JSON:
    """When nodes came and went."""
    found = await instance.writer.read(queries.node_changes, call.value("since"), call.value("until"), call.limit())
    return {"nodes": found}


async def agent_stop(instance: Instance, call: Call) -> JSON:
    """Leave; running jobs go on, unless ``kill``."""
    instance.kill_on_stop = bool(call.body().get("kill"))
    asyncio.get_running_loop().call_later(0.05, instance.stopping.set)
    return {}


async def workflow_put(instance: Instance, call: Call) -> JSON:
    """Create a workflow, or supersede one."""
    return await instance.writer.write(instance.service.put_workflow, call.body())


async def workflow_list(instance: Instance, call: Call) -> JSON:
    """Workflows, newest first."""
    match, parent = parse_terms(call.values("match")), await _whole(instance, "job", call.value("parent"))
    found = await instance.writer.read(
        queries.list_workflows,
        name=call.value("name"),
        parent=parent,
        match=match,
        origins=await jobs.origins_of(instance, call),
        limit=call.limit(),
    )
    return {"workflows": await instance.writer.read(_with_jobs_elsewhere, instance, found)}


async def workflow_get(instance: Instance, call: Call) -> JSON:
    """One workflow."""
    found = await instance.writer.read(lambda c: queries.workflow(c, queries.resolve(c, "workflow", call.arguments[0])))
    (workflow,) = await instance.writer.read(_with_jobs_elsewhere, instance, [found])
    return workflow


def _with_jobs_elsewhere(connection: Any, instance: Instance, workflows: list[JSON]) -> list[JSON]:
    """``workflows``, and of how many of their jobs are of other instances, by state, where there are such."""
    for workflow in workflows:
        elsewhere = instance.elsewhere.of(connection, workflow["workflow_id"])
        if elsewhere:
            workflow["jobs_elsewhere"] = dict(elsewhere)
    return workflows


async def workflow_dump(instance: Instance, call: Call) -> JSON:
    """All that is known of a workflow."""
    return await instance.writer.read(
        lambda c: queries.dump_workflow(c, queries.resolve(c, "workflow", call.arguments[0]))
    )


async def workflow_close(instance: Instance, call: Call) -> JSON:
    """End what can no longer be triggered."""
    reason = str(call.body().get("reason") or "the workflow ended before its data came")
    return await instance.writer.write(instance.service.close_workflow, call.arguments[0], reason)


async def handler_set(instance: Instance, call: Call) -> JSON:
    """Set a handler."""
    body = call.body()
    event, place = body.get("event"), None
    if isinstance(event, dict):
        delivery = JobDefn("true")  # any notification asks for as little
        defn = JobDefn.from_json(event.get("defn") or delivery)
        (place,) = await instance.place(event.get("site"), [replace(defn, extra={})])
        body = {**body, "event": {**event, "site": place.site}}
    return await instance.writer.write(instance.service.set_handler, body, place)


async def handler_list(instance: Instance, call: Call) -> JSON:
    """Handlers, newest first."""
    workflow = await _whole(instance, "workflow", call.value("workflow"))
    found = await instance.writer.read(
        queries.list_handlers,
        workflow=workflow,
        state=call.value("state"),
        origins=await jobs.origins_of(instance, call),
        limit=call.limit(),
    )
    return {"handlers": found}


async def handler_unset(instance: Instance, call: Call) -> JSON:
    """Unset a handler."""
    reason = call.value("reason") or "its handler was unset"
    return await instance.writer.write(instance.service.unset_handler, call.arguments[0], reason)


async def log_put(instance: Instance, call: Call) -> JSON:
    """Record log lines."""
    lines = call.body().get("lines")
    if not isinstance(lines, list):
        raise InvalidRecord("lines must be a list")

    def work(recorder: Any) -> JSON:
        whole = []
        for line in lines:
            if not isinstance(line, dict):
                raise InvalidRecord("a log line is an object with a message")
            whole.append({**line, **instance.service.belonging(recorder, line)})
        return instance.service.log(recorder, whole)

    return await instance.writer.write(work)


async def log_list(instance: Instance, call: Call) -> JSON:
    """Log lines, oldest first."""
    level = call.value("level")
    number = logging.getLevelName(level.upper()) if level else 0
    if not isinstance(number, int):
        raise InvalidRecord(f"{level!r} is not a level", hint="DEBUG, INFO, WARNING, ERROR or CRITICAL")
    job, workflow = (
        await _whole(instance, "job", call.value("job")),
        await _whole(instance, "workflow", call.value("workflow")),
    )
    found = await instance.writer.read(
        queries.list_logs,
        job=job,
        workflow=workflow,
        level_number=number,
        words=call.value("text"),
        origins=await jobs.origins_of(instance, call),
        limit=call.limit(),
    )
    return {"logs": found}


async def search(instance: Instance, call: Call) -> JSON:
    """Full text over names, commands and logs."""
    words = call.value("q")
    if not words:
        raise InvalidRecord("q is missing: what to search for")
    origins = await jobs.origins_of(instance, call)
    return {"results": await instance.writer.read(queries.search, words, call.limit(), origins)}


async def lineage_trace(instance: Instance, call: Call) -> JSON:
    """What made this, from what; what used it."""
    of, direction = call.value("of"), call.value("direction") or "both"
    if not of:
        raise InvalidRecord("of is missing: a path, url, checksum or id")
    if direction not in ("up", "down", "both"):
        raise InvalidRecord(f"direction must be up, down or both, not {direction!r}")
    return await instance.writer.read(lineage.trace, of, direction, int(call.number("depth", 0)))


async def _whole(instance: Instance, kind: str, given: Any) -> Any:
    return await instance.writer.read(queries.resolve, kind, given) if given else None


def routes() -> list[Route]:
    """Every call of the API."""
    return [
        route("POST", "/v1/jobs", jobs.submit),
        route("GET", "/v1/jobs", jobs.listing),
        route("POST", "/v1/jobs/wait", jobs.wait),
        route("POST", "/v1/jobs/cancel", jobs.cancel_many),
        route("POST", "/v1/jobs/attach", jobs.attach),
        route("POST", "/v1/jobs/check", jobs.check),
        route("POST", "/v1/jobs/adopt", jobs.adopt),
        route("POST", "/v1/jobs/hand-over", jobs.hand_over),
        route("GET", "/v1/jobs/*", jobs.get),
        route("GET", "/v1/jobs/*/statuses", jobs.statuses),
        route("GET", "/v1/jobs/*/tree", jobs.tree),
        route("GET", "/v1/jobs/*/why", jobs.why),
        route("GET", "/v1/jobs/*/output", jobs.output),
        route("POST", "/v1/jobs/*/cancel", jobs.cancel),
        route("POST", "/v1/jobs/*/emit", jobs.emit),
        route("POST", "/v1/jobs/*/finish", jobs.finish),
        route("GET", "/v1/progress", jobs.progress),
        route("POST", "/v1/progress", jobs.progress),
        route("POST", "/v1/data", data.put),
        route("POST", "/v1/data/fetch", data.fetch),
        route("GET", "/v1/data", data.listing),
        route("GET", "/v1/data/*", data.get),
        route("POST", "/v1/contents/missing", contents.missing),
        route("POST", "/v1/contents/present", contents.present),
        route("POST", "/v1/contents/where", contents.where),
        route("POST", "/v1/contents/arrived", contents.arrived),
        route("POST", "/v1/contents/outputs", contents.outputs),
        route("POST", "/v1/contents/recorded", contents.recorded),
        route("GET", "/v1/lineage", lineage_trace),
        route("GET", "/v1/sync", sync.hello),
        route("POST", "/v1/sync/hashes", sync.hashes),
        route("GET", "/v1/sync/records", sync.records_read),
        route("POST", "/v1/sync/records", sync.records_take),
        route("POST", "/v1/sync/fragments/find", sync.fragments_find),
        route("POST", "/v1/sync/fragments/read", sync.fragments_read),
        route("POST", "/v1/sync/fragments", sync.fragments_take),
        route("POST", "/v1/sync/fork", sync.fork_settle),
        route("GET", "/v1/sync/gaps", sync.gaps),
        route("POST", "/v1/sync/again", sync.again_take),
        route("POST", "/v1/sync/visitors", sync.visitor_note),
        route("GET", "/v1/peers", sync.peer_list),
        route("POST", "/v1/peers", sync.peer_put),
        route("DELETE", "/v1/peers/*", sync.peer_remove),
        route("POST", "/v1/peers/*/outcome", sync.peer_note),
        route("GET", "/v1/agent", agent_status, always=True),
        route("POST", "/v1/agent/stop", agent_stop, always=True),
        route("GET", "/v1/nodes", node_list),
        route("POST", "/v1/workflows", workflow_put),
        route("GET", "/v1/workflows", workflow_list),
        route("GET", "/v1/workflows/*", workflow_get),
        route("GET", "/v1/workflows/*/dump", workflow_dump),
        route("POST", "/v1/workflows/*/close", workflow_close),
        route("POST", "/v1/handlers", handler_set),
        route("GET", "/v1/handlers", handler_list),
        route("DELETE", "/v1/handlers/*", handler_unset),
        route("POST", "/v1/logs", log_put),
        route("GET", "/v1/logs", log_list),
        route("GET", "/v1/search", search),
        route("GET", "/v1/sites", sites.site_list),
        route("GET", "/v1/sites/*", sites.site_get),
        route("POST", "/v1/sites/*/check", sites.site_check),
        route("POST", "/v1/sites/*/login", sites.site_login),
        route("GET", "/v1/sites/*/resources", sites.resource_list),
        route("POST", "/v1/sites/*/resources", sites.resource_create),
        route("DELETE", "/v1/sites/*/resources/*", sites.resource_destroy),
        route("POST", "/v1/store/check", stores.check),
        route("POST", "/v1/store/snapshot", stores.snapshot),
        route("GET", "/v1/store/snapshots", stores.snapshot_list),
        route("GET", "/v1/store/size", housekeeping.size),
        route("POST", "/v1/store/compact", housekeeping.compact),
        route("POST", "/v1/store/compact/stop", housekeeping.compact_stop),
        route("POST", "/v1/store/prune", housekeeping.prune),
    ]
