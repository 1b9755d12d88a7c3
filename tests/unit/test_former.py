"""What is done about allocations that earlier agents were in: settled when their scheduler says that they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwfm.allocations import former
from lwfm.errors import SiteError
from lwfm.ownership import endings


def settle(allocations: former.FormerAllocations) -> None:
    """As an agent does."""

    async def work() -> None:
        await allocations.look()
        await allocations.run()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_the_scheduler_is_asked_until_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It still lists an allocation while it cleans up, and may not answer at all for a while."""
    monkeypatch.setattr(former, "COME_BY_THEMSELVES_S", 0.001)
    monkeypatch.setattr(former, "CLEANED_UP_S", 0.001)
    places = {"w1": SimpleNamespace(allocation="slurm-1"), "w2": SimpleNamespace(allocation="slurm-2")}
    answers: list[Any] = [{}, SiteError("squeue does not answer"), {"slurm-1": ": CANCELLED"}, {"slurm-2": ""}]
    asked: list[Sequence[str]] = []
    lost: list[tuple[str, str]] = []

    def ended(names: Sequence[str]) -> Any:
        asked.append(names)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(*_: Any) -> Any:
        return dict(places)

    async def lose(worker_id: str, reason: str, state: str) -> None:
        lost.append((worker_id, reason))
        del places[worker_id]

    monkeypatch.setattr(endings, "ended", ended)
    monkeypatch.setattr(endings, "askable", set)
    workers: Any = SimpleNamespace(connections={}, lose=lose)
    writer: Any = SimpleNamespace(read=read)
    settle(former.FormerAllocations(tmp_path, {"slurm-9"}, workers, writer, "0" * 32))
    assert asked == [["slurm-1", "slurm-2"]] * 3 + [["slurm-2"]]
    assert lost == [("w1", "the allocation slurm-1 has ended: CANCELLED"), ("w2", "the allocation slurm-2 has ended")]


def test_one_whose_workers_are_there_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former, "COME_BY_THEMSELVES_S", 0.001)
    monkeypatch.setattr(former, "CLEANED_UP_S", 0.001)
    monkeypatch.setattr(endings, "ended", lambda names: dict.fromkeys(names, ""))
    monkeypatch.setattr(endings, "askable", set)
    (tmp_path / "slurm-1").mkdir()
    reads = 0

    async def read(*_: Any) -> Any:
        nonlocal reads
        reads += 1
        return {"w1": SimpleNamespace(allocation="slurm-1")} if reads < 4 else {}

    async def lose(*_: Any) -> None:
        raise AssertionError("it was taken for lost")

    workers: Any = SimpleNamespace(connections={"w1": None}, lose=lose)
    writer: Any = SimpleNamespace(read=read)
    settle(former.FormerAllocations(tmp_path, set(), workers, writer, "0" * 32))
    assert reads == 5, "asked for again until its workers had left"
    assert not (tmp_path / "slurm-1").exists()
