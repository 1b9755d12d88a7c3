"""Log files that make way for new ones: so large, so many kept, whoever writes to them.

Several processes may append to one log. Whoever finds it too large renames it, under a lock on the file itself, which nobody waits
for: a process that was stopped in the middle stops no other. Lines that were on their way go into the renamed file; none is lost.
A process whose standard output is the log is given the new file in its place. The standard library alone, for any Python.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..quantities import bytes_of

BYTES_VARIABLE, FILES_VARIABLE = "LWFM_LOG_BYTES", "LWFM_LOG_FILES"
LEAST_BYTES = 4096
MOST_FILES = 100
FOLLOW_INTERVAL_S = 2.0
"""By what a process prints within it a log may become larger than it should."""


@dataclass(frozen=True)
class Rotation:
    """How large a log becomes, in bytes, and how many older ones are kept."""

    max_bytes: int
    kept: int

    def configured(self, environment: Mapping[str, str] = os.environ) -> Rotation:
        """As the environment says; this, where it does not.

        Raises:
            ConfigError: what it says makes no sense.
        """
        given, kept = environment.get(BYTES_VARIABLE), environment.get(FILES_VARIABLE)
        max_bytes = bytes_of(given) if given else self.max_bytes
        if max_bytes is None or max_bytes < LEAST_BYTES:
            raise ConfigError(f"{BYTES_VARIABLE} is {given!r}", hint=f"write a size from {LEAST_BYTES}, as 500K or 10M")
        if kept and not (kept.isascii() and kept.isdecimal() and int(kept) <= MOST_FILES):
            raise ConfigError(f"{FILES_VARIABLE} is {kept!r}", hint=f"write a number from 0 to {MOST_FILES}")
        return Rotation(max_bytes, int(kept) if kept else self.kept)


SHARED_LOG = Rotation(2 * 1024 * 1024, 2)
"""Of the agent, and of each driver in a process of its own."""
WORKER_LOG = Rotation(512 * 1024, 1)


class LogFile:
    """A log to append to.

    Args:
        path: it is made, for the owner alone, where it is not there. ``rotation``: how it makes way.
        standard: descriptors of this process that are to lead into it, whenever they have: standard output and error.
    """

    def __init__(self, path: str, rotation: Rotation, standard: Sequence[int] = ()):
        self._path = path
        self._rotation = rotation
        self._standard = standard

    def append(self, data: bytes = b"") -> None:
        """Append whole lines; without any, only see that it has not become too large.

        Raises:
            OSError: it cannot be written.
        """
        descriptor = self.open()
        try:
            if data:
                os.write(descriptor, data)
            if os.fstat(descriptor).st_size > self._rotation.max_bytes:
                self._make_way(descriptor)
        finally:
            os.close(descriptor)
        if self._standard:
            self._lead()

    def open(self) -> int:
        """A descriptor that appends to it. Raises OSError."""
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def follow(self) -> None:
        """See to it every few seconds from now on, in a thread: for processes that print into it as much as they like."""
        threading.Thread(target=self._follow, name="lwfm-log", daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                self.append()
            except OSError:
                pass  # a full disk stops nobody
            time.sleep(FOLLOW_INTERVAL_S)

    def _make_way(self, descriptor: int) -> None:
        """Rename it, unless another process does, or has done, so."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        if not _same(os.fstat(descriptor), self._path):
            return
        kept = self._rotation.kept
        if not kept:
            os.ftruncate(descriptor, 0)
            return
        free = next((number for number in range(1, kept) if not os.path.lexists(f"{self._path}.{number}")), kept)
        if os.path.isfile(f"{self._path}.{free}"):
            os.truncate(f"{self._path}.{free}", 0)  # somebody may have it open still: it would take room until then
        for number in range(free, 1, -1):
            os.replace(f"{self._path}.{number - 1}", f"{self._path}.{number}")
        os.replace(self._path, f"{self._path}.1")

    def _lead(self) -> None:
        """Have the standard descriptors lead into the log again that have led into one of those before it."""
        older = [f"{self._path}.{number}" for number in range(1, self._rotation.kept + 1)]
        for number in self._standard:
            try:
                found = os.fstat(number)
                if any(_same(found, path) for path in older) or (stat.S_ISREG(found.st_mode) and not found.st_nlink):
                    descriptor = self.open()
                    os.dup2(descriptor, number)
                    os.close(descriptor)
            except OSError:
                continue


def _same(found: os.stat_result, path: str) -> bool:
    try:
        other = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)
