"""Whether a lock is held, asked from outside."""

from __future__ import annotations

import fcntl
from pathlib import Path

from lwfm.host.locks import is_free, is_locked, lock_of


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


def test_of_what_cannot_be_read_nothing_is_concluded(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "link"):
        assert (lock_of(path), is_locked(path), is_free(path)) == (None, False, False)
