"""The listening socket of the API, when the agent has no file descriptors left: callers are told so instead of left waiting.

A few descriptors are kept for that. Who comes in by one of them is answered, but nothing is begun for them that may need more;
without any left nobody is let in for a moment, for a socket that waits to be accepted wakes the event loop again at once.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from tornado.ioloop import IOLoop

from ..host.shortages import of_number
from ..host.troubles import Troubles

SPARE = 8
PAUSE_S = 0.5
CONNECTIONS = "connections"


class Listener(socket.socket):
    """A listening socket that keeps descriptors for when there are none.

    Args:
        bound: the socket, listening; it is taken over. ``troubles``: where it is told.
    """

    def __init__(self, bound: socket.socket, troubles: Troubles):
        super().__init__(fileno=bound.detach())
        self._troubles = troubles
        self._spare = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(SPARE)]
        self._late: set[int] = set()

    def is_late(self, descriptor: int) -> bool:
        """Whether a connection came in by one of the last descriptors."""
        return descriptor in self._late

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept.

        Raises:
            BlockingIOError: there is nobody, or nobody can be let in now.
        """
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            if not self._spare:
                IOLoop.current().update_handler(self, 0)
                raise BlockingIOError from None
            number = error.errno
        os.close(self._spare.pop())
        try:
            accepted, address = super().accept()
        except OSError:  # there was nobody: the system looks for a descriptor first
            self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            raise
        self._late.add(accepted.fileno())
        if CONNECTIONS not in self._troubles:
            IOLoop.current().call_later(PAUSE_S, self._look)
        short = of_number(number)
        assert short is not None
        self._troubles.meet(CONNECTIONS, short.message, short.hint)
        return accepted, address

    def close(self) -> None:
        """Close, and let the spare ones go."""
        while self._spare:
            os.close(self._spare.pop())
        super().close()

    def _look(self) -> None:
        """Whether there are descriptors again; then all is as before."""
        if self.fileno() < 0:
            return
        try:
            while len(self._spare) < SPARE:
                self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            IOLoop.current().call_later(PAUSE_S, self._look)
        else:
            self._late.clear()
            self._troubles.over(CONNECTIONS)
        if self._spare:
            IOLoop.current().update_handler(self, IOLoop.READ)
