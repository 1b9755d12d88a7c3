"""How much of what: what a node has, and what a job asks for as far as placing it is concerned. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional

from .models import JobDefn

ALLOCATED = "allocation"
"""The label of all nodes of allocations, which are the site of that name."""


@dataclass(frozen=True)
class Capacity:
    """What a node has, or a job needs of a node: cores, bytes of memory, GPUs."""

    cores: int
    memory_bytes: int
    gpus: int

    def at_most(self, other: Optional[Capacity]) -> Capacity:
        """The smaller of both in each respect; all of this one when there is no other."""
        if other is None:
            return self
        return Capacity(
            min(self.cores, other.cores), min(self.memory_bytes, other.memory_bytes), min(self.gpus, other.gpus)
        )


class Shape(NamedTuple):
    """What jobs that are placed alike have in common.

    Args:
        needs: of each node. ``nodes``: how many at the same time.
        labels: what each of the nodes must be labelled with.
        time_limit_s: how long it may take. ``priority``: the higher, the sooner.
    """

    needs: Capacity
    nodes: int = 1
    labels: frozenset[str] = frozenset()
    time_limit_s: Optional[float] = None
    priority: int = 0

    @property
    def simple(self) -> bool:
        """Whether it asks for no more than a core, so that a worker may be sent it ahead of room."""
        needs = self.needs
        return needs.cores <= 1 and not needs.gpus and not needs.memory_bytes and self.nodes == 1

    @property
    def width(self) -> tuple[int, int, int, int]:
        """What makes it harder to find room for, the weightiest first."""
        needs = self.needs
        return self.nodes, needs.gpus, needs.cores, needs.memory_bytes


def shape_of(defn: JobDefn, labels: frozenset[str] = frozenset()) -> Shape:
    """What a job asks for: one core of one node unless it says otherwise; ``labels``: what its site asks for beside."""
    asked = defn.resources
    cores = asked.cores
    if cores is None:
        cores = asked.tasks_per_node or 1
    needs = Capacity(cores, asked.memory_bytes or 0, asked.gpus)
    return Shape(needs, asked.nodes or 1, labels.union(asked.labels), asked.time_limit_s, defn.priority)
