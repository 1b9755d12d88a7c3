"""What nodes could run a job if nothing else were on them: whether to refuse it, and why it waits, for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ..capacity import Capacity, Shape
from ..clock import deadline_time
from ..errors import ResourcesImpossible
from .node import Node


def refuse_impossible(shape: Shape, nodes: Sequence[Node]) -> None:
    """Refuse what none of these nodes, of which there is one at least, could ever run.

    Raises:
        ResourcesImpossible: with the numbers.
    """
    able = [node for node in nodes if node.could_run(shape)]
    by_allocation: dict[str, int] = {}
    for node in able:
        by_allocation[node.allocation] = by_allocation.get(node.allocation, 0) + 1
    if max(by_allocation.values(), default=0) >= shape.nodes:
        return
    if able:
        raise ResourcesImpossible(
            f"the job can never run here: it asks for {shape.nodes} nodes of {max(by_allocation.values())}",
            hint="ask for less, or submit it to another site",
        )
    labelled = [node for node in nodes if shape.labels <= node.labels]
    if not labelled:
        known = frozenset().union(*(node.labels for node in nodes))
        unknown = ", ".join(sorted(shape.labels - known)) or " and ".join(sorted(shape.labels))
        raise ResourcesImpossible(
            f"the job can never run here: no node is labelled {unknown}",
            hint=f"the nodes' labels are: {', '.join(sorted(known)[:20])}",
        )
    lacks = _lacking(shape.needs, labelled[-1].capacity)
    largest = "the node has" if len(labelled) == 1 else f"the largest of {len(labelled)} nodes has"
    raise ResourcesImpossible(
        f"the job can never run here: {', '.join(lacks)} ({largest} less)",
        hint="ask for less, or submit it to another site",
    )


def why_not_now(shape: Shape, nodes: Sequence[Node]) -> Optional[str]:
    """Why the connected nodes cannot run a job even if nothing else were on them; None if they could."""
    if not nodes:
        return "no worker is connected at the moment"
    able = [node for node in nodes if node.could_run(shape)]
    if len(able) < shape.nodes:
        return f"waits for nodes: {len(able)} of the {shape.nodes} it needs that could run it are here"
    if sum(node.has_time(shape) for node in able) >= shape.nodes:
        troubled = [node for node in able if node.trouble]
        if len(able) - len(troubled) >= shape.nodes:
            return None
        return f"node {troubled[0].name} starts no jobs at the moment: {troubled[0].trouble}"
    left_s = max(0.0, max(node.last_start or 0.0 for node in able) - deadline_time())
    if shape.time_limit_s is None or left_s == 0:
        return "is kept for another allocation: this one is about to end"
    limit = f"its time limit is {shape.time_limit_s:.0f} s, and of this one {left_s:.0f} s are left"
    return f"is kept for another allocation: {limit}"


def _lacking(needs: Capacity, has: Capacity) -> list[str]:
    pairs = (("cores", needs.cores, has.cores), ("GPUs", needs.gpus, has.gpus))
    lacks = [f"it asks for {asked} {what} of {there}" for what, asked, there in pairs if asked > there]
    if needs.memory_bytes > has.memory_bytes:
        lacks.append(f"it asks for {needs.memory_bytes / 2**30:.1f} GiB of memory of {has.memory_bytes / 2**30:.1f}")
    return lacks
