"""Following jobs to their end: a bar that is redrawn on a terminal, a plain line now and then elsewhere.

The agent is asked what changed and answers when something did; this module only limits how often.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Protocol

from ..client import Client
from .screen import Screen
from .tally import ended_count, running_count
from .text import duration

if TYPE_CHECKING:
    from ..records import JSON

LINE_INTERVAL_S = 2.0
"""The least time between two plain lines."""
BAR_CALL_S = 1.0
"""How long a call waits while a bar is shown, whose rate and time left change by themselves."""
LINE_CALL_S = 5.0
MIN_GATHER_S, MAX_GATHER_S = 0.05, 0.5
BAR_WIDTH = 30


@dataclass(frozen=True)
class Progress:
    """How far a set of jobs has come.

    Args:
        counts: how many jobs are in each state. total: of all of them.
        active: how many may still change without anybody's doing. waiting_handlers: those that wait for data.
    """

    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    active: int = 0
    waiting_handlers: int = 0

    @classmethod
    def from_json(cls, body: JSON) -> Progress:
        """The answer of ``/v1/progress``."""
        return cls(
            {state: int(count) for state, count in body.get("counts", {}).items() if count},
            int(body.get("total", 0)),
            int(body.get("active", 0)),
            int(body.get("waiting_handlers", 0)),
        )

    def less(self, other: Progress) -> Progress:
        """Without the jobs that ``other`` counts."""
        counts = {state: count - other.counts.get(state, 0) for state, count in self.counts.items()}
        return Progress(
            {state: count for state, count in counts.items() if count > 0},
            self.total - other.total,
            self.active,
            self.waiting_handlers,
        )

    def plus(self, other: Progress) -> Progress:
        """With the jobs that ``other`` counts."""
        states = [*self.counts, *(state for state in other.counts if state not in self.counts)]
        counts = {state: self.counts.get(state, 0) + other.counts.get(state, 0) for state in states}
        waiting = self.waiting_handlers + other.waiting_handlers
        return Progress(counts, self.total + other.total, self.active + other.active, waiting)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return ended_count(self.counts)

    @property
    def failed(self) -> int:
        """How many have failed."""
        return self.counts.get("FAILED", 0)

    @property
    def running(self) -> int:
        """How many run now."""
        return running_count(self.counts)


class Meter(Protocol):
    """Something that shows progress."""

    call_s: float

    def show(self, progress: Progress) -> None:
        """Show how far it is."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Quiet:
    """Shows nothing."""

    call_s = LINE_CALL_S

    def show(self, progress: Progress) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """A plain line on standard error when something has changed, at most every two seconds."""

    call_s = LINE_CALL_S

    def __init__(self) -> None:
        self._rate = Rate()
        self._last_s = -LINE_INTERVAL_S
        self._last_text = ""

    def show(self, progress: Progress) -> None:
        """Print a line, if it is time for one and it says something new."""
        now = time.monotonic()
        text = sentence(progress)
        self._rate.see(progress)
        if not progress.total or text == self._last_text or now - self._last_s < LINE_INTERVAL_S:
            return
        self._last_s, self._last_text = now, text
        print(f"lwfm: {text}{self._rate.text(progress)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to do."""


class Bar:
    """One line at the bottom of the terminal, drawn through a :class:`Screen` so that other output stays above it."""

    call_s = BAR_CALL_S

    def __init__(self, screen: Screen):
        self._screen = screen
        self._rate = Rate()

    def show(self, progress: Progress) -> None:
        """Draw it anew."""
        self._rate.see(progress)
        total = max(progress.total, 1)
        filled = BAR_WIDTH * min(progress.ended, total) // total
        bar = "━" * filled + ("╺" if filled < BAR_WIDTH else "") + "─" * max(0, BAR_WIDTH - filled - 1)
        if self._screen.colours:
            colour = "31" if progress.failed else "32"
            bar = f"\x1b[{colour}m{bar[:filled]}\x1b[2;39m{bar[filled:]}\x1b[0m"
        facts = sentence(progress) + self._rate.text(progress)
        self._screen.set_footer(facts, bar, BAR_WIDTH)

    def close(self) -> None:
        """Take it away."""
        self._screen.set_footer("", "", 0)


class Rate:
    """How fast jobs end, since it was first looked at."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def see(self, progress: Progress) -> None:
        """Take notice."""
        if self._start is None:
            self._start = (time.monotonic(), progress.ended)

    def text(self, progress: Progress) -> str:
        """Rate and time left, once they mean something."""
        if self._start is None:
            return ""
        passed_s, done = time.monotonic() - self._start[0], progress.ended - self._start[1]
        if done <= 0 or passed_s < 1 or progress.ended >= progress.total:
            return ""
        rate = done / passed_s
        shown = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"  # 1200, not 1.2e+03
        return f", {shown}/s, ETA {duration((progress.total - progress.ended) / rate)}"


def sentence(progress: Progress) -> str:
    """``312/1000 done, 8 running, 2 failed``."""
    if not progress.total:
        return "no jobs yet"
    parts = [f"{progress.ended}/{progress.total} done"]
    if progress.running:
        parts.append(f"{progress.running} running")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.counts.get("CANCELLED"):
        parts.append(f"{progress.counts['CANCELLED']} cancelled")
    if progress.counts.get("UNKNOWN"):
        parts.append(f"{progress.counts['UNKNOWN']} unknown")
    return ", ".join(parts)


def choose_meter(screen: Screen | None = None, *, quiet: bool = False) -> Meter:
    """The bar on a terminal, lines elsewhere."""
    if quiet:
        return Quiet()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(screen or Screen())
    return Lines()


def follow(
    client: Client,
    meter: Meter,
    finished: Callable[[Progress], bool],
    *,
    workflow: str | None = None,
    jobs: Sequence[str] = (),
    baseline: Callable[[Progress], Progress] = lambda seen: seen,
    deadline: float | None = None,
) -> Progress:
    """Show how jobs go on, until ``finished`` or the ``deadline`` (of the monotonic clock).

    Args:
        workflow, jobs: which jobs: those of a workflow, or these.
        baseline: makes what is shown, and returned, out of what the agent says.
    """
    revision: Any = None
    gather_s = MIN_GATHER_S
    try:
        while True:
            left_s = meter.call_s if deadline is None else min(meter.call_s, max(0.0, deadline - time.monotonic()))
            answer = ask(client, workflow, jobs, revision, left_s, gather_s)
            changed, revision = answer.get("revision") != revision, answer.get("revision")
            seen = Progress.from_json(answer)
            shown = baseline(seen)
            meter.show(shown)
            if finished(seen) or (deadline is not None and time.monotonic() >= deadline):
                return shown
            if changed:
                gather_s = min(gather_s * 1.5, MAX_GATHER_S)
    finally:
        meter.close()


def ask(
    client: Client, workflow: str | None, jobs: Sequence[str], since: Any, timeout_s: float, gather_s: float = 0.0
) -> JSON:
    """One question for progress; waits up to ``timeout_s`` for something newer than ``since``, gathers for ``gather_s``."""
    if workflow is not None:
        query = {
            "workflow": workflow,
            "since": since,
            "timeout_s": timeout_s if since is not None else 0,
            "gather_s": gather_s,
        }
        answer: JSON = client.get("/v1/progress", query)
    else:
        body = {
            "jobs": list(jobs),
            "since": since,
            "timeout_s": timeout_s if since is not None else 0,
            "gather_s": gather_s,
        }
        answer = client.post("/v1/progress", body, repeatable=True)
    return answer
