"""The keeper: starts the loop, and keeps the truth when the loop is killed.

Owns the loop's process and, once a loop has died, the processes it left: as their subreaper it becomes their parent,
waits for them and writes to the spool how they ended (:mod:`.reaped`), so that no exit status is lost, and it starts the
next loop, which goes on with them. Talks to nobody and starts no jobs. Small on purpose: it imports next to nothing,
sleeps in waitid(2), and there is little in it that could go wrong.
"""

from __future__ import annotations

import os
import signal
import time

from ..processes import become_subreaper, inspect
from .log import Log
from .reaped import Reaped, file_of, generations, wait_status

MAX_DEATHS = 5
DEATHS_WITHIN_S = 10.0
BACK_OFF_S = (0.0, 0.05, 0.2, 0.5, 1.0)
SLOW_RETRY_S = 30.0
"""After too many deaths, while jobs still run, whose ends somebody must record."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOP_FAILED = 1
_RSS_UNIT = 1024
_BLOCK_BYTES = 512
"""The unit of ru_inblock and ru_oublock on Linux, whatever the disk's."""

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
        listen, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the loop is ready to hear them
        self._loop = os.fork()
        if self._loop == 0:
            code = LOOP_FAILED
            try:
                os.close(self._bell)
                code = start_loop(self._generation, listen)
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        os.close(listen)
        if self._told_to_stop:
            os.kill(self._loop, signal.SIGTERM)
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert found is not None  # only WNOHANG gives None
            if found.si_pid == self._loop:
                break
            self._record(found)
        _, status = os.waitpid(self._loop, 0)
        self._loop = 0
        os.close(self._bell)
        self._bell = -1
        # What it left is ours by now. What of that has ended already must be on record before the next loop looks.
        self._reap_all()
        return status

    def _reap_all(self) -> int:
        """Record what has ended; the number of children that have not, as far as the kernel tells: 0 or 1."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return 0
            if found is None:
                return 1
            self._record(found)

    def _record(self, found: os.waitid_result) -> None:
        """Write how a process ended, then let it go, then write what it used.

        In this order, for a loop that finds neither the process nor a record concludes that there never was one.
        """
        pid = found.si_pid
        entry = inspect(pid)
        reaped = Reaped(pid, wait_status(found.si_code, found.si_status))
        if entry is not None:
            reaped.start_s, reaped.session = entry.start_s, entry.session
            self._write(reaped)
        _, reaped.status, usage = os.wait4(pid, 0)
        reaped.cpu_seconds = usage.ru_utime + usage.ru_stime
        reaped.max_rss_bytes = usage.ru_maxrss * _RSS_UNIT
        reaped.read_bytes = usage.ru_inblock * _BLOCK_BYTES
        reaped.write_bytes = usage.ru_oublock * _BLOCK_BYTES
        if entry is not None:
            self._write(reaped)
            self._ring()

    def _write(self, reaped: Reaped) -> None:
        try:
            path = file_of(self._directory, self._generation)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, reaped.line().encode("ascii"))
            finally:
                os.close(fd)
        except OSError as error:
            self._log(f"cannot keep that process {reaped.pid} ended with status {reaped.status}: {error.strerror}")

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
