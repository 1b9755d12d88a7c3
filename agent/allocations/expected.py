"""What is expected of an allocation's nodes: how much of each is ours, as far as that is told, and how soon its worker comes."""

from __future__ import annotations

from typing import Optional

from ..capacity import Capacity
from ..launch.allocation import Allocation

START_TIMEOUT_S = 60.0
"""How long a node may take from the launcher's start until its worker has come; the others work meanwhile."""
_NO_LIMIT = 2**62


def capacity_told(cores: Optional[int], memory_bytes: Optional[int], gpus: Optional[int]) -> Capacity:
    """What of a node is ours; what is not told (None) is without limit."""
    return Capacity(*(_NO_LIMIT if value is None else value for value in (cores, memory_bytes, gpus)))


def capacity_of(allocation: Allocation, host: str) -> Optional[Capacity]:
    """What the scheduler gave us of a node. None: it is not one of the nodes."""
    node = allocation.share_of(host)
    return None if node is None else capacity_told(node.cores, node.memory_bytes, node.gpus)
