"""The agent's side of the worker protocol: connections in, who comes is welcomed, what is said goes where it belongs.

See ``docs/protocol.md``. What workers tell of jobs is recorded by :mod:`.reports`.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional, Protocol

from .. import faultpoints
from ..capacity import Capacity
from ..data.outputs import OutputStore
from ..errors import LwfmError, ProtocolMismatch
from ..host.socketpeer import check_peer
from ..placing.dispatcher import Dispatcher
from ..placing.gangs import Part
from ..placing.node import Node
from ..recording import presence, recovery
from ..recording.recorder import Recorder
from ..recording.requests import RequestBuilder
from ..recording.writer import Writer
from ..rendezvous import Address
from ..sites.base import JobRequest
from ..wire import Decoder, Message, agree
from .admission import Admission
from .connections import Connection, Gate
from .relay import is_http, pass_on
from .reports import Reports, takes_long

READ_BYTES = 256 * 1024
_logger = logging.getLogger(__name__)


class _Listening(Protocol):
    def close(self) -> None:
        """Listen no more."""


class WorkerServer:
    """Takes workers' connections, and speaks with them.

    Args:
        path: the socket. ``api``: that of the agent's API, for jobs of other nodes.
        writer, dispatcher, outputs, builder: what it works with. ``reports``: records what workers tell of jobs.
        labels: what jobs can ask a host for.

    Attributes:
        gate: for the workers of this node, which come by the socket.
    """

    def __init__(
        self,
        path: Path,
        api: Path,
        writer: Writer,
        dispatcher: Dispatcher,
        outputs: OutputStore,
        builder: RequestBuilder,
        reports: Reports,
        labels: Callable[[str], frozenset[str]],
    ):
        self._path = path
        self._api = api
        self._writer = writer
        self._dispatcher = dispatcher
        self._outputs = outputs
        self._builder = builder
        self._reports = reports
        self._labels = labels
        self.gate = Gate()
        self._servers: list[tuple[_Listening, Optional[Gate]]] = []
        self.connections: dict[str, Connection] = {}

    async def start(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._servers.append((await asyncio.start_unix_server(self._serve, str(self._path)), None))
        finally:
            os.umask(mask)

    async def listen(self, hosts: Sequence[str], context: ssl.SSLContext, gate: Gate) -> list[Address]:
        """Listen for workers of other nodes too.

        Args:
            hosts: numeric addresses of this node. ``context``: who may come. ``gate``: what is known of who comes there.

        Returns:
            Where they can dial.
        """
        admission = Admission(context, functools.partial(self._serve, gate=gate))
        addresses = admission.open(hosts)
        self._servers.append((admission, gate))
        return addresses

    def shut(self, gate: Gate) -> None:
        """Listen there no more, and end the connections of who came in there."""
        for item in [item for item in self._servers if item[1] is gate]:
            self._servers.remove(item)
            item[0].close()
        for connection in self.of(gate):
            connection.close()

    def of(self, gate: Gate) -> list[Connection]:
        """The connections of who came in there."""
        return [connection for connection in self.connections.values() if connection.gate is gate]

    async def close(self, *, stop: bool, kill: bool) -> None:
        """Stop listening; tell the workers to leave (``stop``), if need be with what they run (``kill``).

        Those of an allocation that was asked for stay for the next agent, unless with ``kill``.
        """
        for server, _ in self._servers:
            server.close()
        for connection in list(self.connections.values()):
            if stop and (kill or not connection.gate.place):
                connection.send([{"t": "stop", "kill": kill}])
        await asyncio.sleep(0)
        for connection in list(self.connections.values()):
            connection.close()
        self._path.unlink(missing_ok=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Optional[Gate] = None
    ) -> None:
        connection = Connection(writer, gate or self.gate)
        decoder = Decoder()
        try:
            if gate is None:
                check_peer(writer.get_extra_info("socket"))
            while True:
                data = await reader.read(READ_BYTES)
                if not data:
                    return
                if not connection.worker_id and is_http(data):  # a job of another node calls the API
                    await pass_on(reader, writer, data, self._api)
                    return
                connection.heard_at = time.monotonic()
                messages = list(decoder.feed(data))
                if not connection.worker_id and messages:
                    await self._welcome(connection, messages.pop(0))
                if messages:
                    self._receive(connection, messages)
        except ProtocolMismatch as error:
            _logger.error("a worker is refused: %s", error)
            connection.send([{"t": "refused", "reason": str(error)}])
        except (LwfmError, KeyError, TypeError, ValueError, OverflowError) as error:
            _logger.warning("worker %s: connection ended: %s", connection.worker_id or "?", error)
        except ConnectionError:
            pass
        finally:
            if self.connections.get(connection.worker_id) is connection:
                del self.connections[connection.worker_id]
                self._dispatcher.left(connection.worker_id)
                connection.gate.went()
            connection.close()

    async def _welcome(self, connection: Connection, hello: Message) -> None:
        """A worker says who it is and what it has; settle that before anything else."""
        protocol = agree(hello["protocols"])
        worker_id, host, gate = str(hello["worker"]), str(hello["host"]), connection.gate
        share = await gate.share(host)
        earlier = self.connections.pop(worker_id, None)
        if earlier is not None:
            self._dispatcher.left(worker_id)
            earlier.close()
        known = {(str(job), int(attempt)): str(state) for job, attempt, state in hello["jobs"]}

        described = hello["node"]
        found = Capacity(len(described["cores"]), int(described["memory_bytes"]), len(described["gpus"]))
        capacity = found.at_most(share)
        name, allocation = gate.name_of(host)

        def settle(recorder: Recorder) -> tuple[recovery.Reconciliation, dict[str, JobRequest]]:
            settled = recovery.reconcile(recorder, worker_id, host, known, self._outputs, gate.place)
            presence.came(recorder, worker_id, host, allocation, capacity)
            concerned = dict.fromkeys([*settled.held, *settled.again])
            requests = self._builder.build(recorder.transaction.connection, concerned)
            faultpoints.hit("workers.settling")
            return settled, {item.request.job_id: item.request for item in requests}

        # Nothing may be awaited between this and joined(): a claim or a cancel that becomes durable after it finds the
        # worker here, one before it was seen by it.
        settled, by_id = await self._writer.durably(settle)
        faultpoints.hit("workers.settled")
        connection.worker_id, connection.host, connection.allocation = worker_id, host, allocation
        connection.remote = connection.remote or bool(hello.get("tunnelled"))
        self.connections[worker_id] = connection
        welcome = {"t": "welcome", "protocol": protocol, "acked": int(hello.get("first_unacked", 1)) - 1}
        if capacity != found:
            welcome["share"] = {"cores": capacity.cores, "memory_bytes": capacity.memory_bytes, "gpus": capacity.gpus}
        connection.send([welcome])
        labels = self._labels(host) | self._labels(name)
        node = Node(worker_id, host, int(hello["pid"]), capacity, connection, name, allocation, labels)
        for other in list(self._dispatcher.nodes.values()):
            same = other.host == host and other.allocation == allocation
            if other.worker_id != worker_id and same and other.channel is None:
                self._dispatcher.dismissed(other.worker_id)  # its spool is gone; reconcile settled its claims
        held = [by_id[job_id] for job_id in settled.held if job_id in by_id]
        self._dispatcher.joined(node, held, [(str(job), int(attempt)) for job, attempt in hello.get("holds") or ()])
        self._dispatcher.place([by_id[job_id] for job_id in settled.again if job_id in by_id])
        for job_id, attempt, reason in settled.stop:
            connection.send([{"t": "cancel", "job": job_id, "attempt": attempt, "reason": reason, "grace_s": 5.0}])
        gate.came()
        _logger.info("worker %s on %s: %d jobs held, %d to place again", worker_id, host, len(held), len(settled.again))

    def _receive(self, connection: Connection, messages: list[Message]) -> None:
        quick: list[Message] = []
        for message in messages:
            if message["t"] == "chunk":
                connection.chunk(message)
            elif message["t"] == "leaving":
                self._let_go(connection)
            elif message["t"] == "started":
                connection.received(int(message["n"]))
                hosts = self._hosts(message["job"])
                quick.append({**message, "hosts": hosts} if hosts else message)
            elif message["t"] == "ended":
                connection.received(int(message["n"]))
                flight = self._dispatcher.flights.get(message["job"])
                self._dispatcher.ended(message["job"], message["attempt"])
                defn = flight.request.defn if flight and flight.request else None
                if takes_long(message, defn):
                    self._reports.take_slowly(connection, message, defn)
                else:
                    quick.append(message)
            elif message["t"] == "holding":
                self._holding(connection, message)
            elif message["t"] == "trouble":
                self._dispatcher.troubled(connection.worker_id, str(message.get("reason") or ""))
        if quick:
            self._reports.take(connection, quick)

    def _holding(self, connection: Connection, message: Message) -> None:
        """A worker keeps its part of a job free that is about to run on another node."""
        node = self._dispatcher.nodes.get(connection.worker_id)
        name = node.name if node is not None else connection.host
        part = Part(connection.host, name, tuple(message["cores"]), tuple(message["gpus"]), message.get("way") or {})
        self._dispatcher.flights.holding(connection.worker_id, str(message["job"]), int(message["attempt"]), part)

    def _hosts(self, job_id: str) -> list[str]:
        """The nodes of a job that runs on several."""
        flight = self._dispatcher.flights.get(job_id)
        workers = (flight.worker_id, *flight.parts) if flight is not None and flight.parts else ()
        return [self._dispatcher.nodes[worker].host for worker in workers if worker in self._dispatcher.nodes]

    def _let_go(self, connection: Connection) -> None:
        """The worker's node is being taken away: give it nothing more, and say so, for it waits for that."""
        node = self._dispatcher.nodes.get(connection.worker_id)
        if node is not None:
            node.last_start = 0.0
        _logger.warning("worker %s on %s: its node is being taken away", connection.worker_id, connection.host)
        connection.send([{"t": "stop", "kill": True}])

    async def inherit(self, worker_id: str, host: str, allocation: str, events: Sequence[Message]) -> None:
        """Record what a worker has left behind that will not come back."""
        await self._reports.inherit(host, allocation, events)
        for message in events:
            if message["t"] == "ended":
                self._dispatcher.ended(message["job"], message["attempt"])
        _logger.info("worker %s on %s has left behind %d events", worker_id, host, len(events))

    def absent(self) -> list[tuple[str, str]]:
        """The workers that were here and are not connected: id and host."""
        return [(node.worker_id, node.host) for node in self._dispatcher.nodes.values() if node.channel is None]

    async def lose(self, worker_id: str, reason: str, state: str = presence.LOST) -> None:
        """Nothing more is expected of a worker: record what that means for its jobs, and place nothing there.

        Args:
            worker_id: which. ``reason``: why. ``state``: what is recorded of its node, see :mod:`lwfm.recording.presence`.
        """
        connection = self.connections.pop(worker_id, None)
        if connection is not None:
            self._dispatcher.left(worker_id)
            connection.close()
        lost = await self._writer.durably(recovery.lose, worker_id, reason, self._outputs, state)
        self._dispatcher.dismissed(worker_id, reason)
        _logger.log(logging.ERROR if lost else logging.INFO, "worker %s: %s; it had %d jobs", worker_id, reason, lost)

    async def output(
        self, job_id: str, attempt: int, stream: str, offset: int, limit: int, wait_s: float
    ) -> Optional[tuple[bytes, bool, int]]:
        """A piece of the output of a job that a worker has: bytes, whether it has ended, how much there is; None otherwise."""
        flight = self._dispatcher.flights.get(job_id)
        connection = self.connections.get(flight.worker_id) if flight else None
        if flight is None or connection is None or flight.attempt != attempt:
            return None
        try:
            chunk = await connection.read_output(job_id, attempt, stream, offset, limit, wait_s)
        except asyncio.TimeoutError:
            return None
        return base64.b64decode(chunk.get("data") or ""), bool(chunk.get("ended")), int(chunk.get("size") or 0)
