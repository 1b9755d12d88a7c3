"""What belongs to a job among the processes of a node: its first, its session, what carries its mark, and all their descendants.

A census is taken of the whole node at one moment; who only asks for the children of this process, or for a group, need take none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Optional

from .processes import START_TOLERANCE_S, Entry, Mark, all_pids, boot_clock, inspect, mark_of, started_within


class Tree(NamedTuple):
    """What belongs to a job.

    Args:
        pid: of its first process, which leads its session.
        start_s, latest_s: when that one started, seconds since the boot: not before and not after. Nothing that started
            before belongs to the job.
        mark: what its processes carry in their environment; None to go by kinship alone.
        strays: processes known to belong to it although they left its session and lost their parents.
    """

    pid: int
    start_s: float
    latest_s: float
    mark: Optional[Mark] = None
    strays: frozenset[int] = frozenset()


class Census:
    """All processes of the node at one moment.

    Taking one costs some 10 µs for each process of the node; ``cost_s`` tells what this one took, so that who takes
    them regularly can keep to a budget.
    """

    def __init__(self) -> None:
        begin = time.perf_counter()
        self.taken_s = boot_clock()
        self.entries: dict[int, Entry] = {}
        for pid in all_pids():
            found = inspect(pid)
            if found is not None:
                self.entries[pid] = found
        self._children: dict[int, list[int]] = {}
        self._sessions: dict[int, list[int]] = {}
        for pid, entry in self.entries.items():
            self._children.setdefault(entry.ppid, []).append(pid)
            self._sessions.setdefault(entry.session, []).append(pid)
            if entry.group != entry.session:
                self._sessions.setdefault(entry.group, []).append(pid)
        self._marks: dict[int, Optional[Mark]] = {}
        self._marked: Optional[dict[Mark, list[int]]] = None
        self.cost_s = time.perf_counter() - begin

    def children(self, parents: Iterable[int]) -> list[int]:
        """The direct children of ``parents``."""
        return [pid for parent in parents for pid in self._children.get(parent, ())]

    def mark(self, pid: int) -> Optional[Mark]:
        """As :func:`mark_of`, read once."""
        if pid not in self._marks:
            self._marks[pid] = mark_of(pid)
        return self._marks[pid]

    def members(self, tree: Tree, *, search: bool = True) -> list[int]:
        """The living processes of a tree: its first one, its session and group, its strays, and all their descendants.

        Args:
            search: look also for the tree's mark in the environments of processes that started later than the tree.
        """
        first = self.entries.get(tree.pid)
        reused = first is not None and not started_within(first, tree.start_s, tree.latest_s)
        # A number that still names a session is not given to a new process: when it was, the session is empty.
        found = set() if reused else {tree.pid, *self._sessions.get(tree.pid, ())}
        found.update(tree.strays)
        earliest = tree.start_s - START_TOLERANCE_S
        if search and tree.mark is not None:
            found.update(self.carriers(tree.mark))
        open_ends = list(found)
        while open_ends:
            for child in self._children.get(open_ends.pop(), ()):
                if child not in found:
                    found.add(child)
                    open_ends.append(child)
        spared = {os.getpid(), os.getppid(), 1}
        alive = []
        for pid in found - spared:
            known = self.entries.get(pid)
            if known is not None and not known.dead and known.start_s >= earliest:
                alive.append(pid)
        return alive

    def carriers(self, mark: Mark) -> Sequence[int]:
        """The living processes that carry a mark; all environments are read for the first one asked for."""
        if self._marked is None:
            self._marked = {}
            for pid, entry in self.entries.items():
                carried = None if entry.dead else self.mark(pid)
                if carried is not None:
                    self._marked.setdefault(carried, []).append(pid)
        return self._marked.get(mark, ())

    def rss_bytes(self, tree: Tree) -> int:
        """The resident memory of a tree: the sum over its processes, pages they share counted for each."""
        return sum(self.entries[pid].rss_bytes for pid in self.members(tree, search=False))


class OwnChildren:
    """The children of this process: of its main thread, the only one that starts any.

    Where the kernel lists them (CONFIG_PROC_CHILDREN, as in all kernels of the large distributions), asking costs one
    system call however many processes the node has.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        try:
            self._fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def pids(self) -> Optional[set[int]]:
        """Their pids, also of those that are dead and not waited for; None where the kernel does not list them."""
        if self._fd < 0:
            return None
        text = os.pread(self._fd, 1 << 20, 0)
        return set(map(int, text.split()))


def group_alive(group: int) -> bool:
    """Whether a process group still has a member, dead but not waited for included. One system call."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
