"""The jobs that wait for room: grouped by what they ask for, in the order in which they are served.

Of what may be a hundred thousand jobs only the id is kept here; what they run is read when they are given to a worker. Knows
nothing of nodes.

The order: higher priority first; then the wider (more nodes, GPUs, cores, memory), for narrow ones fit in beside them but not
the other way round; then first come first served. So that nothing starves, a group of which nothing was placed for
``STARVING_S`` is served before the others of its priority.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Optional

from ..capacity import Shape

STARVING_S = 60.0
SORT_AGAIN_S = 1.0
SORTED_AT_ONCE = 256
"""With more groups than this a new one is served last until the order is made anew, within ``SORT_AGAIN_S``."""


class Waiting:
    """A job that waits.

    Args:
        since: on the monotonic clock.
    """

    __slots__ = ("attempt", "group", "job_id", "since")

    def __init__(self, job_id: str, attempt: int, since: float, group: Group):
        self.job_id = job_id
        self.attempt = attempt
        self.since = since
        self.group = group


class Group:
    """The waiting jobs of one shape, first come first served.

    Attributes:
        served_at: when one of them was last placed.
    """

    __slots__ = ("_entries", "_gone", "number", "served_at", "shape")

    def __init__(self, shape: Shape, number: int):
        self.shape = shape
        self.number = number
        self.served_at = 0.0
        self._entries: deque[Waiting] = deque()
        self._gone: set[int] = set()

    def head(self) -> Optional[Waiting]:
        """The next one; None when there is none."""
        entries = self._entries
        while entries and self._gone and id(entries[0]) in self._gone:
            self._gone.discard(id(entries.popleft()))
        return entries[0] if entries else None

    def __len__(self) -> int:
        return len(self._entries) - len(self._gone)

    def add(self, entry: Waiting, *, first: bool) -> None:
        """Take a job in."""
        if first:
            self._entries.appendleft(entry)
        else:
            self._entries.append(entry)

    def drop(self, entry: Waiting) -> None:
        """This one waits no more."""
        if self._entries and self._entries[0] is entry:
            self._entries.popleft()
        else:
            self._gone.add(id(entry))

    def unserved_since(self) -> float:
        """Since when there have been jobs of which none was placed."""
        head = self.head()
        return self.served_at if head is None else max(self.served_at, head.since)


class WaitingJobs:
    """All that waits."""

    def __init__(self) -> None:
        self._by_id: dict[str, Waiting] = {}
        self._groups: dict[Shape, Group] = {}
        self._order: list[Group] = []
        self._sorted_at = 0.0
        self._number = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, job_id: str) -> Optional[Waiting]:
        """The waiting job of that id."""
        return self._by_id.get(job_id)

    def add(self, job_id: str, attempt: int, shape: Shape, now: float) -> bool:
        """Have a job wait.

        Returns:
            Whether it is the only one of its shape, so that there may be room for it although there was none for others.
        """
        self.drop(job_id)
        group = self._groups.get(shape)
        if group is None:
            self._number += 1
            group = self._groups[shape] = Group(shape, self._number)
            self._order.append(group)
            if len(self._groups) <= SORTED_AT_ONCE:
                self._sorted_at = 0.0
        entry = Waiting(job_id, attempt, now, group)
        self._by_id[job_id] = entry
        group.add(entry, first=False)
        return len(group) == 1

    def put_back(self, entry: Waiting) -> None:
        """Have a job that was taken wait again, before the others of its shape."""
        group = self._groups.setdefault(entry.group.shape, entry.group)
        if not len(group):
            self._order.append(group)
            self._sorted_at = 0.0
        entry.group = group
        self._by_id[entry.job_id] = entry
        group.add(entry, first=True)

    def drop(self, job_id: str) -> bool:
        """A job waits no more.

        Returns:
            Whether it did.
        """
        entry = self._by_id.pop(job_id, None)
        if entry is None:
            return False
        entry.group.drop(entry)
        return True

    def take(self, entry: Waiting, now: float) -> None:
        """A job has been placed."""
        self.drop(entry.job_id)
        entry.group.served_at = now

    def in_order(self, now: float) -> Iterator[Group]:
        """The groups that have jobs, as they are to be served."""
        if now - self._sorted_at > SORT_AGAIN_S or not self._sorted_at:
            self._sort(now)
        for group in list(self._order):
            if len(group):
                yield group

    def _sort(self, now: float) -> None:
        for shape in [shape for shape, group in self._groups.items() if not len(group)]:
            del self._groups[shape]

        def key(group: Group) -> tuple[Any, ...]:
            unserved = group.unserved_since()
            if now - unserved > STARVING_S:
                return -group.shape.priority, 0, unserved, group.shape.width, group.number
            return -group.shape.priority, 1, *(-part for part in group.shape.width), group.number

        self._order = sorted(self._groups.values(), key=key)
        self._sorted_at = now or time.monotonic()
