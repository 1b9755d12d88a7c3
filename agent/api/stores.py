"""The calls on the store itself: checked, and copied into snapshots."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InvalidRecord
from ..instance import Instance
from ..store import maintenance
from .call import JSON, Call

T = TypeVar("T")


async def check(instance: Instance, call: Call) -> JSON:
    """Check the chain and the tables."""
    return await beside_others(instance, maintenance.check)


async def beside_others(instance: Instance, work: Callable[[Any], T]) -> T:
    """Run ``work(connection)``, which only reads, in a thread: it may take long, and nobody waits for it where that can be."""
    reader = instance.store.reader()
    if reader is None:
        return await instance.writer.alone(lambda store: work(store.connection))
    try:
        return await asyncio.to_thread(work, reader)
    finally:
        reader.close()


async def snapshot(instance: Instance, call: Call) -> JSON:
    """Copy the store into a file."""
    body = call.body()
    given = body.get("file")
    if not isinstance(given, str) or not os.path.isabs(given) or "\0" in given:
        raise InvalidRecord(f"file must be an absolute path, not {given!r}")
    return await instance.snapshots.write(Path(given), replace=body.get("replace") is True)


async def snapshot_list(instance: Instance, call: Call) -> JSON:
    """The snapshots that are made by themselves."""
    return await asyncio.to_thread(instance.snapshots.describe)
