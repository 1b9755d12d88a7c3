"""Asking a batch scheduler for an allocation: from what a person wants to a batch job whose only work is to have workers.

Blocks; for threads. What is done with it then is the business of :mod:`.all_created`.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidRecord
from ..host.private import write_private
from ..paths import self_command
from ..quantities import seconds_of
from ..sites.batch.commands import BatchCommands, the_scheduler
from ..sites.batch.request import BatchRequest, quantity, request_of
from ..workers.listening import sample
from .allotment import SCRIPT, Allotment, Asked

DEFAULT_IDLE_S = 600.0
"""An allocation with nothing to do is given back after this long."""


class Question(NamedTuple):
    """What is to be asked: ``asked`` for our own memory, ``request`` for the scheduler."""

    asked: Asked
    request: BatchRequest
    scheduler: BatchCommands


def prepare(spec: Mapping[str, Any]) -> Question:
    """Judge what a person asks for, and look up what its nodes will be like.

    Args:
        spec: as of :func:`~lwfm.sites.batch.request.request_of`; and ``idle``, ``agent``.

    Raises:
        InvalidRecord: it makes no sense. NotSupported: there is no batch scheduler here. SiteError: it does not answer.
    """
    given = {**spec}
    idle_s = quantity(given, "idle", seconds_of, "10m, or 0 for never", zero=True)
    agent = given.pop("agent", False)
    given.pop("idle", None)
    if not isinstance(agent, bool):
        raise InvalidRecord(f"agent must be true or false, not {agent!r}"[:200])
    token = secrets.token_hex(4)
    request = request_of(given, mark_of(token))
    scheduler = the_scheduler()
    partition, hosts = scheduler.members(request.partition)
    cores, memory_bytes = request.cores, request.memory_bytes
    if partition is not None and cores is None:  # whole nodes
        cores, memory_bytes = partition.node_cores, memory_bytes or partition.node_memory_bytes
    asked = Asked(
        token=token,
        scheduler=scheduler.name,
        nodes=request.nodes,
        time_s=request.time_s,
        created_at=time.time(),
        idle_s=DEFAULT_IDLE_S if idle_s is None else idle_s,
        agent=agent,
        towards=tuple(sample(hosts)),
        cores=cores,
        memory_bytes=memory_bytes,
        gpus=request.gpus,
    )
    return Question(asked, request, scheduler)


def submit(question: Question, allotment: Allotment, root: Path) -> str:
    """Submit the batch job of an allocation whose directory there is; its id.

    Raises:
        SiteError: it was refused; ``transient``, when it is not known whether it was taken. OSError: the script cannot be written.
    """
    words = [*self_command(), "allocation-workers", str(allotment.directory)]
    script = f"#!/bin/sh\n# Workers of an instance of lwfm, on all nodes of this job.\nexec {shlex.join(words)}\n"
    write_private(allotment.directory / SCRIPT, script.encode("utf-8", "surrogateescape"))
    return question.scheduler.submit(question.request, script, str(allotment.output), str(root))


def mark_of(token: str) -> str:
    """What a batch job carries so that it is found again."""
    return f"lwfm:{token}"
