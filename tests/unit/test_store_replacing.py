"""A store that is taken from an owner which may still write: it comes out of its reach, with all that it had made durable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.errors import StoreCorrupt, StoreLocked
from lwfm.ownership.lease import LeaseLost
from lwfm.store import Store, identity, replacing

from support.threads import Thread


@pytest.fixture
def thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Thread]:
    """A store on a shared file system, with an owner."""
    monkeypatch.setattr("lwfm.store.database.is_shared", lambda _: True)
    made = Thread(tmp_path)
    made.submit("true")
    yield made
    made.connection.close()


def say(store: Store, message: str) -> None:
    with store.transaction() as transaction:
        transaction.append("log", {"level": "INFO", "message": message})


def said(store: Store) -> list[str]:
    return [row[0] for row in store.connection.execute("select message from logs order by id")]


def follow(thread: Thread) -> Store:
    replacing.replace_by_copy(thread.store.path)
    return Store.open(thread.store.path, host="n2", user="u", home="/h")


def test_what_the_old_owner_still_writes_reaches_nobody(thread: Thread) -> None:
    """It stands still in the middle of a transaction, of which some is in the file, or before one."""
    say(thread.store, "durable")
    transaction = thread.store.begin()
    for number in range(3000):
        transaction.append("log", {"level": "INFO", "message": f"under way {number} " + "x" * 4000})
    transaction.connection.flush()
    transaction.connection.execute("pragma cache_spill = 1")
    after = follow(thread)
    assert said(after) == ["durable"]
    assert after.origin == thread.store.origin
    assert after.notice is None
    say(after, "of the next owner")
    transaction.commit()
    say(thread.store, "too late")
    say(after, "and more")
    assert said(after) == ["durable", "of the next owner", "and more"]
    assert after.connection.execute("pragma integrity_check").fetchone() == ("ok",)
    after.close()
    thread.connection.close()
    thread.open()
    assert said(thread.store) == ["durable", "of the next owner", "and more"]
    assert thread.verify() == []


def test_its_journal_is_open_from_the_start(thread: Thread) -> None:
    """So that it can never come to open that of the next owner."""
    thread.close()
    thread.open()
    places = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
    assert f"{thread.store.path}-journal" in places


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


@pytest.mark.parametrize("step", ["unlink", "replace", "write"])
def test_one_that_is_interrupted_is_taken_up_again(thread: Thread, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    say(thread.store, "durable")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if step == "unlink":
            unlink = Path.unlink
            patched.setattr(
                Path, "unlink", lambda self, **told: die() if self.name == "thread.db-journal" else unlink(self, **told)
            )
        elif step == "replace":
            replace = os.replace
            patched.setattr(
                os, "replace", lambda one, two: die() if str(two).endswith("thread.db") else replace(one, two)
            )
        else:
            patched.setattr(identity, "write", die)
        with pytest.raises(KeyboardInterrupt):
            replacing.replace_by_copy(thread.store.path)
    say(thread.store, "too late, or in time")
    after = follow(thread)
    assert said(after)[0] == "durable"
    assert after.connection.execute("pragma integrity_check").fetchone() == ("ok",)
    after.close()


def test_a_store_that_is_not_there_needs_nothing(tmp_path: Path) -> None:
    replacing.replace_by_copy(tmp_path / "thread.db")
    assert list(tmp_path.iterdir()) == []


def test_one_that_never_rests_is_not_copied(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copyfile

    def copy_and_write(source: Path, target: Path) -> None:
        copy(source, target)
        say(thread.store, "and on")

    monkeypatch.setattr(shutil, "copyfile", copy_and_write)
    monkeypatch.setattr(replacing, "_PAUSE_S", 0.0)
    with pytest.raises(StoreLocked, match="goes on writing"):
        replacing.replace_by_copy(thread.store.path)


def test_a_damaged_one_stays_where_it_is(thread: Thread) -> None:
    thread.close()
    content = bytearray(thread.store.path.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\xa5" * 4096 * 17
    thread.store.path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="damaged") as refused:
        replacing.replace_by_copy(thread.store.path)
    assert refused.value.hint == "lwfm store repair"
    assert thread.store.path.read_bytes() == content
    thread.store.path.unlink()
    thread.open()


def test_what_is_durable_is_not_acknowledged_by_one_that_is_not_the_owner_any_more(thread: Thread) -> None:
    def lose() -> None:
        raise LeaseLost("the lease was taken over")

    thread.store.confirm = lose
    with pytest.raises(LeaseLost):
        say(thread.store, "durable, perhaps")
    with pytest.raises(LeaseLost):
        thread.store.mark()
