"""The stopping of processes: of one that must not be mistaken for another, and of a whole tree.

Source: pidfd_open(2).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Optional

from .processes import START_TOLERANCE_S, inspect
from .trees import Census, Tree


def send_signal(pid: int, start_s: float, number: int) -> bool:
    """Send a signal to that very process, never to another one that was given its number since.

    Returns:
        Whether it was there.
    """
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        handle = -1
    try:
        entry = inspect(pid)
        if entry is None or entry.start_s != start_s:
            return False
        if handle >= 0 and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


class TreeStop:
    """The stopping of one tree: TERM to all of it, a time of grace, then KILL until nothing is left.

    Never blocks: whoever owns it calls :meth:`step` when the time it asked for has come, or earlier when something of
    the tree has ended.
    """

    POLL_MIN_S = 0.01
    POLL_MAX_S = 0.25
    COST_SHARE = 0.1
    """At most this share of one core goes into looking after one tree that is being stopped."""

    def __init__(self, tree: Tree, grace_s: float) -> None:
        self.tree = tree
        self._grace_s = max(0.0, grace_s)
        self._kill_at: Optional[float] = None
        self._termed: set[int] = set()
        self._pause_s = self.POLL_MIN_S

    def hurry(self, grace_s: float) -> None:
        """Shorten the time of grace: what remains of it is at most ``grace_s``."""
        self._grace_s = min(self._grace_s, max(0.0, grace_s))
        if self._kill_at is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + self._grace_s)

    def step(self, census: Optional[Census] = None) -> Optional[float]:
        """Do what is due.

        Args:
            census: a fresh one, when there is one; it must be younger than the tree.

        Returns:
            Seconds after which to come back; None when nothing of the tree is left.
        """
        census = census or Census()
        members = census.members(self.tree)
        if not members:
            return None
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + self._grace_s
        if now >= self._kill_at:
            self._kill(census, members)
        else:
            # The first one first: else it could end by itself for the loss of a child, and tell another story.
            for pid in sorted(members, key=lambda pid: pid != self.tree.pid):
                if pid not in self._termed:
                    self._termed.add(pid)
                    send_signal(pid, census.entries[pid].start_s, signal.SIGTERM)
                    send_signal(pid, census.entries[pid].start_s, signal.SIGCONT)  # a stopped one could not obey
        pause = max(self._pause_s, census.cost_s / self.COST_SHARE)
        self._pause_s = min(self._pause_s * 1.5, self.POLL_MAX_S)
        return pause if now >= self._kill_at else min(pause, self._kill_at - now)

    def _kill(self, census: Census, members: Sequence[int]) -> None:
        # A group gets its signal at one stroke, which no fork escapes; then each one, for those in groups of others.
        groups = {census.entries[pid].group for pid in members}
        for group in groups & {self.tree.pid, *members}:
            leader = census.entries.get(group)
            if leader is None or leader.start_s >= self.tree.start_s - START_TOLERANCE_S:
                try:
                    os.killpg(group, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        for pid in members:
            send_signal(pid, census.entries[pid].start_s, signal.SIGKILL)
