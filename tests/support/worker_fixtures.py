"""Fixtures for tests of the worker: a fake agent, and workers that are gone when the test is over."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from lwfm.host.processes import mark_of

from support.fake_agent import FakeAgent, WorkerProcess, alive
from support.waiting import wait_until

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="lwfm-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def agent(place: Path) -> Iterator[FakeAgent]:
    """An agent that listens."""
    fake = FakeAgent(place / "worker.sock")
    yield fake
    fake.close()


@pytest.fixture
def start_worker(place: Path, agent: FakeAgent) -> Iterator[StartWorker]:
    """Starts a worker on ``place/spool``; at the end of the test all of them and their jobs are killed."""
    workers: list[WorkerProcess] = []

    def start(*options: str, env: dict[str, str] | None = None) -> WorkerProcess:
        worker = WorkerProcess(place / "spool", agent.path, *options, env=env)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait(10)
    wait_until(lambda: not kill_left(place, agent), "the worker's processes to be gone")


def kill_left(place: Path, agent: FakeAgent) -> list[int]:
    """Kill what is left of the loops and jobs of a test: by what they carry, for a number alone may be another's by now.

    Returns:
        Which there were.
    """
    spools = {str(hello["worker"]) for hello in agent.hellos}
    left = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            mark = mark_of(int(name))
            if (mark is not None and mark.worker in spools) or _serves(int(name), place):
                left.append(int(name))
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return [pid for pid in left if alive(pid)]


def _serves(pid: int, place: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return pid != os.getpid() and os.fsencode(place / "spool") in words
