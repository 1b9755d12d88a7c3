"""Processes of this node: which one is which, what belongs to a job, how it is stopped.

Owns identity (a pid counts only together with the moment its process started), the census of a node's processes and the
stopping of whole trees. Knows nothing of jobs beyond the mark they carry in their environment,
nothing of spools and connections.

On Linux the kernel's own files under ``/proc`` are read: they cost a fraction of what a general library takes, and give
the start of a process in ticks since the boot, which no step of the wall clock moves. Elsewhere psutil answers the same
questions; this is the only module that imports it, where it is used, so that a worker starts small.
Sources: proc(5), pidfd_open(2), prctl(2).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
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


class Tree(NamedTuple):
    """What belongs to a job.

    Args:
        pid: of its first process, which leads its session.
        start_s, latest_s: when that one started, seconds since the boot: not before and not after. Nothing that started
            before belongs to the job.
        mark: what its processes carry in their environment; None to go by kinship alone.
        strays: processes known to belong to it although they left its session and lost their parents.
    """

    pid: int
    start_s: float
    latest_s: float
    mark: Optional[Mark] = None
    strays: frozenset[int] = frozenset()


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


# ------------------------------------------------------------------------------------------------- census


class Census:
    """All processes of the node at one moment.

    Taking one costs some 10 µs for each process of the node; ``cost_s`` tells what this one took, so that who takes
    them regularly can keep to a budget.
    """

    def __init__(self) -> None:
        begin = time.perf_counter()
        self.taken_s = boot_clock()
        self.entries: dict[int, Entry] = {}
        for name in os.listdir("/proc") if _HAS_PROC else map(str, _pids_portably()):
            if name.isdigit():
                entry = inspect(int(name))
                if entry is not None:
                    self.entries[int(name)] = entry
        self._children: dict[int, list[int]] = {}
        self._sessions: dict[int, list[int]] = {}
        for pid, entry in self.entries.items():
            self._children.setdefault(entry.ppid, []).append(pid)
            self._sessions.setdefault(entry.session, []).append(pid)
            if entry.group != entry.session:
                self._sessions.setdefault(entry.group, []).append(pid)
        self._marks: dict[int, Optional[Mark]] = {}
        self._marked: Optional[dict[Mark, list[int]]] = None
        self.cost_s = time.perf_counter() - begin

    def children(self, parents: Iterable[int]) -> list[int]:
        """The direct children of ``parents``."""
        return [pid for parent in parents for pid in self._children.get(parent, ())]

    def mark(self, pid: int) -> Optional[Mark]:
        """As :func:`mark_of`, read once."""
        if pid not in self._marks:
            self._marks[pid] = mark_of(pid)
        return self._marks[pid]

    def members(self, tree: Tree, *, search: bool = True) -> list[int]:
        """The living processes of a tree: its first one, its session and group, its strays, and all their descendants.

        Args:
            search: look also for the tree's mark in the environments of processes that started later than the tree.
        """
        first = self.entries.get(tree.pid)
        reused = first is not None and not started_within(first, tree.start_s, tree.latest_s)
        # A number that still names a session is not given to a new process: when it was, the session is empty.
        found = set() if reused else {tree.pid, *self._sessions.get(tree.pid, ())}
        found.update(tree.strays)
        earliest = tree.start_s - START_TOLERANCE_S
        if search and tree.mark is not None:
            found.update(self.carriers(tree.mark))
        open_ends = list(found)
        while open_ends:
            for child in self._children.get(open_ends.pop(), ()):
                if child not in found:
                    found.add(child)
                    open_ends.append(child)
        spared = {os.getpid(), os.getppid(), 1}
        alive = []
        for pid in found - spared:
            known = self.entries.get(pid)
            if known is not None and not known.dead and known.start_s >= earliest:
                alive.append(pid)
        return alive

    def carriers(self, mark: Mark) -> Sequence[int]:
        """The living processes that carry a mark; all environments are read for the first one asked for."""
        if self._marked is None:
            self._marked = {}
            for pid, entry in self.entries.items():
                carried = None if entry.dead else self.mark(pid)
                if carried is not None:
                    self._marked.setdefault(carried, []).append(pid)
        return self._marked.get(mark, ())

    def rss_bytes(self, tree: Tree) -> int:
        """The resident memory of a tree: the sum over its processes, pages they share counted for each."""
        return sum(self.entries[pid].rss_bytes for pid in self.members(tree, search=False))


# ------------------------------------------------------------------------------------------------- stopping


def send_signal(pid: int, start_s: float, number: int) -> bool:
    """Send a signal to that very process, never to another one that was given its number since.

    Returns:
        Whether it was there.
    """
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        handle = -1
    try:
        entry = inspect(pid)
        if entry is None or entry.start_s != start_s:
            return False
        if handle >= 0 and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


class TreeStop:
    """The stopping of one tree: TERM to all of it, a time of grace, then KILL until nothing is left.

    Never blocks: whoever owns it calls :meth:`step` when the time it asked for has come, or earlier when something of
    the tree has ended.
    """

    POLL_MIN_S = 0.01
    POLL_MAX_S = 0.25
    COST_SHARE = 0.1
    """At most this share of one core goes into looking after one tree that is being stopped."""

    def __init__(self, tree: Tree, grace_s: float) -> None:
        self.tree = tree
        self._grace_s = max(0.0, grace_s)
        self._kill_at: Optional[float] = None
        self._termed: set[int] = set()
        self._pause_s = self.POLL_MIN_S

    def hurry(self, grace_s: float) -> None:
        """Shorten the time of grace: what remains of it is at most ``grace_s``."""
        self._grace_s = min(self._grace_s, max(0.0, grace_s))
        if self._kill_at is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + self._grace_s)

    def step(self, census: Optional[Census] = None) -> Optional[float]:
        """Do what is due.

        Args:
            census: a fresh one, when there is one; it must be younger than the tree.

        Returns:
            Seconds after which to come back; None when nothing of the tree is left.
        """
        census = census or Census()
        members = census.members(self.tree)
        if not members:
            return None
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + self._grace_s
        if now >= self._kill_at:
            self._kill(census, members)
        else:
            # The first one first: else it could end by itself for the loss of a child, and tell another story.
            for pid in sorted(members, key=lambda pid: pid != self.tree.pid):
                if pid not in self._termed:
                    self._termed.add(pid)
                    send_signal(pid, census.entries[pid].start_s, signal.SIGTERM)
                    send_signal(pid, census.entries[pid].start_s, signal.SIGCONT)  # a stopped one could not obey
        pause = max(self._pause_s, census.cost_s / self.COST_SHARE)
        self._pause_s = min(self._pause_s * 1.5, self.POLL_MAX_S)
        return pause if now >= self._kill_at else min(pause, self._kill_at - now)

    def _kill(self, census: Census, members: Sequence[int]) -> None:
        # A group gets its signal at one stroke, which no fork escapes; then each one, for those in groups of others.
        groups = {census.entries[pid].group for pid in members}
        for group in groups & {self.tree.pid, *members}:
            leader = census.entries.get(group)
            if leader is None or leader.start_s >= self.tree.start_s - START_TOLERANCE_S:
                try:
                    os.killpg(group, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        for pid in members:
            send_signal(pid, census.entries[pid].start_s, signal.SIGKILL)


def stop_tree(tree: Tree, grace_s: float, timeout_s: float = 60.0) -> bool:
    """Stop a tree and wait for its end: :class:`TreeStop` for callers that have nothing else to do. Idempotent.

    Returns:
        Whether nothing of it is left.
    """
    stop = TreeStop(tree, grace_s)
    deadline = time.monotonic() + grace_s + timeout_s
    while time.monotonic() < deadline:
        pause = stop.step()
        if pause is None:
            return True
        time.sleep(pause)
    return False


class OwnChildren:
    """The children of this process: of its main thread, the only one that starts any.

    Where the kernel lists them (CONFIG_PROC_CHILDREN, as in all kernels of the large distributions), asking costs one
    system call however many processes the node has.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        try:
            self._fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def pids(self) -> Optional[set[int]]:
        """Their pids, also of those that are dead and not waited for; None where the kernel does not list them."""
        if self._fd < 0:
            return None
        text = os.pread(self._fd, 1 << 20, 0)
        return set(map(int, text.split()))


def group_alive(group: int) -> bool:
    """Whether a process group still has a member, dead but not waited for included. One system call."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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


def be_nice(level: int) -> None:
    """Give this process, with all its threads, a niceness of at least ``level`` (0 to 19); what it starts inherits it."""
    for name in os.listdir("/proc/self/task"):
        thread = int(name)
        try:
            if os.getpriority(os.PRIO_PROCESS, thread) < level:
                os.setpriority(os.PRIO_PROCESS, thread, level)
        except ProcessLookupError:
            pass  # it has ended
