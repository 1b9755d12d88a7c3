"""The owner of an instance: who it is, as others read it, and what proves that it is gone. Holds nothing.

Silence proves nothing. An owner is gone when it has said so, when its process is gone from this very boot of this host, when this
host has been started anew, when its batch job has ended, or when the lock that it holds beside is free and locks reach other hosts.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..clock import parse_utc, utc_now
from ..errors import AgentElsewhere, LwfmError, StoreLocked
from ..host.filesystems import locks_reach_other_hosts
from ..host.locks import is_free
from ..host.processes import boot_id, inspect, is_running, machine_id, pid_space
from ..jsontext import compact_ascii
from ..paths import Home

RECENT_S = 60.0
"""An owner that was heard of within this time probably lives."""
_logger = logging.getLogger(__name__)

Ended = Callable[[Sequence[str]], Mapping[str, str]]
"""Tells which of these allocations have ended; raises LwfmError when that cannot be told."""


@dataclass(frozen=True)
class Owner:
    """Who has, or had, an instance.

    Args:
        host, pid: the process. ``start_s``: its start, seconds since the boot ``boot_id``; ``pid_space``: where its pid counts.
        machine: the host's identity that outlives boots; empty where it has none.
        allocation: the one it runs in, as ``slurm-4711``; empty for none.
        since: when it became the owner. ``token``: tells it from all others.
        ousts: it took over from one that may still live, and has not yet made sure that this one can write no more.
        heard_at: when it touched its lease last, by the file server's clock; empty where there is no lease.
        left: it has said that it is no longer the owner.
    """

    host: str
    pid: int
    start_s: float
    boot_id: str
    pid_space: str
    machine: str
    allocation: str
    since: str
    token: str
    ousts: bool = False
    heard_at: str = ""
    left: bool = False

    def __str__(self) -> str:
        if not self.pid:
            return f"one on {self.host or 'an unknown host'} that has not said yet who it is"
        heard = f", last heard of at {self.heard_at[:19]}Z" if self.heard_at else ""
        return f"pid {self.pid} on {self.host}, since {self.since[:19]}Z{heard}"

    @property
    def recent(self) -> bool:
        """Whether it was heard of lately, or is known to live by a lock."""
        return not self.heard_at or time.time() - parse_utc(self.heard_at) < RECENT_S


def this_process(allocation: str) -> Owner:
    """This process, as the owner; ``allocation``: see :class:`Owner`."""
    entry = inspect(os.getpid())
    start_s = 0.0 if entry is None else entry.start_s
    return Owner(
        socket.gethostname(), os.getpid(), start_s, boot_id(), pid_space(), machine_id(), allocation, utc_now(),
        secrets.token_hex(16),
    )  # fmt: skip


def unknown_owner() -> Owner:
    """One that has not said who it is."""
    return Owner("", 0, 0.0, "", "", "", "", "", "")


def unknown_here() -> Owner:
    """The same, of this host: it has just begun."""
    return replace(unknown_owner(), host=socket.gethostname(), boot_id=boot_id(), pid_space=pid_space())


def is_here(owner: Owner) -> bool:
    """Whether its pid means something here: it runs, or ran, in this boot and among these pids."""
    return owner.boot_id == boot_id() and owner.pid_space == pid_space()


def told_of(owner: Owner) -> Mapping[str, Any]:
    """What it says of itself."""
    return {name: value for name, value in asdict(owner).items() if name not in ("heard_at", "left")}


def append_line(descriptor: int, told: Mapping[str, Any]) -> None:
    """One more line in a lease, on the disk."""
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, compact_ascii(told).encode("ascii") + b"\n")
    os.fsync(descriptor)


def parse_owner(content: bytes) -> Optional[Owner]:
    """What a lease or a lock says; None when that is nothing that can be understood."""
    try:
        told, *later = map(json.loads, content.splitlines())
        owner = Owner(
            str(told["host"]), int(told["pid"]), float(told["start_s"]), str(told["boot_id"]), str(told["pid_space"]),
            str(told["machine"]), str(told["allocation"]), str(told["since"]), str(told["token"]),
        )  # fmt: skip
        ousts = bool(told["ousts"]) and not any("settled" in line for line in later)
        return replace(owner, ousts=ousts, left=any("left" in line for line in later))
    except (ValueError, KeyError, TypeError):
        return None


def why_gone(owner: Owner, path: Path, ended: Ended) -> str:
    """What proves that the owner of the lease ``path`` is gone; an empty text when nothing does."""
    if owner.left:
        return "it has left"
    if owner.boot_id == boot_id():
        if owner.pid_space == pid_space():
            return "" if is_running(owner.pid, owner.start_s) else "its process is gone"
    elif owner.machine and (owner.machine, owner.host) == (machine_id(), socket.gethostname()):
        return "its host has been started anew"
    if locks_reach_other_hosts(path) and is_free(path):
        return "its lock is free"
    if owner.allocation:
        try:
            how = ended([owner.allocation]).get(owner.allocation)
        except LwfmError as error:
            _logger.info("whether %s has ended is not known: %s", owner.allocation, error)
        else:
            return "" if how is None else f"its allocation {owner.allocation} has ended{how}"
    return ""


def refusal(home: Home, owner: Owner) -> LwfmError:
    """The error that names the owner, and says what to do: StoreLocked for one on this host, AgentElsewhere for another."""
    if is_here(owner) and owner.host == socket.gethostname():
        hangs = f"; one that hangs is ended by: kill -9 {owner.pid}" if owner.pid else ""
        return StoreLocked(f"an agent runs for {home.root} already: {owner}", hint=f"lwfm agent status{hangs}")
    host = owner.host or "another host"
    return AgentElsewhere(
        f"the agent of {home.root} runs on {host}, and listens to no other host: {owner}",
        hint=f"use lwfm on {host}, or wait; if {host} is gone for good: lwfm agent start --take-over",
    )
