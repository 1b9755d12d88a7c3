"""How things read: text made harmless for a terminal, times, durations, sizes. Pure."""

from __future__ import annotations

import re
import time
from typing import Any

from ..clock import parse_utc

PROPERTIES_WIDTH = 72


_UNPRINTABLE = (
    r"\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""Of the Unicode Character Database, what is obeyed, turns the text around or hides in it; what only joins letters is left."""
_HARMFUL = f"[{_UNPRINTABLE}]"
_HARMFUL_IN_LINES = rf"(?![\n\t])[{_UNPRINTABLE}]"
_HARMFUL_BUT_COLOURS = rf"(?![\n\t\r])(?!\x1b\[[0-9;]*m)[{_UNPRINTABLE}]"
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def harmless(text: str) -> str:
    """``text`` in one line that does nothing to a terminal: control and direction characters are shown, not obeyed."""
    return text if text.isprintable() else re.sub(_HARMFUL, _visible, text)


def harmless_lines(text: str) -> str:
    """The same for several lines."""
    return re.sub(_HARMFUL_IN_LINES, _visible, text.replace("\r\n", "\n"))


def harmless_live(text: str) -> str:
    """The same for a program that runs in the foreground: colours and returns to the line's start are let through."""
    return re.sub(_HARMFUL_BUT_COLOURS, _visible, text)


def _visible(found: re.Match[str]) -> str:
    mark = found.group()
    code = ord(mark)
    if mark in _NAMED:
        return _NAMED[mark]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python carries it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def moment(text: str | None) -> str:
    """A UTC time of a record as local time: only the time when it is today's."""
    if not text:
        return ""
    try:
        local = time.localtime(parse_utc(text))
    except ValueError:
        return text
    today = time.localtime()
    same_day = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", local)


def elapsed_s(started: str | None, ended: str | None) -> float | None:
    """Seconds between two times of a record; up to now while there is no end."""
    if not started:
        return None
    try:
        return max(0.0, (parse_utc(ended) if ended else time.time()) - parse_utc(started))
    except ValueError:
        return None


def job_time_s(job: Any) -> float | None:
    """How long a job ran, in seconds; up to now while it runs, None before."""
    return elapsed_s(job.get("started_at"), job.get("ended_at"))


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``0.42s``, ``12s``, ``3m04s``, ``2h05m``, ``1d03h``."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def size(count: int | None) -> str:
    """Bytes with a unit."""
    if count is None:
        return ""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_SIZES[unit]}"


def whence(record: Any) -> str:
    """The instance that a record comes from."""
    if record.get("elsewhere"):
        return str(record["elsewhere"])
    return f"{record['origin_host']} (this instance)" if record.get("origin_host") else ""


def why(job: Any) -> str:
    """Why a job is in its state, where that is not plain."""
    if job["state"] == "COMPLETE":
        return ""
    if job.get("reason"):
        return str(job["reason"])
    if job.get("signal"):
        return f"ended by {job['signal']}"
    return f"exit code {job['exit_code']}" if job.get("exit_code") else ""


def plural(count: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def properties(values: Any) -> str:
    """Metadata in one line: ``T=0.7 kind=thermo``."""
    if not isinstance(values, dict):
        return ""
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def some_properties(values: Any) -> str:
    """The same, as far as it fits into ``PROPERTIES_WIDTH`` characters."""
    line = properties(values)
    return line if len(line) <= PROPERTIES_WIDTH else line[: PROPERTIES_WIDTH - 1].rstrip() + "…"


def shown(value: Any) -> str:
    """A JSON value as a person writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e15 else repr(value)
    import json

    return json.dumps(value, ensure_ascii=False)
