"""What a person sees of a sync: a bar while it goes on, a few lines at its end, tables of what is lacking and of peers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import render
from .text import duration, elapsed_s, harmless, moment, plural, size

if TYPE_CHECKING:
    from ..records import JSON
    from ..sync.contents import Moved, Pace
    from ..sync.exchange import Lack, Outcome, Progress
    from ..sync.frames import Line
    from ..sync.session import Synced

SKEW_WORTH_SAYING_S = 5.0
REASONS_SHOWN = 10


class Shown:
    """How far a sync is, kept for a bar; shows nothing by itself."""

    def __init__(self) -> None:
        self._line: Line | None = None

    def line(self, line: Line) -> None:
        """The line it goes over."""
        self._line = line

    @property
    def passed(self) -> int:
        """Bytes that have gone over the line."""
        return self._line.bytes_sent + self._line.bytes_received if self._line else 0

    def records(self, progress: Progress) -> None:
        """So many records have come and gone."""

    def contents(self, pace: Pace) -> None:
        """So many files have."""

    def count(self, done: int, total: int) -> None:
        """So many records of a bundle."""


class Bar(Shown):
    """The same on a terminal, redrawn as it goes on."""

    def __init__(self, name: str, bar: Any):
        super().__init__()
        self._name = name
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def records(self, progress: Progress) -> None:
        """One bar for what comes, one for what goes."""
        if progress.to_receive:
            self._show(
                "records from", progress.received, progress.to_receive, f"{progress.received} of {progress.to_receive}"
            )
        if progress.to_send:
            self._show("records to", progress.sent, progress.to_send, f"{progress.sent} of {progress.to_send}")

    def contents(self, pace: Pace) -> None:
        """One bar for files."""
        if pace.total_bytes or pace.total_files:
            told = f"{pace.files} of {pace.total_files}, {size(pace.bytes)} of {size(pace.total_bytes)}  {harmless(pace.name)[:30]}"
            self._show("files", pace.bytes, max(pace.total_bytes, 1), told)

    def count(self, done: int, total: int) -> None:
        """One bar for its records."""
        self._show("records", done, max(total, 1), f"{done} of {total}")

    def _show(self, what: str, done: int, total: int, told: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(
                "", what=f"{what} {self._name}" if " " in what else what, told="", total=total
            )
            self._bar.start()
        self._bar.update(
            self._tasks[what],
            completed=done,
            total=total,
            told=f"{told}  ({size(self.passed)})" if self.passed else told,
        )


@contextmanager
def progress(name: str) -> Iterator[Shown]:
    """A bar on a terminal, from the first thing on that there is to show; elsewhere nothing."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Shown()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
    try:
        yield Bar(name, bar)
    finally:
        bar.stop()


def say_synced(name: str, synced: Synced) -> None:
    """What came of a sync, in a line, and what else its user should know, in one each."""
    outcome = synced.outcome
    parts = []
    if outcome.received:
        parts.append(f"{plural(outcome.received, 'record')} received")
    if outcome.sent:
        parts.append(f"{plural(outcome.sent, 'record')} sent")
    for way, moved in synced.data.items():
        parts.append(files_moved(moved, f" {way}"))
    done = ", ".join(parts) or "nothing new on either side"
    render.say(f"{harmless(name)}: {done}; {size(synced.bytes_sent + synced.bytes_received)} in {synced.seconds:.1f} s")
    for moved in synced.data.values():
        say_missing(moved)
    for notice in outcome.notices:
        render.note(f"lwfm: {notice}")
    if abs(outcome.skew_s) > max(SKEW_WORTH_SAYING_S, outcome.skew_error_s):
        render.note(f"lwfm: {_skew(outcome.skew_s)}; nothing depends on it but the order in which things are shown")


def files_moved(moved: Moved, way: str = "") -> str:
    """So many files have come."""
    there = f", {moved.found} there already" if moved.found else ""
    return f"{plural(moved.files, 'file')}{way}, {size(moved.bytes)}{there}"


def say_missing(moved: Moved) -> None:
    """The files that have not come, and why."""
    for count, reasons, what in (
        (moved.absent_files, moved.absent, "could not be sent"),
        (moved.refused_files, moved.refused, "was refused"),
    ):
        for name, why in reasons[:REASONS_SHOWN]:
            render.note(f"lwfm: {name}: {what}: {why}")
        if count > REASONS_SHOWN:
            render.note(f"lwfm: and {count - REASONS_SHOWN} more")
    if moved.busy:
        render.note(f"lwfm: {plural(moved.busy, 'file')} being fetched by another sync")


def comparison(outcome: Outcome, lack: Lack) -> JSON:
    """What each side lacks, as JSON: of each origin, how many records."""
    far = outcome.far
    return {
        "host": far.host,
        "origin": far.origin,
        "version": far.version,
        "missing_here": {want.origin: want.upto - want.after for want in lack.near},
        "missing_there": {want.origin: want.upto - want.after for want in lack.far},
        "skew_s": round(outcome.skew_s, 3),
        "skew_error_s": round(outcome.skew_error_s, 3),
        "notices": outcome.notices,
    }


def show_comparison(name: str, outcome: Outcome, lack: Lack) -> None:
    """What each side lacks, this one and the peer of that name."""
    compared = comparison(outcome, lack)
    here, there = compared["missing_here"], compared["missing_there"]
    near, far = outcome.near, outcome.far
    render.pairs(
        [
            ("peer", harmless(name)),
            ("here", f"{near.user}@{near.host} {near.home}, origin {near.origin[:8]}, lwfm {near.version}"),
            ("there", f"{far.user}@{far.host} {far.home}, origin {far.origin[:8]}, lwfm {far.version}"),
            ("missing here", plural(sum(here.values()), "record") if here else "nothing"),
            ("missing there", plural(sum(there.values()), "record") if there else "nothing"),
            ("clock", _skew(outcome.skew_s)),
        ]
    )
    names = {near.origin: f"this one ({near.host})", far.origin: far.host}
    rows = [
        (names.get(origin, origin[:8]), origin[:8], str(here.get(origin, "")), str(there.get(origin, "")))
        for origin in sorted({*here, *there})
    ]
    if rows:
        render.say()
        render.table(("INSTANCE", "ORIGIN", "MISSING HERE", "MISSING THERE"), rows)
    for notice in outcome.notices:
        render.note(f"lwfm: {notice}")


def peer_rows(peers: Sequence[JSON]) -> Iterator[Sequence[str | None]]:
    """The rows of ``peer list``."""
    for peer in peers:
        address = peer["address"]
        user = f"{address['user']}@" if address.get("user") else ""
        port = f":{address['port']}" if address.get("port") else ""
        every = peer.get("every_s")
        skew = peer.get("skew_s")
        yield (
            peer["name"],
            f"{user}{address['host']}{port}",
            peer.get("host"),
            moment(peer.get("last_success")) if peer.get("last_success") else "never",
            duration(every) if every else "",
            _skew(skew) if skew is not None and abs(skew) > SKEW_WORTH_SAYING_S else "",
            _problem(peer),
        )


def peer_line(peer: JSON) -> str:
    """A peer that is synced with again and again, for ``agent status``."""
    last = peer.get("last_success")
    when = f"last {duration(elapsed_s(last, None))} ago" if last else "not yet"
    problem = _problem(peer)
    way = f" ({peer['way']})" if peer.get("way") else ""
    return f"{peer['name']} every {duration(peer['every_s'])}{way}, {when}" + (f"; {problem}" if problem else "")


def _problem(peer: JSON) -> str:
    if not peer.get("error"):
        return ""
    failures = int(peer.get("failures") or 1)
    times = f" (failed {failures} times)" if failures > 1 else ""
    return f"{peer['error']}{times}"


def _skew(seconds: float) -> str:
    if abs(seconds) < 1:
        return "the clocks agree"
    return f"its clock is {duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'} ours"
