"""``lwfm tunnel``: the far end of a way to the agent that was made from its side (:mod:`lwfm.workers.tunnels`).

Not for use by hand.

Shows the worker of this node the way, by links in its spool to the sockets that ssh has made here, starts a worker if there is
none, and stays until its standard input ends, which is when the agent, or the way to it, is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..paths import self_command
from .line import TUNNEL, TUNNEL_API
from .main import make_private, own_spool

NOT_REACHED = 1


def main(argv: Sequence[str]) -> int:
    """Be the far end: ``lwfm tunnel RENDEZVOUS PREFIX``.

    Returns:
        0 when the near end has gone.
    """
    if len(argv) != 2:
        sys.stderr.write("usage: lwfm tunnel RENDEZVOUS PREFIX (it is run by the agent, through ssh)\n")
        return 2
    rendezvous, prefix = argv
    spool = own_spool(rendezvous)
    code = make_private(spool)
    if code:
        return code
    ways = {os.path.join(spool, link): f"{prefix}{link[len('tunnel') :]}" for link in (TUNNEL, TUNNEL_API)}
    for link, target in ways.items():
        if not os.path.exists(target):
            sys.stderr.write(f"lwfm: ssh has made no {target} on {os.uname().nodename}\n")
            return NOT_REACHED
        os.symlink(target, link + ".new")
        os.replace(link + ".new", link)
    subprocess.Popen(
        [*self_command(), "worker", "--rendezvous", rendezvous],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip
    while os.read(0, 4096):
        pass
    for link, target in ways.items():
        with suppress(OSError):
            if os.readlink(link) == target:
                os.unlink(link)
        with suppress(OSError):
            os.unlink(target)
    return 0
