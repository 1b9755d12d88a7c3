"""Lines to the agent: a Unix socket on its own node, TLS over TCP between nodes. Neither ever waits.

Owns sockets, from the first attempt to the last byte. What is said on a line is the business of :mod:`.link`.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Protocol

from ..errors import InsecureState
from ..host.socketpeer import check_peer

if TYPE_CHECKING:
    from ..rendezvous import Address

TUNNEL, TUNNEL_API = "tunnel.worker", "tunnel.api"
"""Links in the spool to sockets of the agent that ssh has made on this node (:mod:`.tunnel`)."""
RECEIVE_BYTES = 256 * 1024
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
"""Seconds, seconds, probes: a line to a node that is gone ends by itself after half a minute."""


class Line(Protocol):
    """A line that is being made, or is open."""

    socket: socket.socket
    """What to wait for; another one after :meth:`advance`, perhaps."""

    def advance(self) -> int:
        """Go on making it; the events to wait for, 0 when it is open.

        Raises:
            OSError: it cannot be made.
        """

    def send(self, data: bytearray) -> int:
        """Send the beginning of ``data``; how much. Raises BlockingIOError when nothing can be sent now."""

    def receive(self) -> Optional[bytes]:
        """What has come; None for nothing, no bytes at the line's end."""

    def close(self) -> None:
        """Hang up."""


class LocalLine:
    """To an agent on this node.

    Args:
        path: of its socket.

    Raises:
        OSError: nobody answers there, or somebody else.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            self.socket.connect(path)
            check_peer(self.socket)
        except InsecureState as error:
            self.socket.close()
            raise OSError(errno.EPERM, error.message) from None
        except OSError:
            self.socket.close()
            raise

    def advance(self) -> int:
        """It is open from the first."""
        return 0

    def send(self, data: bytearray) -> int:
        """Send."""
        return self.socket.send(data)

    def receive(self) -> Optional[bytes]:
        """Receive."""
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class RemoteLine:
    """To an agent on another node: TLS, with the key of the allocation on both sides.

    Args:
        path: the file that tells where the agent is (:mod:`lwfm.rendezvous`).

    Raises:
        OSError: there is none, or nobody can be dialled there.
    """

    def __init__(self, path: str) -> None:
        from .. import rendezvous  # with ssl, which a worker on the agent's node does not need
        from ..errors import LwfmError

        try:
            found = rendezvous.read(Path(path))
            self._context = rendezvous.client_context(found.key)
        except LwfmError as error:
            raise OSError(errno.ENOENT, error.message) from None
        self._addresses: list[Address] = list(found.addresses)
        self._failure = OSError(errno.ENOENT, f"{path} names no address")
        self._address: Optional[Address] = None
        self._handshaking = False
        self._dial_next()

    def _dial_next(self) -> None:
        while self._addresses:
            self._address = address = self._addresses.pop(0)
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            number = self.socket.connect_ex(tuple(address))
            if number in (0, errno.EINPROGRESS):
                return
            self._failed(number)
        raise self._failure

    def _failed(self, number: int) -> None:
        self.socket.close()
        self._failure = OSError(number, f"{os.strerror(number)} ({self._address})")

    def advance(self) -> int:
        """Connected? Then the handshake; not? Then the next address."""
        import ssl

        if not self._handshaking:
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._failed(number)
                self._dial_next()
                return selectors.EVENT_WRITE
            try:
                self.socket.getpeername()
            except OSError as error:
                if error.errno == errno.ENOTCONN:
                    return selectors.EVENT_WRITE
                raise
            self.socket = self._context.wrap_socket(self.socket, do_handshake_on_connect=False)
            self._handshaking = True
        try:
            self.socket.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def send(self, data: bytearray) -> int:
        """Send."""
        import ssl

        try:
            return self.socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def receive(self) -> Optional[bytes]:
        """Receive all there is: what TLS has taken from the socket already, no selector can see."""
        import ssl

        pieces: list[bytes] = []
        try:
            while True:
                piece = self.socket.recv(RECEIVE_BYTES)
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b"".join(pieces) if pieces else None

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
