"""What workers report of jobs, made durable: events of the protocol become records, and are acknowledged with that.

What comes together, of whomever, is recorded together. An end with a large output, or with declared files, is recorded by itself,
once the one has been taken over and the others were read.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from .. import faultpoints
from ..data.files import FileRecorder
from ..data.outputs import OutputStore
from ..errors import ConfigError, LwfmError, NotFound
from ..host.shortages import busy_with
from ..host.troubles import Troubles
from ..models import JobDefn, Metasheet
from ..recording import recovery
from ..recording.execution import record_ended, record_started
from ..recording.recorder import Recorder
from ..recording.requests import RequestBuilder
from ..recording.writer import Writer
from ..wire import Message
from .connections import Connection

STREAMS = ("stdout", "stderr")
OUTPUTS = "outputs"
RETRY_S = 1.0
"""How long to wait before keeping again what could not be kept."""
RECORDED_TOGETHER = 512
"""Events that are recorded as one unit of work, when they come from several workers at the same time: some 20 ms."""
FETCH_BYTES = 512 * 1024
_logger = logging.getLogger(__name__)

Event = tuple[Message, "list[Metasheet]"]
"""``started`` or ``ended``, and the declared files of the job."""


class Reports:
    """Records what workers report.

    Args:
        writer, outputs, files: what it works with. ``builder``: finds what jobs declare.
        spawn: runs a coroutine in the event loop. ``troubles``: where it is told what cannot be kept now.
    """

    def __init__(
        self,
        writer: Writer,
        outputs: OutputStore,
        files: FileRecorder,
        builder: RequestBuilder,
        spawn: Callable[[Awaitable[None]], Any],
        troubles: Troubles,
    ):
        self._writer = writer
        self._outputs = outputs
        self._files = files
        self._builder = builder
        self._spawn = spawn
        self._troubles = troubles
        self._told: deque[tuple[Connection, Sequence[Event]]] = deque()

    def take(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Record events that need nothing more, with what others report by the time the store comes to it."""
        self._told.append((connection, [(message, []) for message in messages]))
        if len(self._told) == 1:
            self._spawn(self._record_told())

    def take_slowly(self, connection: Connection, message: Message, defn: Optional[JobDefn]) -> None:
        """Record an end that :func:`takes_long`; ``defn``: of the job, if it is known."""
        self._spawn(self._record_slowly(connection, message, defn))

    async def _record_told(self) -> None:
        """What workers have told by the time the store comes to it, of all of them, is recorded as one unit of work.

        With hundreds of nodes each tells of a few jobs at a time, and a unit costs about as much as a record.
        """
        taken: list[tuple[Connection, Sequence[Event]]] = []

        def record(recorder: Recorder) -> None:
            count = sum(len(events) for _, events in taken)
            while self._told and (count < RECORDED_TOGETHER or not taken):
                taken.append(self._told.popleft())
                count += len(taken[-1][1])
            if self._told:
                self._spawn(self._record_told())
            for connection, events in taken:
                _record_events(recorder, events, connection.host, connection.allocation, self._outputs)

        try:
            await self._writer.durably(record)
        except LwfmError:
            if len(taken) <= 1:
                raise
            for connection, events in taken:  # what one of them told cannot be recorded: that is no fault of the others
                self._spawn(self._record(connection, events))
            return
        faultpoints.hit("workers.recorded")
        numbers: dict[Connection, list[int]] = {}
        for connection, events in taken:
            numbers.setdefault(connection, []).extend(int(message["n"]) for message, _ in events)
        for connection, listed in numbers.items():
            connection.acknowledge(listed)

    async def _record(self, connection: Connection, events: Sequence[Event]) -> None:
        await self._writer.durably(_record_events, events, connection.host, connection.allocation, self._outputs)
        faultpoints.hit("workers.recorded")
        connection.acknowledge([int(message["n"]) for message, _ in events])

    async def inherit(self, host: str, allocation: str, messages: Sequence[Message]) -> None:
        """Record what a worker of this host has left behind that will not come back (:mod:`lwfm.worker.testament`)."""
        jobs = dict.fromkeys(str(message["job"]) for message in messages)
        built = await self._writer.read(self._builder.build, jobs)
        known = {item.request.job_id: item.request.defn for item in built}
        events: list[Event] = []
        for message in messages:
            sheets: list[Metasheet] = []
            if message["t"] == "ended":
                job_id = str(message["job"])
                for stream in STREAMS:
                    if "path" in (message.get(stream) or {}):
                        message[stream] = await self._inherited(
                            message[stream], job_id, int(message["attempt"]), stream
                        )
                if job_id in known:
                    sheets = await asyncio.to_thread(self._files.declared, known[job_id], job_id)
            events.append((message, sheets))
        await self._writer.durably(_record_events, events, host, allocation, self._outputs)

    async def _inherited(self, output: Message, job_id: str, attempt: int, stream: str) -> Message:
        try:
            return await asyncio.to_thread(self._outputs.take_over, Path(output["path"]), job_id, attempt, stream)
        except OSError as error:
            _logger.error("%s of job %s is lost: %s", stream, job_id, error)
            return {"size": output.get("size", 0)}

    async def _record_slowly(self, connection: Connection, message: Message, defn: Optional[JobDefn]) -> None:
        """An end with large outputs to take over, or declared files to read, before the transaction."""
        for stream in STREAMS:
            output = message.get(stream) or {}
            if "path" in output:
                message[stream] = await self._taken_over(connection, output, message, stream)
        sheets = await asyncio.to_thread(self._files.declared, defn, str(message["job"])) if defn else []
        await self._record(connection, [(message, sheets)])
        connection.send([{"t": "forget", "job": message["job"], "attempt": message["attempt"]}])

    async def _taken_over(self, connection: Connection, output: Message, message: Message, stream: str) -> Message:
        """Take a large output over, when there is room for it; one that is gone is recorded without its content."""
        job_id, attempt = str(message["job"]), int(message["attempt"])
        while True:
            try:
                if connection.remote:
                    source = await self._fetched(connection, job_id, attempt, stream, int(output["size"]))
                else:
                    source = Path(output["path"])
                taken = await asyncio.to_thread(self._outputs.take_over, source, job_id, attempt, stream)
            except FileNotFoundError:
                _logger.error("%s of job %s is gone: %s", stream, job_id, output["path"])
                return {"size": output.get("size", 0)}
            except (OSError, ConfigError, RuntimeError) as error:
                busy = busy_with(error)
                self._troubles.meet(
                    OUTPUTS,
                    f"jobs have ended whose output cannot be kept yet: {busy or error}",
                    busy.hint if busy else None,
                )
                await asyncio.sleep(RETRY_S)
            else:
                self._troubles.over(OUTPUTS)
                return taken

    async def _fetched(self, connection: Connection, job_id: str, attempt: int, stream: str, size: int) -> Path:
        """A large output of another node, brought here piece by piece; a file that is about to be taken over.

        Raises:
            FileNotFoundError: the worker no longer has it. NotFound: the worker is gone; it will tell of the end again.
        """
        target = self._outputs.incoming(job_id, attempt, stream)
        with target.open("wb") as file:
            while file.tell() < size:
                try:
                    chunk = await connection.read_output(job_id, attempt, stream, file.tell(), FETCH_BYTES, 0.0)
                except asyncio.TimeoutError:
                    connection.close()
                    raise NotFound("the worker does not answer", transient=True) from None
                data = base64.b64decode(chunk.get("data") or "")
                if not data:
                    raise FileNotFoundError(f"{stream} of {job_id}")
                await asyncio.to_thread(file.write, data)
        return target


def takes_long(message: Message, defn: Optional[JobDefn]) -> bool:
    """Whether an end has a large output, or its job declared files."""
    large = any("path" in (message.get(stream) or {}) for stream in STREAMS)
    return large or (defn is not None and bool(defn.inputs or defn.outputs))


def _record_events(
    recorder: Recorder, events: Sequence[Event], host: str, allocation: str, outputs: OutputStore
) -> None:
    recorder.transaction.find_jobs([str(message["job"]) for message, _ in events])
    for message, sheets in events:
        job_id, attempt = str(message["job"]), int(message["attempt"])
        if message["t"] == "started":
            record_started(recorder, job_id, attempt, message, host, allocation)
        else:
            recovery.release(recorder, job_id, attempt)
            record_ended(recorder, job_id, attempt, message, host, outputs, sheets)
