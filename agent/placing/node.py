"""A node that has a worker, as the agent sees it: what it has, what is on it, how much may be sent there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol

from ..capacity import ALLOCATED, Capacity, Shape
from ..clock import deadline_time
from ..wire import Message

MIN_RECENT = 3
BACKLOG_S = 0.25
"""How many seconds' worth of its recent rate a worker is sent ahead."""
MAX_BACKLOG = 1024


class WorkerChannel(Protocol):
    """The connection to a worker, as far as placing needs it."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send, without waiting."""


@dataclass
class Node:
    """A worker and what is on its node.

    Args:
        worker_id: the worker. ``host``: what its node calls itself. ``pid``: the worker's.
        capacity: what of the node is ours.
        channel: its connection; None while there is none.
        name: what the launchers of its allocation call it.
        allocation: the allocation it is of; empty for none.
        labels: what jobs can ask for; its names are among them.
        last_start: seconds since the epoch after which nothing may run there any more; None: no such time.
        trouble: why nothing can be started there at the moment; empty where it can.
    """

    worker_id: str
    host: str
    pid: int
    capacity: Capacity
    channel: Optional[WorkerChannel]
    name: str = ""
    allocation: str = ""
    labels: frozenset[str] = frozenset()
    last_start: Optional[float] = None
    cores_used: int = 0
    memory_used: int = 0
    gpus_used: int = 0
    running: int = 0
    gang_parts: int = 0
    trouble: str = ""
    contexts: set[str] = field(default_factory=set)
    window_start: float = 0.0
    ended_now: int = 0
    ended_before: int = 0

    def __post_init__(self) -> None:
        self.name = self.name or self.host
        short = self.host.partition(".")[0]
        self.labels = self.labels | {self.host, short, self.name} | ({ALLOCATED} if self.allocation else set())

    def count_end(self) -> None:
        """A job has ended here: what the backlog is measured by."""
        now = time.monotonic()
        if now - self.window_start > BACKLOG_S:
            fresh = now - self.window_start < 2 * BACKLOG_S
            self.ended_before, self.ended_now, self.window_start = (self.ended_now if fresh else 0), 0, now
        self.ended_now += 1

    def backlog_limit(self) -> int:
        """How many more one-core jobs than it has room for it may hold by its rate: what it ends in ``BACKLOG_S``.

        None beside the part of a gang: what the worker keeps free for that, it must not give to what it was sent ahead.
        """
        if self.gang_parts or time.monotonic() - self.window_start > 2 * BACKLOG_S:
            return 0
        recent = max(self.ended_before, self.ended_now)
        return 0 if recent < MIN_RECENT else min(MAX_BACKLOG, recent)

    def wants_more(self, backlog: int) -> bool:
        """Whether it is worth looking for jobs for this node: always with room, else when half of its backlog is gone."""
        over = self.cores_used - self.capacity.cores
        return over < 0 or over <= backlog // 2

    def could_run(self, shape: Shape) -> bool:
        """Whether it would have room for (its part of) a job if nothing else were there."""
        needs, total = shape.needs, self.capacity
        return (
            needs.cores <= total.cores
            and needs.memory_bytes <= total.memory_bytes
            and needs.gpus <= total.gpus
            and shape.labels <= self.labels
        )

    def has_time(self, shape: Shape) -> bool:
        """Whether a job that starts now ends, by its time limit, while the node is ours."""
        return self.last_start is None or deadline_time() + (shape.time_limit_s or 0.0) <= self.last_start

    def fits(self, shape: Shape, backlog: int = 0) -> bool:
        """Whether a job may be sent here now, with ``backlog`` more than there is room for."""
        if self.trouble:
            return False
        needs, total = shape.needs, self.capacity
        if self.gpus_used + needs.gpus > total.gpus or self.memory_used + needs.memory_bytes > total.memory_bytes:
            return False
        if self.cores_used + needs.cores > total.cores and not (
            shape.simple and needs.cores <= total.cores and self.cores_used + needs.cores <= total.cores + backlog
        ):
            return False
        if shape.labels and not shape.labels <= self.labels:
            return False
        return self.last_start is None or self.has_time(shape)

    def take(self, needs: Capacity, sign: int = 1) -> None:
        """Count a job in, or with ``sign`` -1 out."""
        self.cores_used += sign * needs.cores
        self.memory_used += sign * needs.memory_bytes
        self.gpus_used += sign * needs.gpus
        self.running += sign

    def facts(self) -> dict[str, Any]:
        """The node as the API shows it."""
        return {
            "worker_id": self.worker_id, "host": self.host, "pid": self.pid, "state": "up" if self.channel else "lost",
            "cores": self.capacity.cores, "cores_used": min(self.cores_used, self.capacity.cores),
            "memory_bytes": self.capacity.memory_bytes, "memory_used_bytes": self.memory_used,
            "gpus": self.capacity.gpus, "gpus_used": self.gpus_used, "jobs": self.running,
            "trouble": self.trouble or None, "allocation": self.allocation or None, "labels": sorted(self.labels),
        }  # fmt: skip
