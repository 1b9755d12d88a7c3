"""Finding the agent of a home that several hosts share, where it runs on another of them: in an allocation, seen from a login node.

Its lease tells that it runs, and where (:mod:`~lwfm.ownership.lease`); the file by which the workers of its allocation find it
(:mod:`~lwfm.rendezvous`) tells how to reach it.

One that listens to no other host, as on a login node where somebody has looked or synced, is asked by a file to leave: it does when
it was started by a command, not by hand, and has no work. So a batch job that begins meanwhile can have its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from .. import hostlist, rendezvous
from ..errors import AgentElsewhere, AgentUnreachable, InsecureState
from ..ownership import lease
from ..ownership.owner import refusal
from ..paths import Home

LEAVES_S = 12.0
"""How long an agent that listens to no other host gets to leave: it looks every five seconds whether it shall."""
LOOK_AGAIN_S = 0.1


def find_or_follow(home: Home, *, at_rest: bool = False) -> Optional[rendezvous.Rendezvous]:
    """The same as :func:`find`, for who would start one here: one that cannot be reached is asked to leave, and waited for.

    Args:
        at_rest: the allocation that all work of the instance was in is known to have ended.
    """
    owner = lease.find_owner(home, _all_ended if at_rest else _ended)
    if owner is None:
        return None
    until = time.monotonic() + (LEAVES_S if owner.recent else 0.0)
    try:
        while True:
            try:
                return find(home)
            except AgentElsewhere:
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
        AgentElsewhere: it runs on another host, and has not told how it is reached. StoreError: that cannot be found out.
    """
    owner = lease.find_owner(home, _ended)
    if owner is None or hostlist.same_host(owner.host, socket.gethostname()):
        return None
    found = sorted(home.allocations.glob(f"*/{rendezvous.FILE}"), key=_age, reverse=True)
    for path in found:
        try:
            place = rendezvous.read(path)
        except (AgentUnreachable, InsecureState):
            continue
        if hostlist.same_host(place.host, owner.host):
            return place
    raise refusal(home, owner)


def _all_ended(names: Sequence[str]) -> Mapping[str, str]:
    from ..ownership.endings import all_ended

    return all_ended(names)


def _ended(names: Sequence[str]) -> Mapping[str, str]:
    from ..ownership.endings import ended  # loads what schedulers need, which is asked of few

    return ended(names)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
