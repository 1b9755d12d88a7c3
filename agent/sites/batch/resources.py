"""What a batch scheduler has to give, as the resources of a site: its partitions and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Callable

from ...errors import LwfmError
from ..base import Resource
from .commands import BatchCommands
from .scheduler import BatchNode, Partition


def scheduler_resources(
    scheduler: BatchCommands, know: Callable[[Sequence[Partition]], None] = lambda _: None
) -> tuple[list[Resource], bool]:
    """A scheduler's partitions and nodes; where it does not answer, itself with the reason. And whether it has answered.

    Args:
        scheduler: which. ``know``: is told the partitions.
    """
    try:
        partitions, nodes = scheduler.resources()
    except LwfmError as error:
        return [Resource(scheduler.name, "scheduler", "unknown", {"reason": error.message})], False
    know(partitions)
    return [*map(_partition, partitions), *map(_batch_node, nodes)], True


def _partition(partition: Partition) -> Resource:
    return _described(f"partition:{partition.name}", "partition", partition)


def _batch_node(node: BatchNode) -> Resource:
    return _described(f"batch-node:{node.name}", "batch-node", node)


def _described(resource_id: str, kind: str, record: Any) -> Resource:
    facts = {
        name: value
        for name, value in asdict(record).items()
        if name != "state" and not (value is None or value is False or value == ())
    }
    return Resource(resource_id, kind, record.state, facts)
