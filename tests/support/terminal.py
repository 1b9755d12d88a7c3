"""A program on a terminal of its own, with somebody who reads the screen and types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

TIMEOUT_S = 30.0


class OnTerminal:
    """A program whose standard streams and controlling terminal are a new one.

    Args:
        words: the program. ``environment``: what it has besides this process's.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] | None = None):
        self._own, theirs = pty.openpty()
        self.screen = ""
        self._seen = 0
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **(environment or {})},
        )
        os.close(theirs)

    def expect(self, pattern: str) -> str:
        """Wait for that to be on the screen, after what was waited for before; what it is."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = re.compile(pattern).search(self.screen, self._seen)
            if found:
                self._seen = found.end()
                return found[0]
            if not self._look(deadline):
                raise AssertionError(f"no {pattern!r} on the screen:\n{self.screen}")

    def type(self, text: str) -> None:
        """Type that; ``\\x03`` is Ctrl-C."""
        os.write(self._own, text.encode())

    def end(self) -> int:
        """Wait for its end; the exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._look(deadline):
            pass
        code = self._process.wait(TIMEOUT_S)
        os.close(self._own)
        return code

    def _look(self, deadline: float) -> bool:
        """More of the screen; False when there will be none, or not in time."""
        ready, _, _ = select.select([self._own], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(self._own, 65536)
        except OSError:  # what Linux tells at the end
            return False
        self.screen += piece.decode("utf-8", "replace")
        return bool(piece)
