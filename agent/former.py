"""Allocations that earlier agents of the instance were in, and that have ended since: what their workers had is settled at once.

Without this an agent would wait for each of those workers as for a node that is cut off. The scheduler is asked; where it does not
answer, or is not here, or still lists the allocation, they are waited for.
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
_logger = logging.getLogger(__name__)


async def settle_former(directory: Path, current: Set[str], workers: WorkerServer, writer: Writer, origin: str) -> None:
    """Settle what workers of allocations had that have ended.

    Args:
        directory: ``allocations/`` of the home, in which those with other nodes have one of their name, as ``slurm-4711``.
        current: the names of those that are seen to otherwise: the one we are in, and those that were asked for.
    """
    present = await writer.read(presence.present, origin)
    former = {place.allocation for place in present.values() if place.allocation} - current
    left = {one.directory.name for one in await asyncio.to_thread(find_allotments, directory, created=False)} - current
    if not former | left:
        return
    await asyncio.sleep(COME_BY_THEMSELVES_S)
    try:
        ended = await asyncio.to_thread(endings.ended, sorted(former | left))
    except LwfmError as error:
        _logger.warning("it is not known whether %s have ended: %s", ", ".join(sorted(former | left)), error)
        return
    for name, how in ended.items():
        of_it = [worker_id for worker_id, place in present.items() if place.allocation == name]
        if any(worker_id in workers.connections for worker_id in of_it):
            continue
        for worker_id in of_it:
            await workers.lose(worker_id, f"the allocation {name} has ended{how}", presence.LEFT)
        await asyncio.to_thread(shutil.rmtree, directory / name, ignore_errors=True)
