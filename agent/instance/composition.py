"""An instance while its agent runs: its parts are put together here, taken up in order when it starts, and left in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from .. import __version__, faultpoints, hostlist
from ..allocations.driver_view import AgentAllocations, AgentNodes
from ..allocations.joining import Allocations
from ..allocations.joining import policy_of as allocations_policy_of
from ..capacity import shape_of
from ..clock import utc_text
from ..config import LOCAL_SITE, labels_option, read_sites, seconds_option, signature
from ..data.files import FileRecorder
from ..data.outputs import OutputStore
from ..host.troubles import STORE, Troubles
from ..housekeeping.snapshots import Snapshots
from ..housekeeping.snapshots import policy_of as snapshots_policy_of
from ..notify import delivery
from ..paths import CACHE_VARIABLE, Home, user_name
from ..placing.dispatcher import Dispatcher
from ..placing.flights import Flight
from ..polled import handover
from ..recording import presence, recovery
from ..recording.attached import AttachedJobs
from ..recording.events import Rules
from ..recording.requests import RequestBuilder
from ..recording.sealing import Vault
from ..recording.service import Service
from ..recording.watch import Watch
from ..recording.writer import Writer
from ..store import Connection, Store, nesting
from ..store.origins import JobsElsewhere
from ..sync.repeating import RepeatedSyncs
from ..variables import WITHIN_VARIABLE
from ..wire import PROTOCOL
from ..workers.heartbeat import DEFAULT_LOST_S, Heartbeat
from ..workers.local import LocalWorker
from ..workers.protocol import WorkerServer
from ..workers.reports import Reports
from .background import Background
from .claiming import Claims
from .following import Following
from .forgetting import Forgetting
from .sites import Sites
from .upkeep import Upkeep

TAKEN_UP = 1000
"""At the start, waiting jobs are taken up in portions of so many."""
MEET_S = 3.0
"""A worker dials at least once a second."""
THREADS = 64
"""For what blocks, such as calls to sites: so many that one site that hangs leaves some to the others."""
_logger = logging.getLogger(__name__)


class Instance:
    """One instance while its agent runs. Construct inside the event loop.

    Args:
        home: where it lives; its directories exist and its lock is held.
        idle_exit_s: leave after so many seconds without work or callers; None: never.
        at_rest: only answer: the allocation that all its work was in has ended.
        confirm: comes back only while this process owns the instance.
    """

    def __init__(
        self,
        home: Home,
        idle_exit_s: Optional[float] = None,
        *,
        at_rest: bool = False,
        confirm: Callable[[], None] = lambda: None,
    ):
        self.home = home
        self.at_rest = at_rest
        self.idle_exit_s = idle_exit_s
        self.started_at = time.time()
        self.host = socket.gethostname()
        self.stopping = asyncio.Event()
        self.kill_on_stop = False
        self.open_requests = 0
        self.last_request = time.monotonic()
        self.troubles = Troubles()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "lwfm"))
        self._background = Background()
        spawn = self._background.spawn
        read_as = signature(home.sites_file)
        configs = read_sites(home.sites_file)
        options = configs[LOCAL_SITE].options

        # The store, and what is recorded there. What follows from a unit of work is put together last.
        self.store = Store.open(home.database, host=self.host, user=user_name(), home=str(home.root), confirm=confirm)
        self._rules = Rules()
        following: Following
        self.writer = Writer(
            self.store,
            self._rules,
            lambda effects: following.durable(effects),
            lambda recorder: following.complete(recorder),
            lambda: following.is_crowded(),
            lambda: following.undone(),
            self.troubles,
        )
        vault = Vault(home.sealed)
        self._forgetting = Forgetting(vault, self.writer)
        self.service = Service(vault, delivery)
        self.watch = Watch()
        self.elsewhere = JobsElsewhere()
        self.outputs = OutputStore(home.outputs)
        self.files = FileRecorder()
        self.attached = AttachedJobs(self.writer, spawn)
        self.syncs = RepeatedSyncs(home, self.writer)
        self.snapshots = Snapshots(self.store, self.writer, snapshots_policy_of(options, home))
        self._builder = RequestBuilder(
            vault, _told_to_jobs(home), str(home.programs), lambda site: self.sites.labels_of(site)
        )

        # The nodes, and the workers there.
        self._worker = LocalWorker(home, options)
        self._upkeep = Upkeep(self._worker, self.writer, self._forgetting, self.troubles)
        claims = Claims(self.writer, self._builder, spawn)
        self.dispatcher = Dispatcher(claims.claim, loop.call_soon, spawn, self._worker.capacity(), claims.dropped)
        labelled = labels_option(options)
        self.workers = WorkerServer(
            home.worker_socket,
            home.socket,
            self.writer,
            self.dispatcher,
            self.outputs,
            self._builder,
            Reports(self.writer, self.outputs, self.files, self._builder, spawn, self.troubles),
            lambda host: frozenset(
                label for label, hosts in labelled.items() if any(hostlist.same_host(host, other) for other in hosts)
            ),
        )
        self._heartbeat = Heartbeat(
            self.workers,
            lambda: self.writer.read(recovery.claimants),
            self.host,
            seconds_option(options, "node_lost_s", DEFAULT_LOST_S),
        )
        self._allocations = Allocations(
            home,
            self.workers,
            self.dispatcher,
            self.writer,
            self._worker,
            self.store.origin,
            allocations_policy_of(options),
            spawn,
        )
        self.dispatcher.coming = self._allocations.coming

        # The sites.
        self.sites = Sites(
            home,
            configs,
            read_as,
            AgentNodes(loop, self.dispatcher, self.workers),
            AgentAllocations(loop, self._allocations.created),
            self.writer,
            self.outputs,
            self._builder,
            spawn,
        )
        following = Following(
            self._rules,
            self.service,
            self.watch,
            self._forgetting,
            self.attached,
            self._builder,
            self.sites,
            self.dispatcher,
        )

    async def start(self) -> None:
        """Take up what was going on, and start the worker."""
        self.home.wanted.unlink(missing_ok=True)  # whoever wanted one that leaves has gone on
        if self.at_rest:
            await self.writer.write(recovery.lay_to_rest)
            self._background.keep_going(self._look_after)
            return
        within = os.environ.get(WITHIN_VARIABLE, "").split()
        if within:
            await self.writer.write(
                lambda recorder: nesting.note_outer(recorder.transaction, within[0], next(iter(within[1:]), None))
            )
        reporting = await self.sites.begin()
        waiting = await self.writer.write(recovery.unplaced, reporting)
        faultpoints.hit("instance.placing")
        for begin in range(0, len(waiting), TAKEN_UP):
            part = dict.fromkeys(waiting[begin : begin + TAKEN_UP])
            self.sites.submit(await self.writer.read(self._builder.build, part))
        self.dispatcher.restore(await self.writer.read(self._gangs))
        self.sites.resume(*await self.writer.write(handover.resume, reporting))
        await self._forgetting.begin()
        await self.attached.restore()
        await self._allocations.join()
        await self.workers.start()
        self._worker.start()
        faultpoints.hit("instance.started")
        for loop in (
            self._look_after,
            self._heartbeat.run,
            self._allocations.created.run,
            self.syncs.run,
            self.snapshots.run,
        ):
            self._background.keep_going(loop)
        if self.store.notice:
            _logger.warning("%s", self.store.notice)

    def _gangs(self, connection: Connection) -> list[Flight]:
        """The jobs over several nodes that an earlier agent has given to workers."""
        found = {gang.job_id: gang for gang in recovery.gangs(connection)}
        flights = []
        for item in self._builder.build(connection, dict.fromkeys(found)):
            request, gang = item.request, found[item.request.job_id]
            shape = shape_of(request.defn, request.labels)
            flights.append(
                Flight(
                    request.job_id, request.attempt, shape, gang.worker_id, gang.parts, request, claimed=True, sent=True
                )
            )
        return flights

    async def close(self, *, stop_worker: bool, kill: bool = False) -> None:
        """Leave: the store last, after all that is still to be written."""
        if stop_worker:
            await self._meet_worker()
        await self._allocations.created.close(kill=stop_worker and kill)
        stop = stop_worker and (kill or not self.dispatcher.flights)  # one that still has work stays for the next agent
        if stop:
            await self.writer.write(presence.all_left, "the agent has left")
            self._worker.dismiss()  # the one we started may wait for the spool of another that leaves now
        await self.workers.close(stop=stop, kill=kill)
        await self._allocations.leave(stop=stop)
        await self._background.close()
        await self.snapshots.close()
        await self.sites.close()
        await self.writer.close()

    async def _meet_worker(self) -> None:
        """Wait a moment for a worker that is there but has not found us yet: it must hear that it is to leave.

        It may also go by itself: that another process gives its lock back is told to nobody, so we look.
        """
        until = time.monotonic() + MEET_S
        while not self.workers.connections and self._worker.is_there() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(MEET_S / 60)

    def describe(self) -> dict[str, Any]:
        """The instance as ``GET /v1/agent`` shows it, without the counts."""
        return {
            "version": __version__, "protocol": PROTOCOL, "pid": os.getpid(), "host": self.host, "home": str(self.home.root),
            "socket": str(self.home.socket), "store": str(self.home.database), "origin": self.store.origin,
            "started_at": utc_text(self.started_at), "idle_exit_s": self.idle_exit_s, "at_rest": self.at_rest,
            "journal_mode": self.store.journal_mode,
            **self._allocations.describe(),
            "workers": [node.facts() for node in self.dispatcher.nodes.values()],
            "notices": [self.store.notice] if self.store.notice else [],
            "accepts": STORE not in self.troubles, "troubles": self.troubles.listed(),
        }  # fmt: skip

    def look_again(self) -> None:
        """The instance writes under another origin than before: what was learned of its own may no longer be so."""
        self._rules.reset()
        self.service.reset()
        self.watch.reset()

    async def _look_after(self) -> None:
        """See now and then whether all is there; leave when there has been nothing to do for long."""
        while not self.stopping.is_set():
            if not self.workers.connections and not self.at_rest:
                self._upkeep.keep_worker()
            if self._is_idle():
                self.stopping.set()
                return
            await self._upkeep.look_at_store()
            hurry = not self.workers.connections or bool(self.troubles)
            pause = 1.0 if hurry else min(5.0, (self.idle_exit_s or 20.0) / 4)
            try:
                await asyncio.wait_for(self.stopping.wait(), pause)
            except asyncio.TimeoutError:
                continue

    def _is_idle(self) -> bool:
        """Whether it is time to leave: there is no work, and has been none for long enough, or a host that needs one waits."""
        if (
            self.idle_exit_s is None
            or self.open_requests
            or self.dispatcher.flights
            or self.dispatcher.waiting
            or self.attached
            or self.sites.polled
            or self._allocations.created.busy
            or self.syncs.busy
            or self.snapshots.busy
        ):
            return False
        return time.monotonic() - self.last_request > self.idle_exit_s or self.home.wanted.exists()


def _told_to_jobs(home: Home) -> dict[str, str]:
    """The variables by which what runs in a job finds this instance."""
    variables = {"LWFM_HOME": str(home.root), "LWFM_SOCKET": str(home.socket)}
    if os.environ.get(CACHE_VARIABLE):
        variables[CACHE_VARIABLE] = os.environ[CACHE_VARIABLE]  # the lwfm that a job calls unpacks there too
    return variables
