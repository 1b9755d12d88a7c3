#!/usr/bin/env python3
"""The counts of a decaying source, as CSV: python3 decay.py HALF_LIFE SEED > counts.csv. Knows nothing of lwfm."""

from __future__ import annotations

import random
import sys

SOURCE, TIMES = 5000, 60


def main() -> None:
    half_life, seed = float(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(seed).random  # noqa: S311 (a simulation)
    stays = 0.5 ** (1 / half_life)
    left = SOURCE
    print("time,left")
    for time in range(TIMES):
        print(f"{time},{left}")
        left -= sum(draw() > stays for _ in range(left))


if __name__ == "__main__":
    main()
