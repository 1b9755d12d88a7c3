"""Placing jobs on the nodes that have workers: which job goes where, and when.

Lives in the agent's event loop. Knows the nodes' capacity, what is on them and what waits; not the store, not sockets.
A job goes to a worker only after the claim that it does is durable, so that no restart can give it to another one.

Waiting jobs are served first come first served; while the first does not fit, smaller ones behind it may go ahead, but
not for longer than ``OVERTAKING_S``. Workers that finish many short jobs are sent some more than they have room for, so
that the next one starts without asking back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol

from . import faultpoints
from .errors import ResourcesImpossible
from .models import JobDefn
from .sites.base import JobRequest, Resource
from .wire import Message

OVERTAKING_S = 10.0
LOOKAHEAD = 64
MIN_RECENT = 3
BACKLOG_S = 0.25
"""How many seconds' worth of its recent rate a worker is sent ahead."""
MAX_BACKLOG = 1024
FIRST_BACKLOG = 128
"""What a node that has no other beside it is sent ahead, whatever its rate, while more than ``MANY_WAITING`` wait: there is no
node that could have them sooner, and a worker that has to ask for every job starts few."""
MANY_WAITING = 64
CLAIM_AGAIN_S = 1.0
"""How long to wait before claiming again what the store could not take."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capacity:
    """What a node has, or a job needs: cores, bytes of memory, GPUs."""

    cores: int
    memory_bytes: int
    gpus: int

    def at_most(self, other: Optional[Capacity]) -> Capacity:
        """The smaller of both in each respect; all of this one when there is no other."""
        if other is None:
            return self
        return Capacity(
            min(self.cores, other.cores), min(self.memory_bytes, other.memory_bytes), min(self.gpus, other.gpus)
        )


class WorkerChannel(Protocol):
    """The connection to a worker, as far as placing needs it."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send, without waiting."""


@dataclass
class Flight:
    """A job that is with a worker; until it is ``claimed``, on its way there."""

    request: JobRequest
    needs: Capacity
    worker_id: str
    started: bool = False
    claimed: bool = False


@dataclass
class Node:
    """A worker and what is on its node."""

    worker_id: str
    host: str
    pid: int
    capacity: Capacity
    channel: Optional[WorkerChannel]
    cores_used: int = 0
    memory_used: int = 0
    gpus_used: int = 0
    running: int = 0
    contexts: set[str] = field(default_factory=set)
    window_start: float = 0.0
    ended_now: int = 0
    ended_before: int = 0

    def count_end(self) -> None:
        """A job has ended here: what the backlog is measured by."""
        now = time.monotonic()
        if now - self.window_start > BACKLOG_S:
            fresh = now - self.window_start < 2 * BACKLOG_S
            self.ended_before, self.ended_now, self.window_start = (self.ended_now if fresh else 0), 0, now
        self.ended_now += 1

    def backlog_limit(self) -> int:
        """How many more one-core jobs than it has room for it may hold by its rate: what it ends in ``BACKLOG_S``."""
        if time.monotonic() - self.window_start > 2 * BACKLOG_S:
            return 0
        recent = max(self.ended_before, self.ended_now)
        return 0 if recent < MIN_RECENT else min(MAX_BACKLOG, recent)

    def wants_more(self, backlog: int) -> bool:
        """Whether it is worth looking for jobs for this node: always with room, else when half of its backlog is gone."""
        over = self.cores_used - self.capacity.cores
        return over < 0 or over <= backlog // 2

    def fits(self, needs: Capacity, backlog: int) -> bool:
        """Whether a job may be sent here now, with ``backlog`` more than there is room for."""
        total = self.capacity
        if self.gpus_used + needs.gpus > total.gpus or self.memory_used + needs.memory_bytes > total.memory_bytes:
            return False
        if self.cores_used + needs.cores <= total.cores:
            return True
        simple = needs.cores <= 1 and not needs.gpus and not needs.memory_bytes
        return simple and self.cores_used + needs.cores <= total.cores + backlog

    def take(self, needs: Capacity, sign: int = 1) -> None:
        """Count a job in, or with ``sign`` -1 out."""
        self.cores_used += sign * needs.cores
        self.memory_used += sign * needs.memory_bytes
        self.gpus_used += sign * needs.gpus
        self.running += sign


@dataclass
class _Waiting:
    request: JobRequest
    needs: Capacity
    since: float


class Dispatcher:
    """Places jobs on nodes. Implements :class:`~lwfm.sites.base.Nodes` for the drivers.

    Args:
        claim: makes durable that these (job, attempt) go to that worker, and answers which of the jobs do: the others have
            ended or changed meanwhile. It may raise, then they wait on.
        call_soon: schedules a function in the event loop.
        spawn: runs a coroutine in the event loop.
        expected: the capacity of the local node, for judging requests before its worker has come.
        dropped: told of a job that was to be stopped, or has ended or changed, before it went to a worker: (job, attempt).
    """

    def __init__(
        self,
        claim: Callable[[str, list[tuple[str, int]]], Awaitable[set[str]]],
        call_soon: Callable[[Callable[[], None]], Any],
        spawn: Callable[[Awaitable[None]], Any],
        expected: Capacity,
        dropped: Callable[[str, int], Any] = lambda *_: None,
    ):
        self._dropped = dropped
        self._claim = claim
        self._call_soon = call_soon
        self._spawn = spawn
        self._expected = expected
        self._queue: deque[_Waiting] = deque()
        self._waiting: dict[str, _Waiting] = {}
        self._reserved: dict[str, Flight] = {}
        self._last_start: Optional[float] = None
        self._scheduled = False
        self.nodes: dict[str, Node] = {}
        self.flights: dict[str, Flight] = {}

    def place(self, requests: Sequence[JobRequest]) -> None:
        """Run jobs as room becomes free; those that are here already are not placed again."""
        now = time.monotonic()
        for request in requests:
            flight, waiting = self.flights.get(request.job_id), self._waiting.get(request.job_id)
            if any(known is not None and known.request.attempt >= request.attempt for known in (flight, waiting)):
                continue
            entry = _Waiting(request, needs_of(request.defn), now)
            self._waiting[request.job_id] = entry
            self._queue.append(entry)
        self._schedule()

    def reserve(self, requests: Sequence[JobRequest]) -> dict[str, list[tuple[str, int]]]:
        """Take room for jobs that can go to a worker at once, while the transaction that makes them pending is open.

        Either :meth:`launch` follows, when it is durable, or :meth:`release`.

        Returns:
            The (job, attempt) pairs by the worker they are to go to: what is to be claimed in that transaction.
        """
        claims: dict[str, list[tuple[str, int]]] = {}
        nodes = [(node, self._backlog(node, len(requests))) for node in self.nodes.values() if node.channel is not None]
        for request in requests if not self._waiting else ():
            if not self._has_time(request):
                continue
            needs = needs_of(request.defn)
            node = next((node for node, backlog in nodes if node.fits(needs, backlog)), None)
            if node is None:
                break
            if request.job_id in self.flights:
                continue
            node.take(needs)
            self.flights[request.job_id] = self._reserved[request.job_id] = Flight(request, needs, node.worker_id)
            claims.setdefault(node.worker_id, []).append((request.job_id, request.attempt))
        return claims

    def launch(self, requests: Sequence[JobRequest]) -> None:
        """The claims of those of these that were reserved are durable: send them."""
        sending: dict[str, list[JobRequest]] = {}
        for request in requests:
            flight = self._reserved.pop(request.job_id, None)
            if flight is not None and self.flights.get(request.job_id) is flight:
                flight.claimed = True
                sending.setdefault(flight.worker_id, []).append(request)
        if sending:
            faultpoints.hit("dispatcher.claimed")
        for worker_id, listed in sending.items():
            self._send(worker_id, listed)

    def release(self) -> None:
        """The transaction was undone: what was reserved in it is free again."""
        for job_id, flight in self._reserved.items():
            if self.flights.get(job_id) is flight:
                del self.flights[job_id]
                node = self.nodes.get(flight.worker_id)
                if node is not None:
                    node.take(flight.needs, -1)
        self._reserved.clear()

    def last_start_by(self, moment: float) -> None:
        """Place no job that could still run at ``moment`` (seconds since the epoch) by its time limit, and none after it."""
        self._last_start = moment

    def cut_off(self, reason: str, grace_s: float) -> None:
        """Place nothing more, and have the workers stop what they have; what has not started can be started elsewhere."""
        self._last_start = 0.0
        for job_id, flight in self.flights.items():
            node = self.nodes.get(flight.worker_id)
            if flight.claimed and node is not None and node.channel is not None:
                message = {"t": "cancel", "job": job_id, "attempt": flight.request.attempt, "reason": reason}
                node.channel.send([{**message, "cause": "cut_off", "grace_s": grace_s}])

    def kept(self, job_id: str) -> Optional[str]:
        """Why a waiting job is kept although there may be room for it; None when it is not."""
        entry = self._waiting.get(job_id)
        if entry is None or self._last_start is None or self._has_time(entry.request):
            return None
        left_s = max(0.0, self._last_start - time.time())
        limit = entry.request.defn.resources.time_limit_s
        if limit is None or left_s == 0:
            return "is kept for another allocation: this one is about to end"
        return (
            f"is kept for another allocation: its time limit is {limit:.0f} s, and of this one {left_s:.0f} s are left"
        )

    def _has_time(self, request: JobRequest) -> bool:
        if self._last_start is None:
            return True
        return time.time() + (request.defn.resources.time_limit_s or 0.0) <= self._last_start

    def check(self, defn: JobDefn) -> None:
        """Refuse what no node could ever run."""
        needs = needs_of(defn)
        known = [node.capacity for node in self.nodes.values()] or [self._expected]
        lacks: list[str] = []
        for has in known:
            lacks = _lacking(needs, has)
            if not lacks:
                return
        largest = "the node has" if len(known) == 1 else f"the largest of {len(known)} nodes has"
        raise ResourcesImpossible(
            f"the job can never run here: {', '.join(lacks)} ({largest} less)",
            hint="ask for less, or submit it to another site",
        )

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Stop a job that a worker has; one that has not gone to any is dropped."""
        if not self.forget(job_id, attempt, reason):
            self._dropped(job_id, attempt)

    def forget(self, job_id: str, attempt: int, reason: str) -> bool:
        """Nothing more is to be done for a job: it does not wait any more, and a worker that has it is to stop it.

        Returns:
            Whether a worker may have it.
        """
        flight = self.flights.get(job_id)
        if flight is None:
            return self._waiting.pop(job_id, None) is None
        if not flight.claimed:
            self.ended(job_id, attempt)
            return False
        message = {
            "t": "cancel",
            "job": job_id,
            "attempt": attempt,
            "reason": reason,
            "grace_s": flight.request.defn.grace_s,
        }
        node = self.nodes.get(flight.worker_id)
        if node is not None and node.channel is not None:
            node.channel.send([message])
        return True

    def describe(self) -> Sequence[Resource]:
        """The nodes, and what is in use."""
        return [
            Resource(node.host, "node", "up" if node.channel else "lost", node_facts(node))
            for node in self.nodes.values()
        ]

    def joined(self, node: Node, held: Sequence[tuple[JobRequest, bool]]) -> None:
        """A worker has come (again); ``held``: the jobs it has, and whether each has started."""
        for job_id, flight in list(self.flights.items()):
            if flight.worker_id == node.worker_id and flight.claimed:
                del self.flights[job_id]
            elif flight.worker_id == node.worker_id:
                node.take(flight.needs)
        self.nodes[node.worker_id] = node
        for request, started in held:
            flight = Flight(request, needs_of(request.defn), node.worker_id, started, claimed=True)
            self.flights[request.job_id] = flight
            node.take(flight.needs)
        self._schedule()

    def left(self, worker_id: str) -> None:
        """A worker's connection is gone; what it has stays with it."""
        node = self.nodes.get(worker_id)
        if node is not None:
            node.channel = None

    def dismissed(self, worker_id: str) -> None:
        """A worker will not come back; what it had has been settled."""
        self.nodes.pop(worker_id, None)
        for job_id, flight in list(self.flights.items()):
            if flight.worker_id == worker_id and flight.claimed:
                del self.flights[job_id]

    def has(self, job_id: str) -> bool:
        """Whether a worker has the job, or is about to be given it."""
        return job_id in self.flights

    def started(self, job_id: str) -> None:
        """A worker has started a job."""
        flight = self.flights.get(job_id)
        if flight is not None:
            flight.started = True

    def ended(self, job_id: str, attempt: int) -> None:
        """A job has left its worker; its room is free."""
        flight = self.flights.get(job_id)
        if flight is None or flight.request.attempt != attempt:
            return
        del self.flights[job_id]
        node = self.nodes.get(flight.worker_id)
        if node is not None:
            node.take(flight.needs, -1)
            node.count_end()
        self._schedule()

    @property
    def waiting(self) -> int:
        """How many jobs wait for room."""
        return len(self._waiting)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._pump)

    def _pump(self) -> None:
        """Give waiting jobs to workers with room."""
        self._scheduled = False
        chosen: dict[str, list[_Waiting]] = {}
        for node in self.nodes.values():
            backlog = self._backlog(node, len(self._waiting))
            if node.channel is not None and self._waiting and node.wants_more(backlog):
                taken = self._choose(node, backlog)
                if taken:
                    chosen[node.worker_id] = taken
        for worker_id, entries in chosen.items():
            self._spawn(self._claim_and_send(worker_id, entries))

    def _backlog(self, node: Node, waiting: int) -> int:
        """How many more one-core jobs than it has room for a node may hold, while so many wait."""
        measured = node.backlog_limit()
        alone = len(self.nodes) == 1 and waiting > MANY_WAITING
        return max(measured, FIRST_BACKLOG) if alone else measured

    def _choose(self, node: Node, backlog: int) -> list[_Waiting]:
        """Take the jobs that go to ``node`` now out of the queue and count them in."""
        taken: list[_Waiting] = []
        passed: list[_Waiting] = []
        now = time.monotonic()
        while self._queue and len(passed) < LOOKAHEAD:
            entry = self._queue.popleft()
            job_id = entry.request.job_id
            if self._waiting.get(job_id) is not entry:
                continue  # was forgotten meanwhile
            if not self._has_time(entry.request):
                continue  # out of the queue for good, since time only runs out; it still waits: see kept()
            if node.fits(entry.needs, backlog):
                del self._waiting[job_id]
                node.take(entry.needs)
                self.flights[job_id] = Flight(entry.request, entry.needs, node.worker_id)
                taken.append(entry)
                continue
            passed.append(entry)
            if now - passed[0].since > OVERTAKING_S:
                break
        self._queue.extendleft(reversed(passed))
        return taken

    async def _claim_and_send(self, worker_id: str, entries: list[_Waiting]) -> None:
        """Claim, then send; when the claim cannot be made, the jobs wait again.

        A worker that is gone by then finds no message, and is told when it comes again, by what it says it has.
        """
        try:
            claimed = await self._claim(worker_id, [(entry.request.job_id, entry.request.attempt) for entry in entries])
        except Exception as error:
            self._take_back(entries)
            _logger.error("jobs wait on, since it cannot be recorded that they go to a worker: %s", error)
            await asyncio.sleep(CLAIM_AGAIN_S)
            self._schedule()
            return
        faultpoints.hit("dispatcher.claimed")
        sending: list[JobRequest] = []
        for entry in entries:
            request = entry.request
            flight = self.flights.get(request.job_id)
            if flight is None or flight.request is not request:
                continue
            if request.job_id not in claimed:
                self.ended(request.job_id, request.attempt)
                self._dropped(request.job_id, request.attempt)
                continue
            flight.claimed = True
            sending.append(request)
        self._send(worker_id, sending)

    def _send(self, worker_id: str, requests: Sequence[JobRequest]) -> None:
        """Hand claimed jobs to their worker, if it is there."""
        node = self.nodes.get(worker_id)
        if node is None or node.channel is None or not requests:
            return
        messages: list[Message] = []
        for request in requests:
            if request.context_id not in node.contexts:
                node.contexts.add(request.context_id)
                messages.append({"t": "context", "id": request.context_id, "env": dict(request.environment)})
            messages.append(run_message(request))
        node.channel.send(messages)
        faultpoints.hit("dispatcher.sent")

    def _take_back(self, entries: list[_Waiting]) -> None:
        for entry in reversed(entries):
            flight = self.flights.pop(entry.request.job_id, None)
            if flight is not None:
                node = self.nodes.get(flight.worker_id)
                if node is not None:
                    node.take(flight.needs, -1)
                self._waiting[entry.request.job_id] = entry
                self._queue.appendleft(entry)


def needs_of(defn: JobDefn) -> Capacity:
    """What a job takes of a node: one core unless it says otherwise."""
    resources = defn.resources
    cores = 1 if resources.cores is None else resources.cores
    return Capacity(cores, resources.memory_bytes or 0, resources.gpus)


def run_message(request: JobRequest) -> Message:
    """The message that hands a job to a worker."""
    defn = request.defn
    resources = defn.resources
    message: Message = {
        "t": "run",
        "job": request.job_id,
        "attempt": request.attempt,
        "cwd": defn.cwd,
        "context": request.context_id,
    }
    if isinstance(defn.command, str):
        message["shell"] = defn.command
    else:
        message["argv"] = list(defn.command)
    message["env"] = {**defn.env, **request.variables}
    message["grace_s"] = defn.grace_s
    if defn.outputs:
        message["outputs"] = list(defn.outputs)
    for name in ("cores", "memory_bytes", "time_limit_s"):
        value = getattr(resources, name)
        if value is not None:
            message[name] = value
    if resources.gpus:
        message["gpus"] = resources.gpus
    return message


def node_facts(node: Node) -> dict[str, Any]:
    """A node as the API shows it."""
    return {
        "worker_id": node.worker_id, "host": node.host, "pid": node.pid, "state": "up" if node.channel else "lost",
        "cores": node.capacity.cores, "cores_used": min(node.cores_used, node.capacity.cores),
        "memory_bytes": node.capacity.memory_bytes, "memory_used_bytes": node.memory_used,
        "gpus": node.capacity.gpus, "gpus_used": node.gpus_used, "jobs": node.running,
    }  # fmt: skip


def _lacking(needs: Capacity, has: Capacity) -> list[str]:
    pairs = (("cores", needs.cores, has.cores), ("GPUs", needs.gpus, has.gpus))
    lacks = [f"it asks for {asked} {what} of {there}" for what, asked, there in pairs if asked > there]
    if needs.memory_bytes > has.memory_bytes:
        lacks.append(f"it asks for {needs.memory_bytes / 2**30:.1f} GiB of memory of {has.memory_bytes / 2**30:.1f}")
    return lacks
