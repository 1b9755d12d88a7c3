"""``top``: nodes and jobs as they are now, once or live."""

from __future__ import annotations

from dataclasses import replace

import click

from ..client import Client
from ..ids import short
from . import render
from .groups import example
from .node_view import NODE_TITLES, node_row
from .options import json_option, workflow_option
from .session import Session
from .snapshot import INTERVAL_S, MOST_RUNNING, Snapshot, Watcher
from .tally import counts_text
from .text import duration, harmless, job_time_s

LEAST_INTERVAL_S = 0.2
ONCE_RUNNING = 20


@click.command(epilog=example("lwfm top", "lwfm top --workflow melt", "lwfm top --once --json"))
@click.option("--once", is_flag=True, help="Print how things stand, and end; so it is without a terminal, too.")
@json_option
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=LEAST_INTERVAL_S),
    default=INTERVAL_S,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@workflow_option
@click.pass_obj
def top(session: Session, once: bool, as_json: bool, interval_s: float, workflow: str | None) -> None:
    """Watch nodes and jobs: what is in use, what runs, how many jobs end per second. q or Ctrl-C leaves.

    With --workflow only its jobs are counted and listed; the nodes are used by all. JSON is printed once.
    """
    chosen = session.workflow_id(workflow) if workflow else None
    watcher = Watcher(session.client, chosen, interval_s)
    if as_json:
        render.print_json(watcher.look(MOST_RUNNING).to_json())
    elif once or not render.on_terminal():
        show_once(watcher.look(ONCE_RUNNING))
    else:
        from .top_live import follow

        snapshot = watcher.look(MOST_RUNNING)  # this one may start the agent
        watcher.client = Client(replace(session.endpoint, may_start=False))
        follow(watcher, snapshot, interval_s, workflow)


def show_once(snapshot: Snapshot) -> None:
    """A snapshot as plain tables."""
    rows = map(node_row, snapshot.nodes)
    render.table(NODE_TITLES, rows if snapshot.mixed else ((*row[:-1], None) for row in rows))
    render.say()
    render.say(f"Jobs: {counts_text(snapshot.counts) or 'none'}")
    for line in snapshot.allocations:
        render.say(harmless(line))
    if snapshot.running:
        render.say()
        render.table(
            ("RUNNING", "NAME", "NODE", "TIME"),
            (
                (short(job["job_id"]), job.get("name"), job.get("host"), duration(job_time_s(job)))
                for job in snapshot.running
            ),
        )
        more = snapshot.going_on - len(snapshot.running)
        if more > 0:
            render.say(f"... and {more:,} more")
