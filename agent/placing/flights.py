"""The jobs that are with workers, or on their way there: told to the workers, counted out on their nodes when they have gone.

A job over several nodes is with the worker of the first, its head, which runs it; the workers of the others keep its part of
their nodes free. They are asked first, and only when all have answered is the head given the job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Optional

from .. import faultpoints
from ..capacity import Shape, shape_of
from ..sites.base import JobRequest
from ..wire import Message
from .gangs import Part, run_message
from .node import Node

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


class Flights:
    """All of them, and the nodes they are on.

    Attributes:
        nodes: those that have a worker, by its id.
        changed: the workers on whose nodes there may be more room than there was; whoever looks there empties it.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.changed: set[str] = set()
        self._by_job: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_job)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._by_job

    def get(self, job_id: str) -> Optional[Flight]:
        """That of a job; None: no worker has it, nor is about to be given it."""
        return self._by_job.get(job_id)

    def values(self) -> Collection[Flight]:
        """All."""
        return self._by_job.values()

    def connected(self) -> list[Node]:
        """The nodes whose workers are connected."""
        return [node for node in self.nodes.values() if node.channel is not None]

    def add(self, flight: Flight) -> None:
        """Enter one that is counted in on its nodes already, or that will be when their workers come."""
        self._by_job[flight.job_id] = flight

    def remove(self, flight: Flight) -> None:
        """A job is not with its worker any more; its room is free, on all its nodes."""
        if self._by_job.get(flight.job_id) is flight:
            del self._by_job[flight.job_id]
        node = self.nodes.get(flight.worker_id)
        if node is not None:
            node.take(flight.shape.needs, -1)
            self.changed.add(node.worker_id)
        self._let_go(flight)

    # --------------------------------------------------------------------------------------------- workers come and go

    def joined(self, node: Node, held: Sequence[JobRequest], kept: Iterable[Pair]) -> None:
        """A worker has come (again), with nothing on its node but this.

        Args:
            held: the jobs it has. ``kept``: the (job, attempt) of other nodes for which it keeps its part of them free.
        """
        before: dict[str, Flight] = {}
        for job_id, flight in list(self._by_job.items()):
            if flight.worker_id == node.worker_id and flight.claimed:
                before[job_id] = flight
                del self._by_job[job_id]
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
            self._by_job[request.job_id] = flight
            node.take(shape.needs)
            if flight.doomed:
                self.stop(flight, flight.doomed, "node_lost")
        for flight in before.values():
            self._let_go(flight)
        self._ask_to_keep(node, kept)
        self.changed.add(node.worker_id)

    def dismissed(self, worker_id: str, reason: str) -> list[Flight]:
        """A worker will not come back; what it had has been settled. Gangs that have a part there cannot go on.

        Returns:
            Those of them that have not begun.
        """
        self.nodes.pop(worker_id, None)
        not_begun = []
        for flight in list(self._by_job.values()):
            if flight.worker_id == worker_id and flight.claimed:
                self.remove(flight)
            elif worker_id in flight.parts:
                flight.parts = tuple(part for part in flight.parts if part != worker_id)
                if flight.sent:
                    flight.doomed = reason
                    self.stop(flight, reason, "node_lost")
                else:
                    not_begun.append(flight)
        return not_begun

    # --------------------------------------------------------------------------------------------- workers are told

    def send(self, worker_id: str, flights: Sequence[Flight]) -> None:
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

    def ask_for_parts(self, flight: Flight) -> None:
        """Have the workers of the other nodes of a gang keep its part of these free."""
        for worker_id in flight.parts:
            node = self.nodes.get(worker_id)
            if node is not None and node.channel is not None:
                node.channel.send([_hold_message(flight)])

    def holding(self, worker_id: str, job_id: str, attempt: int, part: Part) -> None:
        """A worker keeps what a job of another node needs of its own."""
        flight = self._by_job.get(job_id)
        if flight is not None and flight.attempt == attempt and worker_id in flight.parts:
            flight.held[worker_id] = part
            if flight.claimed and not flight.sent:
                self.send(flight.worker_id, [flight])

    def stop(self, flight: Flight, reason: str, cause: Optional[str] = None, grace_s: Optional[float] = None) -> None:
        """Have the worker stop a job, if it is there."""
        node = self.nodes.get(flight.worker_id)
        if node is not None and node.channel is not None:
            message: Message = {"t": "cancel", "job": flight.job_id, "attempt": flight.attempt, "reason": reason}
            if cause is not None:
                message["cause"] = cause
            node.channel.send([{**message, "grace_s": grace_s}])

    def _ask_to_keep(self, node: Node, kept: Iterable[Pair]) -> None:
        """Have a worker that came (again) keep its part of gangs, and let go of those that are no more."""
        if node.channel is None:
            return
        wanted = [flight for flight in self._by_job.values() if node.worker_id in flight.parts and flight.claimed]
        pairs = {(flight.job_id, flight.attempt) for flight in wanted}
        messages = [_release_message(job_id, attempt) for job_id, attempt in kept if (job_id, attempt) not in pairs]
        messages += [_hold_message(flight) for flight in wanted]
        if messages:
            node.channel.send(messages)

    def _let_go(self, flight: Flight) -> None:
        """The other nodes of a gang are free of it, and of whatever it has left there."""
        for worker_id in flight.parts:
            node = self.nodes.get(worker_id)
            if node is not None:
                node.take(flight.shape.needs, -1)
                node.gang_parts -= 1
                self.changed.add(worker_id)
                if node.channel is not None:
                    node.channel.send([_release_message(flight.job_id, flight.attempt)])


def _hold_message(flight: Flight) -> Message:
    needs = flight.shape.needs
    message: Message = {"t": "hold", "job": flight.job_id, "attempt": flight.attempt, "worker": flight.worker_id}
    return {**message, "cores": needs.cores, "memory_bytes": needs.memory_bytes, "gpus": needs.gpus}


def _release_message(job_id: str, attempt: int) -> Message:
    return {"t": "release", "job": job_id, "attempt": attempt}
