"""``node``: the nodes that the agent has, or waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ..client import Client
from ..errors import SiteError
from . import render
from .groups import Group, example
from .options import json_option, limit_option
from .session import Session
from .text import size

if TYPE_CHECKING:
    from ..records import JSON

LOOK_S = 0.2


@click.group(cls=Group, short_help="The nodes.")
def node() -> None:
    """The nodes that jobs run on: this machine, and in an allocation all its nodes."""


@node.command("list", epilog=example("lwfm node list", "lwfm node list --json"))
@json_option
@click.pass_obj
def list_nodes(session: Session, as_json: bool) -> None:
    """List the nodes: whether they are there, and what of them is in use.

    A node of an allocation that has not come yet is starting; one that did not come in time is missing.
    """
    found = session.client.get("/v1/agent")
    nodes = nodes_of(found)
    if as_json:
        render.print_json(nodes)
        return
    rows = (
        (
            item["host"],
            item["state"],
            _share(item, "cores"),
            _memory(item),
            _share(item, "gpus"),
            str(item.get("jobs", "")),
            item.get("allocation"),
        )
        for item in nodes
    )
    render.table(("NODE", "STATE", "CORES", "MEMORY", "GPUS", "JOBS", "ALLOCATION"), rows)
    for allocation in allocations_of(found):
        until = f" until {allocation['ends_at']}" if allocation.get("ends_at") else ""
        render.say(f"Allocation {allocation['id']} ({allocation['scheduler']}), {allocation['nodes']} nodes{until}")


@node.command(epilog=example("lwfm node history", "lwfm node history --since 2026-05-01T08:00 --json"))
@click.option("--since", metavar="TIME", help="From this time (UTC) on, with what was there then.")
@limit_option(200)
@json_option
@click.pass_obj
def history(session: Session, since: str | None, limit: int, as_json: bool) -> None:
    """List when nodes came and went, oldest first, of all allocations there have been.

    The cores a node had, and how long it was there, are what `lwfm report` holds the use against.
    """
    found = session.client.get("/v1/nodes", {"since": since, "limit": limit})["nodes"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            item["time"][:19],
            item["host"],
            item.get("elsewhere"),
            item["state"],
            str(item.get("cores", "")),
            size(item["memory_bytes"]) if item.get("memory_bytes") else "",
            str(item.get("gpus", "")),
            item.get("allocation", ""),
            item.get("reason", ""),
        )
        for item in found
    )
    render.table(("TIME", "NODE", "ORIGIN", "STATE", "CORES", "MEMORY", "GPUS", "ALLOCATION", "WHY"), rows)


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


def wait_for_all_nodes(client: Client) -> None:
    """Wait until every node of the allocation is up.

    Raises:
        SiteError: one did not come up in time.
    """
    while True:
        found = client.get("/v1/agent")
        missing = missing_nodes(found)
        if missing:
            raise SiteError(
                f"{', '.join(missing)} did not come up",
                hint="lwfm agent logs may tell why; or go on without --require-all",
            )
        states = (found.get("allocation") or {}).get("other_nodes") or {}
        if all(state == "up" for state in states.values()):
            return
        time.sleep(LOOK_S)  # a launcher tells nobody how far it is


def _share(item: JSON, name: str) -> str:
    return f"{item.get(name + '_used', 0)}/{item[name]}" if item.get(name) is not None else ""


def _memory(item: JSON) -> str:
    total = item.get("memory_bytes")
    return "" if total is None else f"{size(item.get('memory_used_bytes', 0))}/{size(total)}"
