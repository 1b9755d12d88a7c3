"""Placing jobs on the nodes that have workers: which job goes where, and when.

Lives in the agent's event loop. Knows the nodes' capacity, what is on them and what waits; not the store, not sockets.
A job goes to a worker only after the claim that it does is durable, so that no restart can give it to another one. Which job is
next, and for which nodes, is chosen by :mod:`.choosing`. Workers that finish many short jobs are sent some more than they have
room for, so that the next one starts without asking back.

A job over several nodes is with the worker of the first, its head, which runs it; the workers of the others keep its part of
their nodes free. They are asked first, and only when all have answered is the head given the job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .. import faultpoints
from ..capacity import Capacity, Shape, shape_of
from ..models import JobDefn
from ..sites.base import JobRequest, Resource
from ..wire import Message
from .choosing import Chooser
from .gangs import Part, run_message
from .judging import refuse_impossible, why_not_now
from .node import Node
from .waiting import Waiting, WaitingJobs

FIRST_BACKLOG = 128
"""What a node that has no other beside it is sent ahead, whatever its rate, while more than ``MANY_WAITING`` wait: there is no
node that could have them sooner, and a worker that has to ask for every job starts few."""
MANY_WAITING = 64
CLAIM_AGAIN_S = 1.0
"""How long to wait before claiming again what the store could not take."""
_logger = logging.getLogger(__name__)

Pair = tuple[str, int]
"""A job and its attempt."""


@dataclass
class Flight:
    """A job that is with a worker; until it is ``claimed``, on its way there.

    Args:
        worker_id: the worker that runs it, or will; of a gang its head. ``parts``: the workers of its other nodes.
        request: known from the moment it is claimed.
        sent: whether the worker was given it.
        held: what the workers of the other nodes keep free for it.
        doomed: why it is to be stopped as soon as its worker is there.
    """

    job_id: str
    attempt: int
    shape: Shape
    worker_id: str
    parts: tuple[str, ...] = ()
    request: Optional[JobRequest] = None
    claimed: bool = False
    sent: bool = False
    held: dict[str, Part] = field(default_factory=dict)
    doomed: Optional[str] = None


Claim = Callable[[str, Sequence[str], list[Pair]], Awaitable[Mapping[str, JobRequest]]]


class Dispatcher:
    """Places jobs on nodes. Implements :class:`~lwfm.sites.base.Nodes` for the drivers.

    Args:
        claim: makes durable that these (job, attempt) go to that worker, with the workers of further nodes, and answers with the
            requests of those jobs which do: the others have ended or changed meanwhile. It may raise, then they wait on.
        call_soon: schedules a function in the event loop.
        spawn: runs a coroutine in the event loop.
        expected: the capacity of the local node, for judging requests before its worker has come.
        dropped: told of a job that was to be stopped, or has ended or changed, before it went to a worker: (job, attempt).

    Attributes:
        coming: the nodes whose workers are being started.
    """

    def __init__(
        self,
        claim: Claim,
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
        self._waiting = WaitingJobs()
        self._reserved: dict[str, Flight] = {}
        self._last_starts: dict[str, float] = {}
        self._chooser = Chooser(self._waiting)
        self._changed: set[str] = set()
        self._all_changed = True
        self._scheduled = False
        self.coming: Callable[[], Sequence[Node]] = lambda: ()
        self.nodes: dict[str, Node] = {}
        self.flights: dict[str, Flight] = {}

    # --------------------------------------------------------------------------------------------- asked for

    def place(self, requests: Iterable[JobRequest]) -> None:
        """Run jobs as room becomes free; those that are here already are not placed again."""
        now = time.monotonic()
        for request in requests:
            flight, waiting = self.flights.get(request.job_id), self._waiting.get(request.job_id)
            if any(known is not None and known.attempt >= request.attempt for known in (flight, waiting)):
                continue
            if self._waiting.add(request.job_id, request.attempt, shape_of(request.defn, request.labels), now):
                self._all_changed = True
        self._schedule()

    def reserve(self, requests: Sequence[JobRequest]) -> dict[str, list[Pair]]:
        """Take room for jobs that can go to a worker at once, while the transaction that makes them pending is open.

        Either :meth:`launch` follows, when it is durable, or :meth:`release`.

        Returns:
            The (job, attempt) pairs by the worker they are to go to: what is to be claimed in that transaction.
        """
        claims: dict[str, list[Pair]] = {}
        nodes = [(node, self._backlog(node, len(requests))) for node in self._connected()]
        for request in requests if not self._waiting else ():
            shape = shape_of(request.defn, request.labels)
            if shape.nodes > 1 or request.job_id in self.flights:
                continue
            node = next((node for node, backlog in nodes if node.fits(shape, backlog)), None)
            if node is None:
                if any(node.has_time(shape) for node, _ in nodes):
                    break  # it waits, and who comes after it is not to overtake it here
                continue
            node.take(shape.needs)
            flight = Flight(request.job_id, request.attempt, shape, node.worker_id, request=request)
            self.flights[request.job_id] = self._reserved[request.job_id] = flight
            claims.setdefault(node.worker_id, []).append((request.job_id, request.attempt))
        return claims

    def launch(self, requests: Sequence[JobRequest]) -> None:
        """The claims of those of these that were reserved are durable: send them."""
        sending: dict[str, list[Flight]] = {}
        for request in requests:
            flight = self._reserved.pop(request.job_id, None)
            if flight is not None and self.flights.get(request.job_id) is flight:
                flight.claimed = True
                sending.setdefault(flight.worker_id, []).append(flight)
        if sending:
            faultpoints.hit("dispatcher.claimed")
        for worker_id, flights in sending.items():
            self._send(worker_id, flights)

    def release(self) -> None:
        """The transaction was undone: what was reserved in it is free again."""
        for job_id, flight in self._reserved.items():
            if self.flights.get(job_id) is flight:
                self._remove(flight)
        self._reserved.clear()

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
            if self._waiting.drop(job_id):
                self._chooser.forget(job_id)
                self._look_where_freed()
                return False
            return True
        if not flight.claimed or (flight.parts and not flight.sent):
            self.ended(job_id, attempt)
            return False
        self._stop(flight, reason, grace_s=flight.request.defn.grace_s if flight.request else None)
        return True

    def check(self, defn: JobDefn, labels: frozenset[str] = frozenset()) -> None:
        """Refuse what no node could ever run, or none with these labels."""
        nodes = [*self.nodes.values(), *self.coming()] or [Node("", "", 0, self._expected, None)]
        refuse_impossible(shape_of(defn, labels), nodes)

    # --------------------------------------------------------------------------------------------- told

    def why_waiting(self, job_id: str) -> Optional[str]:
        """What a job waits for; None when it does not wait here."""
        entry = self._waiting.get(job_id)
        if entry is None:
            return None
        why = why_not_now(entry.group.shape, self._connected())
        if why is not None:
            return why
        workers = self._chooser.room_being_made(job_id)
        if workers is not None:
            names = sorted(self.nodes[worker].name for worker in workers if worker in self.nodes)
            return f"waits for room, which is being made for it on {', '.join(names)}"
        return f"waits for room: {len(self._waiting)} jobs wait in all"

    def describe(self) -> Sequence[Resource]:
        """The nodes, and what is in use."""
        return [
            Resource(node.host, "node", "up" if node.channel else "lost", node.facts()) for node in self.nodes.values()
        ]

    @property
    def waiting(self) -> int:
        """How many jobs wait for room."""
        return len(self._waiting)

    def has(self, job_id: str) -> bool:
        """Whether a worker has the job, or is about to be given it."""
        return job_id in self.flights

    # --------------------------------------------------------------------------------------------- allocations end

    def last_start_by(self, moment: float, allocation: str = "") -> None:
        """Place no job on an allocation's nodes that could still run at ``moment`` (seconds since the epoch) by its time limit."""
        self._last_starts[allocation] = moment
        for node in self.nodes.values():
            if node.allocation == allocation:
                node.last_start = moment

    def cut_off(self, allocation: str, reason: str, grace_s: float) -> None:
        """Place nothing more on an allocation's nodes, and have the workers stop what they have; the rest waits on."""
        self.last_start_by(0.0, allocation)
        for flight in list(self.flights.values()):
            node = self.nodes.get(flight.worker_id)
            if node is None or node.allocation != allocation or not flight.claimed:
                continue
            if flight.parts and not flight.sent:
                self._wait_again(flight)
            else:
                self._stop(flight, reason, "cut_off", grace_s)

    # --------------------------------------------------------------------------------------------- workers come and go

    def joined(self, node: Node, held: Sequence[JobRequest], kept: Iterable[Pair] = ()) -> None:
        """A worker has come (again).

        Args:
            node: with nothing on it.
            held: the jobs it has.
            kept: the (job, attempt) of other nodes for which it keeps its part of them free.
        """
        node.last_start = self._last_starts.get(node.allocation)
        before: dict[str, Flight] = {}
        for job_id, flight in list(self.flights.items()):
            if flight.worker_id == node.worker_id and flight.claimed:
                before[job_id] = flight
                del self.flights[job_id]
            elif flight.worker_id == node.worker_id or node.worker_id in flight.parts:
                node.take(flight.shape.needs)
                node.gang_parts += node.worker_id in flight.parts
        self.nodes[node.worker_id] = node
        for request in held:
            shape = shape_of(request.defn, request.labels)
            flight = Flight(request.job_id, request.attempt, shape, node.worker_id, (), request, True, True)
            earlier = before.pop(request.job_id, None)
            if earlier is not None:
                flight.parts, flight.held, flight.doomed = earlier.parts, earlier.held, earlier.doomed
            self.flights[request.job_id] = flight
            node.take(shape.needs)
            if flight.doomed:
                self._stop(flight, flight.doomed, "node_lost")
        for flight in before.values():
            self._let_go(flight)
        self._ask_to_keep(node, kept)
        self._changed.add(node.worker_id)
        self._schedule()

    def restore(self, flights: Iterable[Flight]) -> None:
        """Enter the gangs that an earlier agent has claimed, before any worker comes."""
        self.flights.update((flight.job_id, flight) for flight in flights)

    def left(self, worker_id: str) -> None:
        """A worker's connection is gone; what it has stays with it."""
        node = self.nodes.get(worker_id)
        if node is not None:
            node.channel = None

    def dismissed(self, worker_id: str, reason: str = "its node is lost") -> None:
        """A worker will not come back; what it had has been settled. Gangs that have a part there cannot go on."""
        self.nodes.pop(worker_id, None)
        for flight in list(self.flights.values()):
            if flight.worker_id == worker_id and flight.claimed:
                self._remove(flight)
            elif worker_id in flight.parts:
                flight.parts = tuple(part for part in flight.parts if part != worker_id)
                if flight.sent:
                    flight.doomed = reason
                    self._stop(flight, reason, "node_lost")
                else:
                    self._wait_again(flight)
        self._look_again()

    def holding(self, worker_id: str, job_id: str, attempt: int, part: Part) -> None:
        """A worker keeps what a job of another node needs of its own."""
        flight = self.flights.get(job_id)
        if flight is not None and flight.attempt == attempt and worker_id in flight.parts:
            flight.held[worker_id] = part
            if flight.claimed and not flight.sent:
                self._send(flight.worker_id, [flight])

    def troubled(self, worker_id: str, reason: str) -> None:
        """A worker cannot start anything at the moment; without a reason: it can again."""
        node = self.nodes.get(worker_id)
        if node is not None and node.trouble != reason:
            node.trouble = reason
            level = logging.ERROR if reason else logging.WARNING
            _logger.log(level, "node %s: %s", node.name, reason or "jobs can be started again")
            self._changed.add(worker_id)
            self._schedule()

    def ended(self, job_id: str, attempt: int) -> None:
        """A job has left its worker; its room is free."""
        flight = self.flights.get(job_id)
        if flight is None or flight.attempt != attempt:
            return
        self._remove(flight)
        node = self.nodes.get(flight.worker_id)
        if node is not None:
            node.count_end()
        self._schedule()

    # --------------------------------------------------------------------------------------------- placing

    def _connected(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.channel is not None]

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._pump)

    def _look_again(self) -> None:
        """Something has changed for all nodes."""
        self._all_changed = True
        self._schedule()

    def _pump(self) -> None:
        """Give waiting jobs to workers with room."""
        self._scheduled = False
        if not self._waiting:
            return
        nodes = self._connected()
        looked_at = nodes if self._all_changed else [node for node in nodes if node.worker_id in self._changed]
        self._changed.clear()
        self._all_changed = False
        backlogs = [(node, self._backlog(node, len(self._waiting))) for node in looked_at]
        claims: dict[tuple[str, ...], list[Waiting]] = {}
        for entry, given in self._chooser.choose([pair for pair in backlogs if pair[0].wants_more(pair[1])], nodes):
            workers = tuple(node.worker_id for node in given)
            self.flights[entry.job_id] = Flight(entry.job_id, entry.attempt, entry.group.shape, workers[0], workers[1:])
            claims.setdefault(workers, []).append(entry)
        self._look_where_freed()
        for workers, entries in claims.items():
            self._spawn(self._claim_and_send(workers[0], workers[1:], entries))

    def _look_where_freed(self) -> None:
        if self._chooser.freed:
            self._chooser.freed = False
            self._look_again()

    def _backlog(self, node: Node, waiting: int) -> int:
        """How many more one-core jobs than it has room for a node may hold, while so many wait."""
        measured = node.backlog_limit()
        alone = len(self.nodes) == 1 and waiting > MANY_WAITING
        return max(measured, FIRST_BACKLOG) if alone else measured

    async def _claim_and_send(self, worker_id: str, parts: Sequence[str], entries: list[Waiting]) -> None:
        """Claim, then send; when the claim cannot be made, the jobs wait again.

        A worker that is gone by then finds no message, and is told when it comes again, by what it says it has.
        """
        try:
            claimed = await self._claim(worker_id, parts, [(entry.job_id, entry.attempt) for entry in entries])
        except Exception as error:
            self._take_back(entries)
            _logger.error("jobs wait on, since it cannot be recorded that they go to a worker: %s", error)
            await asyncio.sleep(CLAIM_AGAIN_S)
            self._look_again()
            return
        faultpoints.hit("dispatcher.claimed")
        sending: list[Flight] = []
        for entry in entries:
            flight = self.flights.get(entry.job_id)
            if flight is None or flight.attempt != entry.attempt or flight.claimed:
                continue
            request = claimed.get(entry.job_id)
            if request is None:
                self.ended(entry.job_id, entry.attempt)
                self._dropped(entry.job_id, entry.attempt)
                continue
            flight.claimed, flight.request = True, request
            if flight.parts:
                self._ask_for_parts(flight)
            else:
                sending.append(flight)
        self._send(worker_id, sending)

    def _ask_for_parts(self, flight: Flight) -> None:
        for worker_id in flight.parts:
            node = self.nodes.get(worker_id)
            if node is not None and node.channel is not None:
                node.channel.send([_hold_message(flight)])

    def _ask_to_keep(self, node: Node, kept: Iterable[Pair]) -> None:
        """Have a worker that came (again) keep its part of gangs, and let go of those that are no more."""
        if node.channel is None:
            return
        wanted = [flight for flight in self.flights.values() if node.worker_id in flight.parts and flight.claimed]
        pairs = {(flight.job_id, flight.attempt) for flight in wanted}
        messages = [_release_message(job_id, attempt) for job_id, attempt in kept if (job_id, attempt) not in pairs]
        messages += [_hold_message(flight) for flight in wanted]
        if messages:
            node.channel.send(messages)

    def _send(self, worker_id: str, flights: Sequence[Flight]) -> None:
        """Hand claimed jobs to their worker, if it is there, and if all is ready on the other nodes of a gang."""
        node = self.nodes.get(worker_id)
        if node is None or node.channel is None:
            return
        messages: list[Message] = []
        for flight in flights:
            request = flight.request
            if request is None or len(flight.held) < len(flight.parts):
                continue
            parts = [flight.held[part] for part in flight.parts]
            if request.context_id not in node.contexts:
                node.contexts.add(request.context_id)
                messages.append({"t": "context", "id": request.context_id, "env": dict(request.environment)})
            messages.append(run_message(request, flight.shape, node.name, node.allocation, parts))
            flight.sent = True
        if messages:
            node.channel.send(messages)
            faultpoints.hit("dispatcher.sent")

    def _stop(self, flight: Flight, reason: str, cause: Optional[str] = None, grace_s: Optional[float] = None) -> None:
        """Have the worker stop a job, if it is there."""
        node = self.nodes.get(flight.worker_id)
        if node is not None and node.channel is not None:
            message: Message = {"t": "cancel", "job": flight.job_id, "attempt": flight.attempt, "reason": reason}
            if cause is not None:
                message["cause"] = cause
            node.channel.send([{**message, "grace_s": grace_s}])

    def _take_back(self, entries: list[Waiting]) -> None:
        for entry in reversed(entries):
            flight = self.flights.get(entry.job_id)
            if flight is not None and flight.attempt == entry.attempt:
                self._remove(flight)
                self._waiting.put_back(entry)

    def _wait_again(self, flight: Flight) -> None:
        """A gang that has not begun waits again: its claim is replaced by the next."""
        self._remove(flight)
        self._waiting.add(flight.job_id, flight.attempt, flight.shape, time.monotonic())
        self._look_again()

    def _remove(self, flight: Flight) -> None:
        """A job is not with its worker any more; its room is free, on all its nodes."""
        if self.flights.get(flight.job_id) is flight:
            del self.flights[flight.job_id]
        node = self.nodes.get(flight.worker_id)
        if node is not None:
            node.take(flight.shape.needs, -1)
            self._changed.add(node.worker_id)
        self._let_go(flight)

    def _let_go(self, flight: Flight) -> None:
        """The other nodes of a gang are free of it, and of whatever it has left there."""
        for worker_id in flight.parts:
            node = self.nodes.get(worker_id)
            if node is not None:
                node.take(flight.shape.needs, -1)
                node.gang_parts -= 1
                self._changed.add(worker_id)
                if node.channel is not None:
                    node.channel.send([_release_message(flight.job_id, flight.attempt)])


def _hold_message(flight: Flight) -> Message:
    needs = flight.shape.needs
    message: Message = {"t": "hold", "job": flight.job_id, "attempt": flight.attempt, "worker": flight.worker_id}
    return {**message, "cores": needs.cores, "memory_bytes": needs.memory_bytes, "gpus": needs.gpus}


def _release_message(job_id: str, attempt: int) -> Message:
    return {"t": "release", "job": job_id, "attempt": attempt}
