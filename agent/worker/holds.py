"""What of this node is kept free for jobs that run on another one: their parts here, and what they leave behind.

The agent asks for it, and says when it is over. Then every process here that carries the job's mark is stopped: a launcher that
was killed may have left the tasks it started. Kept in memory alone; the agent asks again after each reconnection.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

from ..host.processes import Mark
from ..host.stopping import TreeStop
from ..host.trees import Census, Tree
from .jobs import DEFAULT_GRACE_S, Key
from .launcher import Launcher
from .ledger import Grant, Ledger, Needs
from .timers import Timers

LOOK_AGAIN_S = (1.0, 5.0)
"""A launcher that was killed in the middle may still start a task: it is looked for again so long after the end."""


class _Hold(NamedTuple):
    needs: Needs
    mark: Mark
    grant: Optional[Grant]


class Holds:
    """The parts of jobs on this node.

    Args:
        tell: sends a message to the agent. ``way``: the variables by which what runs here finds it.
    """

    def __init__(
        self,
        ledger: Ledger,
        launcher: Launcher,
        timers: Timers,
        tell: Callable[[dict[str, Any]], None],
        way: Callable[[], dict[str, str]],
    ):
        self._way = way
        self._ledger = ledger
        self._launcher = launcher
        self._timers = timers
        self._tell = tell
        self._holds: dict[Key, _Hold] = {}

    def keys(self) -> list[Key]:
        """The jobs, and which attempt of each."""
        return list(self._holds)

    def take(self, message: dict[str, Any]) -> None:
        """Keep what the message says, as soon as it is free, and say so; also when it is kept already."""
        key = (str(message["job"]), int(message["attempt"]))
        hold = self._holds.get(key)
        if hold is None:
            needs = Needs(int(message["cores"]), message.get("memory_bytes") or None, int(message.get("gpus") or 0))
            hold = self._holds[key] = _Hold(needs, Mark(*key, str(message["worker"])), None)
        if hold.grant is not None:
            self._tell_held(key, hold.grant)
        self.retry()

    def retry(self) -> None:
        """Take what has become free for those that wait for it. Comes before the jobs in the queue."""
        for key, hold in self._holds.items():
            if hold.grant is None:
                grant = self._ledger.take(hold.needs)
                if grant is None:
                    return
                self._holds[key] = hold._replace(grant=grant)
                self._tell_held(key, grant)

    def release(self, key: Key) -> None:
        """The job is over: stop what it has left here, then give back what was kept."""
        hold = self._holds.get(key)
        if hold is not None:
            self._stop(hold, lambda: self._give_back(key))
            for pause in LOOK_AGAIN_S:
                self._timers.after(pause, lambda: self._stop(hold, lambda: None))

    def _give_back(self, key: Key) -> None:
        hold = self._holds.pop(key, None)
        if hold is not None and hold.grant is not None:
            self._ledger.give_back(hold.grant)

    def _tell_held(self, key: Key, grant: Grant) -> None:
        cores, gpus = self._launcher.real_cores(grant), self._launcher.gpu_names(grant)
        told = {"t": "holding", "job": key[0], "attempt": key[1], "cores": cores, "gpus": gpus}
        self._tell({**told, "way": self._way()})

    def _stop(self, hold: _Hold, then: Callable[[], None]) -> None:
        census = Census()
        left = census.carriers(hold.mark)
        if not left:
            then()
            return
        # The first of them stands for all: the others are found by the mark they carry as well.
        first = min(left, key=lambda pid: census.entries[pid].start_s)
        start_s = census.entries[first].start_s
        self._step(TreeStop(Tree(first, start_s, start_s, hold.mark), DEFAULT_GRACE_S), then)

    def _step(self, stop: TreeStop, then: Callable[[], None]) -> None:
        pause = stop.step()
        if pause is None:
            then()
        else:
            self._timers.after(pause, lambda: self._step(stop, then))
