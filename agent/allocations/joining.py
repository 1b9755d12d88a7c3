"""The allocations that an agent has to do with: the one it is in, those it has asked for, those it was in once.

Takes them up in this order, for what their workers had is settled with them. Each kind has its module: :mod:`.own`,
:mod:`.all_created`, :mod:`.former`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Optional

from ..config import choice_option, nice_option, seconds_option
from ..errors import LwfmError
from ..host.processes import be_nice
from ..launch.allocation import Allocation
from ..launch.launching import find_allocation
from ..paths import Home
from ..placing.dispatcher import Dispatcher
from ..placing.node import Node
from ..recording.writer import Writer
from ..workers.local import LocalWorker
from ..workers.protocol import WorkerServer
from .all_created import CreatedAllocations
from .allotment import find_allotments
from .deadline import DEFAULT_NOTICE_S, Deadline
from .former import FormerAllocations
from .inheriting import inherit
from .own import CHANNELS, AllocatedWorkers

_logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    """What is wanted of allocations.

    Args:
        channel: how the nodes of our own reach us, see :class:`~lwfm.allocations.own.AllocatedWorkers`.
        notice_s: so long before the end of one its jobs are stopped. ``nice``: of an agent that is in none.
    """

    channel: str
    notice_s: float
    nice: int


def policy_of(options: Mapping[str, Any]) -> Policy:
    """What ``[local]`` says of that.

    Raises:
        ConfigError: it is malformed.
    """
    notice_s = seconds_option(options, "end_notice_s", DEFAULT_NOTICE_S, zero=True)
    return Policy(choice_option(options, "channel", CHANNELS), notice_s, nice_option(options))


class Allocations:
    """All that an agent has to do with.

    Args:
        home: their directories lie there. ``workers``, ``dispatcher``, ``writer``: of the agent. ``local``: this node's worker.
        origin: of the instance. ``policy``: what is wanted. ``spawn``: runs a coroutine in the event loop.

    Attributes:
        created: those that were asked for.
    """

    def __init__(
        self,
        home: Home,
        workers: WorkerServer,
        dispatcher: Dispatcher,
        writer: Writer,
        local: LocalWorker,
        origin: str,
        policy: Policy,
        spawn: Callable[[Awaitable[None]], Any],
    ):
        self._home = home
        self._workers = workers
        self._dispatcher = dispatcher
        self._writer = writer
        self._local = local
        self._origin = origin
        self._policy = policy
        self._spawn = spawn
        self.created = CreatedAllocations(home, workers, dispatcher, writer, spawn, policy.notice_s)
        self._own: Optional[AllocatedWorkers] = None
        self._former: Optional[FormerAllocations] = None

    async def join(self) -> None:
        """Find out where we are, and take up what earlier agents have asked for, or were in.

        In an allocation there shall be workers on all its nodes; when that fails, this node is used alone.
        """
        allocation = None
        try:
            allocation = await asyncio.to_thread(find_allocation)
            if allocation is None:
                be_nice(self._policy.nice)  # there are others on this node
            else:
                await self._use(allocation)
        except (LwfmError, OSError) as error:
            _logger.error("only this node is used: %s", error)
        for allotment in await asyncio.to_thread(find_allotments, self._home.allocations, created=False):
            await inherit(self._workers, allotment, allotment.directory.name)
        await self.created.restore(allocation)
        current = {*self.created.names, *([] if allocation is None else [allocation.name])}
        self._former = FormerAllocations(self._home.allocations, current, self._workers, self._writer, self._origin)
        await self._former.look()
        self._spawn(self._former.run())

    async def _use(self, allocation: Allocation) -> None:
        """Have workers on all nodes of the allocation that we are in."""
        own = AllocatedWorkers(self._home, allocation, self._workers, self._policy.channel)
        self._workers.gate = own
        self._local.use_allocated()
        if own.others:
            await own.open()
            self._local.rendezvous = own.rendezvous
            self._own = own
            self._spawn(own.bring_up())
        elif own.listened_for:
            await self._open_alone(own)
        if allocation.ends_at is not None:
            notice_s = self._policy.notice_s
            self._spawn(Deadline(self._dispatcher, allocation.name, allocation.ends_at, notice_s).run())

    async def _open_alone(self, own: AllocatedWorkers) -> None:
        """The allocation is this node alone: be found from where it was asked for, if that can be."""
        try:
            await own.open()
            self._own = own
        except (LwfmError, OSError) as error:
            _logger.info("not to be reached from other hosts: %s", error)

    async def leave(self, *, stop: bool) -> None:
        """Leave the one we are in, whose workers were told to leave (``stop``), or stay for the next agent."""
        if self._own is not None:
            await self._own.close(stop=stop)

    def coming(self) -> list[Node]:
        """The nodes whose workers are being started, or will be when a scheduler gives us them."""
        return [*(self._own.coming() if self._own is not None else ()), *self.created.coming()]

    def describe(self) -> dict[str, Any]:
        """What ``GET /v1/agent`` shows of them."""
        return {
            "allocation": self._own.describe() if self._own is not None else None,
            "allocations": self.created.describe(),
            "settling": sorted(self._former.left) if self._former is not None else [],
        }
