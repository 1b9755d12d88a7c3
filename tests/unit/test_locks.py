"""Whether a lock is held, asked from outside."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from lwfm.host.locks import is_free, is_locked, lock_of, take


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert (lock_of(path), is_locked(path), is_free(path)) == (False, False, True)
    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert (lock_of(path), is_locked(path), is_free(path)) == (True, True, False)
        fcntl.flock(held, fcntl.LOCK_SH)
        assert not is_locked(path), "one that asks does not stand in the way of another"
    assert is_free(path)


def test_it_is_taken_from_who_only_asks_and_not_from_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb+") as ours, path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        asked = threading.Timer(0.1, fcntl.flock, (other, fcntl.LOCK_UN))
        asked.start()
        assert take(ours.fileno())
        asked.join()
        assert is_locked(path)
        assert not take(other.fileno())
        fcntl.flock(ours, fcntl.LOCK_UN)
        assert take(other.fileno())


def test_of_what_cannot_be_read_nothing_is_concluded(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "link"):
        assert (lock_of(path), is_locked(path), is_free(path)) == (None, False, False)
