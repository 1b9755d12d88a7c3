"""A job as the worker knows it: what it was asked to run, and how far it has come. Starts and stops nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ..errors import InvalidRecord
from ..host.processes import Mark
from ..host.stopping import TreeStop
from ..host.trees import Tree
from .ledger import Grant, Needs
from .timers import Timer

Key = tuple[str, int]
DEFAULT_GRACE_S = 5.0

QUEUED, STARTING, RUNNING, OVER, ENDED = "queued", "starting", "running", "over", "ended"
"""``over``: nothing of it is left, which is about to be told; ``ended``: it has been told."""


class Exit(NamedTuple):
    """How a process ended. ``status`` as wait(2) gives it, None when it cannot be had; the rest None likewise."""

    status: Optional[int] = None
    cpu_seconds: Optional[float] = None
    max_rss_bytes: Optional[int] = None
    read_bytes: Optional[int] = None
    write_bytes: Optional[int] = None

    def plus(self, other: Exit) -> Exit:
        """With what a process of the same job that was waited for apart has used."""
        if self.cpu_seconds is None or other.cpu_seconds is None:
            return self
        return self._replace(
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            max_rss_bytes=max(self.max_rss_bytes or 0, other.max_rss_bytes or 0),
            read_bytes=(self.read_bytes or 0) + (other.read_bytes or 0),
            write_bytes=(self.write_bytes or 0) + (other.write_bytes or 0),
        )


class Job:
    """One attempt of a job.

    Args:
        message: the ``run`` message it came with.

    Raises:
        InvalidRecord: the message is malformed.
    """

    __slots__ = (
        "adopted",
        "cause",
        "context",
        "deadline",
        "disk_full",
        "ended_at",
        "exit",
        "grant",
        "keeper",
        "key",
        "latest_s",
        "message",
        "needs",
        "next_sample",
        "output_paths",
        "peak_rss_bytes",
        "pid",
        "reason",
        "sample_pause",
        "slot",
        "start_s",
        "start_text",
        "started_at",
        "state",
        "step",
        "stop",
        "strays",
        "tries",
        "worker",
    )

    def __init__(self, message: dict[str, Any]) -> None:
        _check(message)
        self.message = message
        self.key: Key = (message["job"], message["attempt"])
        self.needs = Needs(message.get("cores"), message.get("memory_bytes"), message.get("gpus") or 0)
        self.context: Optional[int] = None
        self.state = QUEUED
        self.tries = 0
        self.worker = ""
        self.grant: Optional[Grant] = None
        self.slot: Optional[int] = None
        self.pid = 0
        self.start_s = self.latest_s = 0.0
        self.keeper = ""
        self.start_text: Optional[str] = None
        self.started_at: Optional[str] = None
        self.ended_at: Optional[str] = None
        self.adopted = False
        self.cause: Optional[str] = None
        self.reason: Optional[str] = None
        self.exit: Optional[Exit] = None
        self.stop: Optional[TreeStop] = None
        self.step: Optional[Timer] = None
        self.deadline: Optional[Timer] = None
        self.strays: frozenset[int] = frozenset()
        self.next_sample = 0.0
        self.sample_pause = 0.1
        self.peak_rss_bytes = 0
        self.output_paths: dict[str, str] = {}
        self.disk_full = False

    @property
    def cwd(self) -> str:
        """Where it runs."""
        return self.message.get("cwd") or "/"

    @property
    def grace_s(self) -> float:
        """Seconds between TERM and KILL."""
        grace = self.message.get("grace_s")
        return DEFAULT_GRACE_S if grace is None else float(grace)

    @property
    def tree(self) -> Tree:
        """What belongs to it."""
        return Tree(self.pid, self.start_s, self.latest_s, self.mark, self.strays)

    @property
    def mark(self) -> Mark:
        """What its processes carry in their environment."""
        return Mark(self.key[0], self.key[1], self.worker)

    @property
    def needs_nothing(self) -> bool:
        """Whether it asks for nothing that others could have to wait for."""
        return self.needs == (0, None, 0)


def signal_name(number: int) -> str:
    """The name of a signal, ``SIGRTMIN+n`` for those without their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"SIG{number}"


def outcome(status: int) -> tuple[Optional[int], Optional[str]]:
    """Exit code and name of the signal, one of them None, from a status as wait(2) gives it."""
    code = os.waitstatus_to_exitcode(status)
    return (code, None) if code >= 0 else (None, signal_name(-code))


def _check(message: Mapping[str, Any]) -> None:
    get = message.get
    job, attempt = get("job"), get("attempt")
    if not isinstance(job, str) or not isinstance(attempt, int):
        raise InvalidRecord("run: a job and its attempt are needed")
    if not _file_name(job):
        raise InvalidRecord(f"run: {job!r} cannot be the id of a job")
    argv, shell = get("argv"), get("shell")
    if shell is not None:
        if not isinstance(shell, str):
            raise InvalidRecord("run: shell must be text")
    elif not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise InvalidRecord("run: argv must be a list of words")
    for name, kind, what in _KINDS:
        value = get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, int) and value < 0)):
            raise InvalidRecord(f"run: {name} must be {what}")
    for name in ("time_limit_s", "grace_s"):
        value = get(name)
        if value is not None and not (isinstance(value, (int, float)) and value >= 0):
            raise InvalidRecord(f"run: {name} must be seconds, from 0")
    if not all(is_variable(name) and isinstance(text, str) for name, text in (get("files") or {}).items()):
        raise InvalidRecord("run: files must be named by variables and hold text")
    if not (get("cwd") or "/").startswith("/"):
        raise InvalidRecord("run: cwd must be an absolute path")


_KINDS: tuple[tuple[str, type, str], ...] = (
    ("env", dict, "an object"),
    ("unset", list, "a list"),
    ("files", dict, "an object"),
    ("outputs", list, "a list"),
    ("cores", int, "a whole number from 0"),
    ("memory_bytes", int, "a whole number from 0"),
    ("gpus", int, "a whole number from 0"),
    ("cwd", str, "a path"),
)


def is_variable(name: Any) -> bool:
    """Whether it can name a variable, and with that a file."""
    return isinstance(name, str) and name.isascii() and name.isidentifier()


def _file_name(text: str) -> bool:
    plain = text.replace("-", "").replace("_", "").replace(".", "")
    return plain.isalnum() and plain.isascii() and len(text) <= 128 and not text.startswith(".")
