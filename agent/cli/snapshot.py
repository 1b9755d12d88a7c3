"""How nodes and jobs stand at one moment, as ``top`` shows it. The agent is asked two short questions each time."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..client import Client
from ..client.calls import path_of
from ..clock import utc_text
from .node_view import allocation_text, allocations_of, nodes_of, seconds_left
from .tally import ended_count, own_counts, running_count

if TYPE_CHECKING:
    from ..records import JSON

INTERVAL_S = 2.0
RATE_WINDOW_S = 10.0
"""Over how long the rate of finished jobs is taken, and at least over two intervals."""
MOST_RUNNING = 200
"""Running jobs that are asked for, however high the terminal is."""


@dataclass(frozen=True)
class Snapshot:
    """How things stand at one moment.

    Args:
        taken_at: seconds since the epoch. agent: what it says of itself.
        counts: how many jobs of this instance are in each state. running: the newest running ones, newest first.
        rate: jobs that ended per second; None while that is not known.
    """

    taken_at: float
    agent: JSON
    counts: dict[str, int]
    running: list[JSON]
    rate: float | None = None

    @property
    def nodes(self) -> list[JSON]:
        """The nodes: those that are not up first, then by name."""
        return sorted(nodes_of(self.agent), key=lambda item: item.get("state") == "up")

    @property
    def mixed(self) -> bool:
        """Whether the nodes are not all of the same allocation, or of none."""
        return len({item.get("allocation") or "" for item in nodes_of(self.agent)}) > 1

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return ended_count(self.counts)

    @property
    def going_on(self) -> int:
        """How many jobs run, whether they are listed or not."""
        return running_count(self.counts)

    @property
    def seconds_left(self) -> float | None:
        """How long the allocation of the agent lasts; None where there is none, or no end of it is known."""
        return seconds_left(self.agent.get("allocation") or {}, self.taken_at)

    @property
    def allocations(self) -> list[str]:
        """A line about each allocation."""
        return [f"Allocation {allocation_text(found, self.taken_at)}" for found in allocations_of(self.agent)]

    def to_json(self) -> JSON:
        """The snapshot for programs."""
        return {
            "time": utc_text(self.taken_at),
            "nodes": nodes_of(self.agent),
            "jobs": self.counts,
            "running": self.running,
            "allocation": self.agent.get("allocation"),
            "allocations": self.agent.get("allocations") or [],
            "seconds_left": self.seconds_left,
        }


class Watcher:
    """Takes snapshots, with two calls each; the first of a workflow's takes three.

    Args:
        client: where to ask. workflow: count and list only the jobs of this one.
        interval_s: how often it will be used.
    """

    def __init__(self, client: Client, workflow: str | None = None, interval_s: float = INTERVAL_S):
        self.client = client
        self._workflow = workflow
        self._window_s = max(RATE_WINDOW_S, 2 * interval_s)
        self._seen: deque[tuple[float, int]] = deque()
        self._last: Snapshot | None = None
        self._turn = 0

    def look(self, running: int) -> Snapshot:
        """How things stand now, with at most ``running`` running jobs."""
        last = self._last
        if self._workflow is None:
            agent = self.client.get("/v1/agent")
            counts = agent.get("jobs") or {}
            listed = self._running(counts, running)
        else:  # three questions in two calls: nodes and running jobs take turns
            counts = own_counts(self.client.get(path_of("workflows", self._workflow)))
            first = last is None or self._turn % 2 == 0
            agent = self.client.get("/v1/agent") if last is None or first else last.agent
            listed = self._running(counts, running) if last is None or not first else last.running
        self._turn += 1
        snapshot = Snapshot(time.time(), agent, counts, listed)
        self._last = replace(snapshot, rate=self._rate(snapshot.ended))
        return self._last

    def _running(self, counts: JSON, limit: int) -> list[JSON]:
        if limit < 1 or not running_count(counts):
            return []
        limit = min(limit, MOST_RUNNING)
        query = {"state": ["RUNNING", "FINISHING"], "workflow": self._workflow, "origin": "here", "limit": limit}
        found: list[JSON] = self.client.get("/v1/jobs", query)["jobs"]
        return found

    def _rate(self, ended: int) -> float | None:
        now = time.monotonic()
        self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(0, ended - before) / (now - then) if now > then else None
