"""Waiting in tests: for a condition, never for a time."""

from __future__ import annotations

import time
from typing import Callable, Optional, TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], Optional[T]],
    what: str,
    *,
    timeout_s: float = 20.0,
    on_timeout: Optional[Callable[[], str]] = None,
) -> T:
    """Wait until ``condition`` gives something true, and return it.

    Args:
        what: what is waited for, for the message of the failure.
        on_timeout: gives more to say then, such as the tail of a log.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.002
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}" + (f"\n{on_timeout()}" if on_timeout else ""))
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
