"""Processes that lost their parents and so became the worker's: whose they are, and their end.

The worker is a subreaper: what a job's process leaves behind without a parent becomes a child of the worker, also when it
has left the job's session. Owns the knowledge of which such process belongs to which job. There is no notice when one
arrives; they are looked for when a job ends. Where the kernel does not list a process's children that takes a census, and
then it may be a moment later, so that looking takes at most half a hundredth of a core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable, Optional

from ..host.processes import Entry, open_files
from ..host.stopping import TreeStop
from ..host.trees import Census, OwnChildren, Tree, group_alive
from .jobs import DEFAULT_GRACE_S, RUNNING, Exit, Job
from .log import Log

if TYPE_CHECKING:
    from .runner import Runner

COST_SHARE = 0.005


class Orphans:
    """The orphans of all jobs.

    Args:
        directory: of the output files: a process that holds one of them open belongs to a job.
        parents: the processes whose children are looked at.
    """

    def __init__(self, runner: Runner, directory: str, parents: Callable[[], tuple[int, ...]], log: Log) -> None:
        self._runner = runner
        self._directory = os.path.realpath(directory)
        self._parents = parents
        self._log = log
        self._children = OwnChildren()
        self._known: dict[int, Optional[Job]] = {}
        self._next_look = 0.0
        self._planned = False
        self._oom_kills = _oom_kills()

    @property
    def unknown(self) -> bool:
        """Whether there is one that cannot be told to belong to any job."""
        return any(job is None for job in self._known.values())

    def look(self, ended: Job) -> bool:
        """Look for orphans, as the process of ``ended`` has just been waited for: now, or plan to.

        Returns:
            Whether something of the job may be left.
        """
        if ended.adopted:  # what it left went to the keeper
            return bool(self._census().members(ended.tree))
        alive = self._children.pids()
        if alive is None:
            return self._look_without_list(ended)
        alive.difference_update(self._runner.children, self._known)
        if alive:
            self._census()
        return bool(ended.strays)

    def _look_without_list(self, ended: Job) -> bool:
        if group_alive(ended.pid):
            return True
        if self._runner.children or self._runner.adopted or self._known or _any_child():
            wait = self._next_look - time.monotonic()
            if wait <= 0:
                self._census()
            elif not self._planned:
                self._planned = True
                self._runner.timers.after(wait, self._planned_look)
        return bool(ended.strays)

    def reaped(self, pid: int, end: Exit) -> None:
        """Take notice that one has ended: what it used belongs to its job."""
        job = self._known.pop(pid, None)
        if job is not None and job.state == RUNNING:
            job.strays -= {pid}
            if job.exit is not None:
                job.exit = job.exit.plus(end)

    def forget(self, pids: Iterable[int]) -> None:
        """Take notice that these are no more."""
        for pid in pids:
            self._known.pop(pid, None)

    def out_of_memory(self) -> Optional[str]:
        """What can be said of a job that was killed from outside; None when the kernel has killed nothing."""
        kills, before = _oom_kills(), self._oom_kills
        self._oom_kills = kills
        if kills > before:
            return "killed from outside; the kernel's out-of-memory killer was at work on this node"
        return None

    def _planned_look(self) -> None:
        self._planned = False
        self._census()

    def _census(self) -> Census:
        census = Census()
        self._next_look = time.monotonic() + census.cost_s / COST_SHARE
        runner = self._runner
        for pid in [pid for pid in self._known if pid not in census.entries]:
            job = self._known.pop(pid)
            if job is not None:
                job.strays -= {pid}
        for pid in census.children(self._parents()):
            entry = census.entries[pid]
            if entry.dead or pid in self._known or pid in runner.children or pid in runner.adopted:
                continue
            if pid not in self._parents():
                self._adopt(pid, entry, census)
        return census

    def _adopt(self, pid: int, entry: Entry, census: Census) -> None:
        job, belongs = self._owner(pid, entry, census)
        self._known[pid] = job
        if job is not None:
            job.strays |= {pid}
        elif belongs:
            self._stop(TreeStop(Tree(pid, entry.start_s, entry.start_s, census.mark(pid)), DEFAULT_GRACE_S))
        else:
            self._log(f"process {pid} was left by a job that cannot be told; it is left alone")

    def _owner(self, pid: int, entry: Entry, census: Census) -> tuple[Optional[Job], bool]:
        """The job that runs and owns the process; and whether it belongs to any, if only to one that is over."""
        runner = self._runner
        mark = census.mark(pid)
        if mark is not None:
            if mark.worker != runner.spool.worker:
                return None, False  # of a worker inside one of our jobs; its next one will look for it
            key = (mark.job, mark.attempt)
            job = runner.spool.jobs.get(key)
            if job is not None and job.state == RUNNING:
                return job, True
            return None, key not in runner.doubtful
        for leader in (entry.session, entry.group):
            job = runner.children.get(leader) or runner.adopted.get(leader)
            if job is not None:
                return job, True
        for path in open_files(pid):
            directory, _, name = path.rpartition("/")
            if directory == self._directory:
                slot = name.partition(".")[0]
                for job in runner.active.values():
                    if str(job.slot) == slot:
                        return job, True
                return None, True
        return None, False

    def _stop(self, stop: TreeStop) -> None:
        pause = stop.step()
        if pause is None:
            self._known.pop(stop.tree.pid, None)
        else:
            self._runner.timers.after(pause, lambda: self._stop(stop))


def _any_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _oom_kills() -> int:
    """How often the kernel has killed for want of memory since the boot."""
    try:
        with open("/proc/vmstat", encoding="ascii") as source:
            for line in source:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
