"""The calls of the API on the agent itself, and on when its nodes came and went."""

from __future__ import annotations

import asyncio

from ..instance import Instance
from ..store import queries
from ..sync import peers
from .call import JSON, Call


async def status(instance: Instance, call: Call) -> JSON:
    """What the agent is, and how busy: with the jobs of this instance."""
    counts = await instance.writer.read(queries.own_job_counts, instance.elsewhere)
    return {**instance.describe(), "jobs": counts, "peers": await instance.writer.read(peers.listed)}


async def node_list(instance: Instance, call: Call) -> JSON:
    """When nodes came and went."""
    found = await instance.writer.read(queries.node_changes, call.value("since"), call.value("until"), call.limit())
    return {"nodes": found}


async def stop(instance: Instance, call: Call) -> JSON:
    """Leave; running jobs go on, unless ``kill``."""
    instance.kill_on_stop = bool(call.body().get("kill"))
    asyncio.get_running_loop().call_later(0.05, instance.stopping.set)
    return {}
