"""Which of the waiting jobs goes to which nodes now. Counts them in there; claims nothing, sends nothing.

What waits is served in the order of :mod:`.waiting`. While a job does not fit, others behind it may go ahead, but not for longer
than ``OVERTAKING_S``: then the nodes it needs are left to become free.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .node import Node
from .waiting import Group, Waiting, WaitingJobs

OVERTAKING_S = 10.0
LOOKAHEAD = 256
"""How many kinds of jobs that do not fit are looked at before the rest is left for the next time."""


class Choice(NamedTuple):
    """A job, and the nodes it goes to, its head first."""

    entry: Waiting
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class _Reservation:
    """Nodes that are left to become free for a job."""

    job_id: str
    workers: frozenset[str]


class Chooser:
    """Finds room for waiting jobs.

    Args:
        waiting: the jobs; those that are chosen are taken out.

    Attributes:
        freed: nodes that were left to become free need that no more: others may have room there.
    """

    def __init__(self, waiting: WaitingJobs):
        self.freed = False
        self._waiting = waiting
        self._reserved: Optional[_Reservation] = None

    def choose(self, narrow: Sequence[tuple[Node, int]], nodes: Sequence[Node]) -> list[Choice]:
        """Take the jobs that can start now out of the queue, and count them in on their nodes.

        Args:
            narrow: the nodes to look at for jobs of one node, each with how many more than it has room for it may hold.
            nodes: all that are connected, for jobs of several.
        """
        now = time.monotonic()
        chosen: list[Choice] = []
        kept_free: frozenset[str] = frozenset()
        failing = 0
        for group in self._waiting.in_order(now):
            if group.shape.nodes > 1:
                self._choose_gangs(group, [node for node in nodes if node.worker_id not in kept_free], now, chosen)
            else:
                self._choose_single(group, narrow, kept_free, now, chosen)
            head = group.head()
            if head is not None:
                kept_free |= self._room_for(head, nodes, now)
                failing += 1
                if failing > LOOKAHEAD:
                    break
        return chosen

    def room_being_made(self, job_id: str) -> Optional[frozenset[str]]:
        """The workers whose nodes are left to become free for this job; None for none."""
        return self._reserved.workers if self._reserved is not None and self._reserved.job_id == job_id else None

    def forget(self, job_id: str) -> None:
        """The job waits no more."""
        if self.room_being_made(job_id) is not None:
            self._reserved, self.freed = None, True

    def _choose_single(
        self,
        group: Group,
        nodes: Sequence[tuple[Node, int]],
        kept_free: frozenset[str],
        now: float,
        chosen: list[Choice],
    ) -> None:
        shape = group.shape
        if not shape.needs.gpus:  # leave nodes with GPUs to those that need them
            nodes = sorted(nodes, key=lambda pair: pair[0].capacity.gpus > 0)
        for node, backlog in nodes:
            if node.worker_id in kept_free:
                continue
            while node.fits(shape, backlog):
                entry = group.head()
                if entry is None:
                    return
                self._take(entry, (node,), now, chosen)

    def _choose_gangs(self, group: Group, nodes: Sequence[Node], now: float, chosen: list[Choice]) -> None:
        """The same for jobs over several nodes, which are all of one allocation, and neighbours by their names if possible."""
        shape = group.shape
        nodes = sorted(nodes, key=lambda node: (len(node.name), node.name))
        while True:
            entry = group.head()
            if entry is None:
                return
            free: dict[str, list[Node]] = {}
            found: Optional[list[Node]] = None
            for node in nodes:
                if node.fits(shape):
                    listed = free.setdefault(node.allocation, [])
                    listed.append(node)
                    if len(listed) == shape.nodes:
                        found = listed
                        break
            if found is None:
                return
            self._take(entry, tuple(found), now, chosen)

    def _take(self, entry: Waiting, nodes: tuple[Node, ...], now: float, chosen: list[Choice]) -> None:
        self._waiting.take(entry, now)
        for number, node in enumerate(nodes):
            node.take(entry.group.shape.needs)
            node.gang_parts += number > 0
        self.forget(entry.job_id)
        chosen.append(Choice(entry, nodes))

    def _room_for(self, head: Waiting, nodes: Sequence[Node], now: float) -> frozenset[str]:
        """The nodes that are left to become free for a job that has been overtaken for long enough."""
        shape = head.group.shape
        connected: Mapping[str, Node] = {node.worker_id: node for node in nodes}
        kept = self.room_being_made(head.job_id)
        if kept is not None:
            if kept <= connected.keys():
                return kept
            self._reserved, self.freed = None, True
        if self._reserved is not None or now - head.since <= OVERTAKING_S:
            return frozenset()
        able: dict[str, list[Node]] = {}
        for node in nodes:
            if node.could_run(shape) and node.has_time(shape):
                able.setdefault(node.allocation, []).append(node)
        largest: list[Node] = max(able.values(), key=len, default=[])
        if len(largest) < shape.nodes:
            return frozenset()
        soonest = sorted(largest, key=lambda node: node.cores_used / max(1, node.capacity.cores))
        self._reserved = _Reservation(head.job_id, frozenset(node.worker_id for node in soonest[: shape.nodes]))
        return self._reserved.workers
