"""The sites of an instance, as the rest of the agent uses them: whether one reports by itself or must be asked is decided here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from ..config import SiteConfig, read_sites, signature
from ..data.outputs import OutputStore
from ..errors import ConfigError, LwfmError
from ..limits import without_limits
from ..models import JobDefn
from ..paths import Home
from ..placing.candidates import Placing, Standing
from ..polled import handover
from ..polled.bringing import Bringing
from ..polled.handover import Resumed
from ..polled.polling import PolledSites
from ..polled.turns import Turns
from ..recording.recorder import Recorder
from ..recording.requests import RequestBuilder, SiteRequest
from ..recording.writer import Writer
from ..sites.base import Allocations, JobRequest, Nodes, Run, SiteContext
from ..sites.calls import SiteCalls
from ..sites.process import ProcessRun
from ..sites.registry import Registry, called
from ..states import JobState
from ..sync.collecting import Collecting

LEAVE_S = 3.0
"""So long the agent waits, when it leaves, for what drivers are at."""
_logger = logging.getLogger(__name__)


class Sites:
    """The sites.

    Args:
        home: whose. ``configs``: as they were read. ``read_as``: the signature of ``sites.toml`` before that.
        nodes, allocations: what drivers may have of the agent's.
        writer, outputs, builder: what is needed for those that must be asked. ``spawn``: runs a coroutine in the event loop.

    Attributes:
        polled: those that must be asked.
    """

    def __init__(
        self,
        home: Home,
        configs: Mapping[str, SiteConfig],
        read_as: tuple[int, int, int],
        nodes: Nodes,
        allocations: Allocations,
        writer: Writer,
        outputs: OutputStore,
        builder: RequestBuilder,
        spawn: Callable[[Awaitable[None]], Any],
    ):
        self._home = home
        self._signature = read_as
        self._nodes = nodes
        self._allocations = allocations
        self._writer = writer
        self._spawn = spawn
        self._registry = Registry(configs, self._context_of)
        self._calls = SiteCalls()
        self._bringing = Bringing(
            writer,
            outputs,
            self._calls,
            self._registry.offered,
            lambda name: self.polled.is_down(name),
            Collecting(home, writer).collect,
            builder.build,
            spawn,
        )
        turns = Turns(
            writer,
            self._calls,
            self._run_of,
            self._registry.limits,
            builder.build,
            self.placing,
            self._bringing,
            outputs,
        )
        self.polled = PolledSites(turns, self._calls, self._registry.limits, self._bringing, spawn)

    async def begin(self) -> list[str]:
        """Make the drivers, as far as they can be made; the sites that report by themselves."""
        await asyncio.to_thread(self._registry.make_all)
        return [name for name in self._registry.names() if self.reports_itself(name)]

    def resume(self, open_jobs: Sequence[Resumed], to_bring: Mapping[str, Sequence[str]]) -> None:
        """Go on with jobs that an earlier agent had to do with at those that must be asked: open ones, and by site ended ones."""
        self.polled.resume(open_jobs)
        for name, job_ids in to_bring.items():
            self._bringing.add(name, job_ids)

    async def close(self) -> None:
        """Close the drivers; those that are at something get a moment for it."""
        await self._calls.close(LEAVE_S)
        try:
            await SiteCalls().call("", self._registry.close, run_s=LEAVE_S)
        except LwfmError as error:
            _logger.warning("the sites were not all closed: %s", error.message)

    # ------------------------------------------------------------------------------------------ which there are

    def current(self) -> Registry:
        """The sites, as ``sites.toml`` has them now.

        Raises:
            ConfigError: it was changed, and is malformed; what was configured before stays.
        """
        found = signature(self._home.sites_file)
        if found != self._signature:
            self._registry.configure(read_sites(self._home.sites_file))
            self._signature = found
            self._spawn(self._make_all())
        return self._registry

    async def _make_all(self) -> None:
        """Before they are asked for in the event loop."""
        await asyncio.to_thread(self._registry.make_all)

    async def pillar(self, site: str, pillar: str) -> Any:
        """One pillar of a site; a driver that is not there yet is made in a thread.

        Raises:
            As :meth:`~lwfm.sites.registry.Registry.pillar`.
        """
        sites = self.current()
        if not sites.is_made(site):
            await asyncio.to_thread(sites.make, site)
        return sites.pillar(site, pillar)

    def reports_itself(self, name: str) -> bool:
        """Whether a site tells by itself what becomes of its jobs, as those on the agent's own nodes do."""
        try:
            return bool(self._registry.pillar(name, "run").reports_itself)
        except LwfmError as error:
            _logger.error("site %s: %s", name, error)
            return False

    def labels_of(self, site: str) -> frozenset[str]:
        """What a site asks of our nodes."""
        try:
            found: frozenset[str] = self._registry.pillar(site, "run").labels
        except LwfmError:
            return frozenset()  # told when its jobs are submitted
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """A site as the API shows it: what it is, and how it is. May block."""
        described = self._registry.describe(name)
        if described["state"] == "ready":
            described.update(self.polled.describe(name))
        return described

    async def call(self, name: str, function: Callable[..., Any], *arguments: Any, **times: Any) -> Any:
        """Call a driver for somebody who waits: in the site's own thread, or where the site is the agent's own in any.

        Args:
            name: the site. ``times``: ``wait_s`` and ``run_s``, as :meth:`~lwfm.sites.calls.SiteCalls.call` has them.
        """
        if name in self._registry.names() and self.reports_itself(name):
            return await asyncio.to_thread(called, name, function, *arguments)
        return await self._calls.call(name, function, *arguments, **times)

    # ------------------------------------------------------------------------------------------ their jobs

    def placing(self) -> Placing:
        """Chooses the sites of jobs; for one submission, or one unit of work. Waits for no driver in a process of its own."""

        def accepts(name: str, defn: JobDefn) -> None:
            run = self._registry.pillar(name, "run")
            if not isinstance(run, ProcessRun) and "/" not in name:
                called(name, run.check, defn)

        def standing(name: str) -> Standing:
            return Standing() if self.reports_itself(name) else self.polled.standing(name)

        return Placing(accepts, standing)

    def submit(self, requests: Sequence[SiteRequest]) -> None:
        """Hand jobs to their sites. Those whose site has no driver have failed."""
        by_site: dict[str, list[JobRequest]] = {}
        for item in requests:
            by_site.setdefault(item.site, []).append(item.request)
        for site, listed in by_site.items():
            try:
                run = self._registry.pillar(site, "run")
                if run.reports_itself:
                    called(site, run.submit, listed)
                else:
                    self.polled.submit(site, listed)
            except LwfmError as error:
                self._spawn(self._refused([request.job_id for request in listed], error))

    async def _refused(self, job_ids: list[str], error: LwfmError) -> None:
        def record(recorder: Recorder) -> None:
            for job_id in job_ids:
                job = recorder.job_now(job_id)
                if job is not None:
                    recorder.record_status(job, JobState.FAILED, reason=f"the site did not take it: {error.message}")

        await self._writer.durably(record)

    def has(self, recorder: Recorder, job_id: str) -> bool:
        """Whether a job was handed, perhaps, to a site that has to be told when it shall end."""
        job = recorder.job_now(job_id)
        return job is not None and not self.reports_itself(job.site) and handover.is_with_site(recorder, job)

    def cancel(self, site: str, job_id: str, attempt: int, reason: str) -> None:
        """Tell a site that a job shall end."""
        run = self._registry.pillar(site, "run")
        if run.reports_itself:
            called(site, run.cancel, job_id, attempt, reason)
        else:
            self.polled.cancel(site, job_id, attempt, reason)

    def _run_of(self, name: str) -> Run:
        """The Run pillar of a site, as it is configured now."""
        try:
            self.current()
        except ConfigError as error:  # what was configured before stays
            _logger.warning("%s", error.message)
        return cast(Run, self._registry.pillar(name, "run"))

    def _context_of(self, config: SiteConfig) -> SiteContext:
        options = without_limits(config.options)
        return SiteContext(config.name, options, self._home.root, self._home.repository, self._nodes, self._allocations)
