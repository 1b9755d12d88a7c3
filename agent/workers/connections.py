"""Connections of workers, and the gates they come in by: what is said on them is the business of :mod:`.protocol`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Optional

from ..capacity import Capacity
from ..errors import InvalidRecord, NotFound
from ..wire import Message, encode

READ_TIMEOUT_S = 35.0


class Gate:
    """Where workers come in: which allocation those are of that come here. This one: of none.

    Attributes:
        place: what the store knows these workers by, where others on the same hosts are none of theirs (``local_workers.place``).
    """

    place = ""

    async def share(self, host: str) -> Optional[Capacity]:  # noqa: ARG002 - others look at it
        """What of a host's node is ours; None: all that its worker finds there.

        Raises:
            LwfmError: that cannot be told yet; the worker is to come again.
        """
        return None

    def name_of(self, host: str) -> tuple[str, str]:
        """What the launchers call a host that a worker has come from, and the allocation that it is of, as ``slurm-4711``."""
        return host, ""

    def came(self) -> None:
        """A worker has come, and is one of ours."""

    def went(self) -> None:
        """Its connection is gone."""


class Connection:
    """One worker's connection.

    Attributes:
        gate: where it came in. ``allocation``: the name of the one that its node is of; empty: of none.
        remote: whether the worker is on another node, so that its files are not ours to take.
        heard_at: when it last said anything, on the monotonic clock. ``worked_at``: when it last told of a job.
    """

    def __init__(self, writer: asyncio.StreamWriter, gate: Gate):
        self._writer = writer
        self.gate = gate
        self.remote = writer.get_extra_info("ssl_object") is not None
        self.heard_at = self.worked_at = time.monotonic()
        self._reads: dict[int, asyncio.Future[Message]] = {}
        self._next_read = 0
        self._outstanding: set[int] = set()
        self._highest = 0
        self.worker_id = ""
        self.host = ""
        self.allocation = ""

    def received(self, number: int) -> None:
        """An event has come; it is not durable yet."""
        self.worked_at = time.monotonic()
        self._outstanding.add(number)
        self._highest = max(self._highest, number)

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """These events are durable: say so up to the first that is not."""
        self._outstanding.difference_update(numbers)
        acked = min(self._outstanding) - 1 if self._outstanding else self._highest
        self.send([{"t": "ack", "n": acked}])

    def send(self, messages: Sequence[Message]) -> None:
        """Send, without waiting; in several frames where one would be too large."""
        if self._writer.is_closing():
            return
        try:
            self._writer.write(encode(messages))
        except InvalidRecord:
            if len(messages) == 1:
                raise
            middle = len(messages) // 2
            self.send(messages[:middle])
            self.send(messages[middle:])

    async def read_output(
        self, job_id: str, attempt: int, stream: str, offset: int, limit: int, wait_s: float
    ) -> Message:
        """A piece of a job's output, as the worker has it now."""
        self._next_read += 1
        number = self._next_read
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._reads[number] = future
        asked = {"t": "read", "id": number, "job": job_id, "attempt": attempt, "stream": stream}
        self.send([{**asked, "offset": offset, "limit": limit, "wait_s": wait_s}])
        try:
            return await asyncio.wait_for(future, READ_TIMEOUT_S)
        finally:
            self._reads.pop(number, None)

    def chunk(self, message: Message) -> None:
        """The answer to a read has come."""
        future = self._reads.get(message.get("id", -1))
        if future is not None and not future.done():
            future.set_result(message)

    def abort(self) -> None:
        """End the connection at once: who does not answer will not say goodbye either, which TLS would wait for half a minute."""
        self.close()
        self._writer.transport.abort()

    def close(self) -> None:
        """End the connection, and what waits for it."""
        for future in self._reads.values():
            if not future.done():
                future.set_exception(NotFound("the worker is gone", transient=True))
        self._writer.close()
