"""The pictures of a report as SVG text: jobs on nodes over time, and levels over time. Asks nobody anything.

Lengths are in units of the picture, which is ``WIDTH`` wide and scales with the page. Everything from records is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Callable

from . import charts
from .report_facts import Facts, Node, Run
from .report_html import clean
from .report_style import STATES
from .text import duration

WIDTH, LEFT, RIGHT = 960.0, 132.0, 16.0
PLOT = WIDTH - LEFT - RIGHT
AXIS_HEIGHT = 26.0
BARS = 3_000
"""With more runs than this, nodes are drawn as strips of how busy they were."""
BAR_ROWS = 400
STRIPS = 400
"""Nodes that are drawn as strips, the busiest ones, when there are more."""
STRIP_POINTS = 40_000
"""How many steps all strips have together, at most."""
STRIP_BINS = 300
LEVEL_BINS = 400
LEVEL_HEIGHT = 120.0
NAME_LENGTH = 120
REASON_LENGTH = 240
SHORTEST_BAR = 1.5
_FROM_BELOW = ("UNKNOWN", "FAILED", "CANCELLED", "RUNNING", "FINISHING", "COMPLETE")


def by_lane(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each node."""
    lanes: dict[str, list[Run]] = {}
    for run in runs:
        lanes.setdefault(run.lane, []).append(run)
    return lanes


def jobs_on_nodes(facts: Facts) -> tuple[str, str]:
    """The picture of what ran where and when, and a sentence on how to read it."""
    lanes = {**{node.name: [] for node in facts.nodes}, **by_lane(facts.runs)}
    if len(facts.runs) <= BARS:
        least = SHORTEST_BAR / PLOT * facts.wall_s
        packed = {name: charts.pack([run.span for run in runs], least) for name, runs in lanes.items()}
        if sum(rows for _, rows in packed.values()) <= BAR_ROWS:
            return _bars(facts, lanes, packed)
    return _strips(facts, lanes)


def _bars(facts: Facts, lanes: dict[str, list[Run]], packed: dict[str, tuple[list[int], int]]) -> tuple[str, str]:
    rows_in_all = sum(rows for _, rows in packed.values())
    height = 15.0 if rows_in_all <= 40 else 9.0 if rows_in_all <= 120 else 5.0
    gap = 2.0 if height > 5 else 1.0
    place = charts.scale(facts.start, facts.end, PLOT)
    parts, top = [], 8.0
    for node in facts.nodes:
        rows, count = packed[node.name]
        lane_height = max(count * height, 16.0)
        parts.append(_lane(top, lane_height, node))
        offset = top + (lane_height - count * height) / 2
        for run, row in zip(lanes[node.name], rows):
            left, right = place(run.span.start), place(run.span.end)
            width = max(right - left, SHORTEST_BAR)
            left = min(left, PLOT - width)
            parts.append(
                f'<rect class="{_class(run.state)}" x="{LEFT + left:.1f}" y="{offset + row * height + gap / 2:g}"'
                f' width="{width:.1f}" height="{height - gap:g}"><title>{_tip(run)}</title></rect>'
            )
        top += lane_height + 6
    title = f"{len(facts.whole_runs)} runs of jobs on {len(facts.nodes)} nodes over time"
    how = (
        "One bar for each run of a job; the pointer on it tells which. A node has as many rows as jobs ran there at once;"
        " the height of a bar means nothing."
    )
    return _picture(title, parts, top, facts), how


def _tip(run: Run) -> str:
    job = run.job
    lines = [
        clean(job.get("name") or "job", NAME_LENGTH),
        escape(job["job_id"]),
        f"{escape(run.state)}{' (still going on)' if run.going_on else ''}, {duration(run.length_s)}, {clean(run.lane)}",
    ]
    if run.attempt > 1 or job.get("attempt", 1) > 1:
        lines[2] += f", attempt {run.attempt}"
    if run.reason:
        lines.append(clean(run.reason, REASON_LENGTH))
    return "\n".join(lines)


def _strips(facts: Facts, lanes: dict[str, list[Run]]) -> tuple[str, str]:
    nodes = facts.nodes
    if len(nodes) > STRIPS:
        busy = {name: charts.total(run.span for run in runs) for name, runs in lanes.items()}
        chosen = set(sorted(busy, key=lambda name: -busy[name])[:STRIPS])
        nodes = [node for node in nodes if node.name in chosen]
    bins = max(40, min(STRIP_BINS, STRIP_POINTS // len(nodes)))
    height = 34.0 if len(nodes) <= 12 else 20.0 if len(nodes) <= 60 else 10.0
    parts, top = [], 8.0
    for node in nodes:
        parts.append(_lane(top, height, node))
        parts.append(_strip(facts, node, lanes[node.name], bins, top, height))
        top += height + (6 if height > 10 else 2)
    title = f"How busy each of {len(nodes)} nodes was over time, for {len(facts.whole_runs)} runs of jobs"
    how = (
        f"Too many runs for a bar each ({len(facts.whole_runs):,}): the height of a strip is the share of the node's cores in use,"
        f" averaged over {duration(facts.wall_s / bins)}, in the colours of what became of the jobs."
    )
    if len(nodes) < len(facts.nodes):
        how += f" Only the {len(nodes)} busiest of {len(facts.nodes)} nodes are drawn."
    return _picture(title, parts, top, facts), how


def _strip(facts: Facts, node: Node, runs: list[Run], bins: int, top: float, height: float) -> str:
    """The node's jobs of each state, one state on the other; those that need no core count where no others do."""
    waits_only = not any(run.span.weight for run in runs)
    spans: dict[str, list[charts.Span]] = {}
    for run in runs:
        spans.setdefault(run.state, []).append(run.span._replace(weight=1.0) if waits_only else run.span)
    full = max(charts.peak(span for of_state in spans.values() for span in of_state) if waits_only else node.cores, 1.0)
    base = [0.0] * bins
    paths, shares = [], []
    for state in sorted(spans, key=_from_below):
        mean = charts.levels(spans[state], facts.start, facts.end, bins).mean
        upper = [low + value for low, value in zip(base, mean)]
        paths.append(f'<path class="{_class(state)}" d="{_band(base, upper, full, top, height)}"/>')
        shares.append(f"{len(spans[state]):,} {state}")
        base = upper
    used = "" if waits_only else f", {100 * sum(base) / bins / full:.0f}% of its cores in use on average"
    return f"<g><title>{clean(node.name)}: {escape(', '.join(shares))}{used}</title>{''.join(paths)}</g>"


def _band(lower: Sequence[float], upper: Sequence[float], full: float, top: float, height: float) -> str:
    """The path around what lies between two lines of steps."""
    place = charts.scale(0.0, full, height)
    there = _steps([top + height - place(value) for value in upper], LEFT, PLOT)
    back = _steps([top + height - place(value) for value in reversed(lower)], LEFT + PLOT, -PLOT)
    return f"M{there}L{back}Z"


def _steps(heights: Sequence[float], left: float, width: float) -> str:
    """A line of equal steps from ``left`` over ``width``, as the inner part of a path; equal heights are one step."""
    step = width / len(heights)
    parts = []
    last = None
    for index, value in enumerate(heights):
        shown = f"{value:.1f}"
        if shown == last:
            continue
        place = f"{left + index * step:.1f}"
        parts.append(f"{place} {shown}" if last is None else f"H{place}V{shown}")
        last = shown
    return f"{''.join(parts)}H{left + width:.1f}"


def level_picture(
    title: str,
    facts: Facts,
    levels: charts.Levels,
    marks: Sequence[float],
    label: Callable[[float], str],
    *,
    unit: str,
    bound: charts.Levels | None = None,
    bound_name: str = "",
) -> str:
    """A picture of a level over time: the average of each moment as an area, the most as a line.

    Args:
        marks: the values with a line across, from 0 to the top. label: how a value is written. unit: of the axis.
        bound: a level to draw as a broken line, as what there is in all. bound_name: what it is.
    """
    place = charts.scale(0.0, marks[-1], LEVEL_HEIGHT)
    top = 22.0
    parts = [f'<text x="{LEFT - 8:g}" y="12" text-anchor="end">{escape(unit)}</text>']
    for mark in marks:
        at = top + LEVEL_HEIGHT - place(mark)
        parts.append(f'<path class="grid" d="M{LEFT:g} {at:.1f}H{LEFT + PLOT:g}"/>')
        parts.append(f'<text x="{LEFT - 8:g}" y="{at + 4:.1f}" text-anchor="end">{escape(label(mark))}</text>')
    zero = [0.0] * len(levels.mean)
    parts.append(f'<path class="mean" d="{_band(zero, levels.mean, marks[-1], top, LEVEL_HEIGHT)}"/>')
    most = _steps([top + LEVEL_HEIGHT - place(value) for value in levels.most], LEFT, PLOT)
    parts.append(f'<path class="most" d="M{most}"/>')
    if bound is not None and bound.peak <= marks[-1]:
        at = top + LEVEL_HEIGHT - place(bound.peak)
        steps = _steps([top + LEVEL_HEIGHT - place(value) for value in bound.most], LEFT, PLOT)
        parts.append(f'<path class="bound" d="M{steps}"/>')
        parts.append(f'<text x="{LEFT + PLOT:g}" y="{at - 4:.1f}" text-anchor="end">{escape(bound_name)}</text>')
    return _picture(title, parts, top + LEVEL_HEIGHT, facts)


def _lane(top: float, height: float, node: Node) -> str:
    name = node.name if len(node.name) <= 20 else node.name[:19] + "…"
    return (
        f'<rect class="lane" x="{LEFT:g}" y="{top:g}" width="{PLOT:g}" height="{height:g}"/>'
        f'<text class="name" x="{LEFT - 8:g}" y="{top + height / 2 + 4:g}" text-anchor="end">{clean(name)}'
        f"<title>{clean(node.name)}</title></text>"
    )


def _picture(title: str, parts: Sequence[str], bottom: float, facts: Facts) -> str:
    """The parts with a time axis below."""
    marks = charts.time_ticks(facts.wall_s)
    step = marks[1] if len(marks) > 1 else max(facts.wall_s, 1.0)
    place = charts.scale(0.0, facts.wall_s, PLOT)
    lines, labels = [], []
    for mark in marks:
        at = LEFT + place(mark)
        lines.append(f'<path class="grid" d="M{at:.1f} 0V{bottom:g}"/>')
        labels.append(
            f'<path class="axis" d="M{at:.1f} {bottom:g}v4"/>'
            f'<text x="{at:.1f}" y="{bottom + 17:g}" text-anchor="middle">{charts.time_label(mark, step)}</text>'
        )
    axis = f'<path class="axis" d="M{LEFT:g} {bottom:g}H{LEFT + PLOT:g}"/>'
    return (
        f'<svg class="picture" viewBox="0 0 {WIDTH:g} {bottom + AXIS_HEIGHT:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join((*lines, *parts, axis, *labels))}</svg>"
    )


def _class(state: str) -> str:
    return state if state in STATES else "UNKNOWN"


def _from_below(state: str) -> int:
    """The order of states in a strip: what went wrong stands on the ground, where it is seen best."""
    return _FROM_BELOW.index(state) if state in _FROM_BELOW else 0
