"""The agent called from another process: found, started where that is allowed, asked.

The one seam at which errors of sockets and of HTTP become ours: nothing above it sees an ``OSError`` of a connection.
Starts the agent through :mod:`.startup`.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import rendezvous
from ..errors import AgentError, AgentUnreachable
from ..host.private import check_owner
from ..host.socketpeer import check_peer
from .calls import CALL_TIMEOUT_S, NO_TIMEOUT, Answer, Caller, encoded, target_of, value_of
from .connection import CONNECT_TIMEOUT_S, Connection, RemoteConnection
from .endpoint import Endpoint

DEFAULT_IDLE_EXIT_S = 600.0
"""After how long without work an agent that was started by itself leaves again."""
FOLLOWED_S = 30.0
"""How long a job on another node waits for an agent that was killed to be followed by the next."""
LOOK_AGAIN_S = 0.25


class Client(Caller):
    """A caller of the agent's API. Threads may share it: each gets its own connection.

    Args:
        endpoint: where the agent is.
        idle_exit_s: after how long without work an agent started from here leaves again; None: never.
    """

    def __init__(self, endpoint: Endpoint, idle_exit_s: float | None = DEFAULT_IDLE_EXIT_S):
        self.endpoint = endpoint
        self._idle_exit_s = idle_exit_s
        self.has_started_agent = False
        self._local = threading.local()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()

    def post_each(self, path: str, bodies: Iterable[Any], timeout_s: float = CALL_TIMEOUT_S) -> Iterator[Any]:
        """POST one body after another, making the next while the agent works on the last. All must be repeatable."""
        target = target_of(path)
        waiting: bytes | None = None
        sent_on: Connection | None = None
        for body in bodies:
            data = encoded(body)
            if waiting is not None:
                yield value_of(self._receive(sent_on, target, waiting, timeout_s))
            waiting, sent_on = data, self._try_send(target, data, timeout_s)
        if waiting is not None:
            yield value_of(self._receive(sent_on, target, waiting, timeout_s))

    def knock(self) -> None:
        """Find out whether somebody answers, and start nothing.

        Raises:
            FileNotFoundError, ConnectionRefusedError: nobody is there. InsecureState, AgentUnreachable: as elsewhere.
        """
        self._open(CONNECT_TIMEOUT_S).close()

    def close(self) -> None:
        """Close the connections; the next call opens a new one."""
        for connection in list(self._connections):
            connection.close()
        self._local.__dict__.clear()

    # -- one exchange

    def exchange(self, method: str, target: str, data: bytes | None, repeatable: bool, timeout_s: float) -> Answer:
        """See :class:`Caller`."""
        for last_try in (not repeatable, True):
            connection = self._connect(timeout_s)
            try:
                connection.send_request(method, target, data)
                return connection.receive_answer()
            except socket.timeout:
                self._drop()
                raise _hung(timeout_s) from None
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if last_try:
                    raise _broken(error, repeatable) from error
            except BaseException:  # an interrupted exchange leaves half an answer behind
                self._drop()
                raise
        raise AssertionError("unreachable")

    def _try_send(self, target: str, data: bytes, timeout_s: float) -> Connection | None:
        connection = self._connect(timeout_s)
        try:
            connection.send_request("POST", target, data)
        except (OSError, http.client.HTTPException):
            self._drop()
            return None
        except BaseException:
            self._drop()
            raise
        return connection

    def _receive(self, connection: Connection | None, target: str, data: bytes, timeout_s: float) -> Answer:
        if connection is not None:
            try:
                return connection.receive_answer()
            except socket.timeout:
                self._drop()
                raise _hung(timeout_s) from None
            except (OSError, http.client.HTTPException):
                self._drop()
            except BaseException:
                self._drop()
                raise
        return self.exchange("POST", target, data, True, timeout_s)

    # -- the connection of this thread

    def _connect(self, timeout_s: float) -> Connection:
        timeout = None if timeout_s == NO_TIMEOUT else timeout_s
        held: Connection | None = getattr(self._local, "connection", None)
        if held is not None and held.owner_pid == os.getpid() and held.is_usable():
            held.set_timeout(timeout)
            return held
        self._drop()
        try:
            connection = self._open_anywhere(timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            connection = self._open_elsewhere(timeout) or self._start(timeout)
        self._local.connection = connection
        self._connections.add(connection)
        return connection

    def _open_elsewhere(self, timeout: float | None) -> Connection | None:
        """A new connection to the agent of this home on another host that shares it; None when there is none."""
        if self.endpoint.socket != self.endpoint.home.socket:
            return None  # the agent of whoever runs this job
        from . import elsewhere

        home, at_rest = self.endpoint.home, self.endpoint.at_rest
        place = elsewhere.find_or_follow(home, at_rest=at_rest) if self.endpoint.may_start else elsewhere.find(home)
        if place is None:
            return None
        try:
            return self._dial(place, timeout)
        except OSError as error:
            raise AgentError(
                f"the agent of {self.endpoint.home.root} runs on {place.host}, which cannot be reached from here: {error}",
                hint=f"use lwfm on {place.host}, or wait until it has ended",
            ) from error

    def _start(self, timeout: float | None) -> Connection:
        if not self.endpoint.may_start:
            raise AgentUnreachable(
                f"no agent answers at {self.endpoint.socket}", hint="start it with: lwfm agent start"
            )
        from .startup import start_agent  # loads much that is rarely needed

        self.has_started_agent = True
        return start_agent(
            self.endpoint.home, self._idle_exit_s, lambda: self._open(timeout), at_rest=self.endpoint.at_rest
        )

    def _dial(self, place: rendezvous.Rendezvous, timeout: float | None) -> Connection:
        connection = RemoteConnection(place)
        connection.connect()
        connection.set_timeout(timeout)
        return connection

    def _open_anywhere(self, timeout: float | None) -> Connection:
        """A new connection to the agent of this node, or of another node of the allocation; raises as :meth:`_open`."""
        if self.endpoint.rendezvous is None:
            return self._open(timeout)
        until = time.monotonic() + FOLLOWED_S
        while True:
            try:
                return self._open_where_it_is(self.endpoint.rendezvous, timeout)
            except (OSError, AgentUnreachable) as error:
                if time.monotonic() > until:
                    raise AgentUnreachable(
                        f"no agent answers on the other nodes: {error}", hint="start it with: lwfm agent start"
                    ) from error
            time.sleep(LOOK_AGAIN_S)

    def _open_where_it_is(self, told: Path, timeout: float | None) -> Connection:
        """A new connection to where the rendezvous file says, or by the socket, for the agent of this node."""
        try:
            place = rendezvous.read(told)
        except AgentUnreachable:  # it listens to no other node; that it does not run is said by the socket
            return self._open(timeout)
        if place.host in ("", socket.gethostname()):
            return self._open(timeout)
        return self._dial(place, timeout)

    def _open(self, timeout: float | None) -> Connection:
        """A new connection.

        Raises:
            FileNotFoundError, ConnectionRefusedError: nobody is there.
            InsecureState: the socket is somebody else's. AgentUnreachable: any other reason.
        """
        where = self.endpoint.socket
        try:
            check_owner(where)
            connection = Connection(where)
            connection.connect()
            assert connection.sock is not None
            try:
                check_peer(connection.sock)
            except BaseException:
                connection.close()
                raise
        except (FileNotFoundError, ConnectionRefusedError):
            raise
        except NotADirectoryError:
            raise FileNotFoundError(str(where)) from None
        except OSError as error:
            raise AgentUnreachable(
                f"cannot connect to the agent at {where}: {error.strerror or error}",
                hint="lwfm doctor looks into it",
            ) from error
        connection.set_timeout(timeout)
        return connection

    def _drop(self) -> None:
        held: Connection | None = self._local.__dict__.pop("connection", None)
        if held is not None:
            held.close()


def _hung(timeout_s: float) -> AgentUnreachable:
    return AgentUnreachable(
        f"the agent has not answered for {timeout_s:.0f} s", hint="lwfm agent logs tells what it does; lwfm agent stop"
    )


def _broken(error: Exception, repeatable: bool) -> AgentUnreachable:
    message = f"the connection to the agent broke: {str(error) or type(error).__name__}"
    if repeatable:
        return AgentUnreachable(message, hint="lwfm agent logs may tell why; try again")
    return AgentUnreachable(message, hint="see whether it was recorded before you try again", transient=False)
