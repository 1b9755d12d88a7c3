"""What a host runs out of, in the words of people: space, quota, descriptors, processes, memory; a disk that takes no writes.

All of it passes without our doing: who meets it refuses what is asked now, keeps what there is, and tries again. Pure.
"""

from __future__ import annotations

import errno
from typing import NamedTuple, Optional

from ..errors import AgentBusy

THREADS = "can't start new thread"
"""What Python says where the system gives no more of them."""


class Shortage(NamedTuple):
    """What there is too little of, and what to do about it."""

    message: str
    hint: str


_OF_DISKS = {
    errno.ENOSPC: Shortage("no space left", "free some space; nothing acknowledged was lost"),
    errno.EDQUOT: Shortage(
        "the quota is used up", "free some space or ask for more quota; nothing acknowledged was lost"
    ),
    errno.EROFS: Shortage(
        "its file system takes no writes", "have it mounted for writing again; nothing acknowledged was lost"
    ),
    errno.EIO: Shortage("its disk or file server fails", "see the system's log; nothing acknowledged was lost"),
    errno.EFBIG: Shortage("the limit on the size of files is reached", "raise it: ulimit -f"),
}
_OF_HOSTS = {
    errno.EMFILE: Shortage("no file descriptors left", "raise the limit: ulimit -n; or ask less of it at once"),
    errno.ENFILE: Shortage("this host has no file descriptors left", "end something on this host"),
    errno.EAGAIN: Shortage("no more processes can be started", "end some, or raise the limit: ulimit -u"),
    errno.ENOMEM: Shortage("no memory left", "end something on this host, or raise the limit on memory"),
}
FULL = (errno.ENOSPC, errno.EDQUOT)
OF_STARTING = tuple(_OF_HOSTS)
"""For want of these a process could not be started now and can be later; by their numbers."""


def shortage_of(error: BaseException) -> Optional[Shortage]:
    """The shortage that an exception tells of; None: it tells of something else."""
    if isinstance(error, MemoryError):
        return _OF_HOSTS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and THREADS in str(error):
        return _OF_HOSTS[errno.EAGAIN]
    if isinstance(error, OSError) and error.errno is not None:
        return of_number(error.errno)
    return None


def of_number(number: int) -> Optional[Shortage]:
    """The shortage that an error number of the system tells of."""
    return _OF_DISKS.get(number) or _OF_HOSTS.get(number)


def busy_with(error: BaseException) -> Optional[AgentBusy]:
    """What a caller is told who can have something later; None: the exception tells of no shortage.

    The file's name, when the exception has one, is told too.
    """
    short = shortage_of(error)
    if short is None:
        return None
    place = str(error.filename) if isinstance(error, OSError) and error.filename else ""
    return AgentBusy(f"{place}: {short.message}" if place else short.message, hint=short.hint)
