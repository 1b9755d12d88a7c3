"""What an allocation is: nodes, what of each is ours, and when it ends; and what those who find one are handed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from ... import hostlist

Read = Callable[[str], str]
"""The text of a file by its name; raises OSError."""
Ask = Callable[[Sequence[str]], str]
"""The output of a command; raises OSError, also when the command failed or took too long."""


@dataclass(frozen=True)
class NodeShare:
    """What of one node is ours; None is what the scheduler does not tell.

    Args:
        host: the node's name as the scheduler writes it.
        cores: processors as the scheduler counts them: cores, hardware threads or slots, as its site set it up.
        gpus: devices.
        memory_bytes: memory in bytes.
        index: the number under which the scheduler's own starter of tasks knows the node: with PBS the node's first
            line in the node file, counted from 0; with Flux the rank of its broker.
    """

    host: str
    cores: Optional[int] = None
    gpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    index: Optional[int] = None


@dataclass(frozen=True)
class Allocation:
    """Nodes that a scheduler, or a host file, gave us.

    Args:
        scheduler: ``slurm``, ``pbs``, ``lsf``, ``sge``, ``flux``, ``cobalt`` or ``hostfile``.
        id: the scheduler's name for the job, with the index of a job array where that is a name of its own.
        nodes: the nodes in the scheduler's order, each once.
        ends_at: seconds since the epoch; None if unknown or never.
    """

    scheduler: str
    id: str
    nodes: tuple[NodeShare, ...]
    ends_at: Optional[float] = None

    @property
    def name(self) -> str:
        """What it is called beside those of other schedulers, as ``slurm-4711``; fit for a file's name."""
        return allocation_name(self.scheduler, self.id)

    def share_of(self, host: str) -> Optional[NodeShare]:
        """The share of the node that calls itself ``host``; None where that is not one of the nodes.

        A short name fits a full one. ``localhost`` among the nodes, as in a host file, is the host that asks.
        """
        for fits in (str.__eq__, hostlist.same_host):
            for node in self.nodes:
                if fits(node.host, host):
                    return node
        return next((node for node in self.nodes if node.host == "localhost"), None)


def allocation_name(scheduler: str, identity: str) -> str:
    """The name of an allocation by its scheduler and the scheduler's id of it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{scheduler}-{identity}")
