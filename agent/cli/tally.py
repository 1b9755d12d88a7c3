"""How many jobs are in which state, and how that reads. Asks nobody anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..states import TERMINAL

if TYPE_CHECKING:
    from ..records import JSON


def own_counts(workflow: JSON) -> dict[str, int]:
    """How many jobs of a workflow are in each state at this instance; those of others are not followed from here."""
    everywhere, elsewhere = workflow.get("job_counts") or {}, workflow.get("jobs_elsewhere") or {}
    counts = {state: int(count) - int(elsewhere.get(state, 0)) for state, count in everywhere.items()}
    return {state: count for state, count in counts.items() if count > 0}


def ended_count(counts: Mapping[str, int]) -> int:
    """How many have ended."""
    return sum(counts.get(state, 0) for state in TERMINAL)


def running_count(counts: Mapping[str, int]) -> int:
    """How many run now."""
    return counts.get("RUNNING", 0) + counts.get("FINISHING", 0)


def counts_text(counts: Mapping[str, int]) -> str:
    """``12 RUNNING, 3 PENDING``; empty where there are none."""
    return ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
