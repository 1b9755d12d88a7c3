"""The keeper: starts the loop, and keeps the truth when the loop is killed.

Owns the loop's process and, once a loop has died, the processes it left: as their subreaper it becomes their parent,
waits for them and writes to the spool how they ended (:mod:`.reaped`), so that no exit status is lost, and it starts the
next loop, which goes on with them. Talks to nobody and starts no jobs. Small on purpose: it imports next to nothing,
sleeps in waitid(2), and there is little in it that could go wrong.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from ..host.processes import become_subreaper, inspect
from .log import Log
from .reaped import Reaped, file_of, generations
from .waited import used, wait_status

MAX_DEATHS = 5
DEATHS_WITHIN_S = 10.0
BACK_OFF_S = (0.0, 0.05, 0.2, 0.5, 1.0)
SHORT_RETRY_S = 1.0
"""While the host lets us start no process, or the disk takes no record."""
SLOW_RETRY_S = 30.0
"""After too many deaths, while jobs still run, whose ends somebody must record."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOP_FAILED = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    StartLoop = Callable[[int, int], int]
    """Runs a loop in this process: its generation, the reading end of the keeper's pipe; gives its exit code."""


class Keeper:
    """The keeper of one spool directory, whose lock this process holds."""

    def __init__(self, directory: str, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._generation = max(generations(directory), default=0)
        self._loop = 0
        self._bell = -1
        self._told_to_stop = False
        self._unwritten = 0

    def keep(self, start_loop: StartLoop) -> int:
        """Run loops until one leaves by itself.

        Returns:
            The exit code of the worker.
        """
        become_subreaper()
        signal.signal(signal.SIGHUP, self._ignore)
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(signal.SIGINT, self._pass_on)
        deaths: list[float] = []
        while True:
            status = self._run(start_loop)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
                return 0
            now = time.monotonic()
            deaths = [*(when for when in deaths if now - when < DEATHS_WITHIN_S), now]
            self._log(f"the loop died ({_how(status)}), {len(deaths)} times within {DEATHS_WITHIN_S:.0f} s")
            if len(deaths) < MAX_DEATHS:
                time.sleep(BACK_OFF_S[len(deaths) - 1])
            elif self._reap_all() == 0:
                self._log("giving up: the loop does not stay alive, and nothing runs")
                return LOOP_FAILED
            else:
                self._log(f"the loop does not stay alive; jobs still run: next attempt in {SLOW_RETRY_S:.0f} s")
                time.sleep(SLOW_RETRY_S)

    def _run(self, start_loop: StartLoop) -> int:
        self._generation += 1
        self._begin(start_loop)
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert found is not None  # only WNOHANG gives None
            if found.si_pid == self._loop:
                break
            if not self._record(found):
                if os.waitid(os.P_PID, self._loop, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    break
                time.sleep(SHORT_RETRY_S)
        _, status = os.waitpid(self._loop, 0)
        self._loop = 0
        os.close(self._bell)
        self._bell = -1
        # What it left is ours by now. What of that has ended already must be on record before the next loop looks.
        self._reap_all()
        return status

    def _begin(self, start_loop: StartLoop) -> None:
        """Start a loop, as soon as the host lets us."""
        short = ""
        while True:
            try:
                listen, bell = os.pipe()
                try:
                    self._fork(start_loop, listen, bell)
                finally:
                    os.close(listen)
                return
            except OSError as error:
                if short != str(error):
                    short = str(error)
                    self._log(f"the loop cannot be started, trying again: {short}")
            time.sleep(SHORT_RETRY_S)
            self._reap_all()

    def _fork(self, start_loop: StartLoop, listen: int, bell: int) -> None:
        os.set_blocking(bell, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the loop is ready to hear them
        try:
            self._loop = os.fork()
        except OSError:
            os.close(bell)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            raise
        if self._loop == 0:
            code = LOOP_FAILED
            try:
                os.close(bell)
                code = start_loop(self._generation, listen)
            finally:
                os._exit(code)
        self._bell = bell
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if self._told_to_stop:
            os.kill(self._loop, signal.SIGTERM)

    def _reap_all(self) -> int:
        """Record what has ended; the number of children that have not, as far as the kernel tells: 0 or 1."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return 0
            if found is None:
                return 1
            if not self._record(found, last=self._told_to_stop):
                time.sleep(SHORT_RETRY_S)

    def _record(self, found: os.waitid_result, *, last: bool = False) -> bool:
        """Write how a process ended, then let it go, then write what it used.

        In this order, for a loop that finds neither the process nor a record concludes that there never was one.

        Args:
            last: there is no later: let it go even when the disk takes nothing.

        Returns:
            Whether it is gone; else the disk takes nothing, and the kernel keeps what there is to know.
        """
        pid = found.si_pid
        entry = inspect(pid)
        reaped = Reaped(pid, wait_status(found.si_code, found.si_status))
        if entry is not None:
            reaped.start_s, reaped.session = entry.start_s, entry.session
            if not self._write(reaped) and not last:
                return False
        _, reaped.status, usage = os.wait4(pid, 0)
        reaped.cpu_seconds, reaped.max_rss_bytes, reaped.read_bytes, reaped.write_bytes = used(usage)
        if entry is not None:
            self._write(reaped)
            self._ring()
        return True

    def _write(self, reaped: Reaped) -> bool:
        """Append a line, whole or not at all; whether it is there."""
        line = reaped.line().encode("ascii")
        try:
            path = file_of(self._directory, self._generation)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                if os.write(fd, line) < len(line):
                    os.ftruncate(fd, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
        except OSError as error:
            if self._unwritten != reaped.pid:
                self._unwritten = reaped.pid
                self._log(f"cannot keep that process {reaped.pid} ended with status {reaped.status}: {error.strerror}")
            return False
        self._unwritten = 0
        return True

    def _ring(self) -> None:
        if self._bell >= 0:
            try:
                os.write(self._bell, b".")
            except OSError:
                pass  # full: it has enough to wake up for; broken: it is dying

    def _pass_on(self, number: int, frame: object) -> None:
        del number, frame
        self._told_to_stop = True
        if self._loop:
            os.kill(self._loop, signal.SIGTERM)

    @staticmethod
    def _ignore(number: int, frame: object) -> None:
        """Handled, not ignored: what is ignored stays so in the jobs."""


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.WEXITSTATUS(status)}"
