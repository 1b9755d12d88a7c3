"""Locks of files by flock(2): taken for oneself without waiting, and asked for without taking.

It is asked by a shared lock, for which a file need only be open for reading, on NFS too (flock(2), "NFS details"). Whoever asks
holds that for a moment, which keeps nobody from taking the lock here.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Optional

TRIES = 50
PAUSE_S = 0.01


def take(descriptor: int) -> bool:
    """Take an open file's lock for oneself; whether nobody else has it.

    Raises:
        OSError: there are no locks there, or none left.
    """
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # somebody only asks
        time.sleep(PAUSE_S)
    return False


def lock_of(path: str | os.PathLike[str]) -> Optional[bool]:
    """Whether some process holds a file's lock for itself; None: there is no such file that could be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_locked(path: str | os.PathLike[str]) -> bool:
    """The same; not, where there is no such file."""
    return lock_of(path) is True


def is_free(path: str | os.PathLike[str]) -> bool:
    """Whether nobody holds a file's lock for itself; not, where that cannot be told."""
    return lock_of(path) is False
