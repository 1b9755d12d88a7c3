"""A program on this machine at the other end of a line: ssh, or lwfm itself."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Optional

from .tail import Tail
from .transport import BROKEN, END_TIMEOUT_S

PIPE_BYTES = 1024 * 1024
CLOSE_TIMEOUT_S = 3.0
POLL_S = 0.1
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # of Linux, in fcntl since Python 3.10


class ProcessStream:
    """A program's standard input and output as a stream.

    Args:
        words: the program. ``environment``: what it gets; None: as this process.
    """

    def __init__(self, words: list[str], environment: Optional[dict[str, str]] = None):
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            with suppress(OSError):  # only for speed
                fcntl.fcntl(pipe, _SET_PIPE_SIZE, PIPE_BYTES)
        self._tail = Tail()
        self._drain = threading.Thread(target=self._drain_stderr, name="lwfm-stderr", daemon=True)
        self._drain.start()

    def read(self, most: int) -> bytes:
        """See :class:`~.frames.Stream`."""
        return os.read(self._output.fileno(), most)

    def write(self, data: bytes) -> None:
        """See :class:`~.frames.Stream`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._input.fileno(), view) :]

    def wait(self) -> int:
        """See :class:`~.transport.SshStream`."""
        self._end_input()
        deadline = time.monotonic() + END_TIMEOUT_S
        self._pass_over(deadline)
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return BROKEN
        return BROKEN if code < 0 else code

    def close(self) -> None:
        """See :class:`~.frames.Stream`. Gives the program a moment to end: ssh leaves the terminal as it was."""
        self._end_input()
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None and self._process.poll() is None:
                self._process.send_signal(step)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT_S)
                break
        self._drain.join(CLOSE_TIMEOUT_S)
        self._output.close()

    def complaint(self) -> str:
        """See :class:`~.frames.Stream`."""
        if self._process.poll() is not None:
            self._drain.join(1.0)  # a shared connection's process may hold the pipe
        return self._tail.text()

    def _end_input(self) -> None:
        with suppress(OSError):
            self._input.close()

    def _pass_over(self, deadline: float) -> None:
        """Read to the end of the output, or of the program: a shared connection's process may hold the pipe."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(POLL_S):
                    if not os.read(self._output.fileno(), 64 * 1024):
                        return
                elif self._process.poll() is not None:
                    return

    def _drain_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while True:
                piece = pipe.read(64 * 1024)
                if not piece:
                    return
                self._tail.add(piece)
