"""Allocations that earlier agents of the instance were in, and that have ended since: what their workers had is settled at once.

Without this an agent would wait for each of those workers as for a node that is cut off. The scheduler is asked, more and more
rarely while it does not answer, or still lists the allocation, as it does while it cleans up its nodes.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator, Set
from pathlib import Path

from ..errors import LwfmError
from ..ownership import endings
from ..recording import presence
from ..recording.writer import Writer
from ..workers.protocol import WorkerServer
from .allotment import find_allotments

COME_BY_THEMSELVES_S = 3.0
"""A worker that is still there dials at least once a second."""
CLEANED_UP_S = 1.0
SLOWEST_S = 60.0
_logger = logging.getLogger(__name__)


class FormerAllocations:
    """Settles what workers of allocations had that have ended, until none is left that may.

    Args:
        directory: ``allocations/`` of the home, in which those with other nodes have one of their name, as ``slurm-4711``.
        current: the names of those that are seen to otherwise: the one we are in, and those that were asked for.
    """

    def __init__(self, directory: Path, current: Set[str], workers: WorkerServer, writer: Writer, origin: str):
        self._directory = directory
        self._current = frozenset(current)
        self._workers = workers
        self._writer = writer
        self._origin = origin
        self._present: dict[str, presence.Node] = {}
        self._found: set[str] = set()
        self.left: frozenset[str] = frozenset()
        """The allocations of which it is not known yet whether they have ended, and none of whose workers is here."""

    async def look(self) -> None:
        """Find out which there are that can be asked about."""
        self._present = await self._writer.read(presence.present, self._origin)
        found = {place.allocation for place in self._present.values() if place.allocation}
        found |= {
            one.directory.name for one in await asyncio.to_thread(find_allotments, self._directory, created=False)
        }
        found -= self._current
        self._found = await asyncio.to_thread(endings.askable, found) if found else set()
        self.left = frozenset(name for name in self._found if not self._is_here(name))

    async def run(self) -> None:
        """Settle those that :meth:`look` has found, as they end."""
        for pause_s in _pauses():
            if not self._found:
                return
            await asyncio.sleep(pause_s)
            await self._settle()
            await self.look()

    async def _settle(self) -> None:
        try:
            ended = await asyncio.to_thread(endings.ended, sorted(self.left))
        except LwfmError as error:
            _logger.warning("it is not known whether %s have ended: %s", ", ".join(sorted(self.left)), error)
            return
        for name, how in ended.items():
            if self._is_here(name):
                continue
            for worker_id in self._of(name):
                await self._workers.lose(worker_id, f"the allocation {name} has ended{how}", presence.LEFT)
            await asyncio.to_thread(shutil.rmtree, self._directory / name, ignore_errors=True)

    def _of(self, name: str) -> list[str]:
        return [worker_id for worker_id, place in self._present.items() if place.allocation == name]

    def _is_here(self, name: str) -> bool:
        """Whether one of its workers is: then it goes on."""
        return any(worker_id in self._workers.connections for worker_id in self._of(name))


def _pauses() -> Iterator[float]:
    """How long to wait before each question."""
    yield COME_BY_THEMSELVES_S
    pause_s = CLEANED_UP_S
    while True:
        yield pause_s
        pause_s = min(1.5 * pause_s, SLOWEST_S)
