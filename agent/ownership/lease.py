"""Who owns an instance: the one process that may write to its store, how others learn of it, and when it has ceased to.

On a file system of one host the owner holds a lock, which the kernel takes back when it dies. Where hosts share the file system,
locks may reach no other host; there the owner has a *lease*: a numbered file that it made by a hard link, which of several hosts
at once only one can (open(2), ``O_EXCL``). Whoever follows makes the next number, so that of two who find an owner gone only
one follows it; then the older numbers are removed. The owner touches its file from time to time, so that people see it live,
and looks after each commit, before it answers anybody, whether the file is still there: one that was stopped for an hour, while
its store was given to another, acknowledges nothing more.

What proves that an owner is gone is known to :mod:`lwfm.ownership.owner`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

from ..clock import utc_now, utc_text
from ..errors import StoreError, StoreFull, StoreLocked
from ..host import locks
from ..host.filesystems import is_shared
from ..host.private import private_directory
from ..paths import Home
from .owner import (
    Ended,
    Owner,
    append_line,
    is_here,
    parse_owner,
    refusal,
    this_process,
    told_of,
    unknown_here,
    unknown_owner,
    why_gone,
)

RENEW_S = 2.0
"""So often the owner touches its lease, and looks whether it still has it."""
GIVE_UP_S = 30.0
"""How long it may be unreadable until its owner gives up: a file server that is started anew takes less."""
LOOK_AGAIN_S = 0.25
NOTICE_S = RENEW_S + 1.0
"""So long whoever takes over by force leaves the owner to notice, if it lives and can."""
_TRIES = 20
_NUMBERED = re.compile(r"\d{8}")
_NO_LINKS = frozenset([errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV])
_logger = logging.getLogger(__name__)


class LeaseLost(StoreError):
    """This process does not own the store any more."""


class Ownership:
    """That this process owns an instance. On a file system of one host the kernel sees to it, and nothing needs confirming."""

    ousts = False
    """Whether an owner was ousted that may still live, and write to what it has open: the store has to be put out of its reach."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def confirm(self) -> None:
        """Make sure that it is so still; a process that is not the owner any more does not come back from here."""

    def settle(self) -> None:
        """An owner that was ousted can write to the store no more."""

    def release(self) -> None:
        """Cease to be the owner."""
        os.close(self._descriptor)


class Lease(Ownership):
    """The same on a file system that hosts share.

    Args:
        path: the lease, which ``owner`` has made; ``descriptor``: open on it, and locked where that can be.
        on_lost: called with the reason, in whatever thread finds it, when the lease is no longer ours; should end the process.
    """

    def __init__(self, path: Path, owner: Owner, descriptor: int, on_lost: Callable[[str], None]):
        super().__init__(descriptor)
        self.path = path
        self.owner = owner
        self.ousts = owner.ousts
        self._on_lost = on_lost
        self._released = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lwfm-lease", daemon=True)

    def start(self) -> None:
        """Renew it from now on."""
        self._keeper.start()

    def confirm(self) -> None:
        """Make sure that the lease is there, and ours. Waits, for a while, when the file system gives no answer.

        Raises:
            LeaseLost: it is not, if ``on_lost`` comes back.
        """
        until = time.monotonic() + GIVE_UP_S
        while True:
            try:
                self._look()
                return
            except FileNotFoundError:
                self._lose(f"the lease was taken over{self._by_whom()}")
            except OSError as error:  # a stale handle too: a server that was started anew may know it again
                if time.monotonic() > until:
                    self._lose(f"the lease cannot be read for {GIVE_UP_S:.0f} s: {error.strerror}")
            time.sleep(LOOK_AGAIN_S)

    def settle(self) -> None:
        """See :class:`Ownership`; noted in the lease, so that whoever follows need not do it."""
        append_line(self._descriptor, {"settled": utc_now()})
        self.ousts = False

    def release(self) -> None:
        """Say, in the lease itself, that nobody has the instance now: removing it by its name could remove another's."""
        self._released.set()
        if self._keeper.ident is not None and self._keeper is not threading.current_thread():
            self._keeper.join(RENEW_S)
        with contextlib.suppress(OSError):
            append_line(self._descriptor, {"left": utc_now()})
        super().release()

    def _look(self) -> None:
        with self.path.open("rb") as stream:  # opening asks the server, other than a look at what is known of the file
            found = parse_owner(stream.read())
        if found is None or found.token != self.owner.token:
            raise FileNotFoundError(self.path)

    def _keep(self) -> None:
        told = ""
        while not self._released.wait(RENEW_S):
            problem = ""
            try:
                os.utime(self.path)
            except OSError as error:
                problem = str(error.strerror)
            if problem and problem != told:
                _logger.warning("the lease %s cannot be renewed: %s", self.path, problem)
            told = problem
            try:
                self.confirm()
            except LeaseLost:
                return

    def _lose(self, reason: str) -> None:
        if not self._released.is_set():
            self._on_lost(reason)
        raise LeaseLost(reason)

    def _by_whom(self) -> str:
        try:
            found = _newest(self.path.parent)[1]
        except OSError:
            return ""
        return "" if found is None or found.token == self.owner.token else f" by {found}"


def take(
    home: Home, on_lost: Callable[[str], None], ended: Ended, *, allocation: str = "", force: bool = False
) -> Ownership:
    """Become the owner of an instance.

    Args:
        home: its directories exist.
        on_lost: as for :class:`Lease`. ``ended``: tells which allocations have ended; ``allocation``: the one we are in.
        force: oust an owner of which it is not known whether it is gone; not one that runs on this very host.

    Raises:
        StoreLocked, AgentElsewhere: another process is, or may be. StoreError: it cannot be found out, or not be made so.
    """
    try:
        if not is_shared(home.root):
            return _take_lock(home)
        private_directory(home.lease)
        return _take_lease(home, this_process(allocation), on_lost, ended, force)
    except OSError as error:
        kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(f"cannot become the owner of {home.root}: {error.strerror}", hint="lwfm doctor") from error


def find_owner(home: Home, ended: Ended) -> Optional[Owner]:
    """The owner of an instance; None when there is none, or it is proven to be gone.

    Raises:
        StoreError: it cannot be found out.
    """
    if not is_shared(home.root):
        return _who_locks(home.lock_file)
    try:
        _, owner, path = _newest(home.lease)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot look into {home.lease}: {error.strerror}", hint="lwfm doctor") from error
    if owner is None or path is None or why_gone(owner, path, ended):
        return None
    return owner


# ------------------------------------------------------------------------------------------------- on one host


def _take_lock(home: Home) -> Ownership:
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locks.take(descriptor):
            raise refusal(home, parse_owner(os.pread(descriptor, 4096, 0)) or unknown_here())
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # on a full disk: it is for people to read
            append_line(descriptor, told_of(this_process("")))
    except BaseException:
        os.close(descriptor)
        raise
    return Ownership(descriptor)


def _who_locks(path: Path) -> Optional[Owner]:
    if not locks.is_locked(path):
        return None
    try:
        return parse_owner(path.read_bytes()) or unknown_here()
    except OSError:
        return unknown_here()


# ------------------------------------------------------------------------------------------------- on several


def _take_lease(home: Home, ours: Owner, on_lost: Callable[[str], None], ended: Ended, force: bool) -> Lease:
    for _ in range(_TRIES):
        number, owner, path = _newest(home.lease)
        ousts = False
        if owner is not None and path is not None:
            reason = why_gone(owner, path, ended)
            if not reason and (not force or is_here(owner)):
                raise refusal(home, owner)
            if not owner.left:
                _logger.warning("the last owner was %s: %s", owner, reason or "it is ousted by force")
            ousts = not reason or owner.ousts
        lease = _make(home.lease, number + 1, replace(ours, ousts=ousts), on_lost)
        if lease is None:  # somebody else was quicker: it is not the one that was to be ousted
            force = False
            continue
        if _newest(home.lease)[0] != number + 1:  # what was seen of the directory was old
            lease.path.unlink()
            lease.release()
            continue
        for older in _numbers(home.lease):
            if older <= number:
                _name(home.lease, older).unlink(missing_ok=True)
        if ousts:
            time.sleep(NOTICE_S)  # an owner that lives notices, and ends by itself
        lease.start()
        return lease
    raise StoreLocked(f"others start an agent for {home.root} at the same time", hint="try again in a moment")


def _make(directory: Path, number: int, owner: Owner, on_lost: Callable[[str], None]) -> Optional[Lease]:
    """Make the lease of this number; None when it is there already."""
    path = _name(directory, number)
    own = directory / f".{owner.host}.{owner.pid}.{owner.token}"
    try:
        descriptor = _written(own, owner)
        try:
            os.link(own, path)
        except OSError as error:
            if (
                os.stat(own).st_nlink != 2
            ):  # else only the answer was lost, and what came back is that to the second try
                os.close(descriptor)
                if error.errno not in _NO_LINKS:
                    raise
                descriptor = _written(
                    path, owner
                )  # whoever looks at the wrong moment finds nothing in it, and keeps away
        return Lease(path, owner, descriptor, on_lost)
    except FileExistsError:
        return None
    finally:
        with contextlib.suppress(OSError):
            own.unlink()


def _written(path: Path, owner: Owner) -> int:
    """Make a file that says whose it is; its descriptor, locked where that can be: evidence where locks reach other hosts."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        append_line(descriptor, told_of(owner))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _newest(directory: Path) -> tuple[int, Optional[Owner], Optional[Path]]:
    """The highest number, whose it is, and the file; of a lease that says nothing the owner is not known."""
    for _ in range(_TRIES):
        number = max(_numbers(directory), default=0)
        if not number:
            return 0, None, None
        path = _name(directory, number)
        try:
            content = path.read_bytes()
            heard_at = utc_text(path.stat().st_mtime)
        except FileNotFoundError:  # it was followed just now
            time.sleep(LOOK_AGAIN_S)
            continue
        return number, replace(parse_owner(content) or unknown_owner(), heard_at=heard_at), path
    raise OSError(errno.EAGAIN, "it changes all the time")


def _numbers(directory: Path) -> Iterator[int]:
    return (int(name) for name in os.listdir(directory) if _NUMBERED.fullmatch(name))


def _name(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}"
