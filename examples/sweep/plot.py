#!/usr/bin/env python3
"""Plots the periods of the sweep: points over the line of the exact solution, as SVG. Knows nothing of lwfm, and needs no library.

python3 plot.py periods.csv > periods.svg
"""

from __future__ import annotations

import csv
import sys

WIDTH, HEIGHT, EDGE = 480, 320, 48


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [(float(row["amplitude"]), float(row["period"]), float(row["exact"])) for row in csv.DictReader(file)]
    low, high = 6.0, max(row[1] for row in rows) * 1.05

    def at(amplitude: float, period: float) -> tuple[float, float]:
        x = EDGE + (WIDTH - 2 * EDGE) * amplitude / 180
        return round(x, 1), round(HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (period - low) / (high - low), 1)

    line = " ".join("{},{}".format(*at(amplitude, exact)) for amplitude, _, exact in rows)
    dots = "".join('<circle cx="{}" cy="{}" r="4" fill="#c0392b"/>'.format(*at(*row[:2])) for row in rows)
    left, bottom = at(0, low)
    right, top = at(180, high)
    ticks = "".join(
        f'<text x="{at(angle, low)[0]}" y="{bottom + 18}" text-anchor="middle">{angle}°</text>'
        for angle in range(0, 181, 30)
    )
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<path d="M{left} {top} V{bottom} H{right}" fill="none" stroke="#888"/>'
        f'<polyline points="{line}" fill="none" stroke="#2c3e50" stroke-width="1.5"/>{dots}{ticks}'
        f'<text x="{left - 8}" y="{bottom}" text-anchor="end">{low:.1f}</text>'
        f'<text x="{left - 8}" y="{top + 8}" text-anchor="end">{high:.1f}</text>'
        f'<text x="{left}" y="{top - 12}">period of a pendulum of unit length, by its amplitude; line: exact</text></svg>'
    )


if __name__ == "__main__":
    main()
