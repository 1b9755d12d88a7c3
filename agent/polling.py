"""Sites that do not report by themselves: jobs are handed over in a thread, and their statuses asked for, in bulk.

One question serves all jobs of a site. While nothing changes the questions become rarer, up to ``SLOWEST_POLL_S``. A question
that fails changes nothing but the record of why nothing is known; a submission whose answer was lost is held against what the
site says before it is repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .errors import LwfmError
from .recorder import Recorder
from .sites.base import JobRequest, Observation, Run
from .sites.registry import called
from .states import JobState
from .store.projections import FACTS
from .writer import Writer

FASTEST_POLL_S = 1.0
SLOWEST_POLL_S = 60.0
_logger = logging.getLogger(__name__)


@dataclass
class _Site:
    """What is with one site.

    Args:
        new: to be handed over. ``doubtful``: handed over, perhaps. ``there``: the site has said that it has them.
    """

    name: str
    run: Callable[[], Run]
    wake: asyncio.Event
    new: dict[str, JobRequest] = field(default_factory=dict)
    doubtful: dict[str, JobRequest] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)
    cancels: dict[str, tuple[int, str]] = field(default_factory=dict)
    trouble: Optional[str] = None


class PolledSites:
    """Hands jobs to sites and asks how they are.

    Args:
        writer: for what the sites say.
        run_of: the Run pillar of a site; may raise LwfmError.
        spawn: runs a coroutine in the event loop.
        fastest_poll_s: the shortest pause between two questions.
    """

    def __init__(
        self,
        writer: Writer,
        run_of: Callable[[str], Run],
        spawn: Callable[[Awaitable[None]], Any],
        fastest_poll_s: float = FASTEST_POLL_S,
    ):
        self._writer = writer
        self._run_of = run_of
        self._spawn = spawn
        self._fastest_poll_s = fastest_poll_s
        self._sites: dict[str, _Site] = {}

    def __len__(self) -> int:
        return sum(len(site.new) + len(site.doubtful) + len(site.there) for site in self._sites.values())

    def submit(self, name: str, requests: Sequence[JobRequest], *, doubtful: bool = False) -> None:
        """Hand jobs over; ``doubtful``: they may have been handed over before a restart."""
        site = self._site(name)
        (site.doubtful if doubtful else site.new).update({request.job_id: request for request in requests})
        site.wake.set()

    def watch(self, name: str, job_ids: Sequence[str]) -> None:
        """Ask from now on how these jobs are, which the site has."""
        site = self._site(name)
        site.there.update(job_ids)
        site.wake.set()

    def cancel(self, name: str, job_id: str, attempt: int, reason: str) -> None:
        """Ask the site for a job's end."""
        site = self._site(name)
        if site.new.pop(job_id, None) is not None:
            self._spawn(self._record_cancelled(job_id, reason))
            return
        site.cancels[job_id] = (attempt, reason)
        site.wake.set()

    def forget(self, name: str, job_id: str) -> None:
        """The job has ended."""
        site = self._sites.get(name)
        if site is not None:
            site.there.discard(job_id)
            site.new.pop(job_id, None)
            site.doubtful.pop(job_id, None)

    async def _record_cancelled(self, job_id: str, reason: str) -> None:
        """The site has never heard of it."""
        cancelled = Observation(JobState.CANCELLED, reason=reason)
        await self._writer.write(_record_observations, {job_id: cancelled})

    def _site(self, name: str) -> _Site:
        if name not in self._sites:
            self._sites[name] = _Site(name, lambda: self._run_of(name), asyncio.Event())
            self._spawn(self._serve(self._sites[name]))
        return self._sites[name]

    async def _serve(self, site: _Site) -> None:
        """Look after one site, for as long as it has jobs, and then until it gets some again."""
        pause_s = self._fastest_poll_s
        while True:
            try:
                changed = await self._turn(site)
                site.trouble = None
            except LwfmError as error:
                changed = False
                await self._note_trouble(site, error)
            pause_s = self._fastest_poll_s if changed else min(SLOWEST_POLL_S, pause_s * 1.5)
            busy = bool(site.there or site.doubtful or site.new or site.cancels)
            try:
                await asyncio.wait_for(site.wake.wait(), pause_s if busy else None)
                pause_s = self._fastest_poll_s
            except asyncio.TimeoutError:
                pass
            site.wake.clear()

    async def _turn(self, site: _Site) -> bool:
        """Cancel, settle what is in doubt, hand over what is new, ask; whether anything changed."""
        run = site.run()
        for job_id, (attempt, reason) in list(site.cancels.items()):
            await asyncio.to_thread(called, site.name, run.cancel, job_id, attempt, reason)
            site.cancels.pop(job_id, None)
        changed = False
        asked = [*site.there, *site.doubtful]
        if asked:
            said: Mapping[str, Observation] = await asyncio.to_thread(called, site.name, run.status, asked)
            for job_id in [job_id for job_id in site.doubtful if job_id not in said]:
                site.new[job_id] = site.doubtful.pop(job_id)
            changed = await self._take(site, said)
        if site.new:
            handed = list(site.new.values())
            site.doubtful.update(site.new)
            site.new.clear()
            changed |= await self._take(site, await asyncio.to_thread(called, site.name, run.submit, handed))
        return changed

    async def _take(self, site: _Site, said: Mapping[str, Observation]) -> bool:
        """Record what the site says."""
        for job_id in said:
            site.doubtful.pop(job_id, None)
            site.there.add(job_id)
        return await self._writer.write(_record_observations, said) if said else False

    async def _note_trouble(self, site: _Site, error: LwfmError) -> None:
        """A question or a submission failed: the jobs stay as they are, with that reason, told once."""
        if site.trouble == error.message:
            return
        site.trouble = error.message
        _logger.warning("site %s: %s", site.name, error)
        await self._writer.write(
            _record_trouble, [*site.there, *site.doubtful, *site.new], f"site {site.name}: {error.message}"
        )


def _record_observations(recorder: Recorder, said: Mapping[str, Observation]) -> bool:
    changed = False
    for job_id, observed in said.items():
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal or not recorder.is_ours(job):
            continue
        native, native_id = recorder.transaction.execute(
            "select native_status, native_id from jobs where id = ?", (job_id,)
        ).fetchone()
        if (job.state, native) == (observed.state, observed.native_status) and native_id == observed.native_id:
            continue
        if job.state is JobState.FINISHING and not observed.state.terminal:
            continue
        facts = {name: value for name, value in observed.facts.items() if name in FACTS}
        facts.update(
            {"native_status": observed.native_status, "native_id": observed.native_id, "reason": observed.reason}
        )
        recorder.record_status(job, observed.state, **facts)
        changed = True
    return changed


def _record_trouble(recorder: Recorder, job_ids: Sequence[str], reason: str) -> None:
    for job_id in job_ids:
        job = recorder.job_now(job_id)
        if job is not None and not job.state.terminal and recorder.is_ours(job):
            recorder.record("status", {"job_id": job_id, "attempt": job.attempt, "state": "INFO", "reason": reason})


def active_of(recorder: Recorder, site: str) -> tuple[list[str], list[str]]:
    """The jobs of a site that have not ended: those it never said to have, and those it has."""
    found = recorder.transaction.execute(
        "select id, native_id from jobs where state in ('PENDING', 'RUNNING', 'FINISHING', 'UNKNOWN') and ("
        " site = ?1 and origin = ?2 and id not in (select job_id from local_adopted)"
        " or id in (select job_id from local_adopted where site = ?1)) order by id",
        (site, recorder.transaction.origin),
    ).fetchall()
    return [row[0] for row in found if row[1] is None], [row[0] for row in found if row[1] is not None]
