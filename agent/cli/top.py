"""``top``: nodes and jobs as they are now, drawn anew every few seconds.

The agent is asked two short questions each time. A live view never starts an agent that has left while it looked on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

import click

from ..client import Client
from ..client.calls import path_of
from ..clock import parse_utc, utc_text
from ..errors import AgentUnreachable
from ..ids import short
from . import render
from .groups import example
from .nodes import allocations_of, nodes_of
from .options import json_option, workflow_option
from .progress import own_counts
from .session import Session
from .signals import ending_signals
from .text import duration, elapsed_s, size

if TYPE_CHECKING:
    from rich.console import Console

    from ..records import JSON

INTERVAL_S = 2.0
LEAST_INTERVAL_S = 0.2
RATE_WINDOW_S = 10.0
"""Over how long the rate of finished jobs is taken, and at least over two intervals."""
MOST_RUNNING = 200
"""Running jobs that are asked for, however high the terminal is."""
ONCE_RUNNING = 20
LOOK_S = 0.25
"""How often to look whether the terminal has another size."""
_ENDED = ("COMPLETE", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class Snapshot:
    """How things stand at one moment.

    Args:
        taken_at: seconds since the epoch. agent: what it says of itself.
        counts: how many jobs of this instance are in each state. running: the newest running ones, newest first.
        rate: jobs that ended per second; None while that is not known.
    """

    taken_at: float
    agent: JSON
    counts: dict[str, int]
    running: list[JSON]
    rate: float | None = None

    @property
    def nodes(self) -> list[JSON]:
        """The nodes: those that are not up first, then by name."""
        return sorted(nodes_of(self.agent), key=lambda item: item.get("state") == "up")

    @property
    def mixed(self) -> bool:
        """Whether the nodes are not all of the same allocation, or of none."""
        return len({item.get("allocation") or "" for item in nodes_of(self.agent)}) > 1

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return sum(self.counts.get(state, 0) for state in _ENDED)

    @property
    def seconds_left(self) -> float | None:
        """How long the allocation of the agent lasts; None where there is none, or no end of it is known."""
        return self.left_s(self.agent.get("allocation") or {})

    def left_s(self, allocation: JSON) -> float | None:
        """How long an allocation lasts; None where no end of it is known."""
        ends_at = allocation.get("ends_at")
        try:
            return max(0.0, parse_utc(ends_at) - self.taken_at) if ends_at else None
        except ValueError:
            return None

    def to_json(self) -> JSON:
        """The snapshot for programs."""
        return {
            "time": utc_text(self.taken_at),
            "nodes": nodes_of(self.agent),
            "jobs": self.counts,
            "running": self.running,
            "allocation": self.agent.get("allocation"),
            "allocations": self.agent.get("allocations") or [],
            "seconds_left": self.seconds_left,
        }


class Watcher:
    """Takes snapshots, with two calls each; the first of a workflow's takes three.

    Args:
        client: where to ask. workflow: count and list only the jobs of this one.
        interval_s: how often it will be used.
    """

    def __init__(self, client: Client, workflow: str | None = None, interval_s: float = INTERVAL_S):
        self.client = client
        self._workflow = workflow
        self._window_s = max(RATE_WINDOW_S, 2 * interval_s)
        self._seen: deque[tuple[float, int]] = deque()
        self._last: Snapshot | None = None
        self._turn = 0

    def look(self, running: int) -> Snapshot:
        """How things stand now, with at most ``running`` running jobs."""
        last = self._last
        if self._workflow is None:
            agent = self.client.get("/v1/agent")
            counts = agent.get("jobs") or {}
            listed = self._running(counts, running)
        else:  # three questions in two calls: nodes and running jobs take turns
            counts = own_counts(self.client.get(path_of("workflows", self._workflow)))
            first = last is None or self._turn % 2 == 0
            agent = self.client.get("/v1/agent") if last is None or first else last.agent
            listed = self._running(counts, running) if last is None or not first else last.running
        self._turn += 1
        snapshot = Snapshot(time.time(), agent, counts, listed)
        self._last = replace(snapshot, rate=self._rate(snapshot.ended))
        return self._last

    def _running(self, counts: JSON, limit: int) -> list[JSON]:
        if limit < 1 or (not counts.get("RUNNING") and not counts.get("FINISHING")):
            return []
        limit = min(limit, MOST_RUNNING)
        query = {"state": ["RUNNING", "FINISHING"], "workflow": self._workflow, "origin": "here", "limit": limit}
        found: list[JSON] = self.client.get("/v1/jobs", query)["jobs"]
        return found

    def _rate(self, ended: int) -> float | None:
        now = time.monotonic()
        self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(0, ended - before) / (now - then) if now > then else None


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
        snapshot = watcher.look(MOST_RUNNING)  # this one may start the agent
        watcher.client = Client(replace(session.endpoint, may_start=False))
        follow(watcher, snapshot, interval_s, workflow)


def show_once(snapshot: Snapshot) -> None:
    """A snapshot as plain tables."""
    render.table(
        ("NODE", "STATE", "CORES", "MEMORY", "GPUS", "JOBS", "ALLOCATION"),
        (
            (
                str(item["host"]),
                item.get("state"),
                share(item, "cores"),
                memory(item),
                share(item, "gpus") if item.get("gpus") else "",
                str(item.get("jobs", "")),
                item.get("allocation") if snapshot.mixed else None,
            )
            for item in snapshot.nodes
        ),
    )
    render.say()
    render.say(f"Jobs: {counts_line(snapshot.counts)}")
    for line in allocation_lines(snapshot):
        render.say(line)
    if snapshot.running:
        render.say()
        render.table(
            ("RUNNING", "NAME", "NODE", "TIME"),
            (
                (short(job["job_id"]), job.get("name"), job.get("host"), duration(_elapsed_s(job)))
                for job in snapshot.running
            ),
        )
        more = _more_running(snapshot, len(snapshot.running))
        if more:
            render.say(more)


def share(item: JSON, name: str) -> str:
    """``3/8`` of a node's cores or GPUs; empty where that is not known."""
    return f"{item.get(name + '_used', 0)}/{item[name]}" if item.get(name) is not None else ""


def memory(item: JSON) -> str:
    """The memory of a node that is set aside for jobs, and what it has."""
    total = item.get("memory_bytes")
    return "" if total is None else f"{size(item.get('memory_used_bytes') or 0)}/{size(total)}"


def counts_line(counts: dict[str, int]) -> str:
    """``12 RUNNING, 3 PENDING``."""
    return ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "none"


def allocation_lines(snapshot: Snapshot) -> list[str]:
    """The allocations, and how long they last."""
    lines = []
    for found in allocations_of(snapshot.agent):
        left = snapshot.left_s(found)
        until = "" if left is None else f", {duration(left)} left" if left else ", its time is over"
        lines.append(f"Allocation {found.get('id')} ({found.get('scheduler')}), {found.get('nodes')} nodes{until}")
    return lines


def _elapsed_s(job: JSON) -> float | None:
    return elapsed_s(job.get("started_at"), job.get("ended_at"))


def _more_running(snapshot: Snapshot, listed: int) -> str:
    more = snapshot.counts.get("RUNNING", 0) + snapshot.counts.get("FINISHING", 0) - listed
    return f"... and {more:,} more" if more > 0 else ""


class _Left(Exception):
    """The process was told to end, by this signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Signals:
    """Signals that end us: they raise only where we wait, so that the terminal is never left half drawn."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting = False

    def _take(self, number: int, _: Any) -> None:
        self._number = number
        if self._waiting:
            raise _Left(number)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """While this lasts, the signals are ours."""
        with ending_signals(self._take):
            yield

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While this lasts a signal raises, one that came before it as well."""
        self._waiting = True
        try:
            if self._number:
                raise _Left(self._number)
            yield
        finally:
            self._waiting = False


def follow(watcher: Watcher, snapshot: Snapshot, interval_s: float, workflow: str | None) -> None:
    """Draw what ``watcher`` sees on the alternate screen, until q or Ctrl-C; leave the terminal as it was."""
    from rich.console import Console
    from rich.live import Live

    from .top_view import draw

    console = Console()
    signals = _Signals()
    trouble = ""

    def drawn() -> Any:
        return draw(snapshot, console.width, console.height, interval_s, workflow, trouble)

    try:
        with (
            signals.taken(),
            _keys() as pressed,
            Live(drawn(), console=console, screen=True, auto_refresh=False) as live,
        ):
            until = time.monotonic() + interval_s
            while True:
                with signals.raised():
                    if _wait(pressed, console, until):
                        return
                    if time.monotonic() >= until:
                        try:
                            snapshot, trouble = watcher.look(console.height), ""
                        except AgentUnreachable as error:
                            trouble = error.message
                        until = time.monotonic() + interval_s
                live.update(drawn(), refresh=True)
    except _Left as told:
        if told.number != signal.SIGINT:
            raise SystemExit(128 + told.number) from None


def _wait(pressed: Callable[[float], str], console: Console, until: float) -> bool:
    """Wait until then, or until the terminal has another size; whether ``q`` was pressed."""
    size_before = console.size
    while console.size == size_before:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        if pressed(min(left_s, LOOK_S)) in ("q", "Q"):
            return True
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and gives it, or nothing; keys are not shown meanwhile."""
    if not sys.stdin.isatty():

        def nothing(timeout_s: float) -> str:
            time.sleep(timeout_s)
            return ""

        yield nothing
        return
    import termios

    stream = sys.stdin.fileno()
    before = termios.tcgetattr(stream)
    mode = termios.tcgetattr(stream)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with the alternate screen

    def pressed(timeout_s: float) -> str:
        if not select.select([stream], [], [], timeout_s)[0]:
            return ""
        found = os.read(stream, 1)
        return found.decode("latin-1") if found else "q"  # the terminal has gone

    termios.tcsetattr(stream, termios.TCSADRAIN, mode)
    try:
        yield pressed
    finally:
        termios.tcsetattr(stream, termios.TCSAFLUSH, before)
