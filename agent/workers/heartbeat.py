"""Whether the workers of other nodes are still there: asked when they are silent, given up when nothing is heard for long.

A silent connection is closed, so that the worker dials anew if it lives. Only when a worker has not come back for ``lost_s`` is
its node lost. That is a decision, not knowledge: what it had counts as lost or is tried again, and a worker that comes back
later is told to stop what it still runs (see :func:`lwfm.recording.recovery.reconcile`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from .protocol import WorkerServer

PING_S = 5.0
AWAY_S = 2.0
"""Who comes so much too late was away."""
SILENT_S = 20.0
DEFAULT_LOST_S = 90.0
"""Longer than a switch or a file server takes to come back, shorter than anybody wants to wait for a dead node."""
_logger = logging.getLogger(__name__)


class Heartbeat:
    """Watches the workers.

    Args:
        workers: their connections.
        claimants: which workers have jobs, and on which host each was last seen: asked once, for those of an earlier agent.
        local_host: workers there are not judged: what happens to them is seen otherwise.
        lost_s: seconds without a word until a node is lost.
    """

    def __init__(
        self,
        workers: WorkerServer,
        claimants: Callable[[], Awaitable[Mapping[str, str]]],
        local_host: str,
        lost_s: float,
    ):
        self._workers = workers
        self._claimants = claimants
        self._local_host = local_host
        self._lost_s = lost_s
        self._missed: dict[str, tuple[str, float]] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        for worker_id, host in (await self._claimants()).items():
            if host and host != self._local_host:
                self._missed[worker_id] = (host, time.monotonic())
        pause_s = min(PING_S, self._lost_s / 4)
        while True:
            began = time.monotonic()
            await asyncio.sleep(pause_s)
            self._excuse(time.monotonic() - began - pause_s)
            self._ask()
            await self._judge()

    def _excuse(self, away_s: float) -> None:
        """While we ourselves were stopped we could hear nobody: that time is held against no node."""
        if away_s < AWAY_S:
            return
        _logger.warning("this agent was stopped, or starved, for %.0f s: no node is judged by that time", away_s)
        for connection in self._workers.connections.values():
            connection.heard_at = min(time.monotonic(), connection.heard_at + away_s)
        for worker_id, (host, since) in self._missed.items():
            self._missed[worker_id] = (host, since + away_s)

    def _ask(self) -> None:
        now = time.monotonic()
        for worker_id, connection in list(self._workers.connections.items()):
            if not connection.remote:
                continue
            self._missed.pop(worker_id, None)
            silent_s = now - connection.heard_at
            if silent_s > min(SILENT_S, self._lost_s):
                _logger.warning("worker %s on %s: silent for %.0f s", worker_id, connection.host, silent_s)
                self._missed[worker_id] = (connection.host, connection.heard_at)
                connection.abort()
            elif silent_s > PING_S / 2:
                connection.send([{"t": "ping"}])

    async def _judge(self) -> None:
        now = time.monotonic()
        for worker_id, host in self._workers.absent():
            if host != self._local_host:
                self._missed.setdefault(worker_id, (host, now))
        for worker_id, (host, since) in list(self._missed.items()):
            if worker_id in self._workers.connections:
                del self._missed[worker_id]
            elif now - since > self._lost_s:
                del self._missed[worker_id]
                await self._workers.lose(
                    worker_id, f"node {host} is lost: nothing was heard of it for {now - since:.0f} s"
                )
