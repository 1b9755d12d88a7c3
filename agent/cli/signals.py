"""The signals that end a program from outside, taken by one of ours for a while."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable


@contextmanager
def ending_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """While this lasts, INT, TERM and HUP go to ``handler``; then to whom they went before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
