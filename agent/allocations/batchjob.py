"""What runs inside an allocation that an agent has asked for: ``lwfm allocation-workers DIRECTORY``, in the batch script.

Finds out where it is, writes that down for the agent, starts a worker on every node, and waits until they have left: when the
agent says so, or when they have had neither agent nor job for long enough. Signals are passed on to them. With ``agent``, and
where no agent runs, an agent of the instance takes the place of all this, since it brings up workers itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from .. import rendezvous
from ..errors import ConfigError, LwfmError, StoreLocked
from ..launch.allocation import Allocation
from ..launch.launching import Launched, find_allocation, own_name
from ..paths import self_command
from .allotment import Allotment, Asked, Begun

REACH_TIMEOUT_S = 5.0
NEVER_S = 10 * 365 * 86400.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOOK_S = 5.0
USAGE = "usage: lwfm allocation-workers DIRECTORY (it is run by the batch jobs of `lwfm spin create allocation`)"


def main(argv: Sequence[str]) -> int:
    """Bring up workers on all nodes of the allocation that this process is in, and stay until they have left.

    Returns:
        The exit code: 0 when all of them have left in good order.
    """
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write(USAGE + "\n")
        return 2
    os.umask(0o077)
    try:
        return Job(Allotment(Path(os.path.abspath(argv[0])))).run()
    except LwfmError as error:
        sys.stderr.write(f"lwfm: {error.message}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"lwfm: {error}\n")
        return 1


class Job:
    """The batch job.

    Args:
        allotment: the directory that the agent has made for it.
    """

    def __init__(self, allotment: Allotment):
        self._allotment = allotment
        self._launched = Launched(allotment.directory)
        self._problems: list[str] = []
        self._told_to_leave = False
        self._hear, self._speak = os.pipe()

    def run(self) -> int:
        """All of it; the exit code."""
        asked = self._allotment.read_asked()
        allocation = find_allocation()
        if allocation is None:
            raise ConfigError("this is no allocation: no scheduler's variables are set")
        self._listen_to_signals()
        began_at = time.time()
        self._allotment.write_begun(Begun(allocation, began_at))
        if asked.agent and self._start_agent(asked):
            return self._wait()
        self._start_workers(allocation, asked)
        unreachable = self._unreachable()
        if unreachable:
            self._note(unreachable)
        if self._problems:
            self._allotment.write_begun(Begun(allocation, began_at, tuple(self._problems)))
        return self._wait()

    def _start_workers(self, allocation: Allocation, asked: Asked) -> None:
        """One on every node: here as a child, so that it is of the batch step, on the others by the launcher."""
        words = [*self_command(), "worker", "--rendezvous", str(self._allotment.rendezvous), "--discard"]
        words += ["--linger-s", f"{asked.idle_s or NEVER_S:g}"]
        own = allocation.share_of(own_name())
        others = [node.host for node in allocation.nodes if node is not own]
        if own is not None:
            self._launched.add(subprocess.Popen(words, stdin=subprocess.DEVNULL, cwd="/"), own.host)
        if others:
            try:
                self._launched.start(allocation, others, words, sys.stderr.buffer)
            except (LwfmError, OSError) as error:
                self._note(f"no workers on the other nodes: {error}")

    def _start_agent(self, asked: Asked) -> bool:
        """Whether an agent runs here now, as our child; False: another one is there, to be served."""
        reading, writing = os.pipe()
        command = [*self_command(), "agent", "serve", "--home", str(self._allotment.directory.parent.parent)]
        command += ["--idle-exit", f"{asked.idle_s:g}", "--ready-fd", str(writing)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/", pass_fds=(writing,))
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            answer = json.loads(pipe.readline() or "{}")  # its end, if it ends without a word
        if answer.get("ok"):
            self._launched.add(process, own_name())
            return True
        process.wait()
        error = answer.get("error") or {}
        if error.get("code") != StoreLocked.__name__:
            self._note(f"no agent could be started here: {error.get('message') or 'it ended without a word'}")
        return False

    def _unreachable(self) -> Optional[str]:
        """Why no worker will reach the agent, as seen from here; None: it can be reached."""
        try:
            addresses = rendezvous.read(self._allotment.rendezvous).addresses
        except LwfmError as error:
            return error.message
        failures = []
        for address in addresses:
            try:
                socket.create_connection((address.host, address.port), REACH_TIMEOUT_S).close()
            except OSError as error:
                failures.append(f"{address.host}:{address.port} ({error.strerror or error})")
                continue
            return None
        return f"node {own_name()} cannot reach the agent at {', '.join(failures)}"

    def _wait(self) -> int:
        """Until all that was started has ended."""
        while self._launched.running:
            select.select([self._hear], [], [], LOOK_S)  # a child's end wakes it up
            while select.select([self._hear], [], [], 0)[0]:
                heard = os.read(self._hear, 256)
                for number in PASSED_ON:
                    if number in heard and not self._told_to_leave:
                        self._told_to_leave = True
                        self._launched.terminate()
        codes = self._launched.codes
        return 0 if codes and not any(codes) else 1

    def _listen_to_signals(self) -> None:
        os.set_blocking(self._hear, False)
        os.set_blocking(self._speak, False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, _noticed)
        signal.set_wakeup_fd(self._speak, warn_on_full_buffer=False)

    def _note(self, problem: str) -> None:
        sys.stderr.write(f"lwfm: {problem}\n")
        sys.stderr.flush()
        self._problems.append(problem)


def _noticed(number: int, frame: object) -> None:
    """A signal's handler: the wakeup descriptor tells."""
    del number, frame
