"""Owning an instance, for a process that opens its store: nobody else writes to it from the first moment to the last."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LwfmError
from ..host.filesystems import is_shared
from ..launch.launching import find_allocation
from ..paths import Home
from ..store import replacing
from .endings import all_ended, ended
from .lease import LeaseLost, Ownership, take

_logger = logging.getLogger(__name__)


@contextmanager
def owned(home: Home, *, force: bool = False, at_rest: bool = False) -> Iterator[Ownership]:
    """Own the instance while the block runs.

    Args:
        force: see :func:`~.lease.take`. ``at_rest``: the allocation that all its work was in is known to have ended.

    Raises:
        StoreLocked, AgentElsewhere: another process does. StoreError: as it says.
    """
    allocation = _allocation_name() if is_shared(home.root) else ""
    ownership = take(home, _end_at_once, all_ended if at_rest else ended, allocation=allocation, force=force)
    try:
        if ownership.ousts:
            replacing.replace_by_copy(home.database)
            ownership.settle()
        else:
            replacing.finish(home.database)
        yield ownership
    finally:
        ownership.release()


def _end_at_once(reason: str) -> None:
    """Nothing that this process could still do would be right: it ends as if it had been killed. Its workers go on."""
    _logger.critical("%s: this process ends without another word to the store", reason)
    logging.shutdown()
    os._exit(LeaseLost.exit_code)


def _allocation_name() -> str:
    """The allocation we run in: whoever finds us gone may ask its scheduler. Empty for none."""
    try:
        found = find_allocation()
    except LwfmError:  # said when it is joined
        return ""
    return "" if found is None else found.name
