"""The allocation that a user describes in a file of hosts."""

from __future__ import annotations

import hashlib
import re
from typing import Optional

from ...errors import ConfigError
from .model import Allocation, NodeShare
from .parts import expand_hosts


def from_hostfile(text: str) -> Allocation:
    """The allocation that a host file of the user's describes; its id is made from the nodes.

    One host in a line, or a bracketed list of them: ``host``, ``host slots=4`` or ``host:4``. ``#`` begins a comment. A
    host that is listed several times has that many slots; one that is listed once and plainly has unknown ones.

    Raises:
        ConfigError: a line is malformed, or there is no host; the message names the line.
    """
    slots: dict[str, list[Optional[int]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, colon, count = words[0].partition(":")
        rest = words[1:] + ([f"slots={count}"] if colon else [])
        known = [re.fullmatch(r"slots=([1-9]\d{0,8})", word, re.ASCII) for word in rest]
        if len(known) > 1 or None in known:
            raise ConfigError(
                f"line {number} of the host file is malformed: {line.strip()[:200]!r}",
                hint="one host in a line: host, host slots=4 or host:4",
            )
        for host in expand_hosts(name, f"line {number} of the host file"):
            slots.setdefault(host, []).append(int(known[0][1]) if known and known[0] else None)
    if not slots:
        raise ConfigError("the host file names no host", hint="write one host in each line")
    nodes = tuple(
        NodeShare(host, cores=None if counts == [None] else sum(count or 1 for count in counts))
        for host, counts in slots.items()
    )
    digest = hashlib.sha256(repr([(node.host, node.cores) for node in nodes]).encode()).hexdigest()
    return Allocation("hostfile", f"hostfile-{digest[:12]}", nodes)
