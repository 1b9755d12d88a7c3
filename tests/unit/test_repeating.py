"""Syncs that repeat by themselves: when, and how often, whatever becomes of the command."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from lwfm.clock import utc_text
from lwfm.paths import Home
from lwfm.recording.events import Rules
from lwfm.recording.writer import Writer
from lwfm.store import Store
from lwfm.sync import peers
from lwfm.sync.repeating import RepeatedSyncs

JSON = dict[str, Any]
ROUNDS = 50


def test_a_command_that_ends_without_a_word_has_failed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted before it is looked what is due: else it would be due still."""
    commands: list[str] = []

    async def command(_: RepeatedSyncs, name: str, way: str) -> str:
        commands.append(name)
        return "it fell over"

    monkeypatch.setattr(RepeatedSyncs, "_command", command)

    async def main() -> JSON:
        store = Store.open(tmp_path / "thread.db", host="h", user="u", home=str(tmp_path))
        writer = Writer(store, Rules(), lambda _: None)
        body = {"name": "far", "address": {"host": "far"}, "every_s": 3600}
        await writer.write(lambda recorder: peers.put(recorder.transaction.connection, body))
        syncs = RepeatedSyncs(Home(tmp_path), writer)
        running = asyncio.ensure_future(syncs.run())
        peer: JSON = {}
        while not peer.get("error"):
            (peer,) = await writer.read(peers.listed)
        for _ in range(ROUNDS):
            syncs.look()
            await writer.read(peers.listed)
        assert syncs.busy
        syncs.look()  # at the very moment at which it is to end
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        (peer,) = await writer.read(peers.listed)
        await writer.close()
        return peer

    peer = asyncio.run(main())
    assert (peer["error"], peer["failures"]) == ("it fell over", 1)
    assert commands == ["far"]


@pytest.mark.parametrize(
    ("peer", "due_s"),
    [
        ({}, None),
        ({"every_s": 60}, 0),
        ({"every_s": 60, "last_attempt": -10}, 50),
        ({"every_s": 60, "last_attempt": -100}, 0),
        ({"every_s": 60, "last_attempt": 100}, 0),
        ({"every_s": 60, "last_attempt": -10, "failures": 1}, 110),
        ({"every_s": 60, "last_attempt": -10, "failures": 3}, 470),
        ({"every_s": 60, "last_attempt": -10, "failures": 1000}, 3590),
        ({"every_s": 86400, "last_attempt": -10, "failures": 5}, 86390),
    ],
)
def test_when_the_next_is_due(peer: JSON, due_s: object) -> None:
    now = time.time()
    if "last_attempt" in peer:
        peer = {**peer, "last_attempt": utc_text(now + peer["last_attempt"])}
    found = peers.due_in_s(peer, now)
    assert found == (None if due_s is None else pytest.approx(due_s, abs=0.01))
