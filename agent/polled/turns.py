"""One turn with a site that must be asked: ask, settle what is in doubt, tell what is to be stopped, hand over what is new.

A question that fails changes nothing but the record of why nothing is known; a submission whose answer was lost is held against
what the site says before it is repeated. Nothing is handed to a site of which it is not known that it answers, so that what waits
for one that is down has certainly not been handed over, and may go elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .. import faultpoints
from ..capacity import shape_of
from ..clock import utc_now
from ..data.outputs import OutputStore
from ..errors import LwfmError, NotFound, NotSupported, ResourcesImpossible, SiteError, UsageError
from ..limits import Limits
from ..placing.candidates import Placing
from ..recording.writer import Writer
from ..sites.base import JobRequest, Observation, Run
from ..sites.calls import SiteCalls
from ..states import JobState
from .backlog import Backlog, Waiting
from .bringing import Bringing
from .handover import (
    Build,
    candidates_in,
    hand_over,
    move,
    note_there,
    record_refused,
    record_trouble,
    take_back,
)
from .observing import record_failures, record_missing, record_observations
from .pace import LOGIN, UP, Health, Pace

HAND_OVER_S = 10.0
"""So long jobs are handed over, batch after batch, before the site is asked again."""
LAST_WORDS_S = 10.0
"""So long it may take, for as many as one unit of work has to do with, to bring what attempts printed that others follow."""
HUNG_S = 60.0
"""A site whose call takes longer is down until it answers."""
AT_A_TIME = 500
"""Jobs that one unit of work has to do with, so that the event loop comes to everything else in time."""
TOLD_WAITING = 1000
"""Of the jobs that wait in the agent for a site that is down, so many are told."""
FRESH_S = 60.0
"""A site that has not answered for longer is asked whether it does before anything is handed to it."""
FAILED_CANCELS = 3
CANCEL_AGAIN_S = 5.0
_REFUSALS = (ResourcesImpossible, NotSupported, UsageError)
"""What a submission raises of which the site has certainly taken nothing, and never will."""
_logger = logging.getLogger(__name__)


@dataclass
class PolledSite:
    """One site: its jobs, how it is, when it is asked.

    Args:
        heard_at: when it answered last.
        told: the jobs that know of its trouble. ``unheard``: those that it was told to stop in vain.
        records_come: whether what becomes of its jobs comes as records. ``listen_until``: more may come, though no job is there.
    """

    name: str
    wake: asyncio.Event
    backlog: Backlog = field(default_factory=Backlog)
    health: Health = field(default_factory=Health)
    pace: Pace = field(default_factory=Pace)
    cancel_at: float = float("-inf")
    heard_at: float = float("-inf")
    told: set[str] = field(default_factory=set)
    unheard: set[str] = field(default_factory=set)
    records_come: bool = False
    listen_until: float = float("-inf")

    @property
    def trouble(self) -> Optional[str]:
        """What is said of it where it takes nothing now."""
        if not self.health.bad:
            return None
        if self.health.state == LOGIN:
            return f"waits for a login: lwfm site login {self.name}"
        return f"site {self.name} is down since {self.health.since}: {self.health.reason}"


class Turns:
    """Makes turns.

    Args:
        writer: for what the sites say. ``calls``: to their drivers.
        run_of: the Run pillar of a site. ``limits_of``: what a site is spared. Both may raise LwfmError.
        build: the requests of jobs. ``placing``: chooses among the sites of a job, for one unit of work.
        bringing: brings what ended jobs have left. ``outputs``: where that is kept.
        hung_s: after so long without an answer a site is down until it answers.
    """

    def __init__(
        self,
        writer: Writer,
        calls: SiteCalls,
        run_of: Callable[[str], Run],
        limits_of: Callable[[str], Limits],
        build: Build,
        placing: Callable[[], Placing],
        bringing: Bringing,
        outputs: OutputStore,
        hung_s: float = HUNG_S,
    ):
        self._writer = writer
        self._calls = calls
        self._run_of = run_of
        self._limits_of = limits_of
        self._build = build
        self._placing = placing
        self._bringing = bringing
        self._outputs = outputs
        self._hung_s = hung_s
        self._loop = asyncio.get_running_loop()

    async def take(self, site: PolledSite) -> None:
        """Do what there is to do: as far as it is time for that, and the site answers."""
        try:
            run, limits = self._configured(site.name)
            now = self._loop.time()
            expecting = site.backlog.with_site or now < site.listen_until
            asking = expecting and now >= site.pace.due_at(limits.poll_s)
            fresh = site.health.state == UP and now - site.heard_at < max(FRESH_S, limits.poll_s)
            if asking or not fresh:
                await self._ask(site, run, limits.poll_s)
            if site.backlog.cancels and self._loop.time() >= site.cancel_at:
                await self._cancel(site, run)
            await self._hand_over(site, run, limits)
        except _DriverError as failed:
            await self._failed(site, failed.error)

    def _configured(self, name: str) -> tuple[Run, Limits]:
        try:
            return self._run_of(name), self._limits_of(name)
        except LwfmError as error:
            raise _DriverError(error) from error

    async def _ask(self, site: PolledSite, run: Run, poll_s: float) -> None:
        backlog = site.backlog
        again = {job_id for job_id, job in backlog.doubtful.items() if job.attempt > 1}
        asked = [] if run.records_come else [*backlog.there, *(job for job in backlog.doubtful if job not in again)]
        said: Mapping[str, Observation] = await self._call(site, run.status, asked)
        if run.records_come:  # which may turn out only now, of a driver that had to be started
            again, asked = set(backlog.doubtful), []
        site.records_come = run.records_come
        if site.health.succeeded():
            _logger.info("site %s answers again", site.name)
            site.told.clear()
        for job_id in again:  # idempotent; and what the site says may be of the attempt before
            backlog.wait_again(job_id)
        changed = False
        if asked:
            faultpoints.hit("turns.asked")
            unknown = [job_id for job_id in asked if job_id not in said]
            changed = await self._hear(site, run, {job: said[job] for job in asked if job in said})
            await self._settle(site, unknown)
        site.pace.asked(self._loop.time(), poll_s, changed=changed)

    async def _settle(self, site: PolledSite, unknown: Sequence[str]) -> None:
        """The site has said that it does not know these jobs."""
        backlog = site.backlog
        never = [job_id for job_id in unknown if job_id in backlog.doubtful]
        if never:
            await self._writer.durably(take_back, never)
            for job_id in never:
                backlog.wait_again(job_id)
        missing = [job_id for job_id in unknown if backlog.missed(job_id)]
        if missing:
            await self._writer.durably(record_missing, missing)

    async def _cancel(self, site: PolledSite, run: Run) -> None:
        """Tell the site what is to be stopped. What it does not take it is told again; nothing else waits for that."""
        failures = 0
        for job_id, (attempt, reason) in list(site.backlog.cancels.items()):
            if failures >= FAILED_CANCELS:
                break
            try:
                await self._call(site, run.cancel, job_id, attempt, reason)
            except _DriverError as failed:
                if isinstance(failed.error, NotFound) and (run.records_come or job_id not in site.backlog.there):
                    nothing = record_missing if job_id in site.backlog.there else take_back
                    await self._writer.durably(nothing, [job_id])
                    site.backlog.forget(job_id)
                    continue
                failures += 1
                _logger.warning("site %s: job %s is not stopped yet: %s", site.name, job_id, failed.error.message)
                if job_id not in site.unheard:
                    site.unheard.add(job_id)
                    told = f"site {site.name} was not told to stop it, which is tried again: {failed.error.message}"
                    await self._writer.durably(record_trouble, [job_id], told)
                continue
            faultpoints.hit("turns.cancelled")
            site.unheard.discard(job_id)
            if site.backlog.cancels.pop(job_id, None) is not None:
                site.backlog.known(job_id)
                site.pace.hurry()
        site.cancel_at = self._loop.time() + (CANCEL_AGAIN_S if failures else 0.0)

    async def _hand_over(self, site: PolledSite, run: Run, limits: Limits) -> None:
        """Hand over what waits, as far as there is room, in batches."""
        until = self._loop.time() + HAND_OVER_S
        while self._loop.time() < until:
            count = min(site.backlog.room(limits.max_jobs), limits.submit_batch)
            if not count:
                return
            taken = site.backlog.hand(count)
            requests = await self._durably_handed(site, taken)
            going = {request.job_id for request in requests}
            for job in taken:
                if job.job_id not in going:
                    site.backlog.doubtful.pop(job.job_id, None)
            if requests:
                faultpoints.hit("turns.handed")
                await self._submit(site, run, requests)
                site.pace.hurry()

    async def _durably_handed(self, site: PolledSite, taken: Sequence[Waiting]) -> list[JobRequest]:
        try:
            return await self._writer.durably(hand_over, site.name, taken, self._build)
        except LwfmError:
            for job in taken:
                site.backlog.wait_again(job.job_id)
            raise

    async def _submit(self, site: PolledSite, run: Run, requests: Sequence[JobRequest]) -> None:
        """Hand jobs over. Where the site refuses many at once, those go that it takes: each half is tried by itself."""
        try:
            said: Mapping[str, Observation] = await self._call(site, run.submit, requests)
        except _DriverError as failed:
            error = failed.error
            if not isinstance(error, _REFUSALS):
                raise
            if len(requests) > 1 and (isinstance(error, UsageError) or not _alike(requests)):
                half = len(requests) // 2
                await self._submit(site, run, requests[:half])
                await self._submit(site, run, requests[half:])
                return
            said = {
                request.job_id: Observation(JobState.FAILED, reason=error.message, facts={"refused": True})
                for request in requests
            }
        faultpoints.hit("turns.submitted")
        ours = {request.job_id: said[request.job_id] for request in requests if request.job_id in said}
        refused = {
            job_id: observed.reason or "without a reason"
            for job_id, observed in ours.items()
            if observed.facts.get("refused")
        }
        taken = {job_id: observed for job_id, observed in ours.items() if job_id not in refused}
        if run.records_come:
            for job_id in await self._writer.durably(note_there, site.name, list(taken)):
                site.backlog.known(job_id)
        elif taken:
            await self._hear(site, run, taken)
        if refused:
            for job_id in refused:
                site.backlog.forget(job_id)
            faultpoints.hit("turns.refused")
            await self._writer.durably(record_refused, site.name, refused, self._build, self._placing().choose)

    async def _hear(self, site: PolledSite, run: Run, said: Mapping[str, Observation]) -> bool:
        """Record what the site says; whether that was anything new."""
        changed = False
        listed = list(said)
        for start in range(0, len(listed), AT_A_TIME):
            part = {job_id: said[job_id] for job_id in listed[start : start + AT_A_TIME]}
            changed |= await self._hear_part(site, run, part)
        return changed

    async def _hear_part(self, site: PolledSite, run: Run, said: Mapping[str, Observation]) -> bool:
        heard = await self._writer.durably(record_observations, site.name, said)
        for job_id in heard.going_on:
            site.backlog.known(job_id)
        for job_id in heard.over:
            site.backlog.forget(job_id)
        self._bringing.add(site.name, heard.ended)
        changed = heard.changed
        if heard.again:
            until = self._loop.time() + LAST_WORDS_S
            brought = {}
            for job_id in heard.again:
                if self._loop.time() < until:
                    try:
                        brought[job_id] = await self._bringing.printed(site.name, run, job_id)
                    except LwfmError as error:
                        _logger.info("site %s: output of job %s was not brought: %s", site.name, job_id, error)
            faultpoints.hit("turns.again")
            failed = {job_id: said[job_id] for job_id in heard.again}
            changed |= await self._writer.durably(record_failures, site.name, failed, brought, self._outputs)
        return changed

    async def _failed(self, site: PolledSite, error: LwfmError) -> None:
        """A call has failed: the jobs stay as they are, with that reason, told once; those that can go elsewhere do."""
        try:
            poll_s = self._limits_of(site.name).poll_s
        except LwfmError:
            poll_s = 0.0
        if site.health.failed(error, self._loop.time(), utc_now(), poll_s):
            _logger.warning("site %s is %s: %s", site.name, site.health.state, error)
            site.told.clear()
        backlog = site.backlog
        there = [*backlog.there, *backlog.doubtful, *backlog.first(TOLD_WAITING)]
        tell = [job_id for job_id in there if job_id not in site.told]
        site.told.update(tell)
        reason = f"site {site.name}: {error.message}"
        if site.health.state == LOGIN:
            reason = f"waits for a login: lwfm site login {site.name}"
        for start in range(0, len(tell), AT_A_TIME):
            await self._writer.durably(record_trouble, tell[start : start + AT_A_TIME], reason)
        movable = backlog.movable()
        trouble = site.trouble or reason
        for start in range(0, len(movable), AT_A_TIME):
            part = movable[start : start + AT_A_TIME]
            gone = await self._writer.durably(move, site.name, part, self._build, self._placing().choose, trouble)
            for job_id in gone:
                backlog.forget(job_id)

    async def _call(self, site: PolledSite, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the driver. One that does not answer is down meanwhile; that it is busy with another call is its right.

        Raises:
            _DriverError: what the driver has raised.
        """
        call = asyncio.ensure_future(self._calls.call(site.name, function, *arguments, wait_s=None))
        try:
            while not (await asyncio.wait({call}, timeout=self._hung_s))[0]:
                busy = self._calls.busy_with(site.name) or ""
                if busy.startswith(f"{getattr(function, '__name__', '')} ") and not site.health.bad:
                    await self._failed(site, SiteError(f"it does not answer: {busy}"))
            result = call.result()
            site.heard_at = self._loop.time()
            return result
        except LwfmError as error:
            raise _DriverError(error) from error
        finally:
            call.cancel()


class _DriverError(Exception):
    """What a driver has raised, apart from what our own store raises."""

    def __init__(self, error: LwfmError):
        super().__init__(error.message)
        self.error = error


def _alike(requests: Sequence[JobRequest]) -> bool:
    """Whether these ask for the same, so that who refuses one refuses them all."""
    first = requests[0].defn
    return all(
        shape_of(request.defn) == shape_of(first) and candidates_in(request.defn) == candidates_in(first)
        for request in requests
    )
