"""What workers that had to go while no agent was there have left in their allocation's directory (:mod:`lwfm.worker.testament`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..recording import presence
from ..workers.protocol import WorkerServer
from .allotment import Allotment


async def inherit(workers: WorkerServer, allotment: Allotment, allocation: str) -> None:
    """Record it, and expect nothing more of those workers.

    Args:
        workers: by which it is recorded. ``allotment``: the directory. ``allocation``: its name.
    """
    for path, body in await asyncio.to_thread(allotment.testaments):
        worker_id = str(body["worker"])
        if worker_id in workers.connections:
            continue
        await workers.inherit(worker_id, str(body["host"]), allocation, body["events"])
        await workers.lose(worker_id, "its worker has left", presence.LEFT)
        with suppress(OSError):
            await asyncio.to_thread(path.unlink)
