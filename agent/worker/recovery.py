"""Taking over what an earlier loop left: every job gets its true end, or the truth that it cannot be known.

Owns the deciding about jobs that stand in the spool when a loop starts, and the waiting for those whose process is not
its child. For a job that had been started there are these cases, tried in this order:

* its exit stands in the journal: it is over;
* the keeper has waited for it: it is over, with the status the keeper wrote down;
* that very process still runs: it is *adopted*. Its keeper tells when it ends. When the keeper that was its parent is
  dead too, its end can be seen but not its status: ``lost``;
* none of these: ``lost``.

A loop that was killed between writing ``start`` and ``started`` leaves a job in *doubt*: there may be a process without
a known pid. It carries the job's mark in its environment, or the keeper has waited for a process that nobody knows and
that led a session. If the same keeper has seen everything since and there is no such process, none was started.
"""

from __future__ import annotations

import os
import selectors
import time

from ..host.processes import START_TOLERANCE_S, boot_clock, boot_id, inspect, started_within
from ..host.trees import Census
from .jobs import ENDED, QUEUED, RUNNING, STARTING, Exit, Job
from .log import Log
from .outputs import Outputs
from .reaped import Reaped, file_of, generations, parse
from .runner import Runner
from .timers import Timers

SPAWN_WITHIN_S = 10.0
"""A process appears at most so long after its ``start`` was written."""
DOUBT_S = 3.0
"""How long an unknown child may stay without a mark: one that has not yet come to exec has none."""
STARTS_SOON_S = 1.0
"""And mostly so soon: what appeared later is not taken for it."""
POLL_S = 0.1
UNSEEN_S = 2.0
"""A process that is gone without a record of its keeper is lost after this time: the keeper may be about to write."""


class Recovery:
    """Takes over a spool.

    Args:
        generation: of this loop.
        keeper_pid: of the keeper; 0 without one.
    """

    def __init__(
        self,
        directory: str,
        generation: int,
        keeper_pid: int,
        runner: Runner,
        outputs: Outputs,
        selector: selectors.BaseSelector,
        timers: Timers,
        log: Log,
    ) -> None:
        self._directory, self._generation, self._keeper_pid = directory, generation, keeper_pid
        self._runner, self._outputs = runner, outputs
        self._selector, self._timers, self._log = selector, timers, log
        self._spool = runner.spool
        self._offset = 0
        self._strangers: list[Reaped] = []
        self._announced: dict[tuple[int, float], Reaped] = {}
        self._gone_since: dict[int, float] = {}
        self._in_doubt: list[Job] = []
        self._polling = False
        self._doubt_until = self._began_s = 0.0

    # --------------------------------------------------------------------------------------------- at the start

    def take_over(self) -> None:
        """Decide about all jobs in the spool; what cannot be decided yet is watched."""
        old = [number for number in generations(self._directory) if number < self._generation]
        reaped = [record for number in old for record in self._records(number)]
        jobs = list(self._spool.jobs.values())
        self._outputs.restore(jobs)
        for job in jobs:
            if job.state in (STARTING, RUNNING) and job.grant is not None:
                self._runner.ledger.retake(job.grant)
                job.adopted = True
        if self._spool.rebooted:
            self._after_reboot(jobs)
        else:
            self._decide(jobs, reaped)
        self._runner.finish_over(at_once=True)
        # What the keeper wrote is dropped when the journal has it, and not while it may still resolve a doubt.
        if self._spool.flush() and not self._in_doubt:
            self._outputs.empty_collected()
            for number in old:
                os.unlink(file_of(self._directory, number))

    def _after_reboot(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.state == QUEUED:
                # The journal's last lines may not have come to the disk: it may have run. The agent knows.
                self._spool.forget(job)
            elif job.state != ENDED:
                job.pid = 0
                self._runner.is_lost(job, f"the node was restarted while the job ran (boot {boot_id()[:8]})")

    def _decide(self, jobs: list[Job], reaped: list[Reaped]) -> None:
        over: list[tuple[Job, Exit]] = []
        for job in jobs:
            if job.state == QUEUED:
                self._runner.enqueue(job)
            elif job.state == STARTING:
                self._in_doubt.append(job)
            elif job.state == RUNNING:
                record = next((record for record in reaped if _is_of(record, job)), None)
                if record is not None:
                    reaped.remove(record)
                    over.append((job, _exit(record)))
                elif job.exit is not None:
                    over.append((job, job.exit))
                else:
                    self._runner.resume(job)
                    self._adopt(job)
        self._runner.doubtful = {job.key for job in self._in_doubt}
        for job, end in over:
            if job.exit is None and end.status is not None:
                self._spool.exited(job, end.status)
        for job, end in over:  # when all that runs is known, so that nothing of it is taken for an orphan
            self._runner.has_ended(job, end)
        self._strangers = [record for record in reaped if self._is_stranger(record)]
        self._doubt_until = time.monotonic() + DOUBT_S
        self._began_s = boot_clock()
        self._resolve_doubts()

    # --------------------------------------------------------------------------------------------- adopted

    def _adopt(self, job: Job) -> None:
        entry = inspect(job.pid)
        there = entry is not None and started_within(entry, job.start_s, job.start_s + SPAWN_WITHIN_S)
        if there and entry is not None:
            job.start_s = job.latest_s = entry.start_s
        self._runner.adopted[job.pid] = job
        covered = self._keeper_pid != 0 and job.keeper == self._spool.keeper
        if not covered:
            if there:
                self._watch_unkept(job)
            else:
                self._lose(job)
        elif not there:
            self._gone_since[job.pid] = time.monotonic()
            self._poll_soon()
        if job.cause is not None and job.state == RUNNING and job.stop is None:
            self._runner.begin_stop(job, job.grace_s)

    def follow(self) -> None:
        """Read what the keeper has written since the last time."""
        self._read_on()
        if self._in_doubt:
            self._resolve_doubts()

    def _read_on(self) -> None:
        for record in self._records(self._generation):
            if record.cpu_seconds is None and self._keeper_pid:
                self._announced[record.pid, record.start_s] = record  # the rest of it is about to be written
                continue
            self._announced.pop((record.pid, record.start_s), None)
            self._take_record(record)

    def _take_record(self, record: Reaped) -> None:
        job = self._runner.adopted.get(record.pid)
        if job is not None and _is_of(record, job):
            del self._runner.adopted[record.pid]
            self._gone_since.pop(record.pid, None)
            self._runner.has_ended(job, _exit(record))
        elif self._is_stranger(record):
            self._strangers.append(record)

    def _is_stranger(self, record: Reaped) -> bool:
        return record.session == record.pid and record.pid not in self._spool.started_pids

    def keeper_died(self) -> None:
        """Go on without: of what was its child, the end can be seen but not the status."""
        self._keeper_pid = 0
        self._spool.keeper = ""
        self._read_on()
        for record in list(self._announced.values()):
            self._take_record(record)
        self._announced.clear()
        for job in list(self._runner.adopted.values()):
            self._watch_unkept(job)
        for job in self._runner.children.values():
            job.keeper = ""
        self._resolve_doubts()

    def _watch_unkept(self, job: Job) -> None:
        try:
            handle = os.pidfd_open(job.pid)  # type: ignore[attr-defined,unused-ignore]
        except (AttributeError, OSError):
            self._poll_soon()  # an old kernel, or it is gone already
            return

        def ended(events: int) -> None:
            del events
            self._selector.unregister(handle)
            os.close(handle)
            if self._runner.adopted.get(job.pid) is job:
                self._lose(job)

        self._selector.register(handle, selectors.EVENT_READ, ended)

    def _poll_soon(self) -> None:
        if not self._polling:
            self._polling = True
            self._timers.after(POLL_S, self._poll)

    def _poll(self) -> None:
        self._polling = False
        now = time.monotonic()
        for job in list(self._runner.adopted.values()):
            entry = inspect(job.pid)
            covered = self._keeper_pid != 0 and job.keeper == self._spool.keeper
            there = entry is not None and started_within(entry, job.start_s, job.latest_s + SPAWN_WITHIN_S)
            if there and entry is not None and (covered or not entry.dead):
                continue  # a dead one that is still there the keeper has yet to wait for: its disk may be full
            if not covered or now - self._gone_since.setdefault(job.pid, now) > UNSEEN_S:
                self._lose(job)
        if self._gone_since or any(job.keeper != self._spool.keeper for job in self._runner.adopted.values()):
            self._poll_soon()

    def _lose(self, job: Job) -> None:
        self._runner.adopted.pop(job.pid, None)
        self._gone_since.pop(job.pid, None)
        self._runner.is_lost(
            job, f"the worker and its keeper were killed while process {job.pid} ran; its exit status went to nobody"
        )

    # --------------------------------------------------------------------------------------------- doubtful

    def _resolve_doubts(self) -> None:
        if not self._in_doubt:
            return
        census = Census()
        self._read_on()  # after the census: what it does not show any more is on record
        waiting = []
        for job in self._in_doubt:
            if not self._resolve(job, census):
                waiting.append(job)
        self._in_doubt = waiting
        self._runner.doubtful = {job.key for job in waiting}
        if waiting:
            self._timers.after(POLL_S, self._resolve_doubts)

    def _resolve(self, job: Job, census: Census) -> bool:
        latest = job.start_s + SPAWN_WITHIN_S
        marked = [
            (entry.start_s, pid)
            for pid, entry in census.entries.items()
            if entry.session == pid
            and not entry.dead
            and started_within(entry, job.start_s, latest)
            and census.mark(pid) == job.mark
        ]
        if marked:
            self._runner.has_started(job, min(marked)[1])
            record = next((record for record in self._strangers if _is_of(record, job)), None)
            if record is None:
                self._adopt(job)
            else:  # it has ended since the census
                self._strangers.remove(record)
                self._runner.has_ended(job, _exit(record))
            return True
        kept = self._keeper_pid != 0 and job.keeper == self._spool.keeper
        unmarked = [
            pid
            for pid in census.children((self._keeper_pid,) if kept else ())
            if pid != os.getpid()
            and pid not in self._runner.adopted
            and census.entries[pid].start_s >= job.start_s - POLL_S
            and (census.entries[pid].dead or census.mark(pid) is None)
        ]
        if (unmarked or self._announced) and time.monotonic() < self._doubt_until:
            return False  # not come to exec yet, or about to be waited for by the keeper
        earliest, before = job.start_s - START_TOLERANCE_S, min(latest, self._began_s) + START_TOLERANCE_S
        ended = [record for record in self._strangers if earliest <= record.start_s <= before]
        if len(ended) == 1 and not unmarked and ended[0].start_s < job.start_s + STARTS_SOON_S:
            self._strangers.remove(ended[0])
            self._runner.has_started(job, ended[0].pid)
            self._runner.has_ended(job, _exit(ended[0]))
        elif not ended and not unmarked and kept:
            if job.cause is not None:
                job.state = QUEUED
                self._runner.stop(job, job.cause, job.reason or "cancelled")
            else:
                self._runner.put_back(job)
        else:
            job.pid = 0
            self._log(
                f"job {job.key[0]}.{job.key[1]} in doubt since {job.start_s:.3f}: same keeper {kept}, "
                f"unknown children {unmarked}, unknown ends {[(r.pid, r.start_s) for r in self._strangers]}"
            )
            self._runner.is_lost(
                job, "the worker was killed at the moment it started the job; whether it ran is not known"
            )
        return True

    def _records(self, generation: int) -> list[Reaped]:
        offset = self._offset if generation == self._generation else 0
        try:
            with open(file_of(self._directory, generation), "rb") as source:
                source.seek(offset)
                data = source.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if generation == self._generation:
            self._offset += len(whole)
        return parse(whole.decode("ascii", "replace"))


def _is_of(record: Reaped, job: Job) -> bool:
    return record.pid == job.pid and job.start_s - 1 <= record.start_s <= job.start_s + SPAWN_WITHIN_S


def _exit(record: Reaped) -> Exit:
    return Exit(record.status, record.cpu_seconds, record.max_rss_bytes, record.read_bytes, record.write_bytes)
