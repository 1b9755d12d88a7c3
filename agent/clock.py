"""Time: wall clock text, and the hybrid logical clock that orders records for display.

Nothing that matters is ordered by a clock: sync uses sequence numbers. Source of the hybrid clock: Kulkarni et al.,
"Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases", 2014.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from functools import lru_cache

_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
MAX_ADVANCE_MS = 24 * 3600 * 1000
"""How far a received stamp may pull our clock ahead of the wall clock; one from further ahead is not followed."""


def utc_text(seconds: float) -> str:
    """``seconds`` since the epoch as UTC ISO-8601 text with microseconds and a ``Z``."""
    whole = math.floor(seconds)
    micros = round((seconds - whole) * 1_000_000)
    if micros == 1_000_000:
        whole, micros = whole + 1, 0
    return f"{_to_the_second(whole)}.{micros:06d}Z"


@lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def utc_now() -> str:
    """The time now, as :func:`utc_text`."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


def deadline_time() -> float:
    """Seconds since the epoch by a clock that nobody sets: what has passed, sleep included, since it was first asked for.

    What ends at a time that a scheduler has told ends neither sooner nor later because this host's clock is set meanwhile.
    """
    return _began() + time.clock_gettime(_PASSING)


@lru_cache(maxsize=1)
def _began() -> float:
    return time.time() - time.clock_gettime(_PASSING)


def parse_utc(text: str) -> float:
    """Seconds since the epoch of an ISO-8601 text as :func:`utc_text` writes it.

    Raises:
        ValueError: not such a text.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


class HybridClock:
    """A clock that never runs backwards, whatever the wall clock or a peer does.

    Stamps are text, ``MMMMMMMMMMMM-CCCC`` in hexadecimal: milliseconds, then a counter; they sort as text.

    Args:
        last: the last stamp known, when a store is opened again.
    """

    def __init__(self, last: str = ""):
        self._ms, self._count = _parse(last) if last else (0, 0)
        self._head_ms, self._head = -1, ""

    def tick(self) -> str:
        """The stamp for a new record: later than every stamp given or seen before."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self._ms:
            self._ms, self._count = now_ms, 0
        elif self._count < 0xFFFF:
            self._count += 1
        else:
            self._ms, self._count = self._ms + 1, 0
        if self._head_ms != self._ms:
            self._head_ms, self._head = self._ms, f"{self._ms:012x}-"
        return f"{self._head}{self._count:04x}"

    def witness(self, stamp: str) -> None:
        """Take notice of a peer's stamp, unless it lies too far ahead to be believed."""
        ms, count = _parse(stamp)
        if (ms, count) > (self._ms, self._count) and ms <= time.time_ns() // 1_000_000 + MAX_ADVANCE_MS:
            self._ms, self._count = ms, count


def _parse(stamp: str) -> tuple[int, int]:
    ms, _, count = stamp.partition("-")
    return int(ms, 16), int(count, 16)
