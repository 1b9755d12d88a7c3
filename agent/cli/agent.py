"""``agent``: start, stop, status, logs."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..client import Client
from ..client.startup import start_agent
from ..errors import AgentElsewhere, AgentUnreachable, NotFound
from ..host.troubles import STORE
from . import render
from .agent_control import ask_agent, stop_agent
from .groups import Group, example
from .node_view import allocation_text, allocations_of, memory, share
from .options import json_option
from .session import Session
from .sync_view import peer_line
from .tally import counts_text
from .text import duration, elapsed_s, harmless, plural
from .typed import Duration, Number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..records import JSON

TAIL_BYTES = 256 * 1024
FOLLOW_POLL_S = 0.5
EXIT_NOT_RUNNING = 7


@click.group(cls=Group, short_help="The agent.")
def agent() -> None:
    """The agent: the process that owns this instance's store, runs its jobs and answers everybody else.

    Other commands start it when they need it; one that was started so leaves again when it has been idle.
    """


@agent.command(epilog=example("lwfm agent start", "lwfm agent start --idle-exit 1h", "lwfm agent start --take-over"))
@click.option("--idle-exit", type=Duration(), metavar="TIME", help="Leave after so long without work. [default: never]")
@click.option("--take-over", is_flag=True, help="Oust an owner on another host that does not answer; see above.")
@json_option
@click.pass_obj
def start(session: Session, idle_exit: float | None, take_over: bool, as_json: bool) -> None:
    """Start the agent. Harmless when it runs.

    Where hosts share the home, the agent of one of them owns the store until it is proven to be gone. With --take-over it is
    ousted without proof: for a host that is down for good, or cannot be reached. If that agent lives after all, it ends as soon
    as it notices, and nothing that it has acknowledged is lost. But its jobs may still run there: they count as lost here after
    a while, and those that may be tried again then run twice. Make sure that they do not, or that it does no harm.
    """
    try:
        before = ask_agent(session)
    except AgentElsewhere:
        if not take_over:
            raise
        before = None
    if before is None:
        client = Client(replace(session.endpoint, may_start=False))
        start_agent(session.endpoint.home, idle_exit, client.knock, take_over=take_over)
        client.close()
    now = before or ask_agent(session)
    if now is None:
        raise AgentUnreachable("the agent was started but does not answer", hint="lwfm agent logs may tell why")
    if as_json:
        render.print_json({**now, "started": before is None})
    else:
        word = "runs already" if before is not None else "started"
        render.say(f"agent {word}: pid {now['pid']}, socket {harmless(str(now['socket']))}")


@agent.command(epilog=example("lwfm agent stop"))
@click.option(
    "--kill", is_flag=True, help="End its jobs too; otherwise they go on, and the next agent takes them over."
)
@json_option
@click.pass_obj
def stop(session: Session, kill: bool, as_json: bool) -> None:
    """Stop the agent. Harmless when it does not run."""
    before = stop_agent(session, kill=kill)
    if as_json:
        render.print_json({"stopped": before is not None})
    else:
        who = f" (pid {before['pid']})" if before and before["pid"] else ""
        render.say(f"agent stopped{who}" if before is not None else "the agent does not run")


@agent.command(epilog=example("lwfm agent status", "lwfm agent status --json"))
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> int:
    """Whether the agent runs, and how it is. The exit code is 7 when it does not; it is not started."""
    found = ask_agent(session)
    if as_json:
        running = found is not None
        home = session.instance
        absent = {"home": str(home.root), "socket": str(session.endpoint.socket), "store": str(home.database)}
        render.print_json({"running": running, **(found or absent)})
    elif found is None:
        render.say(f"the agent of {session.instance.root} does not run")
    else:
        _show(found)
    return 0 if found is not None else EXIT_NOT_RUNNING


def _show(found: JSON) -> None:
    idle = found.get("idle_exit_s")
    render.pairs(
        [
            ("agent", f"pid {found['pid']} on {found.get('host', '?')}"),
            *(("trouble", trouble) for trouble in _troubles(found)),
            ("version", str(found.get("version", ""))),
            ("up", duration(elapsed_s(found.get("started_at"), None))),
            ("home", str(found.get("home", ""))),
            ("socket", str(found.get("socket", ""))),
            ("store", f"{found.get('store', '')} ({found.get('journal_mode', '?')})"),
            ("leaves", f"after {duration(idle)} without work" if idle else None),
            ("jobs", counts_text(found.get("jobs") or {}) or "none"),
            *(("worker", _worker(worker)) for worker in found.get("workers") or ()),
            *(("allocation", allocation_text(allocation, time.time())) for allocation in allocations_of(found)),
            *(("sync", peer_line(peer)) for peer in found.get("peers") or () if peer.get("every_s")),
            *(("note", notice) for notice in found.get("notices") or ()),
        ]
    )


def _troubles(found: JSON) -> Iterator[str]:
    """What does not work at the moment, the worst first."""
    for trouble in sorted(found.get("troubles") or (), key=lambda item: str(item["about"]) != STORE):
        accepts = "accepts nothing: " if trouble["about"] == STORE else f"{trouble['about']}: "
        hint = f"; {trouble['hint']}" if trouble.get("hint") else ""
        yield f"{accepts}{trouble['message']}, for {duration(elapsed_s(trouble['since'], None))}{hint}"
    for worker in found.get("workers") or ():
        if worker.get("trouble"):
            yield f"{worker.get('host', '?')} starts no jobs: {worker['trouble']}"


def _worker(worker: Any) -> str:
    of = f" of {worker['allocation']}" if worker.get("allocation") else ""
    cores, gpus = share(worker, "cores"), share(worker, "gpus") if worker.get("gpus") else ""
    parts = (cores and f"{cores} cores", memory(worker), gpus and f"{gpus} GPUs")
    return (
        f"{worker.get('host', '?')} pid {worker.get('pid', '?')}{of} {worker.get('state', '')}: "
        f"{', '.join(part for part in parts if part)}, {plural(int(worker.get('jobs', 0)), 'job')} running"
    )


@agent.command(epilog=example("lwfm agent logs --lines 100", "lwfm agent logs --follow"))
@click.option("--lines", "-n", type=Number(min=0), default=50, show_default=True, help="So many of the last.")
@click.option("--follow", "-f", is_flag=True, help="Print what comes, until Ctrl-C.")
@click.pass_obj
def logs(session: Session, lines: int, follow: bool) -> None:
    """What the agent had to say."""
    path = session.instance.agent_log
    try:
        stream = path.open("rb")
    except OSError as error:
        raise NotFound(
            f"cannot read {path}: {error.strerror}", hint="has the agent run yet? lwfm agent start"
        ) from error
    with stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
        last = stream.read().splitlines()
        for line in last[len(last) - min(lines, len(last)) :]:
            render.say(harmless(line.decode("utf-8", "backslashreplace")))
        while follow:
            sys.stdout.flush()
            line = stream.readline()
            if line:
                render.say(harmless(line.decode("utf-8", "backslashreplace").rstrip("\n")))
            else:
                time.sleep(FOLLOW_POLL_S)  # a file tells nobody that it grew
