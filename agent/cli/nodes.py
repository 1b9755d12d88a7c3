"""``node``: the nodes that the agent has, or waits for."""

from __future__ import annotations

import time

import click

from . import render
from .groups import Group, example
from .node_view import NODE_TITLES, allocation_text, allocations_of, node_row, nodes_of
from .options import json_option, limit_option
from .session import Session
from .text import harmless, size
from .typed import Moment


@click.group(cls=Group, short_help="The nodes.")
def node() -> None:
    """The nodes that jobs run on: this machine, and in an allocation all its nodes."""


@node.command(
    "list",
    short_help="The nodes, and what of them is in use.",
    epilog=example("lwfm node list", "lwfm node list --json"),
)
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
    render.table(NODE_TITLES, map(node_row, nodes))
    for allocation in allocations_of(found):
        render.say(f"Allocation {harmless(allocation_text(allocation, time.time()))}")


@node.command(
    short_help="When nodes came and went.",
    epilog=example("lwfm node history", "lwfm node history --since 2026-05-01T08:00 --json"),
)
@click.option("--since", type=Moment(), help="From this time (UTC) on, with what was there then.")
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
