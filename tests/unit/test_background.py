"""What an instance does beside answering calls."""

from __future__ import annotations

import asyncio

import pytest

from lwfm.instance import background
from lwfm.instance.background import Background


async def _forever() -> None:
    await asyncio.Event().wait()


def test_what_never_ends_is_begun_again_when_it_has_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "BEGIN_AGAIN_S", 0.0)

    async def work() -> int:
        running, begun = Background(), 0
        again = asyncio.Event()

        async def loop() -> None:
            nonlocal begun
            begun += 1
            if begun < 3:
                raise ValueError("out of order")
            again.set()
            await _forever()

        running.keep_going(loop)
        await asyncio.wait_for(again.wait(), 20)
        await running.close()
        return begun

    assert asyncio.run(work()) == 3
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_what_fails_is_told_and_what_still_runs_is_ended_at_the_close(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("out of order")

    async def work() -> bool:
        running, begun, ended = Background(), asyncio.Event(), False

        async def stays() -> None:
            nonlocal ended
            begun.set()
            try:
                await _forever()
            finally:
                ended = True

        running.spawn(stays())
        running.spawn(fails())
        await asyncio.wait_for(begun.wait(), 20)
        await running.close()
        return ended

    assert asyncio.run(work())
    assert [record.getMessage() for record in caplog.records] == ["a task failed"]
