"""The nodes that the agent has workers on, and its allocations, as site drivers see them: callable from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ..models import JobDefn
from ..placing.dispatcher import Dispatcher
from ..sites.base import JobRequest, Resource
from ..workers.protocol import WorkerServer
from .all_created import CreatedAllocations

OUTPUT_TIMEOUT_S = 40.0


class AgentNodes:
    """Implements :class:`~lwfm.sites.base.Nodes` over the dispatcher and the workers' connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatcher: Dispatcher, workers: WorkerServer):
        self._loop = loop
        self._dispatcher = dispatcher
        self._workers = workers

    def place(self, requests: Sequence[JobRequest]) -> None:
        """Run jobs on these nodes as room becomes free."""
        self._loop.call_soon_threadsafe(self._dispatcher.place, requests)

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Stop a job."""
        self._loop.call_soon_threadsafe(self._dispatcher.cancel, job_id, attempt, reason)

    def check(self, defn: JobDefn, labels: frozenset[str] = frozenset()) -> None:
        """Raise ResourcesImpossible when no node with these labels could ever run it."""
        self._dispatcher.check(defn, labels)

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of a running job's output; not from the event loop's own thread."""
        flight = self._dispatcher.flights.get(job_id)
        if flight is None:
            return b""
        asked = self._workers.output(job_id, flight.attempt, stream, offset, limit, 0.0)
        found = asyncio.run_coroutine_threadsafe(asked, self._loop).result(OUTPUT_TIMEOUT_S)
        return found[0] if found else b""

    def describe(self) -> Sequence[Resource]:
        """The nodes: cores, memory, GPUs, what is in use."""
        return self._dispatcher.describe()


class AgentAllocations:
    """Implements :class:`~lwfm.sites.base.Allocations` over the agent's: callable from any thread but the event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, created: CreatedAllocations):
        self._loop = loop
        self._created = created

    def list(self, ask: bool) -> Sequence[Resource]:
        """Those there are."""
        return asyncio.run_coroutine_threadsafe(self._created.resources(ask), self._loop).result()

    def create(self, spec: Mapping[str, Any]) -> Resource:
        """Ask for one."""
        return asyncio.run_coroutine_threadsafe(self._created.create(spec), self._loop).result()

    def destroy(self, resource_id: str) -> None:
        """Give one back."""
        asyncio.run_coroutine_threadsafe(self._created.destroy(resource_id), self._loop).result()
