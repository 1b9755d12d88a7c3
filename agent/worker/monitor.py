"""Watching what runs: limits of time and memory, and the most memory a job has taken.

Owns the schedule of looking. A job is looked at 0.1 s after its start, then at growing intervals: up to a second when its
memory is limited, up to ten when not. One census serves all jobs that are due, and the intervals grow with what a census
costs on this node, so that hundreds of jobs do not take more than a hundredth of a core, limits a twentieth. When no
job runs, nothing happens here.
"""

from __future__ import annotations

import time
from typing import Optional

from ..host.processes import boot_clock
from ..host.trees import Census
from .jobs import Job
from .runner import Runner
from .timers import Timer, Timers

FIRST_LOOK_S = 0.1
LIMITED_MAX_S, UNLIMITED_MAX_S = 1.0, 10.0
LIMITED_SHARE, UNLIMITED_SHARE = 0.05, 0.01
MEMORY_GRACE_S = 1.0
"""A job over its memory limit gets no more time than this to end by itself: it goes on taking memory."""


class Monitor:
    """Looks after the jobs of a runner."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._runner: Optional[Runner] = None
        self._timer: Optional[Timer] = None
        self._cost_s = 0.0

    def attach(self, runner: Runner) -> None:
        """Whose jobs are watched."""
        self._runner = runner

    def watch(self, job: Job) -> None:
        """Begin to watch a job that has started, be it long ago."""
        limit = job.message.get("time_limit_s")
        if limit is not None:
            passed = boot_clock() - job.start_s
            job.deadline = self._timers.after(limit - passed, lambda: self._over_time(job, limit))
        job.next_sample = time.monotonic() + FIRST_LOOK_S
        job.sample_pause = FIRST_LOOK_S
        if self._timer is None:
            self._timer = self._timers.after(FIRST_LOOK_S, self._look)

    def _over_time(self, job: Job, limit: float) -> None:
        assert self._runner is not None
        if job.exit is None:
            self._runner.stop(job, "time_limit", f"it ran longer than its limit of {limit:g} s")

    def _look(self) -> None:
        self._timer = None
        assert self._runner is not None
        jobs = [job for job in self._runner.active.values() if job.exit is None]
        if not jobs:
            return
        now = time.monotonic()
        due = [job for job in jobs if job.next_sample <= now + FIRST_LOOK_S / 2]
        if due:
            census = Census()
            for job in due:
                self._sample(job, census)
            self._cost_s = time.monotonic() - now
        limited = any(job.needs.memory_bytes for job in due)
        pause = max(FIRST_LOOK_S / 2, self._cost_s / (LIMITED_SHARE if limited else UNLIMITED_SHARE) if due else 0.0)
        now = time.monotonic()
        for job in due:
            job.next_sample = max(now + job.sample_pause, now + pause)
            longest = LIMITED_MAX_S if job.needs.memory_bytes else UNLIMITED_MAX_S
            job.sample_pause = min(job.sample_pause * 2, longest)
        wait = max(pause, min(job.next_sample for job in jobs) - now)
        self._timer = self._timers.after(wait, self._look)

    def _sample(self, job: Job, census: Census) -> None:
        assert self._runner is not None
        rss = census.rss_bytes(job.tree)
        job.peak_rss_bytes = max(job.peak_rss_bytes, rss)
        limit = job.needs.memory_bytes
        if limit is not None and rss > limit and job.cause is None:
            reason = f"its processes took {rss} bytes of memory, its limit is {limit}"
            self._runner.stop(job, "memory_limit", reason, min(job.grace_s, MEMORY_GRACE_S))
