"""One sync with one peer, from the first byte to the last: a line is opened, records are exchanged, then data.

The same commands serve both sides: the near one opens the line, the far one is started at its other end (:func:`serve`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Optional

from ..client import Client
from ..client.startup import without_job
from ..errors import LwfmError
from ..paths import Home, self_command
from ..records import JSON
from ..store.batch import vector_to_json
from . import calls, contents, exchange, files, transfer
from .address import Address
from .agent_replica import AgentReplica
from .far import command_line
from .frames import Line
from .opening import explained, open_stream
from .process_stream import ProcessStream
from .remote import RemoteReplica
from .serve import Server
from .streams import StandardStream
from .transport import Asker, SshStream
from .wanted import DataRequest

SERVE = ("sync", "serve", "--stdio")


@dataclass
class Synced:
    """What came of a sync.

    Args:
        outcome: of the exchange of records. ``data``: of the data, by direction.
        seconds: it took. ``bytes_sent``, ``bytes_received``: over the line, as compressed.
    """

    outcome: exchange.Outcome
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    data: dict[str, contents.Moved] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all data that were asked for have come."""
        return all(moved.complete for moved in self.data.values())

    def to_json(self) -> JSON:
        """For programs."""
        outcome = self.outcome
        told: JSON = {
            "host": outcome.far.host, "origin": outcome.far.origin, "rows_sent": outcome.sent, "rows_received": outcome.received,
            "bytes_sent": self.bytes_sent, "bytes_received": self.bytes_received, "bytes": self.bytes_sent + self.bytes_received,
            "seconds": round(self.seconds, 3), "skew_s": round(outcome.skew_s, 3), "notices": outcome.notices,
        }  # fmt: skip
        if self.data:
            told["data"] = {way: moved.to_json() for way, moved in self.data.items()}
        return told

    def to_note(self) -> JSON:
        """What is remembered of the peer."""
        far = self.outcome.far
        known = far.vector or self.outcome.near.vector or {}
        return {
            "error": None, "origin": far.origin, "store_id": far.store_id, "host": far.host,
            "skew_s": round(self.outcome.skew_s, 3), "vector": vector_to_json(known),
        }  # fmt: skip


@dataclass(frozen=True)
class Watcher:
    """Whom to tell how far it is: ``records`` of the records, ``contents`` of the data; ``line``: once, of the line itself."""

    records: exchange.Report
    contents: contents.Tell
    line: Callable[[Line], None] = lambda _: None


UNWATCHED = Watcher(lambda _: None, contents.silent)


@contextmanager
def connected(address: Address, ask: Optional[Asker]) -> Iterator[Line]:
    """A line to lwfm at ``address``, closed at the end.

    Raises:
        LwfmError: it cannot be reached, or has no lwfm; what went wrong on the line comes with its cause.
    """
    with _spoken(open_stream(address, command_line(address, SERVE), ask), address) as line:
        yield line


@contextmanager
def connected_beside(line: Line, address: Address) -> Iterator[Line]:
    """Another line to lwfm at ``address``, beside one of :func:`connected` and by the same way, closed at the end.

    Raises:
        OSError, LwfmError: there is no way for another one.
    """
    stream: SshStream = line.stream  # type: ignore[assignment]
    with _spoken(stream.beside(command_line(address, SERVE)), address) as other:
        yield other


@contextmanager
def _spoken(stream: SshStream, address: Address) -> Iterator[Line]:
    try:
        line = Line(stream)
        line.await_greeting()
        yield line
    except LwfmError as problem:
        explanation = explained(stream, address, problem)
        if explanation is problem:
            raise
        raise explanation from problem
    finally:
        stream.close()


@contextmanager
def connected_here(home: str) -> Iterator[Line]:
    """A line to the instance in a directory of this host, which is left at rest: nothing of it is run here.

    Raises:
        LwfmError: as :func:`connected`.
    """
    stream = ProcessStream([*self_command(), "--home", home, *SERVE, "--at-rest"], without_job(os.environ))
    try:
        line = Line(stream)
        line.await_greeting()
        yield line
    finally:
        stream.close()


def sync(
    line: Line,
    client: Client,
    home: Home,
    *,
    pull: bool,
    push: bool,
    request: DataRequest,
    watcher: Watcher = UNWATCHED,
) -> Synced:
    """Exchange records over ``line``, then the data that ``request`` means, in the same directions.

    Raises:
        LwfmError: it was cut off, or refused; what was durable before stays.
    """
    began = time.monotonic()
    watcher.line(line)
    outcome = exchange.exchange(AgentReplica(client), RemoteReplica(line), pull=pull, push=push, report=watcher.records)
    synced = Synced(outcome)
    if pull and not request.empty:
        synced.data["pulled"] = transfer.pull(line, client, home, request, watcher.contents)
    if push and not request.empty:
        synced.data["pushed"] = transfer.push(line, client, request, watcher.contents)
    synced.seconds = time.monotonic() - began
    synced.bytes_sent, synced.bytes_received = line.bytes_sent, line.bytes_received
    return synced


def compare(line: Line, client: Client) -> tuple[exchange.Outcome, exchange.Lack]:
    """What each side lacks; nothing is exchanged."""
    outcome = exchange.greet(AgentReplica(client), RemoteReplica(line))
    return outcome, exchange.lacks(outcome)


def serve(client: Client, home: Home) -> None:
    """As the far side: answer on standard input and output, until they end. What anything else prints goes to standard error."""
    line = Line(StandardStream())
    line.greet()
    others = {
        "contents": lambda frame: transfer.answer(line, frame, client, home),
        "call": lambda frame: calls.answer(line, frame, client),
        **dict.fromkeys(files.ASKED, lambda frame: files.answer(line, frame, home)),
    }
    Server(line, AgentReplica(client), others).run()
