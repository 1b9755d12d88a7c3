"""Snapshots of the store: those that are asked for, and those that are made by themselves while the agent works.

One is due when the last is older than ``snapshot_every_s`` and something has been written since. It is not made where it would
take the last of the space. The oldest ones go when there are more than ``snapshots_kept``; files of other names are left alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..clock import parse_utc, utc_text
from ..config import seconds_option
from ..errors import AgentBusy, ConfigError, LwfmError
from ..host.private import private_directory
from ..paths import Home
from ..recording.writer import Writer
from ..store import Connection, Store
from ..store import snapshots as files

DEFAULT_EVERY_S = 24 * 3600.0
DEFAULT_KEPT = 2
LOOK_S = 60.0
SPARE = 2
"""A snapshot is made by itself only where there is room for so many."""
_NAME = re.compile(r"thread-\d{8}T\d{6}Z\.db")
_BEGAN = "select min(minted_at) from origins where id = ?"
_logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    """Snapshots are made every ``every_s`` seconds, 0 for never; so many are ``kept``, in ``directory``."""

    every_s: float
    kept: int
    directory: Path


def policy_of(options: Mapping[str, Any], home: Home) -> Policy:
    """What ``[local]`` says of snapshots.

    Raises:
        ConfigError: it is malformed.
    """
    every_s = seconds_option(options, "snapshot_every_s", DEFAULT_EVERY_S, zero=True)
    kept = options.get("snapshots_kept", DEFAULT_KEPT)
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 1:
        raise ConfigError(f"sites.toml: snapshots_kept of [local] must be a number from 1, not {kept!r}")
    directory = options.get("snapshot_directory", "snapshots")
    if not isinstance(directory, str) or not directory or "\0" in directory:
        raise ConfigError(f"sites.toml: snapshot_directory of [local] must be a path, not {directory!r}")
    return Policy(every_s, kept, home.root / os.path.expanduser(directory))


def listed(directory: Path) -> list[Path]:
    """The snapshots that were made by themselves, newest first."""
    try:
        names = [name for name in os.listdir(directory) if _NAME.fullmatch(name)]
    except OSError:
        return []
    return [directory / name for name in sorted(names, reverse=True)]


class Snapshots:
    """Makes them, one at a time.

    Args:
        store: whose; ``writer``: that it is written by. ``policy``: when by themselves.
    """

    def __init__(self, store: Store, writer: Writer, policy: Policy):
        self.policy = policy
        self._store = store
        self._writer = writer
        self._one = asyncio.Lock()
        self._leaving = threading.Event()
        self._next_try = 0.0

    @property
    def busy(self) -> bool:
        """Whether one is being made."""
        return self._one.locked()

    async def write(self, target: Path, *, replace: bool = False) -> dict[str, Any]:
        """Make one; see :func:`lwfm.store.snapshots.write`."""
        async with self._one:
            if self._leaving.is_set():
                raise AgentBusy("the agent is stopping", hint="try again in a moment")
            work = asyncio.ensure_future(
                asyncio.to_thread(files.write, self._store, target, self._leaving.is_set, replace=replace)
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:  # the thread has the store in its hands
                self._leaving.set()
                await asyncio.wait([work])
                raise

    async def run(self) -> None:
        """Make those that are due, until cancelled."""
        while self.policy.every_s:
            await asyncio.sleep(min(LOOK_S, self.policy.every_s / 4))
            try:
                if time.monotonic() >= self._next_try and await self._is_due():
                    await self._make_one()
            except (LwfmError, OSError) as error:
                self._next_try = time.monotonic() + min(self.policy.every_s, 3600.0)
                _logger.warning("no snapshot was made: %s", error)

    async def close(self) -> None:
        """Give up the one that is being made."""
        self._leaving.set()
        async with self._one:
            pass

    def describe(self) -> dict[str, Any]:
        """When they are made, where they lie, and which there are. May block."""
        found = []
        for path in listed(self.policy.directory):
            with suppress(FileNotFoundError):
                told = path.stat()
                found.append({"file": str(path), "bytes": told.st_size, "time": utc_text(told.st_mtime)})
        directory = str(self.policy.directory)
        return {"directory": directory, "every_s": self.policy.every_s, "kept": self.policy.kept, "snapshots": found}

    async def _is_due(self) -> bool:
        last = await asyncio.to_thread(_last_made, self.policy.directory)
        if not last:
            last = await self._writer.read(_began, self._store.origin)
        if time.time() - last < self.policy.every_s:
            return False
        return await asyncio.to_thread(_written_at, self._store.path) > last

    async def _make_one(self) -> None:
        directory = self.policy.directory
        private_directory(directory)
        size, room = os.stat(self._store.path).st_size, os.statvfs(directory)
        if room.f_bavail * room.f_frsize < SPARE * size:
            raise LwfmError(f"too little space is left in {directory} for one of {size} bytes")
        name = time.strftime("thread-%Y%m%dT%H%M%SZ.db", time.gmtime())
        made = await self.write(directory / name, replace=True)
        _logger.info("snapshot %s: %d records in %.1f s", made["file"], made["records"], made["seconds"])
        for old in (await asyncio.to_thread(listed, directory))[self.policy.kept :]:
            old.unlink(missing_ok=True)


def _began(connection: Connection, origin: str) -> float:
    """When the instance began: before the first snapshot as much time goes by as between two."""
    (text,) = connection.execute(_BEGAN, (origin,)).fetchone()
    return parse_utc(text) if text else 0.0


def _last_made(directory: Path) -> float:
    found = listed(directory)
    return found[0].stat().st_mtime if found else 0.0


def _written_at(database: Path) -> float:
    wal = database.with_name(f"{database.name}-wal")
    return max(path.stat().st_mtime for path in (database, wal) if path.exists())
