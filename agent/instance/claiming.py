"""Claims: it is made durable that a job goes to a worker before the worker is given it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..recording import recovery
from ..recording.recorder import Recorder
from ..recording.requests import RequestBuilder
from ..recording.writer import Writer
from ..sites.base import JobRequest


class Claims:
    """Makes and settles claims, for the dispatcher.

    Args:
        writer: makes them durable. ``builder``: finds what is claimed. ``spawn``: runs a coroutine in the event loop.
    """

    def __init__(self, writer: Writer, builder: RequestBuilder, spawn: Callable[[Awaitable[None]], Any]):
        self._writer = writer
        self._builder = builder
        self._spawn = spawn

    async def claim(
        self, worker_id: str, parts: Sequence[str], jobs: list[tuple[str, int]]
    ) -> Mapping[str, JobRequest]:
        """Claim jobs, given with their attempts, for a worker, and ``parts``, the workers of further nodes; those that go there."""

        def work(recorder: Recorder) -> dict[str, JobRequest]:
            going = recovery.claim(recorder, worker_id, jobs, parts)
            built = self._builder.build(recorder.transaction.connection, dict.fromkeys(going))
            return {item.request.job_id: item.request for item in built}

        return await self._writer.write(work)

    def dropped(self, job_id: str, attempt: int) -> None:
        """A job did not go to any worker after all."""
        self._spawn(self._writer.durably(recovery.settle_dropped, job_id, attempt))
