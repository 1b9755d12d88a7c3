"""What processes and stores take while a soak goes on, and whether it grows: judged by the slope of a line through it."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

SAMPLE_S = 1.0
LEFT_OUT = 0.3
"""Of the time, at the beginning, when what is read for the first time is kept."""
YOUNG_S = 4.0
"""A process that was started again has not what it will have."""
BARS = "▁▂▃▄▅▆▇█"
CHART_WIDTH = 40
MEMORY_TOLERANCE = (12.0, 1.0)
"""MiB that the line may rise, and how much of that for each minute."""
FILES_TOLERANCE = (12.0, 0.2)
"""Descriptors, likewise. Each job that runs takes a few, and a short soak may end with more of them than it had in its middle."""
STORE_BYTES_PER_JOB = 12 * 1024
"""A job with its statuses, its properties, its share of logs and data, and the indices of all."""


@dataclass
class Series:
    """One thing measured: when, and how much."""

    unit: str
    points: list[tuple[float, float]] = field(default_factory=list)

    def growth(self) -> float:
        """By how much the fitted line rises over the time that is judged (least squares)."""
        points = self.judged()
        if len(points) < 5:
            return 0.0
        mean_t = sum(t for t, _ in points) / len(points)
        mean_v = sum(v for _, v in points) / len(points)
        spread = sum((t - mean_t) ** 2 for t, _ in points)
        slope = sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else 0.0
        return slope * (points[-1][0] - points[0][0])

    def judged(self) -> list[tuple[float, float]]:
        """The points without those of the beginning."""
        if not self.points:
            return []
        begin = self.points[0][0] + LEFT_OUT * (self.points[-1][0] - self.points[0][0])
        return [point for point in self.points if point[0] >= begin]

    def minutes(self) -> float:
        """How long the time is that is judged."""
        points = self.judged()
        return (points[-1][0] - points[0][0]) / 60 if points else 0.0

    def chart(self) -> str:
        """It as a line of bars, from zero."""
        values = [value for _, value in self.points]
        if not values:
            return ""
        step = max(1, len(values) // CHART_WIDTH)
        shown = [max(values[n : n + step]) for n in range(0, len(values), step)]
        top = max(shown) or 1.0
        return "".join(BARS[min(len(BARS) - 1, int(value / top * (len(BARS) - 1) + 0.5))] for value in shown)


Pids = Callable[[], Mapping[str, Sequence[int]]]


class Sampler(threading.Thread):
    """Measures every second until it is told to end.

    Args:
        pids: which processes there are, by what they are called in the report. ``stores``: the files of each store.
    """

    def __init__(self, pids: Pids, stores: Mapping[str, Path]) -> None:
        super().__init__(daemon=True, name="soak-sampler")
        self.memory: dict[str, Series] = defaultdict(lambda: Series("MiB"))
        self.files: dict[str, Series] = defaultdict(lambda: Series("files"))
        self.stores: dict[str, Series] = defaultdict(lambda: Series("MiB"))
        self._pids, self._paths = pids, dict(stores)
        self._seen: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            now = time.monotonic()
            for name, pids in self._pids().items():
                self._sample(now, name, pids)
            for name, path in self._paths.items():
                total = sum(size_of(Path(f"{path}{end}")) for end in ("", "-wal"))
                self.stores[name].points.append((now, total / 2**20))

    def end(self) -> None:
        self._over.set()
        self.join(30)

    def _sample(self, now: float, name: str, pids: Sequence[int]) -> None:
        grown = [pid for pid in pids if now - self._seen.setdefault(pid, now) >= YOUNG_S]
        measured = [found for pid in grown if (found := _measured(pid)) is not None]
        if measured:
            self.memory[name].points.append((now, max(memory for memory, _ in measured)))
            self.files[name].points.append((now, float(max(files for _, files in measured))))


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _measured(pid: int) -> tuple[float, int] | None:
    """Memory of its own in MiB, and descriptors, of a process; None: it has ended."""
    try:
        resident, shared = (int(word) for word in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError):
        return None
