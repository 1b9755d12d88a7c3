"""Placing jobs on the nodes that have workers: which job goes where, and when.

Lives in the agent's event loop. Knows the nodes' capacity, what is on them and what waits; not the store, not sockets.
A job goes to a worker only after the claim that it does is durable, so that no restart can give it to another one. Which job is
next, and for which nodes, is chosen by :mod:`.choosing`; what is with workers, and what these are told, in :mod:`.flights`. Workers
that finish many short jobs are sent some more than they have room for, so that the next one starts without asking back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Optional

from .. import faultpoints
from ..capacity import Capacity, shape_of
from ..models import JobDefn
from ..sites.base import JobRequest, Resource
from .choosing import Chooser
from .flights import Flight, Flights, Pair
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

Claim = Callable[[str, Sequence[str], list[Pair]], Awaitable[Mapping[str, JobRequest]]]


class Dispatcher:
    """Places jobs on nodes.

    Args:
        claim: makes durable that these (job, attempt) go to that worker, with the workers of further nodes, and answers with the
            requests of those jobs which do: the others have ended or changed meanwhile. It may raise, then they wait on.
        call_soon: schedules a function in the event loop.
        spawn: runs a coroutine in the event loop.
        expected: the capacity of the local node, for judging requests before its worker has come.
        dropped: told of a job that was to be stopped, or has ended or changed, before it went to a worker: (job, attempt).

    Attributes:
        coming: the nodes whose workers are being started. ``nodes``: those that have a worker, by its id.
        flights: the jobs that are with workers, or on their way there.
    """

    def __init__(
        self,
        claim: Claim,
        call_soon: Callable[[Callable[[], None]], Any],
        spawn: Callable[[Awaitable[None]], Any],
        expected: Capacity,
        dropped: Callable[[str, int], Any],
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
        self._all_changed = True
        self._scheduled = False
        self.coming: Callable[[], Sequence[Node]] = lambda: ()
        self.flights = Flights()
        self.nodes = self.flights.nodes

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
        nodes = [(node, self._backlog(node, len(requests))) for node in self.flights.connected()]
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
            self.flights.add(flight)
            self._reserved[request.job_id] = flight
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
            self.flights.send(worker_id, flights)

    def release(self) -> None:
        """The transaction was undone: what was reserved in it is free again."""
        for job_id, flight in self._reserved.items():
            if self.flights.get(job_id) is flight:
                self.flights.remove(flight)
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
        self.flights.stop(flight, reason, grace_s=flight.request.defn.grace_s if flight.request else None)
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
        why = why_not_now(entry.group.shape, self.flights.connected())
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
                self.flights.stop(flight, reason, "cut_off", grace_s)

    # --------------------------------------------------------------------------------------------- workers come and go

    def joined(self, node: Node, held: Sequence[JobRequest], kept: Iterable[Pair] = ()) -> None:
        """A worker has come (again).

        Args:
            node: with nothing on it.
            held: the jobs it has.
            kept: the (job, attempt) of other nodes for which it keeps its part of them free.
        """
        node.last_start = self._last_starts.get(node.allocation)
        self.flights.joined(node, held, kept)
        self._schedule()

    def restore(self, flights: Iterable[Flight]) -> None:
        """Enter the gangs that an earlier agent has claimed, before any worker comes."""
        for flight in flights:
            self.flights.add(flight)

    def left(self, worker_id: str) -> None:
        """A worker's connection is gone; what it has stays with it."""
        node = self.nodes.get(worker_id)
        if node is not None:
            node.channel = None

    def dismissed(self, worker_id: str, reason: str = "its node is lost") -> None:
        """A worker will not come back; what it had has been settled. Gangs that have a part there cannot go on."""
        for flight in self.flights.dismissed(worker_id, reason):
            self._wait_again(flight)
        self._look_again()

    def troubled(self, worker_id: str, reason: str) -> None:
        """A worker cannot start anything at the moment; without a reason: it can again."""
        node = self.nodes.get(worker_id)
        if node is not None and node.trouble != reason:
            node.trouble = reason
            level = logging.ERROR if reason else logging.WARNING
            _logger.log(level, "node %s: %s", node.name, reason or "jobs can be started again")
            self.flights.changed.add(worker_id)
            self._schedule()

    def ended(self, job_id: str, attempt: int) -> None:
        """A job has left its worker; its room is free."""
        flight = self.flights.get(job_id)
        if flight is None or flight.attempt != attempt:
            return
        self.flights.remove(flight)
        node = self.nodes.get(flight.worker_id)
        if node is not None:
            node.count_end()
        self._schedule()

    # --------------------------------------------------------------------------------------------- placing

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
        nodes = self.flights.connected()
        looked_at = nodes if self._all_changed else [node for node in nodes if node.worker_id in self.flights.changed]
        self.flights.changed.clear()
        self._all_changed = False
        backlogs = [(node, self._backlog(node, len(self._waiting))) for node in looked_at]
        claims: dict[tuple[str, ...], list[Waiting]] = {}
        for entry, given in self._chooser.choose([pair for pair in backlogs if pair[0].wants_more(pair[1])], nodes):
            workers = tuple(node.worker_id for node in given)
            self.flights.add(Flight(entry.job_id, entry.attempt, entry.group.shape, workers[0], workers[1:]))
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
                self.flights.ask_for_parts(flight)
            else:
                sending.append(flight)
        self.flights.send(worker_id, sending)

    def _take_back(self, entries: list[Waiting]) -> None:
        for entry in reversed(entries):
            flight = self.flights.get(entry.job_id)
            if flight is not None and flight.attempt == entry.attempt:
                self.flights.remove(flight)
                self._waiting.put_back(entry)

    def _wait_again(self, flight: Flight) -> None:
        """A gang that has not begun waits again: its claim is replaced by the next."""
        self.flights.remove(flight)
        self._waiting.add(flight.job_id, flight.attempt, flight.shape, time.monotonic())
        self._look_again()
