"""Who has which cores, how much memory, which GPUs. Pure: starts nothing, measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional


class Needs(NamedTuple):
    """What a job asks for. ``cores`` None: one, to roam freely; a number: that many, pinned; 0: none."""

    cores: Optional[int] = None
    memory_bytes: Optional[int] = None
    gpus: int = 0


class Grant(NamedTuple):
    """What a job was given: ``taken`` cores are taken, ``cores`` are those it is pinned to."""

    taken: int = 1
    cores: tuple[int, ...] = ()
    memory_bytes: int = 0
    gpus: tuple[int, ...] = ()


class Ledger:
    """The books of one node.

    Args:
        cores: indices of the cores that may be given out.
        memory_bytes: how much memory jobs may reserve together.
        gpus: how many GPUs there are; jobs get their indices from 0.
    """

    def __init__(self, cores: Sequence[int], memory_bytes: int, gpus: int) -> None:
        self.core_count, self.memory_bytes, self.gpu_count = len(cores), memory_bytes, gpus
        self._cores = sorted(cores)
        self._gpus = list(range(gpus))
        self._surplus_cores = self._surplus_gpus = 0
        self._free = len(cores)
        self._free_memory = memory_bytes

    def limit(self, cores: Optional[int], memory_bytes: Optional[int], gpus: Optional[int]) -> None:
        """Give out no more than this from now on: the rest of the node is somebody else's. None: no limit.

        What is given out already stays so; less is free until it comes back. A limit that was set is never raised.
        """
        if cores is not None and cores < self.core_count:
            self._free -= self.core_count - cores
            self._surplus_cores += self.core_count - cores
            self.core_count = cores
        if memory_bytes is not None and memory_bytes < self.memory_bytes:
            self._free_memory -= self.memory_bytes - memory_bytes
            self.memory_bytes = memory_bytes
        if gpus is not None and gpus < self.gpu_count:
            self._surplus_gpus += self.gpu_count - gpus
            self.gpu_count = gpus
        self._withdraw()

    def _withdraw(self) -> None:
        """Take what is beyond the limit out of what is free, the last first."""
        while self._surplus_cores and self._cores:
            self._cores.pop()
            self._surplus_cores -= 1
        while self._surplus_gpus and self._gpus:
            self._gpus.pop()
            self._surplus_gpus -= 1

    def impossible(self, needs: Needs) -> Optional[str]:
        """Why the node can never satisfy this, for a person; None when it can."""
        if needs.cores is not None and needs.cores > self.core_count:
            return f"it needs {needs.cores} cores, the node has {self.core_count} for jobs"
        if needs.gpus > self.gpu_count:
            return f"it needs {needs.gpus} GPUs, the node has {self.gpu_count}"
        if needs.memory_bytes is not None and needs.memory_bytes > self.memory_bytes:
            return f"it needs {needs.memory_bytes} bytes of memory, the node has {self.memory_bytes} for jobs"
        return None

    def take(self, needs: Needs) -> Optional[Grant]:
        """What ``needs`` asks for; None, and nothing taken, when not all of it is free."""
        count = 1 if needs.cores is None else needs.cores
        memory = needs.memory_bytes or 0
        if count > self._free or memory > self._free_memory or needs.gpus > len(self._gpus):
            return None
        self._free -= count
        self._free_memory -= memory
        pinned = self._neighbours(needs.cores) if needs.cores else ()
        gpus, self._gpus = tuple(self._gpus[: needs.gpus]), self._gpus[needs.gpus :]
        return Grant(count, pinned, memory, gpus)

    def retake(self, grant: Grant) -> None:
        """Enter what a job that is already running was given by an earlier process."""
        self._free -= grant.taken
        self._free_memory -= grant.memory_bytes
        self._cores = [core for core in self._cores if core not in grant.cores]
        self._gpus = [gpu for gpu in self._gpus if gpu not in grant.gpus]

    def give_back(self, grant: Grant) -> None:
        """Return what a job was given."""
        self._free += grant.taken
        self._free_memory += grant.memory_bytes
        if grant.cores:
            self._cores = sorted({*self._cores, *grant.cores})
        if grant.gpus:
            self._gpus = sorted({*self._gpus, *grant.gpus})
        if self._surplus_cores or self._surplus_gpus:
            self._withdraw()

    def _neighbours(self, count: int) -> tuple[int, ...]:
        # Cores with adjacent numbers mostly share a cache or a socket: the first such run that is long enough.
        cores = self._cores
        for begin in range(len(cores) - count + 1):
            if cores[begin + count - 1] - cores[begin] == count - 1:
                break
        else:
            begin = 0
        chosen = tuple(cores[begin : begin + count])
        del cores[begin : begin + count]
        return chosen
