"""One allocation that the agent has asked a batch scheduler for: what is known of it, and the gate for its workers.

Knows what lies on disk of it (:mod:`.allotment`) and what the scheduler said last; asks nobody. See :mod:`.all_created`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Callable, Optional

from .. import hostlist
from ..capacity import Capacity
from ..clock import deadline_time, utc_text
from ..errors import InvalidRecord, NotFound
from ..launch.allocation import allocation_name
from ..placing.node import Node
from ..rendezvous import Address
from ..sites.base import Resource
from ..sites.batch.scheduler import ENDED, ENDING, PENDING, RUNNING, UNKNOWN
from ..workers.connections import Gate
from ..workers.listening import shown
from .allotment import Allotment, Asked, Begun
from .expected import START_TIMEOUT_S, capacity_of, capacity_told

SILENT_S = 5.0
"""An allocation that runs for so long without a worker is one to worry about."""
_logger = logging.getLogger(__name__)


class Created(Gate):
    """One of them, and the gate for its workers.

    Attributes:
        asked, begun: what was asked for; what its batch job has told, once it has.
        phase, native, reason: what the scheduler says of it, see :class:`~lwfm.sites.batch.scheduler.BatchJob`.
        ends_at: seconds since the epoch. ``hosts``: its nodes.
        addresses: where we listen for it; ``trouble``: why we do not.
        own: whether the agent is in it itself: then its workers come in elsewhere.
        kept_because: why the scheduler did not take it back when it was to be given back.
    """

    def __init__(self, allotment: Allotment, asked: Asked, news: Callable[[Created], None]):
        self.allotment = allotment
        self.asked = asked
        self.place = allotment.directory.name
        self.begun: Optional[Begun] = None
        self.phase, self.native = UNKNOWN, ""
        self.reason: Optional[str] = None
        self.ends_at: Optional[float] = None
        self.hosts: tuple[str, ...] = ()
        self.addresses: list[Address] = []
        self.trouble: Optional[str] = None
        self.own = False
        self.kept_because: Optional[str] = None
        self.came_at: Optional[float] = None
        self.runs_since: Optional[float] = None
        self.busy_at = time.monotonic()
        self.deadline: Optional[asyncio.Task[None]] = None
        self.leaving: Optional[asyncio.Task[None]] = None
        self._news = news

    @property
    def job_id(self) -> str:
        """The scheduler's id; as long as that is not known, our own."""
        return self.asked.job_id or (self.begun.allocation.id if self.begun else self.asked.token)

    @property
    def allocation(self) -> str:
        """Its name."""
        return allocation_name(self.asked.scheduler, self.job_id)

    @property
    def name(self) -> str:
        """For people."""
        return f"the allocation {self.job_id} of {self.asked.scheduler}"

    async def change(self, **changes: Any) -> None:
        """Change what was asked for, here and on disk, as far as that takes it."""
        self.asked = replace(self.asked, **changes)
        try:
            await asyncio.to_thread(self.allotment.write_asked, self.asked)
        except OSError as error:
            _logger.error("cannot write %s: %s", self.allotment.directory, error)

    async def share(self, host: str) -> Optional[Capacity]:
        """What the scheduler gave us of a node, as the batch job has written it down before it started any worker."""
        await self.look()
        if self.begun is None:
            raise NotFound(f"{self.name} has not told its nodes yet", transient=True)
        return capacity_of(self.begun.allocation, host)

    def name_of(self, host: str) -> tuple[str, str]:
        """What the launchers call a host, and our name: who comes in here is of this allocation."""
        node = self.begun.allocation.share_of(host) if self.begun else None
        return (host if node is None else node.host), self.allocation

    async def look(self) -> None:
        """Read what the batch job has told, if it has; and again as long as no worker has come: it may tell of problems."""
        if self.begun is None or self.came_at is None:
            with suppress(NotFound, InvalidRecord):
                self.begun = await asyncio.to_thread(self.allotment.read_begun)
                self.hosts = tuple(node.host for node in self.begun.allocation.nodes)

    def came(self) -> None:
        """A worker has come: it runs, whatever the scheduler said last."""
        self.came_at = self.busy_at = time.monotonic()
        if self.phase in (PENDING, UNKNOWN):
            self.phase, self.native, self.reason = RUNNING, "", None
        self._news(self)

    def went(self) -> None:
        """A worker has vanished: it may be over."""
        self._news(self)

    @property
    def names(self) -> tuple[str, str, str]:
        """By which it can be asked for."""
        return self.job_id, self.allocation, self.asked.token

    @property
    def waits(self) -> bool:
        """Whether its nodes are still to come."""
        return self.came_at is None and self.phase in (PENDING, UNKNOWN, RUNNING) and self.asked.giving_back is None

    # ------------------------------------------------------------------------------------------ told

    def coming(self) -> list[Node]:
        """Its nodes as long as they are still to come, with what is known of them."""
        capacity = capacity_told(self.asked.cores, self.asked.memory_bytes, self.asked.gpus)
        return [
            Node("", "", 0, capacity, None, "", self.allocation) for _ in range(self.asked.nodes if self.waits else 0)
        ]

    def describe(self, up: Sequence[str]) -> dict[str, Any]:
        """It, as ``GET /v1/agent`` shows it; ``up``: the hosts that workers are connected from."""
        began_at = self.begun.began_at if self.begun else time.time()
        absent = "missing" if time.time() - began_at > START_TIMEOUT_S else "starting"
        return {
            "scheduler": self.asked.scheduler,
            "id": self.job_id,
            "name": self.allocation,
            "nodes": len(self.hosts),
            "ends_at": None if self.ends_at is None else utc_text(self.ends_at),
            "other_nodes": {
                host: "up" if any(hostlist.same_host(host, one) for one in up) else absent for host in self.hosts
            },
        }

    def resource(self, workers: int, trouble: Optional[str] = None) -> Resource:
        """It, as the site lists it; ``workers``: how many are connected. ``trouble``: why nothing newer is known."""
        asked = self.asked
        facts: dict[str, Any] = {
            "name": self.allocation,
            "native_state": self.native or None,
            "nodes": asked.nodes,
            "hosts": hostlist.fold(self.hosts) or None,
            "workers": workers,
            "time_s": asked.time_s,
            "time_left_s": None if self.ends_at is None else max(0, round(self.ends_at - deadline_time())),
            "ends_at": None if self.ends_at is None else utc_text(self.ends_at),
            "idle_s": asked.idle_s,
            "reason": self.reason,
            "problem": trouble or self._problem(workers),
        }
        if self.phase == ENDED:
            facts = {name: facts[name] for name in ("name", "native_state", "nodes", "hosts", "reason")}
        state = ENDING if asked.giving_back is not None and self.phase in (RUNNING, PENDING) else self.phase
        return Resource(
            self.job_id, "allocation", state, {name: value for name, value in facts.items() if value is not None}
        )

    def _problem(self, workers: int) -> Optional[str]:
        """What keeps its nodes from being used, as far as it can be told."""
        if self.trouble is not None:
            return self.trouble
        told = "; ".join(self.begun.problems) if self.begun else ""
        if workers or self.own or self.phase != RUNNING or self.asked.giving_back is not None:
            return None if self.own else told or None
        since = self.begun.began_at if self.begun else self.runs_since
        running_s = time.time() - since if since is not None else 0.0
        if running_s < SILENT_S and not told:
            return None
        if self.begun is None:
            return f"it runs, but its batch job has told nothing: do its nodes see {self.allotment.directory}?"
        where = ", ".join(map(shown, self.addresses))
        also = f"; {told}" if told else ""
        return f"it runs, but no worker has come for {running_s:.0f} s; they dial {where}{also}"
