"""Processes of this node: which one is which, and what it carries in its environment.

A pid counts only together with the moment its process started. Knows nothing of jobs beyond the mark they carry in their
environment. What belongs together is told by :mod:`.trees`, how it is stopped by :mod:`.stopping`.

On Linux the kernel's own files under ``/proc`` are read: they cost a fraction of what a general library takes, and give
the start of a process in ticks since the boot, which no step of the wall clock moves. Elsewhere psutil answers the same
questions; this is the only module that imports it, where it is used, so that a worker starts small.
Sources: proc(5), prctl(2).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Optional

JOB_VARIABLE = "LWFM_JOB_ID"
"""In the environment of every process of a job; a process that shall outlive its job drops it."""
ATTEMPT_VARIABLE = "LWFM_ATTEMPT"
WORKER_VARIABLE = "LWFM_WORKER"

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HAS_PROC = sys.platform.startswith("linux")
_PR_SET_CHILD_SUBREAPER = 36
START_TOLERANCE_S = 0.05
"""How far a recorded start may lie from what the kernel says: ticks of 10 ms, and the time between fork and record."""

_MACHINE = Path("/etc/machine-id")
_boot_id = ""


class Entry(NamedTuple):
    """A process as the kernel shows it. ``start_s``: seconds since the boot; ``dead``: ended, not yet waited for."""

    ppid: int
    group: int
    session: int
    start_s: float
    rss_bytes: int
    dead: bool


class Mark(NamedTuple):
    """What the processes of a job carry in their environment: the job, its attempt, and the worker that started it."""

    job: str
    attempt: int = 1
    worker: str = ""


# ------------------------------------------------------------------------------------------------- identity


def boot_id() -> str:
    """The identity of this boot of the node: pids and starts are comparable only within it."""
    global _boot_id
    if not _boot_id:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
                _boot_id = source.read().strip()
        except OSError:
            import psutil

            _boot_id = f"boot-{int(psutil.boot_time())}"
    return _boot_id


def machine_id() -> str:
    """The identity of this machine, which outlives boots (machine-id(5)); empty where it has none."""
    try:
        return _MACHINE.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def pid_space() -> str:
    """The identity of the set of pids that this process sees; pids are comparable only within it. Empty where it has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def boot_clock() -> float:
    """Seconds since the boot, sleep included: the clock in which starts of processes are told."""
    if _HAS_PROC:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    import psutil

    return time.time() - float(psutil.boot_time())


def inspect(pid: int) -> Optional[Entry]:
    """The process ``pid`` now; None when there is none."""
    if not _HAS_PROC:
        return _inspect_portably(pid)
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split(None, 22)
    if len(fields) < 22:
        return None
    return Entry(
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start_s=int(fields[19]) / _TICKS_PER_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
        dead=fields[0] in b"ZX",
    )


def all_pids() -> Iterable[int]:
    """The pids of all processes that are shown to this one."""
    if _HAS_PROC:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return _pids_portably()


def is_running(pid: int, start_s: float) -> bool:
    """Whether that very process still runs: the same pid, started at that time of this boot."""
    entry = inspect(pid)
    return entry is not None and not entry.dead and started_within(entry, start_s, start_s)


def started_within(entry: Entry, earliest_s: float, latest_s: float) -> bool:
    """Whether the process started between two times of the boot clock, as exactly as the kernel tells."""
    return earliest_s - START_TOLERANCE_S <= entry.start_s <= latest_s + START_TOLERANCE_S


def mark_of(pid: int) -> Optional[Mark]:
    """The mark that the process carries in its environment; None without, or when it may not be read."""
    try:
        if _HAS_PROC:
            with open(f"/proc/{pid}/environ", "rb") as source:
                block = b"\0" + source.read()
        else:
            import psutil

            items = psutil.Process(pid).environ().items()
            block = b"\0" + b"\0".join(os.fsencode(f"{name}={value}") for name, value in items) + b"\0"
    except Exception:  # psutil's own errors are not importable here without importing psutil
        return None
    job = _variable(block, JOB_VARIABLE)
    if job is None:
        return None
    attempt = _variable(block, ATTEMPT_VARIABLE) or ""
    return Mark(job, int(attempt) if attempt.isdigit() else 1, _variable(block, WORKER_VARIABLE) or "")


def open_files(pid: int) -> set[str]:
    """The paths the process holds as standard output and standard error; those it may not show are left out."""
    found = set()
    for stream in (1, 2):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{stream}"))
        except OSError:
            pass
    return found


def _variable(block: bytes, name: str) -> Optional[str]:
    begin = block.find(b"\0" + name.encode() + b"=")
    if begin < 0:
        return None
    begin += len(name) + 2
    end = block.find(b"\0", begin)
    return os.fsdecode(block[begin : end if end >= 0 else len(block)])


# ------------------------------------------------------------------------------------------------- of this process


def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans. Kept over exec, not over fork.

    Returns:
        Whether the system can do that.
    """
    if not _HAS_PROC:
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def be_nice(level: int) -> None:
    """Give this process, with all its threads, a niceness of at least ``level`` (0 to 19); what it starts inherits it."""
    for name in os.listdir("/proc/self/task"):
        thread = int(name)
        try:
            if os.getpriority(os.PRIO_PROCESS, thread) < level:
                os.setpriority(os.PRIO_PROCESS, thread, level)
        except ProcessLookupError:
            pass  # it has ended


# ------------------------------------------------------------------------------------------------- without /proc


def _pids_portably() -> list[int]:
    import psutil

    return [int(pid) for pid in psutil.pids()]


def _inspect_portably(pid: int) -> Optional[Entry]:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Entry(
                ppid=int(process.ppid()),
                group=os.getpgid(pid),
                session=os.getsid(pid),
                start_s=float(process.create_time()) - float(psutil.boot_time()),
                rss_bytes=int(process.memory_info().rss),
                dead=process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD),
            )
    except (psutil.Error, OSError):
        return None
