"""One connection to an agent, which speaks HTTP/1.1: over its Unix socket, or over TLS to another node."""

from __future__ import annotations

import http.client
import os
import select
import socket
from pathlib import Path

from .. import rendezvous
from ..wire import SPOKEN
from .calls import Answer

CONNECT_TIMEOUT_S = 20.0


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 on a Unix socket."""

    def __init__(self, path: Path):
        super().__init__("lwfm", timeout=CONNECT_TIMEOUT_S)
        self._path = path
        self.owner_pid = os.getpid()

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(CONNECT_TIMEOUT_S)
            self.sock.connect(os.fspath(self._path))
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        self.close()  # that of a thread that has ended

    def is_usable(self) -> bool:
        """Whether it is open and silent; one that the agent has closed while it lay idle is readable."""
        if self.sock is None:
            return False
        poll = select.poll()  # select() refuses descriptors from 1024
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def set_timeout(self, timeout: float | None) -> None:
        """How long each of the next reads and writes may take."""
        if self.sock is not None:
            self.sock.settimeout(timeout)

    def send_request(self, method: str, target: str, data: bytes | None) -> None:
        """Send a request whole."""
        headers = {"Lwfm-Protocol": ", ".join(map(str, SPOKEN))}
        if data is not None:
            headers["Content-Type"] = "application/json"
        self.request(method, target, body=data, headers=headers)

    def receive_answer(self) -> Answer:
        """Read the answer to what was sent."""
        response = self.getresponse()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class RemoteConnection(Connection):
    """The same over TLS, to the agent of another node."""

    def __init__(self, place: rendezvous.Rendezvous):
        super().__init__(place.key)
        self._place = place

    def connect(self) -> None:
        self.sock = rendezvous.dial(self._place, CONNECT_TIMEOUT_S)
