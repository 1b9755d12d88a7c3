"""When a site is asked, and how it is: pure, with the time given. Whoever waits for what this says sleeps elsewhere.

While nothing changes the questions become rarer. A site whose calls fail is down, and is tried again after pauses that grow, not
at the same moments as by others; one that asks for a login is tried rarely. The next call that succeeds heals it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

from ..errors import LoginRequired, LwfmError

SLOWEST_POLL_S = 60.0
GROWTH = 1.5
FIRST_RETRY_S = 1.0
SLOWEST_RETRY_S = 60.0
LOGIN_RETRY_S = 300.0
JUMP_S = 60.0
UP, DOWN, LOGIN = "up", "down", "login"


class Pace:
    """How often a site is asked how its jobs are."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._asked_at = float("-inf")

    def due_at(self, fastest_s: float) -> float:
        """When the next question is due."""
        return self._asked_at + min(max(self._pause_s, fastest_s), max(SLOWEST_POLL_S, fastest_s))

    def asked(self, now: float, fastest_s: float, *, changed: bool) -> None:
        """It was asked; ``changed``: and told something new."""
        self._asked_at = now
        self._pause_s = fastest_s if changed else max(self._pause_s, fastest_s) * GROWTH

    def hurry(self) -> None:
        """News is to be expected: the next question comes as soon as may be."""
        self._pause_s = 0.0

    def at_once(self) -> None:
        """Ask now, however lately it was asked."""
        self._pause_s, self._asked_at = 0.0, float("-inf")


@dataclass
class Health:
    """How a site is, as far as its calls have told.

    Args:
        state: None: it was not asked yet. ``reason``: why it is down. ``since``: since when, UTC.
        retry_at: when it is tried next.
        draw: gives numbers from 0 to 1.
    """

    state: Optional[str] = None
    reason: Optional[str] = None
    since: Optional[str] = None
    retry_at: float = float("-inf")
    failures: int = 0
    draw: Callable[[], float] = random.random

    @property
    def bad(self) -> bool:
        """Whether it is known not to take anything now."""
        return self.state in (DOWN, LOGIN)

    def failed(self, error: LwfmError, now: float, time: str, fastest_s: float = 0.0) -> bool:
        """A call has failed; whether it has become down, or asks for a login, with this. ``fastest_s``: the shortest pause."""
        state = LOGIN if isinstance(error, LoginRequired) else DOWN
        news = state != self.state
        if news:
            self.since = time
        self.state, self.reason = state, error.message
        self.failures += 1
        pause_s = min(SLOWEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self.failures - 1, 10))
        if state == LOGIN:
            pause_s = LOGIN_RETRY_S
        self.retry_at = now + max(fastest_s, pause_s * (0.5 + self.draw() / 2))
        return news

    def succeeded(self) -> bool:
        """A call has succeeded; whether it was down before."""
        healed = self.bad
        self.state, self.reason, self.since, self.failures, self.retry_at = UP, None, None, 0, float("-inf")
        return healed

    def try_now(self) -> None:
        """Something has changed that may have healed it."""
        self.retry_at = float("-inf")


class ClockWatch:
    """Notices that the wall clock has gone on while ours stood still, as while a laptop sleeps, or that it was set."""

    def __init__(self, wall: float, ours: float):
        self._ahead_s = wall - ours

    def jumped(self, wall: float, ours: float) -> bool:
        """Whether it has, since this was asked last, by more than ``JUMP_S``."""
        before, self._ahead_s = self._ahead_s, wall - ours
        return abs(self._ahead_s - before) > JUMP_S
