"""Messages between the agent and the process of a driver: a JSON head and a body of bytes, over a pair of sockets.

A message is two big-endian numbers of four bytes, the lengths of head and body, then both. Several threads may send. Knows nothing
of sites.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any, NamedTuple

from ..jsontext import compact_ascii

_LENGTHS = struct.Struct(">II")
_TIME = struct.Struct("@ll")
_READ_BYTES = 256 * 1024


class Broken(Exception):
    """The other side has ended, or what came from there is no message."""


class Message(NamedTuple):
    """What is sent: a JSON object and bytes that need not be text."""

    head: dict[str, Any]
    body: bytes


class Pipe:
    """Messages to and from the other side.

    Args:
        link: this side's socket; it becomes this object's own.
        send_limit_s: how long the other side may take to take a message; None: as long as it likes.
    """

    def __init__(self, link: socket.socket, send_limit_s: float | None = None):
        self._link = link
        self._sending = threading.Lock()
        self._buffer = bytearray()
        if send_limit_s is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.pack(int(send_limit_s) or 1, 0))

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send one message.

        Raises:
            TypeError, ValueError: ``head`` is not JSON; nothing was sent. Broken: nobody takes it.
        """
        text = compact_ascii(head).encode("ascii")
        with self._sending:
            try:
                self._link.sendall(_LENGTHS.pack(len(text), len(body)) + text + body)
            except OSError as error:
                raise Broken(f"it takes nothing: {error.strerror or error}") from error

    def receive(self) -> Message:
        """The next message; for one thread.

        Raises:
            Broken: there is none any more.
        """
        head_length, body_length = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        try:
            head = json.loads(self._exactly(head_length))
        except (ValueError, RecursionError):
            raise Broken("what it said is not JSON") from None
        if not isinstance(head, dict):
            raise Broken("what it said is no message")
        return Message(head, self._exactly(body_length))

    def shut(self) -> None:
        """Let the other side, and a thread here that waits for it, see the end."""
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        """Give the socket back; no thread may use it any more."""
        self._link.close()

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                piece = self._link.recv(_READ_BYTES)
            except OSError as error:
                raise Broken(str(error.strerror or error)) from error
            if not piece:
                raise Broken("it has ended")
            self._buffer += piece
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
