"""The worker's log: one small file in its spool, and the one before it. Never raises: a full disk must not stop jobs."""

from __future__ import annotations

import os
import time

from ..errors import ConfigError
from ..host.logfiles import WORKER_LOG, LogFile


class Log:
    """Appends lines that say when, who and what. Keeper and loop write to the same file."""

    def __init__(self, path: str, who: str) -> None:
        try:
            rotation = WORKER_LOG.configured()
        except ConfigError:  # the agent has said so already
            rotation = WORKER_LOG
        self._log = LogFile(path, rotation)
        self._who = who

    def __call__(self, text: str) -> None:
        """Write ``text``, one line or several."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{stamp} {self._who}[{os.getpid()}] {text.rstrip()}\n".encode("utf-8", "backslashreplace")
        try:
            self._log.append(line)
        except OSError:
            self._say(line)

    @staticmethod
    def _say(line: bytes) -> None:
        """To whatever there was at the start, most often the agent's log: that needs no file to be opened."""
        try:
            os.write(2, line)
        except OSError:
            pass
