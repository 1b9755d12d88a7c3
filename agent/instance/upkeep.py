"""Looking after an instance while it runs: it shall have a worker, its store take what is written, its secrets be forgotten."""

from __future__ import annotations

import time

from ..errors import AgentBusy, StoreError
from ..host.shortages import busy_with
from ..host.troubles import STORE, Troubles
from ..recording.writer import Writer
from ..store import Store
from ..workers.local import LocalWorker
from .forgetting import Forgetting

MARK_S = 60.0
"""So often it is noted beside the store how far it has come."""
WORKER = "the worker of this node"


class Upkeep:
    """Looks now and then.

    Args:
        worker: of this node. ``writer``: of the store. ``forgetting``: of secrets. ``troubles``: where it is told.
    """

    def __init__(self, worker: LocalWorker, writer: Writer, forgetting: Forgetting, troubles: Troubles):
        self._worker = worker
        self._writer = writer
        self._forgetting = forgetting
        self._troubles = troubles
        self._marked_at = time.monotonic()

    def keep_worker(self) -> None:
        """Start the worker where there is none."""
        try:
            self._worker.ensure()
        except OSError as error:
            busy = busy_with(error)
            self._troubles.meet(
                WORKER, f"it cannot be started: {busy.message if busy else error}", busy.hint if busy else None
            )
        else:
            self._troubles.over(WORKER)

    async def look_at_store(self) -> None:
        """Note how far it has come, and forget secrets; where the disk refused something, see whether it still does."""
        try:
            if STORE in self._troubles:
                await self._writer.alone(Store.try_room)
                self._troubles.over(STORE)
            if time.monotonic() - self._marked_at > MARK_S:
                await self._writer.alone(Store.mark)
                self._marked_at = time.monotonic()
            await self._forgetting.look()
        except (StoreError, AgentBusy) as error:
            self._troubles.meet(STORE, error.message, error.hint)
