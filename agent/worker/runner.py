"""The life of jobs: taken, started, stopped, ended. The heart of the loop.

Owns the queue and the maps from pid to job. Each step stands in the spool before it is acted upon. Starts through
:mod:`.launcher`, books through :mod:`.ledger`; what a job prints, its limits and its orphans are the business of others.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import Any, Callable, Optional

from ..clock import utc_text
from ..errors import InvalidRecord
from ..host.processes import boot_clock
from ..host.stopping import TreeStop
from ..host.trees import Census
from .jobs import OVER, QUEUED, RUNNING, STARTING, Exit, Job, Key
from .launcher import Launcher, NotStarted, TryAgain
from .ledger import Ledger
from .log import Log
from .orphans import Orphans
from .outputs import NOTHING, Outputs
from .report import describe_end
from .spool import Spool
from .timers import Timers
from .waited import used, wait_status

SPAWN_TRIES = 6
SPAWN_BACK_OFF_S = 0.1
"""After the first failure to start for a passing reason; doubled after each further one."""
SPAWN_BACK_OFF_MAX_S = 3.0
BLOCKED_RETRY_S = 1.0
GATHER_S = 0.005
"""How long the end of a job may wait to be told while other jobs are started."""
CENSUS_AGE_S, CENSUS_AGE_COSTS = 0.02, 10
"""One look at the node's processes serves all jobs that are being stopped within this time, or this many times what it
took."""


class Runner:
    """All jobs of the worker.

    Args:
        parents: the processes whose children may be orphans of jobs: the loop, and its keeper.
        watch: told of each job that has started to run.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        launcher: Launcher,
        outputs: Outputs,
        timers: Timers,
        log: Log,
        *,
        parents: Callable[[], tuple[int, ...]],
        watch: Callable[[Job], None],
    ) -> None:
        self.spool, self.ledger, self.launcher, self.outputs, self.timers = spool, ledger, launcher, outputs, timers
        self._log = log
        self._watch = watch
        self.orphans = Orphans(self, outputs.directory, parents, log)
        self.queue: deque[Job] = deque()
        self.unbound: deque[Job] = deque()
        self.active: dict[Key, Job] = {}
        self.children: dict[int, Job] = {}
        self.adopted: dict[int, Job] = {}
        self.doubtful: set[Key] = set()
        self.draining = False
        self._paused = False
        self._short = ""
        self._over: list[Job] = []
        self._told = 0.0
        self._telling = False
        self._second, self._second_text = -1, ""
        self._census: Optional[Census] = None

    @property
    def busy(self) -> bool:
        """Whether any job runs, or may run."""
        return bool(self.active or self.doubtful)

    @property
    def trouble(self) -> str:
        """Why no job can be started at the moment; empty when one can."""
        if self.spool.blocked:
            return f"its spool cannot be written: {self.spool.refusal}"
        return self._short if self.queue or self.unbound else ""

    # --------------------------------------------------------------------------------------------- taking

    def take(self, message: dict[str, Any], context: Optional[int]) -> None:
        """Take a job, unless it is known already."""
        job = Job(message)
        if job.key in self.spool.jobs:
            return
        job.context = context
        self.spool.take(job)
        impossible = self.ledger.impossible(job.needs)
        if impossible:
            self.not_started(job, impossible)
        else:
            self.enqueue(job)

    def enqueue(self, job: Job) -> None:
        """Put a job in line; one that needs nothing that others could be waiting for need not wait itself."""
        (self.unbound if job.needs_nothing else self.queue).append(job)

    def refuse(self, message: dict[str, Any], why: str) -> None:
        """Answer a job whose message is of no use."""
        key = (message.get("job"), message.get("attempt"))
        if not isinstance(key[0], str) or not isinstance(key[1], int):
            raise InvalidRecord(why)
        job = Job({"job": "refused", "attempt": key[1], "argv": ["-"]})
        job.key = (key[0], key[1])
        if job.key not in self.spool.jobs:
            self.spool.jobs[job.key] = job
            self.not_started(job, why)

    # --------------------------------------------------------------------------------------------- starting

    def start_ready(self) -> None:
        """Start what there is room for: first come first served. Tell of those that are over."""
        started = self._start_from(self.unbound) + self._start_from(self.queue)
        if self._over:
            self.finish_over(at_once=not started)

    def _start_from(self, queue: deque[Job]) -> int:
        started = 0
        while queue and not self._paused and not self.draining:
            job = queue[0]
            if job.state != QUEUED:
                queue.popleft()  # cancelled meanwhile
                continue
            grant = self.ledger.take(job.needs)
            if grant is None:
                break
            queue.popleft()
            job.grant = grant
            job.slot = self.outputs.acquire()
            job.start_s = boot_clock()
            if not self.spool.start(job):
                self._put_back(job)
                self._pause(BLOCKED_RETRY_S)
                break
            self._spawn(job)
            started += 1
        return started

    def _spawn(self, job: Job) -> None:
        assert job.slot is not None
        stdout, stderr = self.outputs.slot_files(job.slot)
        try:
            pid = self.launcher.start(job, stdout, stderr)
        except NotStarted as error:
            self.not_started(job, str(error))
            return
        except TryAgain as error:
            job.tries += 1
            if error.short:
                self._short = str(error)
            elif job.tries >= SPAWN_TRIES:
                self.not_started(job, f"{error} ({job.tries} attempts)")
                return
            self.spool.put_back(job)
            self._put_back(job)
            self._pause(min(SPAWN_BACK_OFF_MAX_S, SPAWN_BACK_OFF_S * 2 ** min(job.tries - 1, 10)))
            return
        self._short = ""
        job.latest_s = boot_clock()
        self.children[pid] = job
        self.has_started(job, pid)

    def has_started(self, job: Job, pid: int) -> None:
        """Enter that a job's process runs."""
        job.pid, job.state, job.started_at = pid, RUNNING, self._now()
        self.spool.started(job)
        self.resume(job)

    def resume(self, job: Job) -> None:
        """Count a job among those that run."""
        self.active[job.key] = job
        self._watch(job)

    def put_back(self, job: Job) -> None:
        """Return a job to the queue's head: nothing of it has been started."""
        self.spool.put_back(job)
        self._put_back(job)

    def _put_back(self, job: Job) -> None:
        self._release(job)
        if job.slot is not None:
            self.outputs.release(job.slot)
            job.slot = None
        job.state = QUEUED
        (self.unbound if job.needs_nothing else self.queue).appendleft(job)

    def _pause(self, seconds: float) -> None:
        self._paused = True
        self.timers.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self._paused = False

    # --------------------------------------------------------------------------------------------- stopping

    def cancel(self, key: Key, reason: Optional[str], grace_s: Optional[float], cause: str = "cancel") -> None:
        """Stop a job: somebody wants it, its node will soon not be ours (``cut_off``), or one of its nodes is lost."""
        job = self.spool.jobs.get(key)
        if job is not None:
            self.stop(job, cause, reason or "cancelled", grace_s)

    def stop(self, job: Job, cause: str, reason: str, grace_s: Optional[float] = None) -> None:
        """Stop a job, or drop it when it has not started. The first cause given counts."""
        grace = job.grace_s if grace_s is None else grace_s
        if job.state == QUEUED:
            job.cause, job.reason, job.ended_at = cause, reason, self._now()
            self._finish(job)
        elif job.state == STARTING:
            job.cause, job.reason = cause, reason  # acted upon when it is known whether it runs
        elif job.state == RUNNING:
            if job.exit is None and job.cause is None:
                job.cause, job.reason = cause, reason
                self.spool.stopping(job)
                self.spool.flush()
            if job.stop is None:
                self.begin_stop(job, grace)
            else:
                job.stop.hurry(grace)
                self._step(job)

    def begin_stop(self, job: Job, grace_s: float) -> None:
        """Begin to stop the whole tree of a job."""
        job.stop = TreeStop(job.tree, grace_s)
        self._step(job)

    def census(self, after_s: float) -> Census:
        """A census taken within the last moment, and after ``after_s`` on the boot clock."""
        census = self._census
        if census is not None:
            age = max(CENSUS_AGE_S, census.cost_s * CENSUS_AGE_COSTS)
            if census.taken_s >= max(boot_clock() - age, after_s):
                return census
        self._census = Census()
        return self._census

    def _step(self, job: Job) -> None:
        if job.stop is None or job.state != RUNNING:
            return
        if job.step is not None:
            job.step.cancel()
            job.step = None
        job.stop.tree = job.tree
        pause = job.stop.step(self.census(job.latest_s))
        if pause is not None:
            job.step = self.timers.after(pause, lambda: self._step(job))
        elif job.exit is not None:
            self._finish(job)
        # Else its process has just died: the kernel, or the keeper, is about to tell how.

    # --------------------------------------------------------------------------------------------- ending

    def reap(self) -> None:
        """Take notice of every child that has ended.

        The kernel is asked first how it ended, without it forgetting the process. Only when that stands in the journal
        is the process let go: whenever the worker is killed, either the journal or the keeper knows.
        """
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            job = self.children.get(pid)
            if job is None:
                self.orphans.reaped(pid, _exit(os.wait4(pid, 0)))
                continue
            if not self.spool.flush():  # the kernel keeps it until the journal can
                job.disk_full = True
                self.timers.after(BLOCKED_RETRY_S, self.reap)
                return
            self.spool.exited(job, wait_status(found.si_code, found.si_status))
            del self.children[pid]
            self.has_ended(job, _exit(os.wait4(pid, 0)))

    def has_ended(self, job: Job, end: Exit) -> None:
        """Enter that a job's first process has ended; the job is over when nothing of it is left."""
        job.exit = end
        job.ended_at = self._now()
        if job.deadline is not None:
            job.deadline.cancel()
        if not self.orphans.look(job):
            if job.step is not None:
                job.step.cancel()
            self._release(job)
            job.state = OVER
            self._over.append(job)
        elif job.stop is None:
            self.begin_stop(job, job.grace_s)
        else:
            self._step(job)

    def finish_over(self, *, at_once: bool) -> None:
        """Tell of the jobs that are over.

        Args:
            at_once: else only when some time has passed since the last time: while there are jobs to be started, that
                comes first, and telling of several at a time takes less than of each.
        """
        now = time.monotonic()
        if at_once or now - self._told >= GATHER_S:
            self._told = now
            over, self._over = self._over, []
            for job in over:
                self._finish(job)
        elif not self._telling:
            self._telling = True
            self.timers.after(GATHER_S, self._tell)

    def _tell(self) -> None:
        self._telling = False

    def not_started(self, job: Job, why: str) -> None:
        """Enter that a job cannot be started."""
        job.cause, job.reason, job.ended_at = "not_started", why, self._now()
        self._finish(job)

    def is_lost(self, job: Job, why: str) -> None:
        """Enter that how a job ended cannot be known. What may be left of it is stopped."""
        if job.cause is None:
            job.cause, job.reason = "lost", why
        job.exit = job.exit or Exit()
        job.ended_at = self._now()
        if job.pid:
            self.begin_stop(job, job.grace_s)
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        if job.step is not None:
            job.step.cancel()
        if job.deadline is not None:
            job.deadline.cancel()
        if job.stop is not None and job.stop.tree.strays:
            self.orphans.forget(job.stop.tree.strays)
        job.stop = job.step = job.deadline = None
        self.active.pop(job.key, None)
        self._release(job)
        if job.slot is not None:
            shared = job.cause == "lost" or self.orphans.unknown
            printed = self.outputs.collect(job, shared=shared)
            job.disk_full = job.disk_full or self.outputs.is_full()
        else:
            printed = [NOTHING, NOTHING]
        if job.message.get("files"):
            self.launcher.forget_files(job)
        if job.cause is None and job.exit is not None and job.exit.status == signal.SIGKILL:
            job.reason = self.orphans.out_of_memory()
        self.spool.ended(job, describe_end(job, printed))

    def _now(self) -> str:
        """The time as text; what lies before the fraction is made once a second."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = utc_text(second)[: -len("000000Z")]
        return f"{self._second_text}{int((now - second) * 1e6):06d}Z"

    def _release(self, job: Job) -> None:
        if job.grant is not None:
            self.ledger.give_back(job.grant)
            job.grant = None


def _exit(waited: tuple[int, int, Any]) -> Exit:
    _, status, usage = waited
    return Exit(status, *used(usage))
