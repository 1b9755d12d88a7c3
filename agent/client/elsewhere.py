"""Finding the agent of a home that several hosts share, where it runs on another of them: in an allocation, seen from a login node.

Its lock tells that it runs, and where; the file by which the workers of its allocation find it (:mod:`~lwfm.rendezvous`) tells how
to reach it. flock(2) works across hosts on NFS and the usual parallel file systems, where they are mounted so; where it does not,
nothing is found, and starting another agent fails on the store itself.

One that listens to no other host, as on a login node where somebody has looked or synced, is asked by a file to leave: it does when
it was started by a command, not by hand, and has no work. So a batch job that begins meanwhile can have its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Optional

from .. import hostlist, rendezvous
from ..errors import AgentError, AgentUnreachable, InsecureState
from ..paths import Home

LEAVES_S = 12.0
"""How long an agent that listens to no other host gets to leave: it looks every five seconds whether it shall."""
LOOK_AGAIN_S = 0.1


def find_or_follow(home: Home) -> Optional[rendezvous.Rendezvous]:
    """The same as :func:`find`, for who would start one here: one that cannot be reached is asked to leave, and waited for."""
    until = time.monotonic() + LEAVES_S
    try:
        while True:
            try:
                return find(home)
            except AgentError:
                if time.monotonic() > until:
                    raise
            with suppress(OSError):
                home.wanted.touch(mode=0o600)
            time.sleep(LOOK_AGAIN_S)
    finally:
        with suppress(OSError):
            home.wanted.unlink()


def find(home: Home) -> Optional[rendezvous.Rendezvous]:
    """How the agent of ``home`` is reached on another host; None when none runs, or it is this host's.

    Raises:
        AgentError: it runs on another host, and has not told how it is reached.
    """
    owner = _owner(home.lock_file)
    if owner is None or hostlist.same_host(owner, socket.gethostname()):
        return None
    found = sorted(home.allocations.glob(f"*/{rendezvous.FILE}"), key=_age, reverse=True)
    for path in found:
        try:
            place = rendezvous.read(path)
        except (AgentUnreachable, InsecureState):
            continue
        if hostlist.same_host(place.host, owner):
            return place
    raise AgentError(
        f"the agent of {home.root} runs on {owner}, and listens to no other host", hint=f"use lwfm on {owner}, or wait"
    )


def _owner(lock: Path) -> Optional[str]:
    """The host of the agent that holds a lock; None when nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        told = re.search(rb" on (\S+)", os.pread(descriptor, 200, 0))
        return told.group(1).decode("ascii", "replace") if told else None
    finally:
        os.close(descriptor)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
