"""Jobs that somebody else executes, such as the script of ``lwfm run``: their processes are watched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Optional

from ..clock import utc_now
from ..errors import InvalidRecord
from ..host import processes
from ..states import JobState
from .recorder import Recorder
from .writer import Writer

GRACE_S = 1.0
"""How long after its process has gone a job's own report is still waited for."""
POLL_S = 1.0


class AttachedJobs:
    """Watches the processes of attached jobs.

    Args:
        writer: for recording that one went away. ``spawn``: runs a coroutine in the event loop.
    """

    def __init__(self, writer: Writer, spawn: Callable[[Awaitable[None]], object]):
        self._writer = writer
        self._spawn = spawn
        self._watched: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def identify(self, pid: object) -> tuple[int, float]:
        """The process ``pid`` and its start.

        Raises:
            InvalidRecord: there is no such process.
        """
        if isinstance(pid, int) and not isinstance(pid, bool) and pid > 1:  # the first process is nobody's job
            entry = processes.inspect(pid)
            if entry is not None:
                return pid, entry.start_s
        raise InvalidRecord(f"there is no process {pid!r} on this node")

    def watch(self, job_id: str, pid: int, start_s: float, boot_id: str) -> None:
        """Watch from now on; a process that is gone already is noticed."""
        self._watched[job_id] = (pid, start_s)
        self._spawn(self._follow(job_id, pid, start_s, boot_id))

    def interrupt(self, job_id: str) -> bool:
        """Ask the process of a job to end, as Ctrl-C does; False for a job that is not attached."""
        if job_id not in self._watched:
            return False
        pid, start_s = self._watched[job_id]
        if processes.is_running(pid, start_s):
            with contextlib.suppress(ProcessLookupError):  # it ended at this moment, which is noticed
                os.kill(pid, signal.SIGINT)
        return True

    def forget(self, job_id: str) -> None:
        """The job has ended."""
        self._watched.pop(job_id, None)

    async def restore(self) -> None:
        """Watch again what was watched before a restart."""
        rows = await self._writer.write(_remembered)
        for job_id, pid, start_s, boot_id in rows:
            self.watch(job_id, pid, start_s, boot_id)

    async def _follow(self, job_id: str, pid: int, start_s: float, boot_id: str) -> None:
        if boot_id == processes.boot_id():
            await _gone(pid, start_s, lambda: job_id in self._watched)
        await asyncio.sleep(GRACE_S)
        if job_id in self._watched:
            await self._writer.durably(_record_gone, job_id, pid)
            self.forget(job_id)


async def _gone(pid: int, start_s: float, wanted: Callable[[], bool]) -> None:
    """Wait for the end of a process, woken by the kernel where it can, else looking once a second."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = _pidfd(pid)
    if descriptor is not None:
        loop.add_reader(descriptor, ended.set)
    try:
        while wanted() and processes.is_running(pid, start_s):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), POLL_S if descriptor is None else 30.0)
    finally:
        if descriptor is not None:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _pidfd(pid: int) -> Optional[int]:
    """A descriptor that becomes readable when the process ends, where the kernel has such (Linux 5.3)."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def remember(recorder: Recorder, job_id: str, pid: int, start_s: float) -> None:
    """Make durable which process executes a job."""
    recorder.transaction.execute(
        "insert or replace into local_attached values (?, ?, ?, ?)", (job_id, pid, start_s, processes.boot_id())
    )


def is_attached(recorder: Recorder, job_id: str) -> bool:
    """Whether the caller who recorded the job executes it."""
    query = "select 1 from local_attached where job_id = ?"
    return recorder.transaction.execute(query, (job_id,)).fetchone() is not None


def release(recorder: Recorder, job_id: str) -> None:
    """The job has ended."""
    recorder.transaction.execute_later("delete from local_attached where job_id = ?", (job_id,))


def _remembered(recorder: Recorder) -> list[tuple[str, int, float, str]]:
    return recorder.transaction.execute("select job_id, pid, start_s, boot_id from local_attached").fetchall()


def _record_gone(recorder: Recorder, job_id: str, pid: int) -> None:
    release(recorder, job_id)
    job = recorder.job_now(job_id)
    if job is None:
        return
    gone = f"process {pid}, which executed it, went away without reporting its end"
    if job.state is JobState.FINISHING:
        recorder.record_status(job, JobState.CANCELLED, reason=f"cancelled: {gone}", ended_at=utc_now())
    else:
        recorder.record_status(job, JobState.FAILED, reason=gone, ended_at=utc_now())
