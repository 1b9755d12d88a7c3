"""What a host runs out of, in words; what is told of it, and when it is told no more."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from lwfm.host.shortages import busy_with, shortage_of
from lwfm.host.troubles import Troubles
from lwfm.store.failures import mapped_errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left"),
        (OSError(errno.EDQUOT, "x"), "the quota is used up"),
        (OSError(errno.EROFS, "x"), "its file system takes no writes"),
        (OSError(errno.EMFILE, "x"), "no file descriptors left"),
        (BlockingIOError(errno.EAGAIN, "x"), "no more processes can be started"),
        (MemoryError(), "no memory left"),
        (RuntimeError("can't start new thread"), "no more processes can be started"),
    ],
)
def test_what_there_is_too_little_of(error: BaseException, words: str) -> None:
    found = shortage_of(error)
    assert found is not None
    assert found.message == words
    assert found.hint
    busy = busy_with(error, "the thing")
    assert busy is not None
    assert (busy.message, busy.hint, busy.transient) == (f"the thing: {words}", found.hint, True)


def test_what_is_another_matter() -> None:
    for error in (OSError(errno.ENOENT, "x"), RuntimeError("x"), ValueError("x"), OSError("x")):
        assert shortage_of(error) is None
        assert busy_with(error) is None


def test_the_file_is_named() -> None:
    busy = busy_with(OSError(errno.ENOSPC, "x", "/some/file"))
    assert busy is not None
    assert busy.message == "/some/file: no space left"


def test_a_trouble_is_told_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    troubles = Troubles()
    assert not troubles
    for _ in range(5):
        troubles.meet("store", "no space left", "make some")
    troubles.meet("outputs", "no space left")
    assert "store" in troubles
    (first, second) = troubles.listed()
    assert (first["about"], first["message"], first["hint"]) == ("store", "no space left", "make some")
    assert second["about"] == "outputs"
    troubles.meet("store", "the quota is used up")
    assert troubles.listed()[0]["since"] == first["since"], "it is the same trouble still"
    troubles.over("store")
    troubles.over("store")
    assert [item["about"] for item in troubles.listed()] == ["outputs"]
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert told == ["store", "outputs", "store", "store"]


def test_a_store_that_cannot_be_opened_for_another_reason_is_not_a_shortage(tmp_path: Path) -> None:
    import sqlite3

    from lwfm.errors import StoreError, StoreUnwritable

    with pytest.raises(StoreError) as refused, mapped_errors(tmp_path / "nowhere" / "thread.db"):
        raise sqlite3.OperationalError("unable to open database file")
    assert not refused.value.transient
    with pytest.raises(StoreUnwritable, match="disk I/O error"), mapped_errors(tmp_path / "thread.db"):
        raise sqlite3.OperationalError("disk I/O error")
    assert list(tmp_path.iterdir()) == [], "the probe is gone"
