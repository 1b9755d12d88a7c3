#!/usr/bin/env python3
"""The simulation code of the study: a pendulum of unit length, let go at an amplitude; prints its trajectory as CSV.

    python3 examples/insitu/pendulum.py 90 > trajectory.csv

It knows nothing of lwfm. Units are such that small swings take 2 pi.
"""

from __future__ import annotations

import argparse
import math


def advance(angle: float, speed: float, step: float) -> tuple[float, float]:
    """One step of the classical Runge-Kutta method of angle'' = -sin(angle)."""
    k1, l1 = speed, -math.sin(angle)
    k2, l2 = speed + step / 2 * l1, -math.sin(angle + step / 2 * k1)
    k3, l3 = speed + step / 2 * l2, -math.sin(angle + step / 2 * k2)
    k4, l4 = speed + step * l3, -math.sin(angle + step * k3)
    return angle + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), speed + step / 6 * (l1 + 2 * l2 + 2 * l3 + l4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("amplitude", type=float, help="degrees, above 0 and below 180")
    parser.add_argument("--step", type=float, default=0.005, help="default %(default)s")
    options = parser.parse_args()
    if not 0 < options.amplitude < 180:
        parser.error("the amplitude is above 0 and below 180 degrees")
    angle, speed, passes = math.radians(options.amplitude), 0.0, 0
    print("time,angle,speed")
    for number in range(10_000_000):
        print(f"{number * options.step:.6f},{angle:.12f},{speed:.12f}")
        if passes == 2:
            return
        before = angle
        angle, speed = advance(angle, speed, options.step)
        passes += before > 0 >= angle  # from right to left, through the lowest point


if __name__ == "__main__":
    main()
