"""The calls of the API on workflows."""

from __future__ import annotations

from typing import Any

from ..instance import Instance
from ..matching import parse_terms
from ..store import queries
from .call import JSON, Call
from .selecting import origins_of, whole_id


async def put(instance: Instance, call: Call) -> JSON:
    """Create a workflow, or supersede one."""
    return await instance.writer.write(instance.service.put_workflow, call.body())


async def listing(instance: Instance, call: Call) -> JSON:
    """Workflows, newest first."""
    match, parent = parse_terms(call.values("match")), await whole_id(instance, "job", call.value("parent"))
    found = await instance.writer.read(
        queries.list_workflows,
        name=call.value("name"),
        parent=parent,
        match=match,
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"workflows": await instance.writer.read(_with_jobs_elsewhere, instance, found)}


async def get(instance: Instance, call: Call) -> JSON:
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


async def dump(instance: Instance, call: Call) -> JSON:
    """All that is known of a workflow."""
    return await instance.writer.read(
        lambda c: queries.dump_workflow(c, queries.resolve(c, "workflow", call.arguments[0]))
    )


async def close(instance: Instance, call: Call) -> JSON:
    """End what can no longer be triggered."""
    reason = str(call.body().get("reason") or "the workflow ended before its data came")
    return await instance.writer.write(instance.service.close_workflow, call.arguments[0], reason)
