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
    pids = {int(hello["pid"]) for hello in agent.hellos} | {int(event["pid"]) for event in agent.started.values()}
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait(10)
    for pid in pids:
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
    wait_until(lambda: not any(alive(pid) for pid in pids), "the worker's processes to be gone")
