"""Giving back an allocation that the agent has asked for: what runs there is stopped, its workers leave, its batch job is ended.

That is done when somebody asks for it, when there has been nothing to do for long, and when its time is nearly over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Optional

from ..clock import deadline_time
from ..errors import LwfmError
from ..placing.dispatcher import Dispatcher
from ..sites.batch.commands import the_scheduler
from ..workers.protocol import WorkerServer
from .created import Created
from .deadline import Deadline

CUT_OFF_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL for jobs on nodes that are given back."""
LEAVE_S = 10.0
"""How long workers that were told to leave get until the scheduler is told to end the job."""
SAME_END_S = 2.0
"""Ends that are told by no more than this apart are the same."""
_logger = logging.getLogger(__name__)


class GivingBack:
    """Gives allocations back.

    Args:
        workers, dispatcher: of the agent. ``spawn``: runs a coroutine in the event loop.
        news: set when the scheduler may have news. ``notice_s``: so long before the end of one its jobs are stopped.
    """

    def __init__(
        self,
        workers: WorkerServer,
        dispatcher: Dispatcher,
        spawn: Callable[[Awaitable[None]], Any],
        news: asyncio.Event,
        notice_s: float,
    ):
        self._workers = workers
        self._dispatcher = dispatcher
        self._spawn = spawn
        self._news = news
        self._notice_s = notice_s

    def begin(self, created: Created, why: str) -> None:
        """Give one back, unless that goes on already."""
        if created.leaving is None:
            created.leaving = asyncio.ensure_future(self._take_leave(created, why))
            self._spawn(created.leaving)

    def begin_if_idle(self, created: Created) -> None:
        """Give one back in which there has been nothing to do for as long as it may."""
        left_s = self.idle_left(created)
        if left_s is not None and left_s <= 0:
            self.begin(created, f"nothing to do for {created.asked.idle_s:.0f} s")

    def idle_left(self, created: Created) -> Optional[float]:
        """How many seconds from now it may still be without work; None: that does not count now."""
        connections = self._workers.of(created)
        if not created.asked.idle_s or not connections or created.leaving or created.asked.giving_back is not None:
            return None
        now = time.monotonic()
        if self._is_at_work(created):
            created.busy_at = now
        last = max(created.busy_at, *(connection.worked_at for connection in connections))
        return last + created.asked.idle_s - now

    def before_end(self, created: Created, ends_at: Optional[float]) -> None:
        """Have what runs there stopped before the end, which administrators may move; None: only its batch job has told it."""
        ends_at = ends_at if ends_at is not None else created.begun.allocation.ends_at if created.begun else None
        if created.asked.giving_back is not None or created.own or ends_at is None:
            return
        if created.ends_at is not None and abs(created.ends_at - ends_at) < SAME_END_S:
            return
        created.ends_at = ends_at
        if created.deadline is not None:
            created.deadline.cancel()
        created.deadline = asyncio.ensure_future(self._until_end(created, ends_at))
        self._spawn(created.deadline)

    async def _take_leave(self, created: Created, why: str) -> None:
        try:
            if created.asked.giving_back is None:
                _logger.info("%s is given back: %s", created.name, why)
                await created.change(giving_back=why)
            reason = f"cut off: {created.name} is given back: {why}"
            self._dispatcher.cut_off(created.allocation, reason, CUT_OFF_GRACE_S)
            await _until(lambda: not self._is_at_work(created), CUT_OFF_GRACE_S * 2)
            for connection in self._workers.of(created):
                connection.send([{"t": "stop", "kill": True}])
            await _until(lambda: not self._workers.of(created), LEAVE_S)
            if created.asked.job_id is not None:
                await asyncio.to_thread(the_scheduler().cancel, [created.asked.job_id])
            created.kept_because = None
        except LwfmError as error:
            created.kept_because = error.message
            _logger.error("%s cannot be given back now: %s", created.name, error)
        finally:
            created.leaving = None
            self._news.set()

    async def _until_end(self, created: Created, ends_at: float) -> None:
        await Deadline(self._dispatcher, created.allocation, ends_at, self._notice_s).run()
        await _until(lambda: not self._is_at_work(created), max(0.0, ends_at - deadline_time()))
        self.begin(created, "its time is nearly over")

    def _is_at_work(self, created: Created) -> bool:
        """Whether a worker that is there has a job."""
        nodes = self._dispatcher.nodes.values()
        there = {node.worker_id for node in nodes if node.channel is not None and node.allocation == created.allocation}
        flights = self._dispatcher.flights.values() if there else ()
        return any(flight.worker_id in there or not there.isdisjoint(flight.parts) for flight in flights)


async def _until(reached: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something is so, but not longer than that."""
    until = time.monotonic() + timeout_s
    while not reached() and time.monotonic() < until:  # noqa: ASYNC110 - told by many places, and soon over
        await asyncio.sleep(0.05)
