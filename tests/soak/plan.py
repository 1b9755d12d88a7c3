"""What happens in a soak, and when: made from its length and its seed alone, so that the same seed has the same plan. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP_S = 6.0
LOADS = {
    "short jobs": 8, "retried jobs": 3, "followed jobs": 3, "data": 4, "array in the queue": 1, "cancelled jobs": 2,
    "jobs over there by ssh": 2, "jobs on the allocation": 8, "jobs on two nodes": 1, "jobs that tell": 1,
    "large output": 1,
}  # fmt: skip
"""What is asked for, and how often in comparison."""
FAULTS = (
    "kill the agent", "kill the worker", "kill the keeper", "stop the agent", "stop the worker", "fill the disk",
    "kill the driver", "kill the ssh connection", "restart slurmctld", "cut a sync", "sync",
    "over there: kill the agent", "over there: kill a worker", "over there: cut a node", "over there: stop the agent",
    "over there: stop a worker",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing that happens.

    Args:
        at_s: seconds after the beginning, or later when what comes before takes longer.
        what: its name, as above.
        size: how much of it, from 0 to 1, for whoever does it to make something of.
    """

    at_s: float
    what: str
    size: float


@dataclass(frozen=True)
class Plan:
    """All that happens: asked for and gone wrong, each in order of time."""

    seconds: float
    seed: int
    loads: Sequence[Step]
    faults: Sequence[Step]


def make_plan(minutes: float, seed: int) -> Plan:
    """The plan of a soak. Every kind of load and of fault comes before any comes again as often as the time allows."""
    chosen, seconds = random.Random(seed), minutes * 60
    kinds = [kind for kind, weight in LOADS.items() for _ in range(weight)]
    loads = _steps(chosen, kinds, 0.5, seconds, (0.3, 1.3))
    return Plan(seconds, seed, loads, _steps(chosen, FAULTS, WARM_UP_S, seconds, (0.5, 3.0)))


def _steps(
    chosen: random.Random, kinds: Sequence[str], begin_s: float, end_s: float, pause_s: tuple[float, float]
) -> list[Step]:
    steps: list[Step] = []
    left: list[str] = []
    at_s = begin_s
    while at_s < end_s:
        if not left:
            left = list(kinds)
            chosen.shuffle(left)
        steps.append(Step(at_s, left.pop(), chosen.random()))
        at_s += chosen.uniform(*pause_s)
    return steps
