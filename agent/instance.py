"""A running instance: its parts put together, and what happens between them when records become durable.

Data flows one way: a request becomes a unit of work in the writer; its effects come back here once durable, wake who
waits, and hand pending jobs to their sites; sites report through the worker server, which writes again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, cast

from . import __version__, faultpoints, hostlist
from .allocations.driver_view import AgentAllocations, AgentNodes
from .allocations.joining import Allocations
from .allocations.joining import policy_of as allocations_policy_of
from .capacity import shape_of
from .clock import utc_text
from .config import (
    LOCAL_SITE,
    SiteConfig,
    labels_option,
    read_sites,
    seconds_option,
    signature,
)
from .data.files import FileRecorder
from .data.outputs import OutputStore
from .errors import AgentBusy, ConfigError, LwfmError, StoreError
from .host.shortages import busy_with
from .host.troubles import STORE, Troubles
from .housekeeping.snapshots import Snapshots, policy_of
from .limits import without_limits
from .models import JobDefn
from .notify import delivery
from .paths import CACHE_VARIABLE, Home, user_name
from .placing.candidates import Placement, Placing, Standing, candidates_of
from .placing.dispatcher import Dispatcher, Flight
from .polled import handover
from .polled.bringing import Bringing
from .polled.polling import PolledSites
from .polled.turns import Turns
from .recording import presence, recovery
from .recording.attached import AttachedJobs
from .recording.attached import release as release_attached
from .recording.events import Rules
from .recording.recorder import Effects, Recorder
from .recording.requests import RequestBuilder, SiteRequest
from .recording.sealing import Vault
from .recording.service import Service
from .recording.watch import Watch
from .recording.writer import Writer
from .sites.base import JobRequest, Run, SiteContext
from .sites.calls import SiteCalls
from .sites.process import ProcessRun
from .sites.registry import Registry, called
from .states import JobState
from .store import Connection, Store, nesting
from .store.origins import JobsElsewhere
from .sync.collecting import Collecting
from .sync.repeating import RepeatedSyncs
from .variables import WITHIN_VARIABLE
from .wire import PROTOCOL
from .workers.heartbeat import DEFAULT_LOST_S, Heartbeat
from .workers.local import LocalWorker
from .workers.protocol import WorkerServer
from .workers.reports import Reports

CROWD = 32
TAKEN_UP = 1000
"""At the start, waiting jobs are taken up in portions of so many."""
MARK_S = 60.0
"""So often it is noted beside the store how far it has come."""
LEAVE_S = 3.0
"""So long the agent waits, when it leaves, for what drivers are at."""
MEET_S = 3.0
"""A worker dials at least once a second."""
BEGIN_AGAIN_S = 5.0
WORKER = "the worker of this node"
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
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, "lwfm"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._sites_signature = signature(home.sites_file)
        sites = read_sites(home.sites_file)
        self.store = Store.open(home.database, host=self.host, user=user_name(), home=str(home.root), confirm=confirm)
        self.vault = Vault(home.sealed)
        self._used_secrets: set[str] = set()
        self.outputs = OutputStore(home.outputs)
        self.files = FileRecorder()
        variables = {"LWFM_HOME": str(home.root), "LWFM_SOCKET": str(home.socket)}
        if os.environ.get(CACHE_VARIABLE):
            variables[CACHE_VARIABLE] = os.environ[CACHE_VARIABLE]  # the lwfm that a job calls unpacks there too
        self.builder = RequestBuilder(self.vault, variables, str(home.programs), self._labels_of)
        self.service = Service(self.vault, delivery)
        self._rules = rules = Rules()

        def forget() -> None:
            rules.reset()
            self.service.reset()
            self.dispatcher.release()

        self.troubles = Troubles()
        self.writer = Writer(
            self.store, rules, self._on_commit, self._complete, self._is_crowded, forget, self.troubles
        )
        self.watch = Watch()
        self.syncs = RepeatedSyncs(home, self.writer)
        self.snapshots = Snapshots(self.store, self.writer, policy_of(sites[LOCAL_SITE].options, home))
        self.elsewhere = JobsElsewhere()
        local_options = sites[LOCAL_SITE].options
        self.worker = LocalWorker(home, local_options)
        self.dispatcher = Dispatcher(
            self._claim, self._loop.call_soon, self.spawn, self.worker.capacity(), self._settle_dropped
        )
        labelled = labels_option(local_options)
        self.workers = WorkerServer(
            home.worker_socket,
            home.socket,
            self.writer,
            self.dispatcher,
            self.outputs,
            self.builder,
            Reports(self.writer, self.outputs, self.files, self.builder, self.spawn, self.troubles),
            lambda host: frozenset(
                label for label, hosts in labelled.items() if any(hostlist.same_host(host, other) for other in hosts)
            ),
        )
        self.allocations = Allocations(
            home,
            self.workers,
            self.dispatcher,
            self.writer,
            self.worker,
            self.store.origin,
            allocations_policy_of(local_options),
            self.spawn,
        )
        self.dispatcher.coming = self.allocations.coming
        self.registry = Registry(sites, self._site_context)
        self.heartbeat = Heartbeat(
            self.workers,
            lambda: self.writer.read(recovery.claimants),
            self.host,
            seconds_option(local_options, "node_lost_s", DEFAULT_LOST_S),
        )
        self.attached = AttachedJobs(self.writer, self.spawn)
        self.calls = SiteCalls()
        self.bringing = Bringing(
            self.writer,
            self.outputs,
            self.calls,
            self.registry.offered,
            lambda name: self.polled.is_down(name),
            Collecting(home, self.writer).collect,
            self.builder.build,
            self.spawn,
        )
        turns = Turns(
            self.writer,
            self.calls,
            self._run_of,
            self.registry.limits,
            self.builder.build,
            self.placing,
            self.bringing,
            self.outputs,
        )
        self.polled = PolledSites(turns, self.calls, self.registry.limits, self.bringing, self.spawn)
        self.open_requests = 0
        self.last_request = time.monotonic()
        self._marked_at = time.monotonic()

    async def start(self) -> None:
        """Take up what was going on, and start the worker."""
        self.home.wanted.unlink(missing_ok=True)  # whoever wanted one that leaves has gone on
        if self.at_rest:
            await self.writer.write(recovery.lay_to_rest)
            self.spawn(_kept_going(self._look_after))
            return
        within = os.environ.get(WITHIN_VARIABLE, "").split()
        if within:
            await self.writer.write(
                lambda recorder: nesting.note_outer(recorder.transaction, within[0], next(iter(within[1:]), None))
            )
        await asyncio.to_thread(self.registry.make_all)
        local = [name for name in self.registry.names() if self._reports_itself(name)]
        waiting = await self.writer.write(recovery.unplaced, local)
        faultpoints.hit("instance.placing")
        for begin in range(0, len(waiting), TAKEN_UP):
            part = dict.fromkeys(waiting[begin : begin + TAKEN_UP])
            self._submit_all(await self.writer.read(self.builder.build, part))
        self.dispatcher.restore(await self.writer.read(self._gangs))
        open_jobs, to_bring = await self.writer.write(handover.resume, local)
        self.polled.resume(open_jobs)
        for name, job_ids in to_bring.items():
            self.bringing.add(name, job_ids)
        await self.writer.write(self._tidy_vault, self.vault.owners())
        await self.attached.restore()
        await self.allocations.join()
        await self.workers.start()
        self.worker.start()
        faultpoints.hit("instance.started")
        for loop in (
            self._look_after,
            self.heartbeat.run,
            self.allocations.created.run,
            self.syncs.run,
            self.snapshots.run,
        ):
            self.spawn(_kept_going(loop))
        if self.store.notice:
            _logger.warning("%s", self.store.notice)

    def _gangs(self, connection: Connection) -> list[Flight]:
        """The jobs over several nodes that an earlier agent has given to workers."""
        found = {gang.job_id: gang for gang in recovery.gangs(connection)}
        flights = []
        for item in self.builder.build(connection, dict.fromkeys(found)):
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
        await self.allocations.created.close(kill=stop_worker and kill)
        stop = stop_worker and (kill or not self.dispatcher.flights)  # one that still has work stays for the next agent
        if stop:
            await self.writer.write(presence.all_left, "the agent has left")
            self.worker.dismiss()  # the one we started may wait for the spool of another that leaves now
        await self.workers.close(stop=stop, kill=kill)
        await self.allocations.leave(stop=stop)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.snapshots.close()
        await self.calls.close(LEAVE_S)
        try:
            await SiteCalls().call("", self.registry.close, run_s=LEAVE_S)
        except LwfmError as error:
            _logger.warning("the sites were not all closed: %s", error.message)
        await self.writer.close()

    async def _meet_worker(self) -> None:
        """Wait a moment for a worker that is there but has not found us yet: it must hear that it is to leave.

        It may also go by itself: that another process gives its lock back is told to nobody, so we look.
        """
        until = time.monotonic() + MEET_S
        while not self.workers.connections and self.worker.is_there() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(MEET_S / 60)

    def spawn(self, work: Awaitable[None]) -> None:
        """Run a coroutine; what it raises is logged."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def describe(self) -> dict[str, Any]:
        """The instance as ``GET /v1/agent`` shows it, without the counts."""
        return {
            "version": __version__, "protocol": PROTOCOL, "pid": os.getpid(), "host": self.host, "home": str(self.home.root),
            "socket": str(self.home.socket), "store": str(self.home.database), "origin": self.store.origin,
            "started_at": utc_text(self.started_at), "idle_exit_s": self.idle_exit_s, "at_rest": self.at_rest,
            "journal_mode": self.store.journal_mode,
            **self.allocations.describe(),
            "workers": [node.facts() for node in self.dispatcher.nodes.values()],
            "notices": [self.store.notice] if self.store.notice else [],
            "accepts": STORE not in self.troubles, "troubles": self.troubles.listed(),
        }  # fmt: skip

    def sites(self) -> Registry:
        """The sites, as ``sites.toml`` has them now.

        Raises:
            ConfigError: it was changed, and is malformed; what was configured before stays.
        """
        found = signature(self.home.sites_file)
        if found != self._sites_signature:
            self.registry.configure(read_sites(self.home.sites_file))
            self._sites_signature = found
            self.spawn(self._make_sites())
        return self.registry

    async def _make_sites(self) -> None:
        """Before they are asked for in the event loop."""
        await asyncio.to_thread(self.registry.make_all)

    def look_again(self) -> None:
        """The instance writes under another origin than before: what was learned of its own may no longer be so."""
        self._rules.reset()
        self.service.reset()
        self.watch.reset()

    async def pillar(self, site: str, pillar: str) -> Any:
        """One pillar of a site; a driver that is not there yet is made in a thread.

        Raises:
            As :meth:`~lwfm.sites.registry.Registry.pillar`.
        """
        sites = self.sites()
        if not sites.is_made(site):
            await asyncio.to_thread(sites.make, site)
        return sites.pillar(site, pillar)

    def placing(self) -> Placing:
        """Chooses the sites of jobs; for one submission, or one unit of work. Waits for no driver in a process of its own."""

        def accepts(name: str, defn: JobDefn) -> None:
            run = self.registry.pillar(name, "run")
            if not isinstance(run, ProcessRun) and "/" not in name:
                called(name, run.check, defn)

        def standing(name: str) -> Standing:
            return Standing() if self._reports_itself(name) else self.polled.standing(name)

        return Placing(accepts, standing)

    async def place(self, site: Any, definitions: Sequence[JobDefn]) -> list[Placement]:
        """Where the jobs of a submission go, before anything is recorded; ``site``: what is asked for those that name none.

        Raises:
            InvalidRecord: what names the sites is malformed. UnknownSite: one of them does not exist. Else what they raise.
        """
        placing = self.placing()
        parsed: dict[str, tuple[str, ...]] = {}
        placements = []
        for defn in definitions:
            given = defn.extra.get("site") or defn.extra.get("sites") or site or LOCAL_SITE
            key = given if isinstance(given, str) else repr(given)
            if key not in parsed:
                parsed[key] = candidates_of(given)
                for name in parsed[key]:
                    self.sites().limits(name)  # that one of several exists excuses no mistake in another
            for name in placing.unjudged(parsed[key], defn):
                placing.judge(name, defn, await self._refusal(name, defn))
            placements.append(placing.place(parsed[key], defn))
        return placements

    async def _refusal(self, site: str, defn: JobDefn) -> Optional[LwfmError]:
        """Why a site refuses a job; only a driver in a process of its own is waited for, while the event loop goes on."""
        try:
            run = await self.pillar(site, "run")
            if "/" in site:
                return None  # it is judged where it leads to
            if isinstance(run, ProcessRun):
                await asyncio.to_thread(called, site, run.check, defn)
            else:
                called(site, run.check, defn)
        except LwfmError as error:
            return error
        return None

    def is_with_site(self, recorder: Recorder, job_id: str) -> bool:
        """Whether a job was handed, perhaps, to a site that has to be told when it shall end."""
        job = recorder.job_now(job_id)
        return job is not None and not self._reports_itself(job.site) and handover.is_with_site(recorder, job)

    def describe_site(self, name: str) -> dict[str, Any]:
        """A site as the API shows it: what it is, and how it is. May block."""
        described = self.registry.describe(name)
        if described["state"] == "ready":
            described.update(self.polled.describe(name))
        return described

    async def call_site(self, name: str, function: Callable[..., Any], *arguments: Any, **times: Any) -> Any:
        """Call a driver for somebody who waits: in the site's own thread, or where the site is the agent's own in any.

        Args:
            name: the site. ``times``: ``wait_s`` and ``run_s``, as :meth:`~.sitecalls.SiteCalls.call` has them.
        """
        if name in self.registry.names() and self._reports_itself(name):
            return await asyncio.to_thread(called, name, function, *arguments)
        return await self.calls.call(name, function, *arguments, **times)

    def tell_cancel(self, job_id: str, site: str, attempt: int, reason: str) -> None:
        """Tell a site that a job shall end."""
        if self.attached.interrupt(job_id):
            return
        run = self.registry.pillar(site, "run")
        if run.reports_itself:
            called(site, run.cancel, job_id, attempt, reason)
        else:
            self.polled.cancel(site, job_id, attempt, reason)

    def _on_commit(self, effects: Effects) -> None:
        self.watch.note(effects.changes)
        if effects.handlers_changed:
            self.watch.touch_all()
            self._used_secrets.update(filter(self.vault.holds, effects.handlers_used))
        for change in effects.changes:
            if change.after.terminal:
                self.vault.forget(change.job_id)
                self.attached.forget(change.job_id)
                self.polled.forget(change.site, change.job_id)
                if change.after is JobState.CANCELLED:
                    self.dispatcher.forget(change.job_id, change.attempt, "cancelled")
        if effects.requests:
            self.dispatcher.launch([item.request for item in effects.requests])
            self._submit_all(effects.requests)
        for call in effects.also:
            call()

    def _complete(self, recorder: Recorder) -> None:
        """At the end of a unit of work: what its pending jobs ask of their sites."""
        pending = recorder.effects.pending
        if pending:
            built = self.builder.build(recorder.transaction.connection, pending)
            recorder.effects.requests = built
            ours = [item.request for item in built if self._reports_itself(item.site)]
            for worker_id, jobs in self.dispatcher.reserve(ours).items():
                recovery.claim(recorder, worker_id, jobs)
        for change in recorder.effects.changes:
            if change.after.terminal and change.before is not JobState.READY:
                release_attached(recorder, change.job_id)
                if change.here and change.site != LOCAL_SITE and not self._reports_itself(change.site):
                    handover.release(recorder, change.job_id)

    def _submit_all(self, requests: Sequence[SiteRequest]) -> None:
        by_site: dict[str, list[Any]] = {}
        for item in requests:
            by_site.setdefault(item.site, []).append(item.request)
        for site, listed in by_site.items():
            try:
                run = self.registry.pillar(site, "run")
                if run.reports_itself:
                    called(site, run.submit, listed)
                else:
                    self.polled.submit(site, listed)
            except LwfmError as error:
                self.spawn(self._refused([request.job_id for request in listed], error))

    async def _refused(self, job_ids: list[str], error: LwfmError) -> None:
        def record(recorder: Recorder) -> None:
            for job_id in job_ids:
                job = recorder.job_now(job_id)
                if job is not None:
                    recorder.record_status(job, JobState.FAILED, reason=f"the site did not take it: {error.message}")

        await self.writer.durably(record)

    async def _claim(
        self, worker_id: str, parts: Sequence[str], jobs: list[tuple[str, int]]
    ) -> Mapping[str, JobRequest]:
        def claim(recorder: Recorder) -> dict[str, JobRequest]:
            going = recovery.claim(recorder, worker_id, jobs, parts)
            built = self.builder.build(recorder.transaction.connection, dict.fromkeys(going))
            return {item.request.job_id: item.request for item in built}

        return await self.writer.write(claim)

    def _settle_dropped(self, job_id: str, attempt: int) -> None:
        async def settle() -> None:
            await self.writer.durably(recovery.settle_dropped, job_id, attempt)

        self.spawn(settle())

    def _reports_itself(self, name: str) -> bool:
        try:
            return bool(self.registry.pillar(name, "run").reports_itself)
        except LwfmError as error:
            _logger.error("site %s: %s", name, error)
            return False

    def _run_of(self, name: str) -> Run:
        """The Run pillar of a site, as it is configured now."""
        try:
            self.sites()
        except ConfigError as error:  # what was configured before stays
            _logger.warning("%s", error.message)
        return cast(Run, self.registry.pillar(name, "run"))

    def _labels_of(self, site: str) -> frozenset[str]:
        """What a site asks of our nodes."""
        try:
            found: frozenset[str] = self.registry.pillar(site, "run").labels
        except LwfmError:
            return frozenset()  # told when its jobs are submitted
        return found

    def _site_context(self, config: SiteConfig) -> SiteContext:
        return SiteContext(
            config.name,
            without_limits(config.options),
            self.home.root,
            self.home.repository,
            AgentNodes(self._loop, self.dispatcher, self.workers),
            AgentAllocations(self._loop, self.allocations.created),
        )

    def _tidy_vault(self, recorder: Recorder, owners: Iterable[str]) -> None:
        """Forget secrets of what has ended: while no agent ran, or of handlers whose last job has."""
        for owner in owners:
            if not _still_needed(recorder.transaction.connection, owner, recorder.transaction.origin):
                self.vault.forget(owner)

    async def _look_after(self) -> None:
        """Keep a worker there, see whether what does not work works again; leave when there has been nothing to do for long."""
        while not self.stopping.is_set():
            if not self.workers.connections and not self.at_rest:
                self._keep_worker()
            if self._is_idle():
                self.stopping.set()
                return
            await self._try_store()
            hurry = not self.workers.connections or bool(self.troubles)
            pause = 1.0 if hurry else min(5.0, (self.idle_exit_s or 20.0) / 4)
            try:
                await asyncio.wait_for(self.stopping.wait(), pause)
            except asyncio.TimeoutError:
                continue

    def _keep_worker(self) -> None:
        try:
            self.worker.ensure()
        except OSError as error:
            busy = busy_with(error)
            self.troubles.meet(
                WORKER, f"it cannot be started: {busy.message if busy else error}", busy.hint if busy else None
            )
        else:
            self.troubles.over(WORKER)

    async def _try_store(self) -> None:
        """Note now and then how far the store has come, and forget secrets that nothing needs any more; where the disk refused
        something, see whether it still does."""
        try:
            if STORE in self.troubles:
                await self.writer.alone(Store.try_room)
                self.troubles.over(STORE)
            if time.monotonic() - self._marked_at > MARK_S:
                await self.writer.alone(Store.mark)
                self._marked_at = time.monotonic()
            self._used_secrets = set(filter(self.vault.holds, self._used_secrets))
            if self._used_secrets:
                await self.writer.write(self._tidy_vault, list(self._used_secrets))
        except (StoreError, AgentBusy) as error:
            self.troubles.meet(STORE, error.message, error.hint)

    def _is_crowded(self) -> bool:
        """Whether so many jobs are under way that none is waited for by itself."""
        return len(self.dispatcher.flights) + self.dispatcher.waiting > CROWD

    def _is_idle(self) -> bool:
        """Whether it is time to leave: there is no work, and has been none for long enough, or a host that needs one waits."""
        if (
            self.idle_exit_s is None
            or self.open_requests
            or self.dispatcher.flights
            or self.dispatcher.waiting
            or self.attached
            or self.polled
            or self.allocations.created.busy
            or self.syncs.busy
            or self.snapshots.busy
        ):
            return False
        return time.monotonic() - self.last_request > self.idle_exit_s or self.home.wanted.exists()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a task failed", exc_info=task.exception())


async def _kept_going(loop: Callable[[], Awaitable[None]]) -> None:
    """Run what never ends, again when it has failed."""
    while True:
        try:
            return await loop()
        except Exception:
            _logger.exception("%s failed; it is begun again", getattr(loop, "__qualname__", loop))
        await asyncio.sleep(BEGIN_AGAIN_S)


def _still_needed(connection: Connection, owner: str, origin: str) -> bool:
    query = (
        "select 1 from jobs where (id = ?1 or handler_id = ?1) and state not in ('COMPLETE', 'FAILED', 'CANCELLED')"
        " and (origin = ?2 or id in (select job_id from local_adopted))"
        " union select 1 from handlers where id = ?1 and state = 'waiting' and origin = ?2"
    )
    return connection.execute(query, (owner, origin)).fetchone() is not None
