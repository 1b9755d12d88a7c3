"""The allocations that the agent has asked a batch scheduler for: made, listened for, followed, given back.

Owns the list of them; lives in the agent's event loop. What is known of each is in :mod:`.created`, how a scheduler is spoken to
is told by :mod:`lwfm.sites.batch`, what runs inside by :mod:`.batchjob`. Who comes, and what becomes of jobs, is the business of
:mod:`lwfm.workers.protocol`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Callable, Optional

from ..clock import deadline_time
from ..errors import LwfmError, NotFound, SiteError
from ..launch.allocation import Allocation
from ..paths import Home, user_name
from ..placing.dispatcher import Dispatcher
from ..placing.node import Node
from ..recording import presence, recovery
from ..recording.writer import Writer
from ..sites.base import Resource
from ..sites.batch.commands import the_scheduler
from ..sites.batch.scheduler import ENDED, PENDING, RUNNING, UNKNOWN, BatchJob
from ..workers.listening import listen_for, sample
from ..workers.protocol import WorkerServer
from .allotment import PREFIX, Allotment, find_allotments
from .asking import mark_of, prepare, submit
from .created import Created
from .deadline import Deadline

POLL_S = 30.0
"""How often the scheduler is asked, when nothing points to news."""
HURRY_S = 0.5
"""After what may be news, it is asked so soon, then with pauses that double up to ``POLL_S``."""
LEAST_PAUSE_S = 0.1
MAX_POLL_S = 300.0
"""The longest pause while it does not answer."""
CUT_OFF_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL for jobs on nodes that are given back."""
LEAVE_S = 10.0
"""How long workers that were told to leave get until the scheduler is told to end the job."""
ADOPT_S = 600.0
"""A submission whose answer was lost is looked for for so long."""
SAME_END_S = 2.0
"""Ends that are told by no more than this apart are the same."""
ENDED_KEPT = 20
"""So many that have ended are still listed."""
_logger = logging.getLogger(__name__)


class CreatedAllocations:
    """All of them.

    Args:
        home: their directories lie there. ``workers``, ``dispatcher``, ``writer``: of the agent.
        spawn: runs a coroutine in the event loop. ``notice_s``: so long before the end of one its jobs are stopped.
    """

    def __init__(
        self,
        home: Home,
        workers: WorkerServer,
        dispatcher: Dispatcher,
        writer: Writer,
        spawn: Callable[[Awaitable[None]], Any],
        notice_s: float,
    ):
        self._home = home
        self._workers = workers
        self._dispatcher = dispatcher
        self._writer = writer
        self._spawn = spawn
        self._notice_s = notice_s
        self._all: dict[str, Created] = {}
        self._ended: deque[Resource] = deque(maxlen=ENDED_KEPT)
        self._news = asyncio.Event()
        self._pause_s = HURRY_S
        self._trouble: Optional[str] = None
        self._asking = asyncio.Lock()

    # ------------------------------------------------------------------------------------------ from the start on

    async def restore(self, own: Optional[Allocation]) -> None:
        """Take up those that an earlier agent has asked for, and listen for them again; and what workers of others have left.

        Args:
            own: the allocation that the agent itself is in.
        """
        for allotment in await asyncio.to_thread(find_allotments, self._home.allocations, created=False):
            await self._inherit(allotment, allotment.directory.name)
        for allotment in await asyncio.to_thread(find_allotments, self._home.allocations):
            try:
                created = Created(allotment, await asyncio.to_thread(allotment.read_asked), self._note)
            except (LwfmError, OSError) as error:
                _logger.error("%s is not used: %s", allotment.directory, error)
                continue
            self._all[created.asked.token] = created
            await created.look()
            begun = created.begun
            created.own = own is not None and begun is not None and begun.allocation.name == own.name
            self._spawn(self._listen_again(created))
        if self._all:
            self._hurry()

    @property
    def names(self) -> set[str]:
        """What those are called that have begun, as ``slurm-4711``."""
        return {created.allocation for created in self._all.values() if created.allocation}

    async def _listen_again(self, created: Created) -> None:
        """Listen for one that an earlier agent has asked for; not being able to is told, and tried again later."""
        if created.own or created.addresses or created.asked.giving_back is not None:
            return
        try:
            await self._listen(created, created.hosts or created.asked.towards)
            created.trouble = None
        except (LwfmError, OSError) as error:
            if created.trouble is None:
                _logger.error("%s cannot be used: %s", created.name, error)
            created.trouble = str(error)

    async def run(self) -> None:
        """Follow them until cancelled."""
        poll_at = time.monotonic()
        while True:
            left = [left_s for left_s in map(self._idle_left, self._all.values()) if left_s is not None]
            pause_s = max(LEAST_PAUSE_S, min([poll_at - time.monotonic(), *left])) if self._all else None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s)
            for created in list(self._all.values()):
                left_s = self._idle_left(created)
                if left_s is not None and left_s <= 0:
                    self._give_back(created, f"nothing to do for {created.asked.idle_s:.0f} s")
            if self._news.is_set():
                await asyncio.sleep(HURRY_S)  # what has just been seen here, the scheduler hears a moment later
                self._news.clear()
                self._pause_s = HURRY_S
            elif time.monotonic() < poll_at:
                continue
            try:
                await self.refresh()
            except Exception as error:  # whatever it is, those that run must be followed
                self._pause_s = min(MAX_POLL_S, self._pause_s * 2)
                if self._trouble is None:
                    unknown = not isinstance(error, LwfmError)
                    _logger.error("the allocations cannot be followed: %s", error, exc_info=unknown)
                self._trouble = str(error)
            else:
                self._pause_s, self._trouble = min(POLL_S, self._pause_s * 2), None
            poll_at = time.monotonic() + self._pause_s

    def _hurry(self) -> None:
        self._news.set()

    def _note(self, created: Created) -> None:
        """A worker of it has come or gone."""
        if created.phase == RUNNING and created.ends_at is None:
            self._watch_end(created, None)
        self._hurry()

    @property
    def busy(self) -> bool:
        """Whether one is just being given back, so that the agent must not leave for want of work."""
        return any(created.leaving is not None for created in self._all.values())

    async def close(self, *, kill: bool) -> None:
        """Leave them for the next agent; with ``kill``, give them back before we go, as far as the scheduler allows."""
        others = [created for created in self._all.values() if not created.own]  # the own one ends with us
        if kill and others:
            for created in others:
                self._give_back(created, "the agent was stopped with what runs")
            await asyncio.wait([created.leaving for created in others if created.leaving], timeout=LEAVE_S * 2)
            until = time.monotonic() + LEAVE_S
            with suppress(LwfmError):
                while any(created.phase != ENDED for created in others) and time.monotonic() < until:
                    await self.refresh()
                    await asyncio.sleep(HURRY_S)  # a scheduler tells nobody that a job has ended

    # ------------------------------------------------------------------------------------------ asked for and given back

    async def create(self, spec: Mapping[str, Any]) -> Resource:
        """Ask for one.

        Args:
            spec: as of :func:`~lwfm.allocations.asking.prepare`.

        Raises:
            InvalidRecord: the spec makes no sense. NotSupported: there is no batch scheduler here. SiteError: it refused.
            ConfigError: its nodes could not reach us.
        """
        question = await asyncio.to_thread(prepare, spec)
        asked = question.asked
        created = Created(Allotment(self._home.allocations / (PREFIX + asked.token)), asked, self._note)
        try:
            await asyncio.to_thread(created.allotment.create, asked)
            await self._listen(created, asked.towards)
            self._all[asked.token] = created
            job_id = await asyncio.to_thread(submit, question, created.allotment, self._home.root)
        except OSError as error:
            self._forget(created)
            raise SiteError(f"cannot write {created.allotment.directory}: {error.strerror}") from error
        except LwfmError as error:
            if not (isinstance(error, SiteError) and error.transient and asked.token in self._all):
                self._forget(created)
                raise
            # It may have been taken: it is looked for.
            created.reason = f"it is not known whether {asked.scheduler} has taken it: {error.message}"
        else:
            created.phase = PENDING
            await self._record(created, job_id=job_id)
            _logger.info("%s: asked for %d nodes for %.0f s", created.name, asked.nodes, asked.time_s)
        self._hurry()
        return self._resource(created)

    async def destroy(self, resource_id: str) -> None:
        """Give one back, and return when the scheduler has heard it. Harmless when it has ended.

        Raises:
            NotFound: there is none of that id. SiteError: the scheduler did not take it; it is told again later.
        """
        created = next((one for one in self._all.values() if resource_id in one.names), None)
        if created is None:
            if any(resource_id in (item.resource_id, item.facts.get("name")) for item in self._ended):
                return
            raise NotFound(
                f"there is no allocation {resource_id!r} that this instance has asked for", hint="lwfm spin list"
            )
        self._give_back(created, "lwfm spin destroy")
        if created.leaving is not None:
            await asyncio.shield(created.leaving)
        if self._trouble is not None and created.asked.token in self._all:
            raise SiteError(f"{created.name} is being given back, but: {self._trouble}", hint="it is tried again")

    def _give_back(self, created: Created, why: str) -> None:
        if created.leaving is None:
            created.leaving = asyncio.ensure_future(self._take_leave(created, why))
            self._spawn(created.leaving)

    async def _take_leave(self, created: Created, why: str) -> None:
        """Stop what runs there, have the workers leave, end the job."""
        try:
            if created.asked.giving_back is None:
                _logger.info("%s is given back: %s", created.name, why)
                await self._record(created, giving_back=why)
            self._dispatcher.cut_off(
                created.allocation, f"cut off: {created.name} is given back: {why}", CUT_OFF_GRACE_S
            )
            await _until(lambda: not self._is_at_work(created), CUT_OFF_GRACE_S * 2)
            for connection in self._workers.of(created):
                connection.send([{"t": "stop", "kill": True}])
            await _until(lambda: not self._workers.of(created), LEAVE_S)
            if created.asked.job_id is not None:
                await asyncio.to_thread(the_scheduler().cancel, [created.asked.job_id])
            self._trouble = None
        except LwfmError as error:
            self._trouble = error.message
            _logger.error("%s cannot be given back now: %s", created.name, error)
        finally:
            created.leaving = None
            self._hurry()

    def _is_at_work(self, created: Created) -> bool:
        """Whether a worker that is there has a job."""
        nodes = self._dispatcher.nodes.values()
        there = {node.worker_id for node in nodes if node.channel is not None and node.allocation == created.allocation}
        flights = self._dispatcher.flights.values() if there else ()
        return any(flight.worker_id in there or not there.isdisjoint(flight.parts) for flight in flights)

    def _idle_left(self, created: Created) -> Optional[float]:
        """How many seconds from now it may still be without work; None: that does not count now."""
        connections = self._workers.of(created)
        if not created.asked.idle_s or not connections or created.leaving or created.asked.giving_back is not None:
            return None
        now = time.monotonic()
        if self._is_at_work(created):
            created.busy_at = now
        last = max(created.busy_at, *(connection.worked_at for connection in connections))
        return last + created.asked.idle_s - now

    # ------------------------------------------------------------------------------------------ followed

    async def refresh(self) -> None:
        """Ask the scheduler for news of all of them.

        Raises:
            SiteError: it does not answer.
        """
        async with self._asking:
            asked_about = [(created, created.asked.job_id) for created in self._all.values()]
            if not asked_about:
                return
            scheduler = the_scheduler()
            jobs = await asyncio.to_thread(scheduler.jobs, user_name())
            by_id = {job.job_id: job for job in jobs}
            by_mark = {job.mark: job for job in jobs if job.mark}
            gone: list[Created] = []
            for created, job_id in asked_about:
                if created.trouble is not None:
                    await self._listen_again(created)
                await created.look()
                await self._inherit(created.allotment, created.allocation)
                mark = mark_of(created.asked.token)
                if job_id is None and created.asked.job_id is None and (created.begun or mark in by_mark):
                    job_id = created.begun.allocation.id if created.begun else by_mark[mark].job_id
                    await self._record(created, job_id=job_id)
                job = by_id.get(job_id or "")
                if job is not None:
                    await self._update(created, job)
                elif job_id is not None and not self._workers.of(created) and not created.own:
                    gone.append(created)  # the scheduler answers and does not list it, and nobody is there
                elif created.asked.job_id is None and time.time() - created.asked.created_at > ADOPT_S:
                    await self._finish(created, "NOT SUBMITTED")
            told = await asyncio.to_thread(scheduler.ended, [created.job_id for created in gone])
            for created in gone:
                job = told.get(created.job_id)
                known = job is not None and job.phase == ENDED
                await self._finish(
                    created, job.native_state if job and known else f"{scheduler.name} does not know it any more"
                )

    async def _update(self, created: Created, job: BatchJob) -> None:
        if job.phase == ENDED:
            await self._finish(created, job.native_state)
            return
        if job.phase == UNKNOWN and created.native != job.native_state:
            _logger.warning("%s is in a state that is not known here: %s", created.name, job.native_state)
        created.phase, created.native = job.phase, job.native_state
        created.reason = job.reason if job.phase in (PENDING, UNKNOWN) else None
        if job.phase == RUNNING:
            created.runs_since = created.runs_since or time.time()
            created.hosts = created.hosts or job.hosts
            self._watch_end(created, job.ends_at)
        if created.asked.giving_back is not None and job.phase in (RUNNING, PENDING):
            self._give_back(
                created, created.asked.giving_back
            )  # an earlier agent, or an earlier attempt, got no further

    def _watch_end(self, created: Created, ends_at: Optional[float]) -> None:
        """Have what runs there stopped before the end, which administrators may move."""
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

    async def _until_end(self, created: Created, ends_at: float) -> None:
        await Deadline(self._dispatcher, created.allocation, ends_at, self._notice_s).run()
        await _until(lambda: not self._is_at_work(created), max(0.0, ends_at - deadline_time()))
        self._give_back(created, "its time is nearly over")

    async def _finish(self, created: Created, native: str) -> None:
        """It has ended: settle what its workers had, and forget it."""
        why = f"{created.name} has ended: {native}"
        if created.asked.giving_back is not None:
            why += f" (given back: {created.asked.giving_back})"
        await self._inherit(created.allotment, created.allocation)
        words = await asyncio.to_thread(created.allotment.last_words)
        told = f"; the last it printed: {words}" if words and created.came_at is None else ""
        _logger.info("%s%s", why, told)
        self._workers.shut(created)
        for worker_id in await self._writer.read(recovery.workers_at, created.place):
            await self._workers.lose(worker_id, why, presence.LEFT)
        back = created.asked.giving_back
        created.phase, created.native, created.reason = (
            ENDED,
            native,
            (f"given back: {back}" if back else "") + told or None,
        )
        self._ended.append(self._resource(created))
        self._forget(created)

    async def _inherit(self, allotment: Allotment, name: str) -> None:
        """Record what workers of an allocation have left in its directory that had to go while no agent was there."""
        for path, body in await asyncio.to_thread(allotment.testaments):
            worker_id = str(body["worker"])
            if worker_id in self._workers.connections:
                continue
            await self._workers.inherit(worker_id, str(body["host"]), name, body["events"])
            await self._workers.lose(worker_id, "its worker has left", presence.LEFT)
            with suppress(OSError):
                await asyncio.to_thread(path.unlink)

    def _forget(self, created: Created) -> None:
        self._workers.shut(created)
        if created.deadline is not None:
            created.deadline.cancel()
        self._all.pop(created.asked.token, None)
        created.allotment.remove()

    async def _record(self, created: Created, **changes: Any) -> None:
        created.asked = replace(created.asked, **changes)
        try:
            await asyncio.to_thread(created.allotment.write_asked, created.asked)
        except OSError as error:
            _logger.error("cannot write %s: %s", created.allotment.directory, error)

    async def _listen(self, created: Created, hosts: Sequence[str]) -> None:
        created.addresses = await listen_for(self._workers, created.allotment.directory, sample(hosts), created)

    # ------------------------------------------------------------------------------------------ told

    async def resources(self, ask: bool) -> list[Resource]:
        """Those there are, and those that have ended of late; ``ask``: let the scheduler be asked first."""
        trouble = None
        if ask and self._all:
            try:
                await self.refresh()
            except LwfmError as error:
                trouble = error.message
        return [*(self._resource(created, trouble) for created in self._all.values()), *self._ended]

    def coming(self) -> list[Node]:
        """The nodes that are still to come: jobs can be submitted for them already."""
        return [node for created in self._all.values() for node in created.coming()]

    def describe(self) -> list[dict[str, Any]]:
        """Those whose nodes are known, as ``GET /v1/agent`` shows them."""
        return [
            created.describe([connection.host for connection in self._workers.of(created)])
            for created in self._all.values()
            if created.hosts and not created.own
        ]

    def _resource(self, created: Created, trouble: Optional[str] = None) -> Resource:
        return created.resource(len(self._workers.of(created)), trouble)


async def _until(reached: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something is so, but not longer than that."""
    until = time.monotonic() + timeout_s
    while not reached() and time.monotonic() < until:  # noqa: ASYNC110 - told by many places, and soon over
        await asyncio.sleep(0.05)
