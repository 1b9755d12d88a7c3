"""Whether a file is locked by flock(2), asked without waiting, and without keeping others from it for more than a moment.

It is asked by a shared lock, for which a file need only be open for reading, on NFS too (flock(2), "NFS details").
"""

from __future__ import annotations

import fcntl
import os
from typing import Optional


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
