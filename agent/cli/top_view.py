"""How ``top`` looks on a terminal: a snapshot as something rich can draw, cut to the terminal's size. Asks nobody anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..ids import short
from .node_view import memory, share
from .render import STATE_STYLES
from .snapshot import Snapshot
from .text import duration, harmless, job_time_s

if TYPE_CHECKING:
    from ..records import JSON

BAR_WIDTH = 20
NARROW_COLUMNS = 70
"""On a terminal narrower than this, bars are shorter."""
MOST_ALLOCATIONS = 5
OTHER_LINES = 9
"""Lines that are neither a node nor a job: headings, counts, what is left out."""
_NODE_STYLES = {"up": "green", "starting": "yellow", "missing": "bold red", "lost": "bold red"}


def draw(
    snapshot: Snapshot, width: int, height: int, interval_s: float, workflow: str | None = None, trouble: str = ""
) -> RenderableType:
    """The view, not higher than the terminal.

    Args:
        width, height: of the terminal, in columns and lines.
        workflow: which workflow's jobs are shown, as it was typed. trouble: why the snapshot is an old one.
    """
    allocations = snapshot.allocations[:MOST_ALLOCATIONS]
    room = max(2, height - OTHER_LINES - len(allocations) - bool(trouble))
    nodes = snapshot.nodes
    for_nodes = min(len(nodes), max(room - len(snapshot.running), room // 2, 1))
    left_out = len(nodes) - for_nodes
    for_jobs = max(0, room - for_nodes - bool(left_out))
    parts: list[RenderableType] = [_head(snapshot, interval_s, workflow)]
    if trouble:
        parts.append(_line(f"No answer, this is how it was: {trouble}", "bold red"))
    parts += map(_line, allocations)
    parts += [Text(), _nodes(nodes[:for_nodes], width, snapshot.mixed)]
    if left_out:
        parts.append(_line(f"... and {left_out:,} more nodes", "dim"))
    parts += [Text(), _counts(snapshot), _rate(snapshot), Text()]
    if snapshot.running and for_jobs:
        parts.append(_running(snapshot.running[:for_jobs], width))
        more = snapshot.going_on - min(for_jobs, len(snapshot.running))
        if more > 0:
            parts.append(_line(f"... and {more:,} more", "dim"))
    elif not snapshot.running:
        parts.append(_line("Nothing runs.", "dim"))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(harmless(text), style=style, no_wrap=True, overflow="ellipsis")


def _head(snapshot: Snapshot, interval_s: float, workflow: str | None) -> RenderableType:
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    row.add_column(no_wrap=True, justify="right")
    about = Text("lwfm top", style="bold")
    about.append(f"  {harmless(str(snapshot.agent.get('host') or ''))}", style="")
    if workflow:
        about.append(f"  workflow {harmless(workflow)}")
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.taken_at))
    row.add_row(about, Text(f"{clock}  every {interval_s:g} s  q: leave", style="dim"))
    return row


def _nodes(nodes: list[JSON], width: int, mixed: bool) -> RenderableType:
    table = _table()
    with_gpus = any(item.get("gpus") for item in nodes)
    table.add_column("NODE", no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
    table.add_column("STATE", no_wrap=True)
    table.add_column("CORES", no_wrap=True)
    table.add_column("", no_wrap=True, justify="right")
    table.add_column("MEMORY", no_wrap=True, justify="right")
    if with_gpus:
        table.add_column("GPUS", no_wrap=True, justify="right")
    table.add_column("JOBS", no_wrap=True, justify="right")
    with_allocation = mixed and width >= NARROW_COLUMNS
    if with_allocation:
        table.add_column("ALLOCATION", no_wrap=True, overflow="ellipsis")
    for item in nodes:
        state = str(item.get("state") or "")
        cells: list[Any] = [
            Text(harmless(str(item["host"]))),
            Text(harmless(state), style=_NODE_STYLES.get(state, "")),
            bar(item.get("cores_used"), item.get("cores"), BAR_WIDTH if width >= NARROW_COLUMNS else BAR_WIDTH // 4),
            share(item, "cores"),
            memory(item),
        ]
        if with_gpus:
            cells.append(share(item, "gpus"))
        cells.append(str(item.get("jobs", "")))
        if with_allocation:
            cells.append(Text(harmless(str(item.get("allocation") or ""))))
        table.add_row(*cells)
    return table


def bar(used: Any, total: Any, width: int) -> Text:
    """How much of ``total`` is in use, as a bar of ``width`` columns; empty where that is not known."""
    if not total:
        return Text()
    part = min(1.0, max(0.0, (used or 0) / total))
    filled = round(part * width)
    if part and not filled:
        filled = 1
    text = Text("━" * filled, style="green" if part < 1 else "cyan")
    text.append("─" * (width - filled), style="dim")
    return text


def _counts(snapshot: Snapshot) -> Text:
    text = Text("Jobs: ", no_wrap=True, overflow="ellipsis")
    shown = [(state, count) for state, count in snapshot.counts.items() if count]
    for index, (state, count) in enumerate(shown):
        text.append(f"{', ' if index else ''}{count:,} ")
        text.append(harmless(state), style=STATE_STYLES.get(state, ""))
    if not shown:
        text.append("none")
    return text


def _rate(snapshot: Snapshot) -> Text:
    if snapshot.rate is None:
        return _line("Ended per second: not known yet", "dim")
    return _line(f"Ended per second: {snapshot.rate:,.3g}, lately", "" if snapshot.rate else "dim")


def _running(jobs: list[JSON], width: int) -> RenderableType:
    table = _table()
    if width >= NARROW_COLUMNS:
        table.add_column("RUNNING", no_wrap=True)
    table.add_column("NAME", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("NODE", no_wrap=True, overflow="ellipsis", max_width=max(8, width // 4))
    table.add_column("TIME", no_wrap=True, justify="right")
    table.expand = True
    for job in jobs:
        cells = [
            Text(harmless(str(job.get("name") or ""))),
            Text(harmless(str(job.get("host") or ""))),
            Text(duration(job_time_s(job))),
        ]
        if width >= NARROW_COLUMNS:
            cells.insert(0, Text(short(job["job_id"]), style="dim"))
        table.add_row(*cells)
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
