"""When snapshots are made by themselves, and what `sites.toml` may say of it. The real thing: integration/test_store_care.py."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from lwfm.errors import ConfigError, LwfmError
from lwfm.housekeeping import snapshots
from lwfm.housekeeping.snapshots import Policy, Snapshots, listed, policy_of
from lwfm.paths import Home

from support.threads import Thread, thread

__all__ = ["thread"]


def test_what_may_be_said_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert policy_of({}, home) == Policy(86400.0, 2, tmp_path / "snapshots")
    told = {"snapshot_every_s": 0, "snapshots_kept": 7, "snapshot_directory": "/elsewhere"}
    assert policy_of(told, home) == Policy(0.0, 7, Path("/elsewhere"))


@pytest.mark.parametrize(
    "options",
    [
        {"snapshot_every_s": -1}, {"snapshot_every_s": "daily"}, {"snapshots_kept": 0}, {"snapshots_kept": True},
        {"snapshots_kept": 1.5}, {"snapshot_directory": ""}, {"snapshot_directory": 3},
    ],
)  # fmt: skip
def test_what_may_not(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        policy_of(options, Home(tmp_path))


class Reader:
    """Reads, as the writer does."""

    def __init__(self, thread: Thread):
        self.thread = thread

    async def read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(self.thread.connection, *arguments)


def made(thread: Thread, policy: Policy, *, age_s: float = 0.0) -> bool:
    """Whether one is made now, of a store whose records and last snapshot are that old."""

    async def look() -> bool:
        care = Snapshots(thread.store, Reader(thread), policy)  # type: ignore[arg-type]
        before = time.time
        try:
            time.time = lambda: before() + age_s
            if not await care._is_due():
                return False
        finally:
            time.time = before
        await care._make_one()
        await care.close()
        return True

    return asyncio.run(look())


def test_it_is_due_when_the_last_is_old_and_something_was_written(thread: Thread, tmp_path: Path) -> None:
    policy = Policy(100.0, 2, tmp_path / "snapshots")
    thread.submit("true")
    assert not made(thread, policy), "an instance that is new needs none"
    assert made(thread, policy, age_s=200.0)
    (first,) = listed(policy.directory)
    assert not made(thread, policy, age_s=50.0)
    late = first.stat().st_mtime + 10
    os.utime(first, (late, late))
    assert not made(thread, policy, age_s=200.0), "nothing was written since"
    os.utime(first, (1, 1))
    assert made(thread, policy)


def test_the_oldest_go_and_others_stay(thread: Thread, tmp_path: Path) -> None:
    policy = Policy(100.0, 2, tmp_path / "snapshots")
    policy.directory.mkdir(mode=0o700)
    for day in range(1, 5):
        (policy.directory / f"thread-2020010{day}T000000Z.db").write_bytes(b"")
    (policy.directory / "mine.db").write_bytes(b"")
    os.utime(policy.directory / "thread-20200104T000000Z.db", (1, 1))
    assert made(thread, policy)
    assert len(listed(policy.directory)) == 2
    assert listed(policy.directory)[1].name == "thread-20200104T000000Z.db"
    assert (policy.directory / "mine.db").exists()


def test_none_is_made_where_there_is_little_room(
    thread: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SPARE", 2**60)
    with pytest.raises(LwfmError, match="too little space"):
        made(thread, Policy(100.0, 2, tmp_path / "snapshots"), age_s=200.0)
