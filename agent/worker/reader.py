"""Answers ``read``: a piece of a job's output, or the next piece as soon as it is there."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Callable, NamedTuple, Optional

from .jobs import ENDED, Job, Key
from .outputs import MAX_READ_BYTES, STREAMS, Outputs
from .spool import Spool
from .timers import Timer, Timers

POLL_S = 0.1
MAX_WAIT_S = 600.0


class _Request(NamedTuple):
    id: Any
    key: Key
    stream: str
    offset: int
    limit: int
    until: float


class Reader:
    """Serves the outputs of jobs.

    Args:
        answer: sends a message to the agent.
    """

    def __init__(
        self, spool: Spool, outputs: Outputs, timers: Timers, answer: Callable[[dict[str, Any]], None]
    ) -> None:
        self._spool, self._outputs, self._timers, self._answer = spool, outputs, timers, answer
        self._waiting: list[_Request] = []
        self._timer: Optional[Timer] = None

    def read(self, message: dict[str, Any]) -> None:
        """Answer now, or when there is more to read, the job has ended or the time given is over."""
        stream = message["stream"]
        if stream not in STREAMS:
            raise ValueError(f"no stream {stream!r}")
        wait = min(float(message.get("wait_s") or 0), MAX_WAIT_S)
        limit = message.get("limit")
        request = _Request(
            message.get("id"),
            (message["job"], message["attempt"]),
            stream,
            max(0, int(message.get("offset") or 0)),
            MAX_READ_BYTES if limit is None else int(limit),
            time.monotonic() + wait,
        )
        if not self._serve(request):
            self._waiting.append(request)
            self._plan()

    def drop_all(self) -> None:
        """Nobody waits any more: the connection is gone."""
        self._waiting.clear()

    def look(self) -> None:
        """Serve those who wait and can be served."""
        if self._waiting:
            self._waiting = [request for request in self._waiting if not self._serve(request)]

    def _plan(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._timers.after(POLL_S, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self.look()
        self._plan()

    def _serve(self, request: _Request) -> bool:
        job = self._spool.jobs.get(request.key)
        ended = job is None or job.state == ENDED
        path = None if job is None else self._outputs.path_of(job, request.stream)
        data = b""
        size = 0
        if path is not None:
            size = self._outputs.size(path)
            if size > request.offset:
                data = self._outputs.read(path, request.offset, request.limit)
        elif job is not None and ended:
            whole = self._collected(job, request.stream)
            size, data = len(whole), whole[request.offset :][: min(request.limit, MAX_READ_BYTES)]
        if not data and not ended and time.monotonic() < request.until:
            return False
        self._answer(
            {
                "t": "chunk",
                "id": request.id,
                "data": base64.b64encode(data).decode("ascii"),
                "offset": request.offset,
                "size": size,
                "ended": ended,
            }
        )
        return True

    def _collected(self, job: Job, stream: str) -> bytes:
        text = self._spool.end_text(job.key)
        return base64.b64decode(json.loads(text)[stream].get("data", "")) if text else b""
