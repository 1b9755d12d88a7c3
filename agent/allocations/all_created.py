"""The allocations that the agent has asked a batch scheduler for: made, listened for, followed to their ends.

Owns the list of them; lives in the agent's event loop. What is known of each is in :mod:`.created`, how one is given back in
:mod:`.giving_back`, what runs inside in :mod:`.batchjob`. How a scheduler is spoken to is told by :mod:`lwfm.sites.batch`. Who
comes, and what becomes of jobs, is the business of :mod:`lwfm.workers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable, Optional

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
from .giving_back import LEAVE_S, GivingBack
from .inheriting import inherit

POLL_S = 30.0
"""How often the scheduler is asked, when nothing points to news."""
HURRY_S = 0.5
"""After what may be news, it is asked so soon, then with pauses that double up to ``POLL_S``."""
LEAST_PAUSE_S = 0.1
MAX_POLL_S = 300.0
"""The longest pause while it does not answer."""
ADOPT_S = 600.0
"""A submission whose answer was lost is looked for for so long."""
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
        self._writer = writer
        self._spawn = spawn
        self._all: dict[str, Created] = {}
        self._ended: deque[Resource] = deque(maxlen=ENDED_KEPT)
        self._news = asyncio.Event()
        self._giving_back = GivingBack(workers, dispatcher, spawn, self._news, notice_s)
        self._pause_s = HURRY_S
        self._trouble: Optional[str] = None
        self._asking = asyncio.Lock()

    # ------------------------------------------------------------------------------------------ from the start on

    async def restore(self, own: Optional[Allocation]) -> None:
        """Take up those that an earlier agent has asked for, and listen for them again.

        Args:
            own: the allocation that the agent itself is in.
        """
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
            self._news.set()

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
            left = [left_s for left_s in map(self._giving_back.idle_left, self._all.values()) if left_s is not None]
            pause_s = max(LEAST_PAUSE_S, min([poll_at - time.monotonic(), *left])) if self._all else None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s)
            for created in list(self._all.values()):
                self._giving_back.begin_if_idle(created)
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

    def _note(self, created: Created) -> None:
        """A worker of it has come or gone."""
        if created.phase == RUNNING and created.ends_at is None:
            self._giving_back.before_end(created, None)
        self._news.set()

    @property
    def busy(self) -> bool:
        """Whether one is just being given back, so that the agent must not leave for want of work."""
        return any(created.leaving is not None for created in self._all.values())

    async def close(self, *, kill: bool) -> None:
        """Leave them for the next agent; with ``kill``, give them back before we go, as far as the scheduler allows."""
        others = [created for created in self._all.values() if not created.own]  # the own one ends with us
        if kill and others:
            for created in others:
                self._giving_back.begin(created, "the agent was stopped with what runs")
            await asyncio.wait([created.leaving for created in others if created.leaving], timeout=LEAVE_S * 2)
            until = time.monotonic() + LEAVE_S
            with suppress(LwfmError):
                while any(created.phase != ENDED for created in others) and time.monotonic() < until:
                    await self.refresh()
                    await asyncio.sleep(HURRY_S)  # a scheduler tells nobody that a job has ended

    # ------------------------------------------------------------------------------------------ asked for, given back

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
            await created.change(job_id=job_id)
            _logger.info("%s: asked for %d nodes for %.0f s", created.name, asked.nodes, asked.time_s)
        self._news.set()
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
        self._giving_back.begin(created, "lwfm spin destroy")
        if created.leaving is not None:
            await asyncio.shield(created.leaving)
        if created.kept_because is not None and created.asked.token in self._all:
            raise SiteError(
                f"{created.name} is being given back, but: {created.kept_because}", hint="it is tried again"
            )

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
                await inherit(self._workers, created.allotment, created.allocation)
                mark = mark_of(created.asked.token)
                if job_id is None and created.asked.job_id is None and (created.begun or mark in by_mark):
                    job_id = created.begun.allocation.id if created.begun else by_mark[mark].job_id
                    await created.change(job_id=job_id)
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
            self._giving_back.before_end(created, job.ends_at)
        if created.asked.giving_back is not None and job.phase in (RUNNING, PENDING):
            self._giving_back.begin(created, created.asked.giving_back)  # an earlier agent, or attempt, got no further

    async def _finish(self, created: Created, native: str) -> None:
        """It has ended: settle what its workers had, and forget it."""
        why = f"{created.name} has ended: {native}"
        if created.asked.giving_back is not None:
            why += f" (given back: {created.asked.giving_back})"
        await inherit(self._workers, created.allotment, created.allocation)
        words = await asyncio.to_thread(created.allotment.last_words)
        told = f"; the last it printed: {words}" if words and created.came_at is None else ""
        _logger.info("%s%s", why, told)
        self._workers.shut(created)
        for worker_id in await self._writer.read(recovery.workers_at, created.place):
            await self._workers.lose(worker_id, why, presence.LEFT)
        back = created.asked.giving_back
        created.phase, created.native = ENDED, native
        created.reason = (f"given back: {back}" if back else "") + told or None
        self._ended.append(self._resource(created))
        self._forget(created)

    def _forget(self, created: Created) -> None:
        self._workers.shut(created)
        if created.deadline is not None:
            created.deadline.cancel()
        self._all.pop(created.asked.token, None)
        created.allotment.remove()

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
