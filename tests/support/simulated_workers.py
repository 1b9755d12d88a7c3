"""Simulated workers: any number of them in one process. They speak the real protocol over the agent's real socket.

To a ``run`` they answer at once that the job has started and that it has ended with exit code 0; they start no process and write
nothing to a disk. Events are numbered, kept until they are acknowledged, and told again after a reconnection, as
``docs/protocol.md`` has it; a job that is sent again is not run again, but counted as ``repeated``. What the agent costs can so be
seen by itself, and what it does with many nodes on a machine that is one.

::

    python tests/support/simulated_workers.py SOCKET --workers 16 --cores 4 --jobs 2000

prints a line of JSON when all are connected and another when so many ends are acknowledged; leaves when its input ends.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

LINK = Path(__file__).resolve().parents[2] / "build" / "link"
if str(LINK) not in sys.path:
    sys.path.insert(0, str(LINK))

from lwfm.clock import utc_now  # noqa: E402
from lwfm.wire import Decoder, Message, encode  # noqa: E402

JSON = dict[str, Any]
READ_BYTES = 1024 * 1024
FRAME_EVENTS = 2000
DIAL_PAUSE_S = 0.05
NODE_MEMORY_BYTES = 64 * 2**30
_TOLD = (
    '"cause":"exit","exit_code":0,"signal":null,"reason":null,"cpu_seconds":0.000713,"peak_rss_bytes":null,"read_bytes":0,'
    '"write_bytes":0,"stdout":{"size":0},"stderr":{"size":0},"missing_outputs":[]}'
)


@dataclass(frozen=True)
class _Event:
    """An event that the agent has not acknowledged; ``ends``: the job it is the end of."""

    number: int
    text: str
    ends: Optional[tuple[str, int]]


class SimulatedWorker:
    """One of them.

    Args:
        path: the agent's socket. ``number``: which one. ``cores``: of its node.

    Attributes:
        ended: how many ends are acknowledged. ``repeated``: jobs that were sent again.
    """

    def __init__(self, path: str, number: int, cores: int, selector: selectors.BaseSelector) -> None:
        self._path = path
        self._name = f"simulated-{number:04d}"
        self._pid = os.getpid()
        self._cores = cores
        self._selector = selector
        self._socket: Optional[socket.socket] = None
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._unacked: deque[_Event] = deque()
        self._taken: set[tuple[str, int]] = set()
        self._next = 1
        self._dial_at = 0.0
        self.welcomed = False
        self.ended = 0
        self.repeated = 0

    def dial(self) -> None:
        """Connect, if that is due and the agent is there, and say hello."""
        if self._socket is not None or time.monotonic() < self._dial_at:
            return
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(self._path)
        except OSError:  # not there (yet), or more of us dial than it has room for: again
            line.close()
            self._dial_at = time.monotonic() + DIAL_PAUSE_S
            return
        line.setblocking(False)
        self._socket = line
        self._decoder = Decoder()
        node = {"cores": list(range(self._cores)), "memory_bytes": NODE_MEMORY_BYTES, "gpus": []}
        hello = {
            "t": "hello",
            "protocols": [1],
            "worker": self._name,
            "pid": self._pid,
            "host": self._name,
            "node": node,
        }
        hello["jobs"] = [[*event.ends, "ended"] for event in self._unacked if event.ends]
        hello["first_unacked"] = self._unacked[0].number if self._unacked else self._next
        self._unsent = bytearray(encode([hello]))
        self._selector.register(line, selectors.EVENT_READ, self)
        self.send()

    def drop(self) -> None:
        """The connection is gone; what is not acknowledged stays."""
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self.welcomed = False

    def send(self) -> None:
        """Send what there is, as far as it goes; the rest when there is room."""
        line = self._socket
        if line is None:
            return
        try:
            while self._unsent:
                del self._unsent[: line.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(line).events != wanted:
            self._selector.modify(line, wanted, self)

    def receive(self) -> None:
        """Take what the agent says, and answer."""
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        fresh: list[_Event] = []
        now = ""
        for message in self._decoder.feed(data):
            kind = message["t"]
            if kind == "run":
                now = now or utc_now()
                self._run(message, now, fresh)
            elif kind == "ack":
                self._acknowledged(int(message["n"]))
            elif kind == "ping":
                self._unsent += encode([{"t": "pong"}])
            elif kind == "welcome":
                self.welcomed = True
                self._acknowledged(int(message["acked"]))
                fresh = list(self._unacked)
            elif kind == "stop":
                self.drop()
                self._dial_at = float("inf")
                return
        for first in range(0, len(fresh), FRAME_EVENTS):
            self._unsent += _frame(fresh[first : first + FRAME_EVENTS])
        self.send()

    def _run(self, message: Message, now: str, fresh: list[_Event]) -> None:
        key = (str(message["job"]), int(message["attempt"]))
        if key in self._taken:
            self.repeated += 1
            return
        self._taken.add(key)
        which = f'"job":"{key[0]}","attempt":{key[1]},"time":"{now}"'
        started = f'{{"t":"started","n":{self._next},{which},"pid":{self._pid},"cores":[],"gpus":[]}}'
        ended = f'{{"t":"ended","n":{self._next + 1},{which},"started":"{now}",{_TOLD}'
        told = (_Event(self._next, started, None), _Event(self._next + 1, ended, key))
        self._next += 2
        self._unacked += told
        fresh += told

    def _acknowledged(self, number: int) -> None:
        while self._unacked and self._unacked[0].number <= number:
            if self._unacked.popleft().ends is not None:
                self.ended += 1


def _frame(events: list[_Event]) -> bytes:
    body = ("[" + ",".join([event.text for event in events]) + "]").encode("ascii")
    return len(body).to_bytes(4, "big") + body


def main() -> None:
    """Be the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket", help="the agent's socket for workers")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--cores", type=int, default=4, help="of each node")
    parser.add_argument("--jobs", type=int, required=True, help="tell when so many have ended")
    options = parser.parse_args()
    selector = selectors.DefaultSelector()
    workers = [
        SimulatedWorker(options.socket, number, options.cores, selector) for number in range(1, options.workers + 1)
    ]
    selector.register(0, selectors.EVENT_READ, None)
    told_ready = told_done = False
    began = 0.0
    while True:
        connected = [worker for worker in workers if worker.welcomed]
        if len(connected) < len(workers):
            for worker in workers:
                worker.dial()
        elif not told_ready:
            told_ready, began = True, time.monotonic()
            _tell({"ready": len(workers), "cpu_s": time.process_time()})
        for key, events in selector.select(DIAL_PAUSE_S):
            if key.data is None:
                if not os.read(0, 4096):
                    return
                continue
            if events & selectors.EVENT_WRITE:
                key.data.send()
            if events & selectors.EVENT_READ and key.data._socket is not None:
                key.data.receive()
        if not told_done and sum(worker.ended for worker in workers) >= options.jobs:
            told_done = True
            facts = {"ended": sum(worker.ended for worker in workers), "cpu_s": time.process_time()}
            busy = sum(worker.ended > 0 for worker in workers)
            repeated = sum(worker.repeated for worker in workers)
            _tell({**facts, "repeated": repeated, "busy_workers": busy, "began": began, "done": time.monotonic()})


def _tell(facts: JSON) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class SimulatedWorkers:
    """The process that is the workers, seen from outside.

    Args:
        path: the agent's socket for workers. ``workers``, ``cores``: how many, and of what size. ``jobs``: how many will end.
    """

    def __init__(self, path: Path, *, workers: int, cores: int, jobs: int) -> None:
        words = [
            sys.executable,
            str(Path(__file__).resolve()),
            str(path),
            "--workers",
            str(workers),
            "--cores",
            str(cores),
        ]
        self._process = subprocess.Popen(
            [*words, "--jobs", str(jobs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def told(self) -> JSON:
        """Wait for the next that it tells."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the simulated workers ended: {self._process.wait(10)}"
        answer: JSON = json.loads(line)
        return answer

    def close(self) -> None:
        """Have them leave."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.stdout.close()


@contextmanager
def spool_taken(spool: Path) -> Iterator[None]:
    """Hold the lock of an instance's spool, so that a worker that its agent starts leaves at once."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(spool / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


if __name__ == "__main__":
    main()
