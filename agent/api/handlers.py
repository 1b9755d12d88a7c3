"""The calls of the API on handlers, which start a job when something has happened."""

from __future__ import annotations

from dataclasses import replace

from ..instance import Instance
from ..instance.placement import place
from ..models import JobDefn
from ..store import queries
from .call import JSON, Call
from .selecting import origins_of, whole_id


async def put(instance: Instance, call: Call) -> JSON:
    """Set a handler."""
    body = call.body()
    event, placement = body.get("event"), None
    if isinstance(event, dict):
        delivery = JobDefn("true")  # any notification asks for as little
        defn = JobDefn.from_json(event.get("defn") or delivery)
        (placement,) = await place(instance.sites, event.get("site"), [replace(defn, extra={})])
        body = {**body, "event": {**event, "site": placement.site}}
    return await instance.writer.write(instance.service.set_handler, body, placement)


async def listing(instance: Instance, call: Call) -> JSON:
    """Handlers, newest first."""
    workflow = await whole_id(instance, "workflow", call.value("workflow"))
    found = await instance.writer.read(
        queries.list_handlers,
        workflow=workflow,
        state=call.value("state"),
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"handlers": found}


async def unset(instance: Instance, call: Call) -> JSON:
    """Unset a handler."""
    reason = call.value("reason") or "its handler was unset"
    return await instance.writer.write(instance.service.unset_handler, call.arguments[0], reason)
