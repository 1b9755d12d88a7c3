"""Turns with scripted sites on a real store, without an agent and without waiting: each turn is taken when the test says so.

::

    async with rig(thread, a=ScriptedRun(), b=ScriptedRun()) as sites:
        job = await sites.submit("true", site="a,b")
        await sites.turn("a")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from lwfm.errors import UnknownSite
from lwfm.limits import Limits
from lwfm.models import JobDefn
from lwfm.notify import delivery
from lwfm.placing.candidates import Placing, Standing, candidates_of
from lwfm.polled import handover
from lwfm.polled.bringing import Bringing
from lwfm.polled.polling import PolledSites
from lwfm.polled.turns import PolledSite, Turns
from lwfm.recording.recorder import Effects, Recorder
from lwfm.recording.requests import RequestBuilder
from lwfm.recording.service import Service
from lwfm.recording.writer import Writer
from lwfm.sites.base import JobRequest, Observation, Repo, Run
from lwfm.sites.calls import SiteCalls
from lwfm.states import JobState
from lwfm.store import queries

from support.threads import HOST, Thread

PENDING = Observation(JobState.PENDING, "Q")
RUNNING = Observation(JobState.RUNNING, "R")
COMPLETE = Observation(JobState.COMPLETE, "C", facts={"exit_code": 0})
FAILED = Observation(JobState.FAILED, "F", reason="exit code 1", facts={"exit_code": 1})


@dataclass
class ScriptedRun(Run):
    """A site whose answers are what the test says.

    Args:
        answers: what it says of a job; one that is not there it does not know.
        on_submit: what it says of jobs that are handed to it; None: it leaves them out of the answer.
        fail: what the next calls of a method raise, one after the other.
        impossible: what ``check`` raises.
        hold: calls wait for this, in the site's thread.
        kept_homes: the instances that each job had of its own.
    """

    answers: dict[str, Observation] = field(default_factory=dict)
    on_submit: Optional[Observation] = PENDING
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    impossible: Optional[Exception] = None
    printed: dict[str, bytes] = field(default_factory=dict)
    hold: Optional[threading.Event] = None
    kept_homes: Sequence[str] = ()
    records_come: bool = False
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def check(self, defn: JobDefn) -> None:
        if self.impossible is not None:
            raise self.impossible

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        self._called("submit", [request.job_id for request in requests])
        if self.on_submit is None:
            return {}
        for request in requests:
            self.answers[request.job_id] = self.on_submit
        return {request.job_id: self.on_submit for request in requests}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        self._called("status", list(job_ids))
        return {job_id: self.answers[job_id] for job_id in job_ids if job_id in self.answers}

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        self._called("cancel", job_id)

    def homes(self, job_id: str) -> Sequence[str]:
        self._called("homes", job_id)
        return self.kept_homes

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        self._called("output", job_id)
        return self.printed.get(stream, b"")[offset : offset + limit]

    async def until(self, name: str, times: int) -> None:
        """Wait until a method has been called so often."""
        while len(self.said(name)) < times:  # noqa: ASYNC110 - it is called in another thread
            await asyncio.sleep(0.002)

    def said(self, name: str) -> list[Any]:
        """What a method was called with, call by call."""
        return [given for called, given in self.calls if called == name]

    def _called(self, name: str, given: Any) -> None:
        if self.hold is not None:
            assert self.hold.wait(30)
        self.calls.append((name, given))
        if self.fail.get(name):
            raise self.fail[name].pop(0)


class Rig:
    """Scripted sites and what asks them."""

    def __init__(self, thread: Thread, runs: Mapping[str, ScriptedRun], limits: Mapping[str, Limits], hung_s: float):
        self.thread = thread
        self.runs = runs
        self.limits = limits
        self.repos: dict[str, Repo] = {}
        self.effects: list[Effects] = []
        self.service = Service(thread.vault, delivery)
        self.writer = Writer(thread.store, thread.rules, self._on_commit, self._complete)
        self.builder = RequestBuilder(thread.vault, {}, "/programs")
        self.calls = SiteCalls()
        self.collected: list[str] = []
        self.tasks: list[asyncio.Future[Any]] = []
        self.bringing = Bringing(
            self.writer, thread.outputs, self.calls, self._pillar, lambda name: self.site(name).health.bad,
            self._collect, self.builder.build, lambda work: self.tasks.append(asyncio.ensure_future(work)), pause_s=0.001,
        )  # fmt: skip
        self.turns = Turns(
            self.writer, self.calls, self.run, self.limit, self.builder.build, self.placing, self.bringing,
            thread.outputs, hung_s,
        )  # fmt: skip
        self.sites: dict[str, PolledSite] = {}

    async def _collect(self, home: str) -> None:
        self.collected.append(home)

    def site(self, name: str) -> PolledSite:
        return self.sites.setdefault(name, PolledSite(name, asyncio.Event()))

    def run(self, name: str) -> ScriptedRun:
        if name not in self.runs:
            raise UnknownSite(f"there is no site {name!r}")
        return self.runs[name]

    def limit(self, name: str) -> Limits:
        return self.limits.get(name, Limits())

    def placing(self) -> Placing:
        def standing(name: str) -> Standing:
            site, most = self.site(name), self.limit(name).max_jobs
            left = None if most is None else max(0, most - site.backlog.with_site - site.backlog.waiting)
            return Standing(site.trouble, left, most)

        return Placing(lambda name, defn: self.run(name).check(defn), standing)

    async def submit_many(self, count: int, site: str = "a", **defn: Any) -> list[str]:
        definitions = [JobDefn("true", **defn) for _ in range(count)]
        placing = self.placing()
        placements = [placing.place(candidates_of(site), defn) for defn in definitions]
        body = {"context": {"host": HOST, "cwd": "/", "env": {}}}
        answer = await self.writer.write(self.service.submit, body, definitions, placements)
        return [job["job_id"] for job in answer["jobs"]]

    async def submit(self, site: str = "a", **defn: Any) -> str:
        return (await self.submit_many(1, site, **defn))[0]

    async def turn(self, name: str = "a") -> None:
        """The next turn of a site, as if it were time for everything."""
        site = self.site(name)
        site.pace.at_once()
        site.cancel_at = float("-inf")
        await self.turns.take(site)

    async def brought(self) -> None:
        """All that ended jobs have left is here, or given up."""
        while self.tasks:
            await self.tasks.pop()

    async def cancel(self, job_id: str) -> None:
        """As the API does it."""

        def work(recorder: Recorder) -> Any:
            job = recorder.job_now(job_id)
            assert job is not None
            placed = handover.is_with_site(recorder, job)
            return self.service.cancel(recorder, job_id, "enough", placed=placed)

        job = await self.writer.write(work)
        if job is not None:
            self.site(job.site).backlog.cancels[job_id] = (job.attempt, "enough")

    async def restart(self) -> None:
        """Forget all that is in mind, and take up what the store tells."""
        await self.brought()
        self.sites.clear()
        jobs, bring = await self.writer.write(handover.resume, ["local"])
        polled = PolledSites(self.turns, self.calls, self.limit, self.bringing, _never)
        polled.resume(jobs)
        self.sites.update(polled._sites)
        for name, job_ids in bring.items():
            self.bringing.add(name, job_ids)

    async def job(self, job_id: str) -> dict[str, Any]:
        return await self.writer.read(queries.job_details, job_id)

    async def states(self, job_id: str) -> list[str]:
        return [item["state"] for item in await self.writer.read(queries.statuses, job_id)]

    async def reasons(self, job_id: str) -> list[str]:
        return [item.get("reason", "") for item in await self.writer.read(queries.statuses, job_id)]

    def _pillar(self, name: str, pillar: str) -> Any:
        return self.run(name) if pillar == "run" else self.repos.get(name)

    def _complete(self, recorder: Recorder) -> None:
        if recorder.effects.pending:
            recorder.effects.requests = self.builder.build(recorder.transaction.connection, recorder.effects.pending)
        for change in recorder.effects.changes:
            if change.after.terminal:
                handover.release(recorder, change.job_id)

    def _on_commit(self, effects: Effects) -> None:
        self.effects.append(effects)
        for change in effects.changes:
            if change.after.terminal:
                self.site(change.site).backlog.forget(change.job_id)
        for item in effects.requests:
            self.site(item.site).backlog.add(handover.waiting_of(item.request))


def _never(work: Any) -> None:
    """No turns but those that the test takes."""
    work.close()


@asynccontextmanager
async def rig(
    thread: Thread, limits: Optional[Mapping[str, Limits]] = None, hung_s: float = 60.0, **runs: ScriptedRun
) -> AsyncIterator[Rig]:
    """Scripted sites, whose store is opened again at the end for the test to look at."""
    made = Rig(thread, runs, limits or {}, hung_s)
    try:
        yield made
        await made.brought()
    finally:
        await made.calls.close(1.0)
        await made.writer.close()
        thread.open()
