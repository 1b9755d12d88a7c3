"""The connection to the agent: dialling, frames in, frames out, again and again.

Owns the socket and what is to be sent on it. Knows the order of greeting (``hello``, then ``welcome``, then everything
else) and the sending of events by their number; leaves the meaning of all other messages to the loop. Events are sent
at once when it is quiet, and gathered for two milliseconds when there are many.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from ..errors import InvalidRecord
from ..jsontext import compact_ascii
from ..wire import MAX_FRAME_BYTES, Decoder, Message
from .line import Line
from .log import Log
from .spool import Spool
from .timers import Timer, Timers

DIAL_MIN_S, DIAL_MAX_S = 0.05, 1.0
REFUSED_PAUSE_S = 30.0
"""After a refusal; the next agent there may be another release's."""
DIAL_WITHIN_S = 15.0
WELCOME_WITHIN_S = 30.0
GATHER_S = 0.015
FRAME_BYTES = 1024 * 1024
"""A frame of events is closed when it is larger."""
UNSENT_BYTES = 4 * 1024 * 1024
"""While more than this waits for the agent to read, no more is put into frames."""


class Link:
    """The worker's side of the connection.

    Args:
        address: where the agent is, for people. ``dial`` begins a line to it.
        hello: gives the greeting's keys.
        handle: takes each message after the greeting.
        lost: called when the connection is gone, ``found`` when the agent has answered.
    """

    def __init__(
        self,
        address: str,
        dial: Callable[[], Line],
        selector: selectors.BaseSelector,
        timers: Timers,
        spool: Spool,
        log: Log,
        *,
        hello: Callable[[], Mapping[str, Any]],
        handle: Callable[[Message], None],
        found: Callable[[int, Message], None],
        lost: Callable[[], None],
    ) -> None:
        self._address = address
        self._dial = dial
        self._selector = selector
        self._timers = timers
        self._spool = spool
        self._log = log
        self._hello, self._handle, self._found, self._lost = hello, handle, found, lost
        self._line: Optional[Line] = None
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._answers: list[str] = []
        self._sent = 0
        self._last_send = 0.0
        self._gather: Optional[Timer] = None
        self._pause_s = DIAL_MIN_S
        self._watch: Optional[Timer] = None
        self._told = False
        self.welcomed = False

    def dial(self) -> None:
        """Try to reach the agent; again later when it is not there."""
        try:
            self._line = self._dial()
        except OSError as error:
            self._not_reached(error)
            return
        self._watch = self._timers.after(DIAL_WITHIN_S, lambda: self.drop("it cannot be reached"))
        self._selector.register(self._line.socket, selectors.EVENT_WRITE, self._advance)
        self._advance(0)

    def _advance(self, events: int) -> None:
        """Go on with a line that is being made."""
        del events
        assert self._line is not None
        self._selector.unregister(self._line.socket)
        try:
            wanted = self._line.advance()
        except OSError as error:
            self._line.close()
            self._line = None
            if self._watch is not None:
                self._watch.cancel()
            self._not_reached(error)
            return
        if wanted:
            self._selector.register(self._line.socket, wanted, self._advance)
            return
        self._told = False
        self._decoder = Decoder()
        self._selector.register(self._line.socket, selectors.EVENT_READ, self._ready)
        greeting = compact_ascii({"t": "hello", **self._hello()})
        self._unsent += _frame([greeting])
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._timers.after(WELCOME_WITHIN_S, lambda: self.drop("the agent does not answer"))
        self._write()

    def _not_reached(self, error: OSError) -> None:
        if not self._told:
            self._log(f"no agent at {self._address}: {error.strerror or error}")
            self._told = True
        self._dial_later()

    def drop(self, why: str) -> None:
        """Give up this connection and dial anew."""
        if self._line is None:
            return
        self._log(f"the connection to the agent is gone: {why}")
        self._selector.unregister(self._line.socket)
        self._line.close()
        self._line = None
        self.welcomed = False
        self._unsent.clear()
        self._answers.clear()
        if self._watch is not None:
            self._watch.cancel()
        self._dial_later()
        self._lost()

    def answer(self, message: Message) -> None:
        """Send a message that is not an event, if there is a connection."""
        if self.welcomed:
            self._answers.append(compact_ascii(message))

    def push(self, *, at_once: bool = True) -> None:
        """Send what there is to send: now; or, while many jobs wait to be started, with what comes within ``GATHER_S``."""
        if not self.welcomed or (not self._answers and self._sent >= self._spool.durable):
            return
        now = time.monotonic()
        if at_once or now - self._last_send >= GATHER_S:
            self._fill()
            self._write()
        elif self._gather is None:
            self._gather = self._timers.after(self._last_send + GATHER_S - now, self._gathered)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._unsent and not self._answers and self._sent >= self._spool.durable

    @property
    def connected(self) -> bool:
        """Whether there is a connection, welcomed or not."""
        return self._line is not None

    def close(self) -> None:
        """Hang up for good."""
        if self._line is not None:
            self._selector.unregister(self._line.socket)
            self._line.close()
            self._line = None
            self.welcomed = False

    def _dial_later(self) -> None:
        self._timers.after(self._pause_s, self.dial)
        self._pause_s = min(self._pause_s * 2, DIAL_MAX_S)

    def _gathered(self) -> None:
        self._gather = None
        if self.welcomed:
            self._fill()
            self._write()

    def _fill(self) -> None:
        self._last_send = time.monotonic()
        for answer in self._answers:
            self._unsent += _frame([answer])
        self._answers.clear()
        while self._sent < self._spool.durable and len(self._unsent) < UNSENT_BYTES:
            texts, self._sent = self._spool.event_texts(self._sent, FRAME_BYTES)
            if texts:
                self._unsent += _frame(texts)

    def _write(self) -> None:
        if self._line is None:
            return
        try:
            while self._unsent:
                sent = self._line.send(self._unsent)
                del self._unsent[:sent]
                if self.welcomed and not self._unsent:
                    self._fill()
        except BlockingIOError:
            pass
        except OSError as error:
            self.drop(str(error.strerror))
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(self._line.socket).events != wanted:
            self._selector.modify(self._line.socket, wanted, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write()
        if not events & selectors.EVENT_READ or self._line is None:
            return
        try:
            data = self._line.receive()
        except OSError as error:
            self.drop(str(error.strerror))
            return
        if data is None:
            return
        if not data:
            self.drop("the agent hung up")
            return
        try:
            for message in self._decoder.feed(data):
                self._receive(message)
                if not self.connected:
                    return
        except InvalidRecord as error:
            self.drop(error.message)

    def _receive(self, message: Message) -> None:
        if self.welcomed:
            self._handle(message)
        elif message["t"] == "refused":
            self._pause_s = REFUSED_PAUSE_S
            self.drop(f"it refuses this worker: {message.get('reason')}")
        elif message["t"] == "welcome":
            if self._watch is not None:
                self._watch.cancel()
            self.welcomed = True
            self._pause_s = DIAL_MIN_S
            acked = message.get("acked")
            self._sent = acked if isinstance(acked, int) else 0
            self._found(self._sent, message)
            self._sent = min(self._sent, self._spool.durable)
            self.push()


def _frame(texts: list[str]) -> bytes:
    """A frame of messages that are JSON text already (see :mod:`lwfm.wire`)."""
    body = ("[" + ",".join(texts) + "]").encode("ascii")
    assert len(body) <= MAX_FRAME_BYTES
    return len(body).to_bytes(4, "big") + body
