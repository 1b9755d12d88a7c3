"""The calls by which an instance is kept small: what takes how much, writing the store anew, and pruning.

A call to prune does a part of it and says where to go on, so that whoever asks can show how far it is, and stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Optional, TypeVar

from ..clock import parse_utc
from ..errors import InvalidRecord
from ..housekeeping import disk_use, leftovers
from ..housekeeping.leftovers import Found, Limit
from ..instance import Instance
from ..store import Connection, Store, compaction, pruning, sharing, sizes
from ..store.maintenance import snapshot
from ..store.origins import JobsElsewhere
from .call import JSON, Call, number_of
from .stores import beside_others

T = TypeVar("T")
LEFTOVERS = ("outputs", "copies", "log files")


async def size(instance: Instance, call: Call) -> JSON:
    """What takes how much of the disk."""
    database = await _reading(instance, lambda connection: sizes.sizes(connection, instance.store.path))
    path = str(instance.store.path)
    listed = [{"what": part["what"], "where": path, "bytes": part["bytes"]} for part in database["parts"]]
    listed += await asyncio.to_thread(disk_use.parts, instance.home)
    return {"parts": listed, "records": database["records"], "database": instance.store.path.stat().st_size}


async def compact(instance: Instance, call: Call) -> JSON:
    """Write the store anew without what it does not need."""
    return await instance.writer.alone(compaction.compact)


async def compact_stop(instance: Instance, call: Call) -> JSON:
    """Stop that; the store stays as it was."""
    compaction.stop(instance.store)
    return {}


async def prune(instance: Instance, call: Call) -> JSON:
    """Prune the next part of something, or say what would be."""
    body = call.body()
    what, before, dry = body.get("what"), body.get("before"), bool(body.get("dry_run"))
    try:
        parse_utc(str(before))
    except ValueError:
        raise InvalidRecord(f"before must be a time, not {before!r}"[:200]) from None
    if what in LEFTOVERS:
        return await _leftovers(instance, str(what), Limit(str(before), int(number_of(body, "min_bytes"))), dry)
    without, after = body.get("without") or [], body.get("after")
    if not isinstance(without, list) or not (after is None or isinstance(after, str)):
        raise InvalidRecord("without must be a list of instances, and after what the call before has answered")
    return await _history(instance, str(what), str(before), [str(name) for name in without], after, dry)


async def _history(
    instance: Instance, what: str, before: str, without: list[str], after: Optional[str], dry: bool
) -> JSON:
    def choose(connection: Connection) -> tuple[pruning.Chosen, int]:
        chosen = pruning.choose(connection, what, before, sharing.knowers(connection, without), after)
        return chosen, pruning.count_open(connection, what, before) if after is None else 0

    chosen, still_open = await _reading(instance, choose)
    told: JSON = {
        "what": what, "things": len(chosen.places), "records": chosen.records, "bytes": chosen.bytes,
        "kept": {why: count for why, count in (("open", still_open), ("unsynced", chosen.unsynced)) if count},
        "after": chosen.after,
    }  # fmt: skip
    if dry:
        return told
    told["things"], listed = 0, list(chosen.places)
    for start in range(0, len(listed), pruning.UNITS_IN_TRANSACTION):
        things = listed[start : start + pruning.UNITS_IN_TRANSACTION]
        told["things"] += await instance.writer.alone(lambda store, part=things: _pruned(store, chosen, part))  # type: ignore[misc]
        instance.service.reset()
    instance.elsewhere = JobsElsewhere()
    return told


def _pruned(store: Store, chosen: pruning.Chosen, things: list[str]) -> int:
    with store.transaction() as transaction:
        return pruning.prune(transaction, chosen, things)


async def _leftovers(instance: Instance, what: str, limit: Limit, dry: bool) -> JSON:
    home, host = instance.home, instance.host

    def look(connection: Connection) -> Found:
        if what == "outputs":
            return leftovers.old_outputs(connection, home, limit)
        if what == "copies":
            return leftovers.old_copies(connection, home, host, limit)
        return leftovers.old_log_files(home, limit)

    found = await _reading(instance, look)
    told: JSON = {"what": what, "things": found.things, "bytes": found.bytes, "kept": found.kept, "after": None}
    if dry or not found.things:
        return told

    def note(store: Store) -> None:
        with store.transaction() as transaction:
            pruning.note(transaction, what, limit.before, limit.min_bytes or None, found.things)

    await instance.writer.alone(note)
    for start in range(0, len(found.blobs), leftovers.BLOBS_AT_ONCE):
        part = found.blobs[start : start + leftovers.BLOBS_AT_ONCE]
        await instance.writer.write(
            lambda recorder, blobs=part: leftovers.remove_blobs(recorder.transaction, found, blobs)
        )
    await asyncio.to_thread(leftovers.remove_files, found.files)
    return told


async def _reading(instance: Instance, work: Callable[[Connection], T]) -> T:
    """Run ``work`` on one state of the store."""

    def look(connection: Any) -> T:
        with snapshot(connection):
            return work(connection)

    return await beside_others(instance, look)
