#!/usr/bin/env python3
"""The half-life that counts tell, by least squares of their logarithms: python3 fit.py counts.csv. Knows nothing of lwfm."""

from __future__ import annotations

import csv
import math
import sys

FEWEST = 50
"""Fewer than so many say little."""


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        told = [(float(row["time"]), float(row["left"])) for row in csv.DictReader(file)]
    points = [(time, math.log(left)) for time, left in told if left >= FEWEST]
    count, x, y = len(points), sum(time for time, _ in points), sum(value for _, value in points)
    xx, xy = sum(time * time for time, _ in points), sum(time * value for time, value in points)
    slope = (count * xy - x * y) / (count * xx - x * x)
    print(f"{-math.log(2) / slope:.3f}")


if __name__ == "__main__":
    main()
