"""What is to be done later, in order of time. Knows nothing of what it is."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Callable, Optional

Action = Callable[[], None]

MOST_S = 86400.0
"""What is farther away is looked at again then: 25 days of milliseconds are too many for the system's call."""


class Timer:
    """One thing to be done later; :meth:`cancel` it when it is no longer wanted."""

    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Optional[Action] = action

    def cancel(self) -> None:
        """Make it never happen."""
        self.action = None


class Timers:
    """A heap of timers on the monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def after(self, seconds: float, action: Action) -> Timer:
        """Do ``action`` in ``seconds``."""
        timer = Timer(action)
        heapq.heappush(self._heap, (time.monotonic() + max(0.0, seconds), next(self._order), timer))
        return timer

    def run_due(self) -> None:
        """Do what is due. What is added meanwhile waits for the next call."""
        if not self._heap:
            return
        now = time.monotonic()
        due = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].action is None):
            due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            action, timer.action = timer.action, None
            if action is not None:
                action()

    def wait_s(self) -> Optional[float]:
        """Seconds until something is due, but not more than epoll(7) can wait for; None when nothing is."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return min(MOST_S, max(0.0, self._heap[0][0] - time.monotonic())) if self._heap else None
