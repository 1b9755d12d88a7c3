"""Judging nodes by what is heard of them, without nodes: a time in which the agent itself was stopped counts for nobody, and a
clock that is set ends no allocation."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from lwfm.allocations.deadline import Deadline
from lwfm.capacity import Capacity, Shape
from lwfm.placing.node import Node
from lwfm.workers.heartbeat import Heartbeat


@dataclass
class Line:
    host: str
    heard_at: float
    remote: bool = True
    closed: bool = False
    sent: list[Any] = field(default_factory=list)

    def abort(self) -> None:
        self.closed = True

    def send(self, messages: list[Any]) -> None:
        self.sent += messages


@dataclass
class Workers:
    connections: dict[str, Line] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def absent(self) -> list[tuple[str, str]]:
        return [] if self.connections or self.lost else [("w", "there")]

    async def lose(self, worker_id: str, reason: str) -> None:
        self.lost.append(worker_id)


async def rounds(workers: Workers, lost_s: float, seconds: float, stopped_s: float = 0.0) -> None:
    async def nobody() -> dict[str, str]:
        return {}

    watch = asyncio.ensure_future(Heartbeat(cast("Any", workers), nobody, "here", lost_s).run())
    try:
        await asyncio.sleep(0)
        time.sleep(stopped_s)  # noqa: ASYNC251 - as a process that is stopped: nothing of it goes on
        await asyncio.sleep(seconds)
    finally:
        watch.cancel()


def test_a_node_of_which_nothing_is_heard_is_lost() -> None:
    workers = Workers({"w": Line("there", time.monotonic())})
    line = workers.connections["w"]

    async def cut() -> None:
        judged = asyncio.ensure_future(rounds(workers, 0.4, 30))
        while not line.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        workers.connections.clear()
        while not workers.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        judged.cancel()

    asyncio.run(cut())
    assert workers.lost == ["w"]


def test_the_agent_was_stopped(caplog: pytest.LogCaptureFixture) -> None:
    """For longer than a node may be silent: it could not have heard anything, so nothing is lost, and nobody is hung up on."""
    workers = Workers({"w": Line("there", time.monotonic())})
    asyncio.run(rounds(workers, 2.0, 0.8, stopped_s=3.2))
    assert workers.lost == []
    assert not workers.connections["w"].closed
    assert "was stopped, or starved, for 3" in caplog.text


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_a_clock_that_is_set_ends_no_allocation_and_delays_no_end(
    jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[str] = []
    dispatcher = cast("Any", Dispatched(cut))

    async def watched() -> None:
        now, real = time.time(), time.time
        later = asyncio.ensure_future(Deadline(dispatcher, "slurm-1", now + 3600, 60.0).run())
        soon = Deadline(dispatcher, "slurm-2", now + 1.5, 60.0)
        monkeypatch.setattr("lwfm.clock.time.time", lambda: real() + jump_s)
        node = Node("w", "n1", 1, Capacity(1, 1, 0), None, last_start=now + 3600)
        assert node.has_time(Shape(Capacity(1, 0, 0), time_limit_s=600))
        await asyncio.wait_for(soon.run(), 30)
        await asyncio.sleep(0.1)
        later.cancel()

    asyncio.run(watched())
    assert cut == ["slurm-2"]


@dataclass
class Dispatched:
    cut: list[str]

    def last_start_by(self, moment: float, allocation: str) -> None: ...

    def cut_off(self, allocation: str, reason: str, grace_s: float) -> None:
        self.cut.append(allocation)
