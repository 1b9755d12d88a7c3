"""Syncs that repeat by themselves: each is a command of its own, that never asks anybody, started when it is due.

So the agent holds no ssh connections, and what comes over one is looked at in another process first. What came of it is noted by
that command itself (:mod:`.peers`), here only when it could not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from ..paths import Home
from ..recording.writer import Writer
from . import peers
from .own_command import run_own_command

LOOK_S = 60.0
"""How long at most until it is looked again what is due: clocks are set, laptops sleep."""
LONGEST_S = 6 * 3600.0
_logger = logging.getLogger(__name__)


class RepeatedSyncs:
    """Keeps the syncs going that are to be repeated.

    Args:
        home: whose. ``writer``: of its store.
    """

    def __init__(self, home: Home, writer: Writer):
        self._home = home
        self._writer = writer
        self._changed = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wanted = 0

    @property
    def busy(self) -> bool:
        """Whether any peer is to be synced with again and again: then the agent does not leave."""
        return bool(self._wanted or self._running)

    def look(self) -> None:
        """Peers have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                pause_s = LOOK_S
                listed = await self._writer.read(peers.listed)
                self._wanted = sum(peer.get("every_s") is not None for peer in listed)
                for peer in listed:
                    name = str(peer["name"])
                    due_s = None if name in self._running else peers.due_in_s(peer, time.time())
                    if due_s is not None and due_s <= 0:
                        self._running[name] = asyncio.ensure_future(self._sync(peer))
                    elif due_s is not None:
                        pause_s = min(pause_s, due_s)
                await self._pause(pause_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Until peers have changed, at most so long.

        Up to Python 3.11 ``wait_for`` forgets that it was cancelled when what it waits for happens at that moment: the agent would
        never leave.
        """
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([changed], timeout=seconds)
        finally:
            changed.cancel()
        self._changed.clear()

    async def _sync(self, peer: Mapping[str, Any]) -> None:
        name = str(peer["name"])
        try:
            try:
                problem = await self._command(name, str(peer.get("way") or peers.WAYS[0]))
            except Exception as error:  # whatever it is: it must not be started again at once
                problem = f"cannot be started: {error}"
            # before it is looked what is due: it would be due still
            await self._writer.durably(lambda recorder: _note_missing(recorder.transaction.connection, peer, problem))
        finally:
            self._running.pop(name, None)
            self.look()

    async def _command(self, name: str, way: str) -> str:
        """Run the command; why it failed, as far as it said, or an empty text."""
        ended = await run_own_command(self._home, "sync", way, name, "--batch", "--json", limit_s=LONGEST_S)
        if ended.code == 0:
            return ""
        _logger.warning("sync with %s: exit code %s: %s", name, ended.code, ended.complaint)
        return ended.complaint or f"exit code {ended.code}"


def _note_missing(connection: Any, before: Mapping[str, Any], problem: str) -> None:
    """The command notes what came of it; one that ended without doing so has failed."""
    peer = peers.find(connection, str(before["name"]))
    if peer is not None and all(peer.get(key) == before.get(key) for key in ("added_at", "last_attempt")):
        peers.note(connection, str(before["name"]), {"error": problem or "it ended without saying how"})
