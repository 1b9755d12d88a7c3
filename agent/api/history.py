"""The calls of the API on log lines, and on what is found in all that is recorded: by words, and by what came of what."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import InvalidRecord
from ..instance import Instance
from ..store import lineage, queries
from .call import JSON, Call
from .selecting import origins_of, whole_id


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
        await whole_id(instance, "job", call.value("job")),
        await whole_id(instance, "workflow", call.value("workflow")),
    )
    found = await instance.writer.read(
        queries.list_logs,
        job=job,
        workflow=workflow,
        level_number=number,
        words=call.value("text"),
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"logs": found}


async def search(instance: Instance, call: Call) -> JSON:
    """Full text over names, commands and logs."""
    words = call.value("q")
    if not words:
        raise InvalidRecord("q is missing: what to search for")
    origins = await origins_of(instance, call)
    return {"results": await instance.writer.read(queries.search, words, call.limit(), origins)}


async def lineage_trace(instance: Instance, call: Call) -> JSON:
    """What made this, from what; what used it."""
    of, direction = call.value("of"), call.value("direction") or "both"
    if not of:
        raise InvalidRecord("of is missing: a path, url, checksum or id")
    if direction not in ("up", "down", "both"):
        raise InvalidRecord(f"direction must be up, down or both, not {direction!r}")
    return await instance.writer.read(lineage.trace, of, direction, int(call.number("depth", 0)))
