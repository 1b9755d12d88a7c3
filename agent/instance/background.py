"""What an instance does beside answering calls: coroutines that are run, and begun again where they never end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

BEGIN_AGAIN_S = 5.0
_logger = logging.getLogger(__name__)


class Background:
    """Runs coroutines until it is closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Awaitable[None]) -> None:
        """Run a coroutine; what it raises is logged."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def keep_going(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run what never ends, again when it has failed."""
        self.spawn(_kept_going(loop))

    async def close(self) -> None:
        """End all that runs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a task failed", exc_info=task.exception())


async def _kept_going(loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await loop()
        except Exception:
            _logger.exception("%s failed; it is begun again", getattr(loop, "__qualname__", loop))
        await asyncio.sleep(BEGIN_AGAIN_S)
