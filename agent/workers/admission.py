"""Letting in over the network who has the key: few handshakes at a time, each in little time, whoever knocks and how often.

A handshake costs memory, a descriptor and computing time before it is known who is there, so there are never more than ``MOST``.
When there are, one of the host that has the most makes room, the oldest first: a stranger with thousands of connections takes the
place of its own, and a node that comes meanwhile is let in. Where many hosts come with a few connections each, as all nodes of an
allocation do at its start, the rest wait in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Optional, cast

from ..rendezvous import Address

MOST = 64
"""Handshakes at a time; asyncio takes a quarter of a MiB for each."""
FEW = 4
"""A host with no more than so many at a time does not make room for others."""
PATIENCE_S = 2.0
"""Unless they take longer than this."""
HANDSHAKE_TIMEOUT_S = 10.0
BACKLOG = 4096
"""What the kernel keeps waiting; it takes less where ``net.core.somaxconn`` is less."""
ACCEPTED_AT_ONCE = 8
"""Then other things get their turn."""
PAUSE_S = 0.5
"""When there are no descriptors or no memory left: nothing is accepted for so long."""
TELL_EVERY_S = 60.0
STREAM_LIMIT_BYTES = 64 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_logger = logging.getLogger(__name__)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Knocking:
    """A connection whose handshake goes on."""

    def __init__(self, connection: socket.socket, host: str):
        self.connection = connection
        self.host = host
        self.since = time.monotonic()


class Admission:
    """Listens at addresses of this node.

    Args:
        context: what TLS asks of who comes. ``serve``: speaks with who was let in.
    """

    def __init__(self, context: ssl.SSLContext, serve: Serve):
        self._context = context
        self._serve = serve
        self._listeners: list[socket.socket] = []
        self._knocking: dict[_Knocking, asyncio.Task[None]] = {}
        self._accepting = False
        self._resume: Optional[asyncio.TimerHandle] = None
        self._told_at = float("-inf")
        self._untold = 0

    def open(self, hosts: Sequence[str]) -> list[Address]:
        """Listen at a free port of each of ``hosts``, numeric addresses of this node; where they can be dialled.

        Raises:
            OSError: that is not possible.
        """
        try:
            for host in hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = socket.create_server((host, 0), family=family, backlog=BACKLOG)
                listener.setblocking(False)
                self._listeners.append(listener)
        except OSError:
            self.close()
            raise
        self._go_on()
        return [Address(*listener.getsockname()[:2]) for listener in self._listeners]

    def close(self) -> None:
        """Listen no more. Who was let in stays."""
        self._wait()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for knocking in list(self._knocking):
            self._drop(knocking)

    def _go_on(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _wait(self, seconds: Optional[float] = None) -> None:
        """Accept nothing, for good or for so long, or until a handshake is over."""
        self._accepting = False
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
        if self._resume is not None:
            self._resume.cancel()
        self._resume = None if seconds is None else loop.call_later(seconds, self._go_on)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            wait_s = self._make_room()
            if wait_s:
                self._wait(wait_s)
                return
            try:
                connection, address = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _logger.error("nobody can be let in for want of means: %s", error.strerror)
                    self._wait(PAUSE_S)
                return  # or the one that came has gone already, or there is none
            connection.setblocking(False)
            knocking = _Knocking(connection, str(address[0]))
            self._knocking[knocking] = asyncio.ensure_future(self._admit(knocking))

    def _make_room(self) -> float:
        """See to it that there is room for one more; 0, or how long to wait at most."""
        if len(self._knocking) < MOST:
            return 0.0
        (most, count) = Counter(knocking.host for knocking in self._knocking).most_common(1)[0]
        oldest = next(iter(self._knocking))
        left_s = oldest.since + PATIENCE_S - time.monotonic()
        if count > FEW:
            oldest = next(knocking for knocking in self._knocking if knocking.host == most)
        elif left_s > 0:
            return left_s
        self._drop(oldest)
        return 0.0

    def _drop(self, knocking: _Knocking) -> None:
        """End a handshake: that of its other end counts as failed."""
        del self._knocking[knocking]
        try:
            knocking.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has gone by itself

    async def _admit(self, knocking: _Knocking) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(STREAM_LIMIT_BYTES, loop)
            return asyncio.StreamReaderProtocol(reader, self._serve, loop)

        try:
            await cast(asyncio.BaseEventLoop, loop).connect_accepted_socket(
                protocol, knocking.connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except OSError as error:  # of TLS too: no key, another one, no TLS at all; or nothing came in time
            traceback.clear_frames(error.__traceback__)  # they hold, in a circle, all that asyncio has taken for it
            self._refuse(knocking)
        finally:
            self._knocking.pop(knocking, None)
            if self._listeners and self._resume is not None:
                self._go_on()

    def _refuse(self, knocking: _Knocking) -> None:
        """Count it; say so, but not for each of thousands."""
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            _logger.warning(
                "%d connections without the key were refused, the last from %s", self._untold, knocking.host
            )
            self._told_at, self._untold = now, 0
