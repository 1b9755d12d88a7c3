"""What the pictures of a report are computed from: spans of time packed into rows, levels over time, scales. Pure.

Knows nothing of jobs, of the agent or of SVG: times are seconds, weights whatever is being added up. Every function takes
time in proportion to its spans (times a logarithm where they are sorted), whatever the number of bins.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Callable, NamedTuple

_DECIMAL_STEPS = (1.0, 2.0, 5.0, 10.0)
_TIME_STEPS_S = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0, 7200.0, 10800.0, 21600.0, 43200.0, 86400.0),
)
DAY_S = 86400.0


class Span(NamedTuple):
    """Something that went on from ``start`` to ``end`` (seconds; not before ``start``), as much as ``weight``."""

    start: float
    end: float
    weight: float = 1.0


class Levels(NamedTuple):
    """The sum of the weights of the spans over time: per bin its average and the most at any moment."""

    mean: list[float]
    most: list[float]

    @property
    def peak(self) -> float:
        """The most at any moment."""
        return max(self.most, default=0.0)


def span_of(start: float, end: float, weight: float = 1.0) -> Span:
    """A span; one that ends before it starts (two clocks that disagree) has no length."""
    return Span(start, max(start, end), weight)


def pack(spans: Sequence[Span], least: float = 0.0) -> tuple[list[int], int]:
    """Rows for spans so that those of one row do not overlap, as few rows as can be.

    Args:
        least: seconds that a span takes up at least, so that what is drawn wider than it is does not overlap either.

    Returns:
        The row of each span, in the order given, and the number of rows.
    """
    rows = [0] * len(spans)
    busy: list[tuple[float, int]] = []  # until when, which row
    free: list[int] = []
    count = 0
    for index in sorted(range(len(spans)), key=lambda number: (spans[number].start, spans[number].end)):
        start, end, _ = spans[index]
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row, count = count, count + 1
        rows[index] = row
        heapq.heappush(busy, (max(end, start + least), row))
    return rows, count


def levels(spans: Iterable[Span], start: float, end: float, bins: int) -> Levels:
    """How much went on in each of ``bins`` equal parts of the time from ``start`` to ``end``.

    The averages are exact: a span that lies within one bin counts with the share of the bin it fills. A span without any
    length adds to nothing.
    """
    if bins < 1:
        return Levels([], [])
    width = (end - start) / bins
    if width <= 0:  # also a time too short to be divided
        return Levels([0.0] * bins, [0.0] * bins)
    changes: list[tuple[float, float]] = []
    for span in spans:
        first, last = max(span.start, start), min(span.end, end)
        if last > first and span.weight:
            changes.append((first, span.weight))
            changes.append((last, -span.weight))
    changes.sort()
    mean, most = [0.0] * bins, [0.0] * bins
    level, now, moment = 0.0, 0, start
    for at, change in [*changes, (end, 0.0)]:
        while (
            at > moment
        ):  # what is between two changes counts, not the moments themselves: there, some have ended already
            edge = start + (now + 1) * width if now < bins - 1 else end
            until = min(at, edge)
            if until > moment:
                mean[now] += level * (until - moment)
                most[now] = max(most[now], level)
                moment = until
            if moment >= edge:
                now = min(now + 1, bins - 1)
        level = max(0.0, level + change)
    return Levels([_clean(total / width) for total in mean], [_clean(value) for value in most])


def _clean(value: float) -> float:
    """Without what rounding leaves of a level that has gone back to nothing."""
    return value if value > 1e-9 else 0.0


def peak(spans: Iterable[Span]) -> float:
    """The most that went on at one moment."""
    changes = sorted(
        change
        for span in spans
        if span.end > span.start
        for change in ((span.start, span.weight), (span.end, -span.weight))
    )
    level = highest = 0.0
    for _, change in changes:
        level += change
        highest = max(highest, level)
    return highest


def total(spans: Iterable[Span]) -> float:
    """The sum of weight times length: core-seconds, where the weights are cores."""
    return math.fsum(span.weight * (span.end - span.start) for span in spans)


def scale(low: float, high: float, length: float) -> Callable[[float], float]:
    """A function from a value between ``low`` and ``high`` to a place between 0 and ``length``; what is outside is cut."""
    extent = high - low

    def place(value: float) -> float:
        if extent <= 0:
            return 0.0
        return min(max((value - low) / extent, 0.0), 1.0) * length

    return place


def ticks(high: float, count: int = 4, *, binary: bool = False) -> list[float]:
    """Round values from 0 to the first that is not below ``high``, about ``count`` of them.

    Args:
        binary: for bytes: round in the unit (a power of 1024) that ``high`` has.
    """
    if high <= 0 or not math.isfinite(high):
        return [0.0, 1.0]
    unit = 1.0
    while binary and high / unit >= 1024:
        unit *= 1024
    rough = high / unit / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in _DECIMAL_STEPS if factor * power >= rough * (1 - 1e-9))
    return [number * step * unit for number in range(math.ceil(high / unit / step - 1e-9) + 1)]


def whole_ticks(high: float, count: int = 4) -> list[float]:
    """The same for things that are counted: no fractions."""
    return [value for value in ticks(max(high, 1.0), count) if value == int(value)] if high > 1 else [0.0, 1.0]


def time_ticks(length_s: float, count: int = 8) -> list[float]:
    """Seconds from 0 to at most ``length_s`` at steps people use: 1 s, 15 s, 5 min, 6 h, days; about ``count``."""
    if length_s <= 0 or not math.isfinite(length_s):
        return [0.0]
    rough = length_s / count
    if rough <= _TIME_STEPS_S[0]:
        step = ticks(length_s, count)[1]
    elif rough > DAY_S:
        step = ticks(length_s / DAY_S, count)[1] * DAY_S
    else:
        step = next(step for step in _TIME_STEPS_S if step >= rough)
    return [number * step for number in range(math.floor(length_s / step + 1e-9) + 1)]


def time_label(seconds: float, step_s: float) -> str:
    """A place on a time axis whose marks are ``step_s`` apart: ``250 ms``, ``45 s``, ``3 min``, ``1:30 h``, ``2 d``."""
    if seconds == 0:
        return "0"
    if step_s < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.6g} s"
    if step_s < 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
    if step_s < DAY_S:
        hours, minutes = divmod(round(seconds / 60), 60)
        if not hours:
            return f"{minutes} min"
        return f"{hours}:{minutes:02d} h" if minutes or step_s < 3600 else f"{hours} h"
    return f"{seconds / DAY_S:.4g} d"
