"""The local site under the contract: its driver, on a real worker that a small agent speaks to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from lwfm.capacity import Capacity, shape_of
from lwfm.errors import InvalidRecord
from lwfm.models import JobDefn
from lwfm.placing.dispatcher import Dispatcher
from lwfm.placing.gangs import run_message
from lwfm.recording.execution import verdict
from lwfm.sites.base import JobRequest, Observation, Resource, SiteContext
from lwfm.sites.local import LocalSite
from lwfm.states import JobState
from lwfm.testing import SiteContract, SiteUnderTest
from lwfm.wire import Message

from support.agents import new_home
from support.fake_agent import FakeAgent, WorkerProcess, printed

CORES = 4


class WorkerNodes:
    """Implements :class:`~lwfm.sites.base.Nodes` by a worker: what the agent does, without a store and without waiting."""

    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.attempts: dict[str, int] = {}
        node = agent.hellos[-1]["node"]
        self.capacity = Capacity(len(node["cores"]), node["memory_bytes"], len(node["gpus"]))

    def place(self, requests: Sequence[JobRequest]) -> None:
        for request in requests:
            if request.attempt <= self.attempts.get(request.job_id, 0):
                continue  # the agent claims an attempt for a worker once
            self.attempts[request.job_id] = request.attempt
            self.agent.send(
                {"t": "context", "id": request.context_id, "env": dict(request.environment)},
                run_message(request, shape_of(request.defn), "here"),
            )

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        self.agent.send({"t": "cancel", "job": job_id, "attempt": attempt, "reason": reason})

    def check(self, defn: JobDefn, labels: frozenset[str] = frozenset()) -> None:
        nobody: Any = None
        Dispatcher(nobody, nobody, nobody, self.capacity, nobody).check(defn, labels)

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        key = (job_id, self.attempts.get(job_id, 0))
        if key in self.agent.ended:
            return printed(self.agent.ended[key], stream)[offset : offset + limit]
        return bytes(self.agent.read(key, stream, offset, limit)["data"]) if key[1] else b""

    def describe(self) -> Sequence[Resource]:
        return [Resource("here", "node", "up", {"cores": self.capacity.cores})]

    def reported(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What the worker has told of jobs."""
        found = {}
        for job_id in job_ids:
            key = (job_id, self.attempts.get(job_id, 0))
            if key in self.agent.ended:
                found[job_id] = _ended(self.agent.ended[key], self.agent.started.get(key, {}))
            elif key in self.agent.started:
                found[job_id] = Observation(JobState.RUNNING, native_id=str(self.agent.started[key]["pid"]))
            elif key[1]:
                found[job_id] = Observation(JobState.PENDING)
        return found


def _ended(event: Message, start: Message) -> Observation:
    state, reason = verdict(event)
    facts = {"exit_code": event["exit_code"], "signal": event["signal"], "ended_at": event["time"]}
    return Observation(state, event["cause"], str(start.get("pid")), reason, facts)


class TestLocalSite(SiteContract):
    """This node."""

    @pytest.fixture(scope="class")
    def site(self) -> Iterator[SiteUnderTest]:
        place = new_home()
        for name in ("home", "here", "there"):
            (place / name).mkdir()
        agent = FakeAgent(place / "worker.sock")
        worker = WorkerProcess(place / "spool", agent.path, "--cores", str(CORES))
        agent.wait_connected()
        nodes = WorkerNodes(agent)
        driver = LocalSite(SiteContext("local", {}, place / "home", place / "home" / "repository", nodes))
        yield SiteUnderTest(driver, place / "here", str(place / "there"), nodes.reported)
        driver.close()
        agent.send({"t": "stop", "kill": True})
        assert worker.wait() == 0
        agent.close()
        shutil.rmtree(place)

    def test_a_relative_path_lies_in_the_repository(self, site: SiteUnderTest) -> None:
        source = site.directory / "kept"
        source.write_text("x")
        stored = site.repo.put(source, "below/kept", {})
        assert stored.path == str(site.driver.context.repository / "below" / "kept")
        assert (site.driver.context.repository.stat().st_mode & 0o777) == 0o700

    @pytest.mark.parametrize("path", ["../outside", "a/../../outside", "..", "."])
    def test_nothing_leads_out_of_the_repository(self, site: SiteUnderTest, path: str) -> None:
        source = site.directory / "kept"
        source.write_text("x")
        with pytest.raises(InvalidRecord, match="repository"):
            site.repo.put(source, path, {})
