"""Binding Python's own ``logging`` to the digital thread: lines go to the agent in batches, from a thread of their own.

Never raises into the user's code and never blocks it: where the agent cannot be reached, lines wait, and beyond
:data:`MAX_WAITING` the oldest are dropped.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque

from ..clock import utc_text
from ..records import JSON
from .bodies import without_none
from .manager import LwfManager
from .values import JobLike, WorkflowLike, optional_id

BATCH_LINES = 50
BATCH_DELAY_S = 0.5
MAX_WAITING = 10_000
CLOSE_TIMEOUT_S = 5.0
_LEVELS = (
    (logging.CRITICAL, "CRITICAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARNING"),
    (logging.INFO, "INFO"),
)


def logging_handler(
    job: JobLike | None = None,
    level: int | str = logging.NOTSET,
    *,
    workflow: WorkflowLike | None = None,
    manager: LwfManager | None = None,
) -> logging.Handler:
    """A handler that sends what is logged to the digital thread.

    Args:
        job: whose lines these are; the job this process is part of when None.
        level: the least level that is sent.
        workflow: the workflow of the lines, where they belong to no job.
        manager: where to send them; the instance of the environment when None.
    """
    handler = _ThreadHandler(manager or LwfManager(), optional_id(job, "a job"), optional_id(workflow, "a workflow"))
    handler.setLevel(level)
    return handler


class _ThreadHandler(logging.Handler):
    def __init__(self, manager: LwfManager, job: str | None, workflow: str | None):
        super().__init__()
        self._manager, self._job, self._workflow = manager, job, workflow
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        """As new: a forked child has neither the thread nor business with its parent's lines."""
        self._lines: deque[JSON] = deque(maxlen=MAX_WAITING)
        self._pid = os.getpid()
        self._some = threading.Event()
        self._full = threading.Event()
        self._closing = False
        self._sender: threading.Thread | None = None
        self._sending = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; it is sent within half a second."""
        try:
            if self._pid != os.getpid():
                self._reset()
            self._lines.append(self._line(record))
            self._some.set()
            if self._sender is None and not self._closing:
                self._sender = threading.Thread(target=self._run, name="lwfm-log", daemon=True)
                self._sender.start()
            if len(self._lines) >= BATCH_LINES:
                self._full.set()
        except Exception:  # whatever the message's own formatting raised
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Say nothing: a log must not disturb what it is the log of."""

    def flush(self) -> None:
        """Send what waits, now."""
        self._send()

    def close(self) -> None:
        """Send what waits, and end."""
        if self._closing:
            return
        self._closing = True
        self._full.set()
        self._some.set()
        if self._sender is not None and self._pid == os.getpid():
            self._sender.join(CLOSE_TIMEOUT_S)
        else:
            self._send()
        atexit.unregister(self.close)
        super().close()

    def _line(self, record: logging.LogRecord) -> JSON:
        word = next((name for least, name in _LEVELS if record.levelno >= least), "DEBUG")
        return without_none(
            level=word,
            message=self.format(record),
            time=utc_text(record.created),
            job=self._job,
            workflow=self._workflow,
        )

    def _run(self) -> None:
        while not self._closing:
            self._some.wait()
            self._full.wait(BATCH_DELAY_S)
            self._some.clear()
            self._full.clear()
            self._send()
        self._send()

    def _send(self) -> None:
        with self._sending:
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), 1000))]
                if not self._deliver(batch):
                    return

    def _deliver(self, batch: list[JSON]) -> bool:
        try:
            self._manager.send_lines(batch)
        except Exception as error:  # never into the user's code
            if getattr(error, "transient", False):
                self._lines.extendleft(reversed(batch))
            return False
        return True
