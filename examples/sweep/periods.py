#!/usr/bin/env python3
"""The analysis of the sweep: the period of each trajectory in a file of several, beside that of the exact solution, as CSV.

    python3 periods.py sweep.csv > periods.csv

It knows nothing of lwfm. The exact period is 2 pi / agm(1, cos(amplitude / 2)).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator


def trajectories(path: str) -> Iterator[list[tuple[float, float]]]:
    """Times and angles of each; a line of titles begins one."""
    rows: list[tuple[float, float]] = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("time"):
                if rows:
                    yield rows
                rows = []
            else:
                time, angle, _ = line.split(",")
                rows.append((float(time), float(angle)))
    yield rows


def exact(amplitude: float) -> float:
    """The period of an amplitude in degrees."""
    a, b = 1.0, math.cos(math.radians(amplitude) / 2)
    for _ in range(8):
        a, b = (a + b) / 2, math.sqrt(a * b)
    return 2 * math.pi / a


def main() -> None:
    found = []
    for rows in trajectories(sys.argv[1]):
        passes = [
            time + (later - time) * angle / (angle - after)
            for (time, angle), (later, after) in zip(rows, rows[1:])
            if angle > 0 >= after
        ]
        found.append((round(math.degrees(rows[0][1])), passes[1] - passes[0]))
    print("amplitude,period,exact")
    for amplitude, period in sorted(found):
        print(f"{amplitude},{period:.6f},{exact(amplitude):.6f}")


if __name__ == "__main__":
    main()
