"""The end of an allocation: nothing more is placed shortly before it, what runs is warned, and recorded as cut off.

The scheduler would kill everything at the end, an agent that is in it included, and nobody would be left to record it.
"""

from __future__ import annotations

import asyncio
import logging

from ..clock import deadline_time, utc_text
from ..placing.dispatcher import Dispatcher

DEFAULT_NOTICE_S = 60.0
SHORTEST_SHARE = 0.1
"""In a short allocation the notice is no more than this share of what is left of it."""
WAKE_S = 30.0
"""A machine may sleep: look at least so often."""
_logger = logging.getLogger(__name__)


class Deadline:
    """Watches the end of an allocation.

    Args:
        dispatcher: is told which jobs still have time, and to stop. ``allocation``: its name.
        ends_at: seconds since the epoch. ``notice_s``: so long before it jobs are warned.
    """

    def __init__(self, dispatcher: Dispatcher, allocation: str, ends_at: float, notice_s: float):
        self._dispatcher = dispatcher
        self._allocation = allocation
        self._ends_at = ends_at
        self._notice_s = min(notice_s, max(0.0, (ends_at - deadline_time()) * SHORTEST_SHARE))
        dispatcher.last_start_by(ends_at - self._notice_s, allocation)

    async def run(self) -> None:
        """Wait for the end, then cut off what still runs."""
        while True:
            left_s = self._ends_at - self._notice_s - deadline_time()
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, WAKE_S))
        reason = f"cut off: the allocation {self._allocation} ends at {utc_text(self._ends_at)}"
        _logger.warning("%s; nothing more is placed", reason)
        self._dispatcher.cut_off(self._allocation, reason, self._notice_s / 2)
