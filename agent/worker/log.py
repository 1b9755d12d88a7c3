"""The worker's log: one small file in its spool, and the one before it. Never raises: a full disk must not stop jobs."""

from __future__ import annotations

import os
import time

MAX_BYTES = 512 * 1024
"""Of each of the two files."""


class Log:
    """Appends lines that say when, who and what. Keeper and loop write to the same file."""

    def __init__(self, path: str, who: str) -> None:
        self._path = path
        self._who = who

    def __call__(self, text: str) -> None:
        """Write ``text``, one line or several."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{stamp} {self._who}[{os.getpid()}] {text.rstrip()}\n".encode("utf-8", "backslashreplace")
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
                size = os.fstat(fd).st_size
            finally:
                os.close(fd)
            if size > MAX_BYTES:
                os.replace(self._path, self._path + ".1")
        except OSError:
            self._say(line)

    @staticmethod
    def _say(line: bytes) -> None:
        """To whatever there was at the start, most often the agent's log: that needs no file to be opened."""
        try:
            os.write(2, line)
        except OSError:
            pass
