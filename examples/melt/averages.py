"""Means and their standard errors from correlated samples, and how much of the beginning to leave out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_BLOCKS = 16
"""Fewer blocks say too little about their own scatter."""
BATCH = 5
"""Samples that are averaged before the beginning is judged: the 5 of MSER-5."""


@dataclass(frozen=True)
class Average:
    """The mean of a quantity.

    Args:
        mean: of the samples. ``error``: its standard error.
        samples: how many there were.
        block: samples per block at which the error was read off; ``converged``: whether it had stopped to grow
            with the length of the blocks.
    """

    mean: float
    error: float
    samples: int
    block: int
    converged: bool


def block_average(samples: Sequence[float]) -> Average:
    """The mean, with its error by the blocking method of Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989).

    Neighbouring samples are averaged in pairs, again and again. The error that the scatter of n blocks suggests,
    sqrt(var / (n - 1)), grows as long as the blocks are correlated and then stays, within its own uncertainty, the
    error divided by sqrt(2 (n - 1)). The first level that no later one exceeds by more than its uncertainty is taken.
    When the error still grows at the last level, the run is too short to tell, and the error probably too small.

    Raises:
        ValueError: there are too few samples.
    """
    if len(samples) < MIN_BLOCKS:
        raise ValueError(f"{len(samples)} samples are too few for a mean with an error: at least {MIN_BLOCKS}")
    mean = math.fsum(samples) / len(samples)
    blocks = list(samples)
    errors: list[float] = []
    uncertainties: list[float] = []
    while len(blocks) >= MIN_BLOCKS:
        count = len(blocks)
        centre = math.fsum(blocks) / count
        variance = math.fsum((block - centre) ** 2 for block in blocks) / count
        errors.append(math.sqrt(variance / (count - 1)))
        uncertainties.append(errors[-1] / math.sqrt(2 * (count - 1)))
        blocks = [(blocks[place] + blocks[place + 1]) / 2 for place in range(0, count - 1, 2)]
    level = next(
        level
        for level, error in enumerate(errors)
        if all(later - error <= uncertainties[level] for later in errors[level + 1 :])
    )
    last = len(errors) - 1
    still_growing = last == 0 or errors[last] - errors[last - 1] > uncertainties[last]
    return Average(mean, errors[level], len(samples), 2**level, not still_growing)


def equilibrated_from(samples: Sequence[float]) -> int:
    """The first sample that is not part of the approach to equilibrium: the rule MSER-5.

    Of all ways to cut off a beginning, up to half of the run, it takes the one that makes the standard error of what
    remains the smallest (White, Simulation 69, 323, 1997; batches of 5 by White, Cobb and Spratt, Proc. Winter
    Simulation Conf. 2000, 755). An answer of half of the run says that equilibrium has hardly been reached.
    """
    batches = [math.fsum(samples[place : place + BATCH]) / BATCH for place in range(0, len(samples) - BATCH + 1, BATCH)]
    best, cut = math.inf, 0
    total = squares = 0.0
    shift = batches[-1] if batches else 0.0  # keeps the difference of two large numbers from losing digits
    for place in range(len(batches) - 1, -1, -1):
        total += batches[place] - shift
        squares += (batches[place] - shift) ** 2
        count = len(batches) - place
        if place <= len(batches) // 2:
            measure = (squares - total**2 / count) / count**2
            if measure <= best:
                best, cut = measure, place
    return cut * BATCH
