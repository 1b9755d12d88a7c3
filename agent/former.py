"""Allocations that earlier agents of the instance were in, and that have ended since: what their workers had is settled at once.

Without this an agent would wait for each of those workers as for a node that is cut off. The scheduler is asked, more and more
rarely while it does not answer, or still lists the allocation, as it does while it cleans up its nodes.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Set
from pathlib import Path

from . import endings, presence
from .allotment import find_allotments
from .errors import LwfmError
from .workers import WorkerServer
from .writer import Writer

COME_BY_THEMSELVES_S = 3.0
"""A worker that is still there dials at least once a second."""
SLOWEST_S = 60.0
_logger = logging.getLogger(__name__)


async def settle_former(directory: Path, current: Set[str], workers: WorkerServer, writer: Writer, origin: str) -> None:
    """Settle what workers of allocations had that have ended, until none is left that may.

    Args:
        directory: ``allocations/`` of the home, in which those with other nodes have one of their name, as ``slurm-4711``.
        current: the names of those that are seen to otherwise: the one we are in, and those that were asked for.
    """
    pause_s = COME_BY_THEMSELVES_S
    while True:
        present = await writer.read(presence.present, origin)
        former = {place.allocation for place in present.values() if place.allocation}
        former |= {one.directory.name for one in await asyncio.to_thread(find_allotments, directory, created=False)}
        former -= current
        if not former:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, SLOWEST_S)
        try:
            ended = await asyncio.to_thread(endings.ended, sorted(former))
        except LwfmError as error:
            _logger.warning("it is not known whether %s have ended: %s", ", ".join(sorted(former)), error)
            continue
        for name, how in ended.items():
            of_it = [worker_id for worker_id, place in present.items() if place.allocation == name]
            if any(worker_id in workers.connections for worker_id in of_it):
                continue
            for worker_id in of_it:
                await workers.lose(worker_id, f"the allocation {name} has ended{how}", presence.LEFT)
            await asyncio.to_thread(shutil.rmtree, directory / name, ignore_errors=True)
