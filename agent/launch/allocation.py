"""The allocation we run in: which nodes, what of each is ours, and when it ends. Reads what schedulers leave behind. Pure.

Everything comes from outside through what is handed in: variables, the text of a file, the output of a command. Nothing
is guessed: what a scheduler does not tell is None, and what it tells in a form we do not know is an error. What each of them
tells is known to its module in :mod:`.schedulers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .schedulers import flux, gridengine, slurm
from .schedulers.hostfile import from_hostfile
from .schedulers.model import Allocation, Ask, NodeShare, Read, allocation_name
from .schedulers.nodefiles import find_cobalt, find_lsf, find_pbs

__all__ = ["Allocation", "Ask", "NodeShare", "Read", "allocation_name", "discover", "from_hostfile"]


def discover(environment: Mapping[str, str], read: Read, ask: Ask, now: float) -> Optional[Allocation]:
    """The allocation that ``environment`` tells of; None where none of the schedulers left anything.

    Args:
        environment: the variables of this process.
        read: gives the text of a file; raises OSError.
        ask: gives the output of a command; raises OSError. It has a time limit of its own.
        now: seconds since the epoch.

    Raises:
        ConfigError: a variable, or the file it names, is missing or malformed; the message names the variable.
    """
    # Flux first: it runs inside allocations of the others, and then what it manages is what is ours.
    for find in (flux.find, slurm.find, find_pbs, find_lsf, gridengine.find, find_cobalt):
        found = find(environment, read, ask, now)
        if found is not None:
            return found
    return None
