"""What the script of a batch job leaves behind: who has started it (the claim), and how it ended (the exit record). Pure.

:mod:`.script` has the script that writes them. What is not whole is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

_LARGEST = 2.0**53
"""No number that a script writes is as large."""


@dataclass(frozen=True)
class ExitRecord:
    """How a job ended, as its script wrote it down.

    Args:
        native: the scheduler's job that ran it. ``restart``: how often that was started before.
        host, hosts: where; the hosts of several in a row with commas.
        started_at, ended_at: seconds since the epoch.
        status: of the command, as a shell has it: 128 and more for a signal.
        caught: the signal that the scheduler sent to end it, else None. ``cause``: why the script ended it, else None.
        missing: declared outputs that are not there. ``cpu_seconds``: of all processes that were waited for.
    """

    native: str
    status: int
    restart: int = 0
    host: Optional[str] = None
    hosts: Optional[str] = None
    started_at: Optional[float] = None
    ended_at: Optional[float] = None
    caught: Optional[str] = None
    cause: Optional[str] = None
    missing: tuple[str, ...] = ()
    cpu_seconds: Optional[float] = None


@dataclass(frozen=True)
class Claim:
    """Which job of the scheduler runs a job, since when and where."""

    native: str
    restart: int = 0
    host: Optional[str] = None
    started_at: Optional[float] = None


def read_record(text: str) -> Optional[ExitRecord]:
    """An exit record; None: it is none, or not whole."""
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        return None
    told: dict[str, str] = {}
    missing: list[str] = []
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "times":
            break
        if key == "missing":
            missing.append(value)
        else:
            told.setdefault(key, value)
    status = _number(told.get("status"))
    if status is None or not told.get("native"):
        return None
    return ExitRecord(
        native=told["native"],
        status=int(status),
        restart=int(_number(told.get("restart")) or 0),
        host=told.get("host") or None,
        hosts=told.get("hosts") or None,
        started_at=_number(told.get("started")),
        ended_at=_number(told.get("ended")),
        caught=told.get("caught"),
        cause=told.get("cause"),
        missing=tuple(missing),
        cpu_seconds=_cpu_seconds(lines),
    )


def read_claim(text: str) -> Optional[Claim]:
    """A claim; None: it is none, or not whole yet."""
    words = text.split()
    if len(words) != 4:
        return None
    return Claim(words[0], int(_number(words[1]) or 0), words[2], _number(words[3]))


def _cpu_seconds(lines: Sequence[str]) -> Optional[float]:
    """The second of the lines of ``times``: user and system time of children, as ``0m1.25s``; some shells write a comma."""
    try:
        told = lines[lines.index("times") + 2]
    except (ValueError, IndexError):
        return None
    found = re.findall(r"(\d{1,12})m(\d{1,12}(?:[.,]\d{0,12})?)s", told, re.ASCII)
    if len(found) != 2:
        return None
    return round(sum(int(minutes) * 60 + float(seconds.replace(",", ".")) for minutes, seconds in found), 3)


def _number(text: Optional[str]) -> Optional[float]:
    """A number; of ``1700000000.N`` and the like, which a ``date`` without nanoseconds writes, what stands before the point."""
    for candidate in (text or "", (text or "").partition(".")[0]):
        try:
            number = float(candidate)
        except ValueError:
            continue
        return number if abs(number) < _LARGEST else None  # which neither infinity nor NaN is
    return None
