"""Waiting for jobs to end: the agent answers when they have, this asks again as often as a long wait needs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..client import Client
from ..errors import WaitTimeout
from ..models import JobStatus

CALL_S = 55.0
"""How long one call waits before it is made again; the agent allows 60 s."""
CHUNK = 1000


def wait_until(client: Client, jobs: Sequence[str], mode: str, timeout_s: float | None) -> list[JobStatus]:
    """Wait until ``all`` or ``any`` of ``jobs`` have ended; how they stand then, in the same order.

    Raises:
        WaitTimeout: that has not come after ``timeout_s`` seconds.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    if mode == "any":
        return _wait_together(client, jobs, mode, deadline)
    found: list[JobStatus] = []
    for start in range(0, len(jobs), CHUNK):
        found += _wait_together(client, jobs[start : start + CHUNK], mode, deadline)
    return found


def _wait_together(client: Client, jobs: Sequence[str], mode: str, deadline: float | None) -> list[JobStatus]:
    while True:
        left_s = CALL_S if deadline is None else max(0.0, min(CALL_S, deadline - time.monotonic()))
        body = {"jobs": list(jobs), "mode": mode, "timeout_s": left_s}
        answer = client.post("/v1/jobs/wait", body, repeatable=True)
        statuses = [JobStatus.from_json(job) for job in answer["jobs"]]
        if answer["done"]:
            return statuses
        if deadline is not None and time.monotonic() >= deadline:
            waiting = sum(1 for status in statuses if not status.terminal)
            raise WaitTimeout(f"{waiting} of {len(jobs)} jobs did not end in the time given")
