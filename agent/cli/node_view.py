"""The nodes and allocations in what the agent says of itself, and how they read. Asks nobody anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ..clock import parse_utc
from .text import duration, moment, plural, size

if TYPE_CHECKING:
    from ..records import JSON

NODE_TITLES = ("NODE", "STATE", "CORES", "MEMORY", "GPUS", "JOBS", "ALLOCATION")


def nodes_of(found: JSON) -> list[JSON]:
    """The nodes in what the agent says of itself, those without a worker included."""
    nodes: list[JSON] = list(found.get("workers") or ())
    for allocation in allocations_of(found):
        states, name = allocation.get("other_nodes") or {}, allocation.get("name")
        there = {item["host"] for item in nodes if item.get("allocation") == name and item.get("state") == "lost"}
        nodes += [
            {"host": host, "state": state, "allocation": name}
            for host, state in states.items()
            if state != "up" and host not in there
        ]
    return sorted(nodes, key=lambda item: (str(item["host"]), str(item.get("allocation") or "")))


def allocations_of(found: JSON) -> list[JSON]:
    """The allocations in what the agent says of itself: the one it is in first, then those it has asked for."""
    own = found.get("allocation")
    return [*([own] if own else []), *(found.get("allocations") or ())]


def missing_nodes(found: JSON) -> list[str]:
    """The nodes of the allocation that did not come up, in what the agent says of itself."""
    states = (found.get("allocation") or {}).get("other_nodes") or {}
    return sorted(host for host, state in states.items() if state == "missing")


def share(item: JSON, name: str) -> str:
    """``3/8`` of a node's cores or GPUs; empty where that is not known."""
    return f"{item.get(name + '_used', 0)}/{item[name]}" if item.get(name) is not None else ""


def memory(item: JSON) -> str:
    """The memory of a node that is set aside for jobs, and what it has."""
    total = item.get("memory_bytes")
    return "" if total is None else f"{size(item.get('memory_used_bytes') or 0)}/{size(total)}"


def node_row(item: JSON) -> tuple[Optional[str], ...]:
    """A node as a row under ``NODE_TITLES``."""
    return (
        str(item["host"]),
        item.get("state"),
        share(item, "cores"),
        memory(item),
        share(item, "gpus") if item.get("gpus") else "",
        str(item.get("jobs", "")),
        item.get("allocation"),
    )


def seconds_left(allocation: JSON, at: float) -> float | None:
    """How long an allocation lasts at that moment (seconds since the epoch); None where no end of it is known."""
    ends_at = allocation.get("ends_at")
    try:
        return max(0.0, parse_utc(ends_at) - at) if ends_at else None
    except ValueError:
        return None


def allocation_text(allocation: JSON, at: float) -> str:
    """``4711 (slurm), 4 nodes, 1 missing, 59m59s left (until 14:05:00)``: an allocation at that moment."""
    states = list((allocation.get("other_nodes") or {}).values())
    absent = [f"{states.count(state)} {state}" for state in ("starting", "missing", "lost") if state in states]
    left = seconds_left(allocation, at)
    until = [f"{duration(left)} left (until {moment(allocation['ends_at'])})" if left else "its time is over"]
    about = f"{allocation.get('id')} ({allocation.get('scheduler')})"
    return ", ".join(
        [about, plural(int(allocation.get("nodes") or 0), "node"), *absent, *(until if left is not None else ())]
    )
