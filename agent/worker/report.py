"""What is told of a job that is over: the keys of the ``ended`` event (``docs/protocol.md``).

Written as text by hand, for every job passes here: of all that stands in it, only what came from elsewhere can hold
something that JSON would have to escape.
"""

from __future__ import annotations

import os
import resource
from typing import Optional

from ..jsontext import compact_ascii
from .jobs import Exit, Job, outcome

_DISK_FULL = ',"disk_full":true'


def describe_end(job: Job, printed: list[str]) -> str:
    """The event's keys from ``time`` on, as JSON without the braces.

    Args:
        printed: what is told of its standard output and its standard error, as JSON.
    """
    end = job.exit or Exit()
    exit_code, signal_name = (None, None) if end.status is None else outcome(end.status)
    missing = _missing(job) if exit_code == 0 and job.cause is None else None
    return (
        f'"time":"{job.ended_at}","started":{_quoted(job.started_at)},"cause":"{job.cause or "exit"}",'
        f'"exit_code":{_null(exit_code)},"signal":{_quoted(signal_name)},'
        f'"reason":{"null" if job.reason is None else compact_ascii(job.reason)},'
        f'"cpu_seconds":{"null" if end.cpu_seconds is None else round(end.cpu_seconds, 6)},'
        f'"peak_rss_bytes":{_null(_peak(job, end))},'
        f'"read_bytes":{_null(end.read_bytes)},"write_bytes":{_null(end.write_bytes)},'
        f'"stdout":{printed[0]},"stderr":{printed[1]},'
        f'"missing_outputs":{compact_ascii(missing) if missing else "[]"}{_DISK_FULL if job.disk_full else ""}'
    )


def _missing(job: Job) -> list[str]:
    cwd = job.cwd
    return [path for path in job.message.get("outputs") or () if not os.path.exists(os.path.join(cwd, path))]


def _null(number: Optional[int]) -> str:
    return "null" if number is None else str(number)


def _quoted(text: Optional[str]) -> str:
    """JSON of a text that holds nothing to escape: a time, the name of a signal."""
    return "null" if text is None else f'"{text}"'


class _OwnMemory:
    """The most memory this process has taken: looked up again only when a child seems to have taken more."""

    def __init__(self) -> None:
        self._bytes = 0

    def exceeded_by(self, taken: int, *, margin: int) -> bool:
        if taken > self._bytes * margin:
            self._bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return taken > self._bytes * margin


_own_memory = _OwnMemory()


def _peak(job: Job, end: Exit) -> Optional[int]:
    """The larger of what was seen of the tree and what the kernel says, where that is not the worker's own memory."""
    from_kernel = end.max_rss_bytes or 0
    margin = 2 if job.adopted else 1  # an adopted one was started by another loop, which may have been larger
    if from_kernel > job.peak_rss_bytes and _own_memory.exceeded_by(from_kernel, margin=margin):
        return from_kernel
    return job.peak_rss_bytes or None
