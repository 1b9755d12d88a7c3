"""Sites that do not report by themselves: jobs are handed over in their threads, and their statuses asked for, in bulk.

Here is one task for each site, which takes turns (:mod:`.turns`) when it is time for one (:mod:`.pace`), and what others may ask
and tell of that. What is where is in :mod:`.backlog`, what is recorded in :mod:`.handover` and :mod:`.observing`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Optional

from ..errors import LwfmError
from ..limits import NO_LIMITS, Limits
from ..placing.candidates import Standing, full
from ..sites.base import JobRequest
from ..sites.calls import SiteCalls
from ..states import JobState
from .backlog import Backlog
from .bringing import Bringing
from .handover import HANDED, Resumed, waiting_of
from .pace import ClockWatch
from .turns import PolledSite, Turns

AGAIN_S = 5.0
LISTEN_S = 60.0
"""So long after its last job has ended a site whose records come is asked on: output that was brought to the instance there, and
the thread of an instance that the job had of its own, come after the end."""
TICK_S = 5.0
_logger = logging.getLogger(__name__)


class PolledSites:
    """Hands jobs to sites and asks how they are.

    Args:
        turns: makes them. ``calls``: to the drivers. ``limits_of``: what a site is spared; may raise LwfmError.
        bringing: what still has to do with jobs that have ended. ``spawn``: runs a coroutine in the event loop.
        tick_s: so often the clocks are compared. ``wall``: that of the wall. ``listen_s``: see :data:`LISTEN_S`.
    """

    def __init__(
        self,
        turns: Turns,
        calls: SiteCalls,
        limits_of: Callable[[str], Limits],
        bringing: Bringing,
        spawn: Callable[[Awaitable[None]], Any],
        tick_s: float = TICK_S,
        wall: Callable[[], float] = time.time,
        listen_s: float = LISTEN_S,
    ):
        self._turns = turns
        self._calls = calls
        self._limits_of = limits_of
        self._bringing = bringing
        self._spawn = spawn
        self._tick_s = tick_s
        self._wall = wall
        self._listen_s = listen_s
        self._loop = asyncio.get_running_loop()
        self._sites: dict[str, PolledSite] = {}

    def __len__(self) -> int:
        return sum(len(site.backlog) for site in self._sites.values()) + len(self._bringing)

    # --------------------------------------------------------------------------------------------- told what to do

    def submit(self, name: str, requests: Sequence[JobRequest]) -> None:
        """Hand jobs over as the site has room for them."""
        site = self._site(name)
        for request in requests:
            site.backlog.add(waiting_of(request))
        site.wake.set()

    def resume(self, jobs: Sequence[Resumed]) -> None:
        """Go on with jobs that an earlier agent had to do with."""
        for item in jobs:
            site = self._site(item.site)
            job_id = item.job.job_id
            if item.state is JobState.PENDING and item.stage is None:
                site.backlog.add(item.job)
            elif item.stage == HANDED and item.state in (JobState.PENDING, JobState.FINISHING):
                site.backlog.doubtful[job_id] = item.job
            else:
                site.backlog.known(job_id)
            if item.state is JobState.FINISHING:
                site.backlog.cancels[job_id] = (item.job.attempt, item.reason)
            site.wake.set()

    def cancel(self, name: str, job_id: str, attempt: int, reason: str) -> None:
        """Ask the site for a job's end, until it has heard that."""
        site = self._site(name)
        site.backlog.cancels[job_id] = (attempt, reason)
        site.cancel_at = float("-inf")
        site.wake.set()

    def forget(self, name: str, job_id: str) -> None:
        """The job has ended."""
        site = self._sites.get(name)
        if site is not None:
            site.backlog.forget(job_id)
            site.told.discard(job_id)
            site.unheard.discard(job_id)
            if site.records_come:
                site.listen_until = self._loop.time() + self._listen_s
            if site.backlog.waiting or site.records_come:
                site.wake.set()

    def try_now(self, name: str) -> None:
        """Something has changed that may have healed the site, as a login."""
        site = self._sites.get(name)
        if site is not None:
            site.health.try_now()
            site.wake.set()

    # --------------------------------------------------------------------------------------------- told

    def standing(self, name: str) -> Standing:
        """How a site stands with regard to new jobs."""
        site = self._sites.get(name)
        try:
            max_jobs = self._limits_of(name).max_jobs
        except LwfmError:
            max_jobs = None
        backlog = site.backlog if site is not None else Backlog()
        room = None if max_jobs is None else max(0, max_jobs - backlog.with_site - backlog.waiting)
        return Standing(site.trouble if site is not None else None, room, max_jobs)

    def describe(self, name: str) -> dict[str, Any]:
        """What is known of a site beside its configuration: whether it is down and why, and how many jobs it has."""
        site = self._sites.get(name)
        if site is None:
            return {}
        told: dict[str, Any] = {"jobs": site.backlog.with_site, "waiting": site.backlog.waiting}
        if site.health.bad:
            told.update(state=site.health.state, reason=site.health.reason, since=site.health.since)
        return told

    def is_down(self, name: str) -> bool:
        """Whether the last call of the site has failed."""
        site = self._sites.get(name)
        return site is not None and site.health.bad

    def why_waiting(self, name: str, job_id: str) -> Optional[str]:
        """What a job waits for that was not handed over; None when it does not wait here."""
        site = self._sites.get(name)
        if site is None or not (site.backlog.waits(job_id) or job_id in site.backlog.doubtful):
            return None
        if site.health.bad:
            return site.trouble
        if job_id in site.backlog.doubtful:
            return f"is being handed to site {name}"
        max_jobs = self._limits_of(name).max_jobs
        if max_jobs is not None and not site.backlog.room(max_jobs):
            return full(name, max_jobs)
        busy = self._calls.busy_with(name)
        return f"is about to be handed to site {name}" + (f", whose {busy}" if busy else "")

    # --------------------------------------------------------------------------------------------- turns

    def _site(self, name: str) -> PolledSite:
        if name not in self._sites:
            if not self._sites:
                self._spawn(self._watch_clock())
            self._sites[name] = PolledSite(name, asyncio.Event())
            self._spawn(self._serve(self._sites[name]))
        return self._sites[name]

    async def _serve(self, site: PolledSite) -> None:
        """Look after one site, for as long as it has jobs or is down, and then until it gets some again."""
        while True:
            pause_s = self._pause_s(site)
            if pause_s is None or pause_s > 0:
                try:
                    await asyncio.wait_for(site.wake.wait(), pause_s)
                except asyncio.TimeoutError:
                    pass
                site.wake.clear()
                if (self._pause_s(site) or 0) > 0:
                    continue
            site.wake.clear()
            if not (site.backlog or site.health.bad or self._loop.time() < site.listen_until):
                continue
            try:
                await self._turns.take(site)
            except Exception:  # as of a full disk: the site is asked again for what could not be recorded
                _logger.exception("site %s", site.name)
                await asyncio.sleep(AGAIN_S)

    def _pause_s(self, site: PolledSite) -> Optional[float]:
        """How long there is nothing to do; None: until somebody says so."""
        backlog, now = site.backlog, self._loop.time()
        if site.health.bad:
            return site.health.retry_at - now
        limits = self._limits(site.name)
        if not backlog:
            return site.pace.due_at(limits.poll_s) - now if now < site.listen_until else None
        if backlog.room(limits.max_jobs):
            return 0.0
        due = [site.cancel_at] if backlog.cancels else []
        if backlog.with_site:
            due.append(site.pace.due_at(limits.poll_s))
        return min(due) - now if due else None

    def _limits(self, name: str) -> Limits:
        try:
            return self._limits_of(name)
        except LwfmError:
            return NO_LIMITS

    async def _watch_clock(self) -> None:
        """After the host has slept, ask at once: much may have happened."""
        watch = ClockWatch(self._wall(), self._loop.time())
        while True:
            await asyncio.sleep(self._tick_s)
            if watch.jumped(self._wall(), self._loop.time()):
                _logger.info("the clock has jumped: the sites are asked at once")
                for site in self._sites.values():
                    site.pace.at_once()
                    site.heard_at = float("-inf")
                    site.health.try_now()
                    site.wake.set()
