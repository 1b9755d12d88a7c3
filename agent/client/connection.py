"""HTTP over the agent's Unix socket: what ``docs/api.md`` describes, seen from the other side.

The one seam at which errors of sockets and of HTTP become ours: nothing above it sees an ``OSError`` of a connection.
Starts the agent (through ``startup``) where that is allowed; knows nothing of records.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union
from urllib.parse import quote, urlencode

from .. import errors, paths, rendezvous
from ..errors import AgentError, AgentUnreachable, LwfmError
from ..host.socketpeer import check_peer
from ..variables import RENDEZVOUS_VARIABLE, SOCKET_VARIABLE
from ..wire import SPOKEN

CALL_TIMEOUT_S = 300.0
"""How long an ordinary call may take before the agent counts as hung."""
CONNECT_TIMEOUT_S = 20.0
DEFAULT_IDLE_EXIT_S = 600.0
"""After how long without work an agent that was started by itself leaves again."""
FOLLOWED_S = 30.0
"""How long a job on another node waits for an agent that was killed to be followed by the next."""
LOOK_AGAIN_S = 0.25
NO_TIMEOUT = float("inf")

Query = Union[Mapping[str, Any], Sequence["tuple[str, Any]"]]


@dataclass(frozen=True)
class Endpoint:
    """Where the agent is spoken to.

    Args:
        home: the instance.
        socket: its agent's socket.
        may_start: whether the agent may be started here when it does not answer.
        rendezvous: the file that tells where the agent is, for a job that may run on another node of its allocation.
        at_rest: whether an agent that is started here shall only answer, since the instance's work is over.
    """

    home: paths.Home
    socket: Path
    may_start: bool = True
    rendezvous: Path | None = None
    at_rest: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer of the agent, not interpreted."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def find_endpoint(home: str | os.PathLike[str] | None = None) -> Endpoint:
    """The agent of ``home``, else of ``$LWFM_SOCKET``, else of ``$LWFM_HOME``, else of ``~/.lwfm``.

    A socket named by the environment (as inside a job) that is not the home's own belongs to an agent that may run on
    another host: it is never started from here. Nor is it from a job on another node, which dials the agent over TLS.
    """
    here = paths.locate(os.fspath(home) if home is not None else None)
    given = os.environ.get(SOCKET_VARIABLE)
    if not given or (home is not None and here != paths.locate()):
        return Endpoint(here, here.socket)
    knows_home = bool(home is not None or os.environ.get(paths.HOME_VARIABLE))
    elsewhere = os.environ.get(RENDEZVOUS_VARIABLE)
    return Endpoint(
        here, Path(given), knows_home and Path(given) == here.socket, Path(elsewhere) if elsewhere else None
    )


class Caller(ABC):
    """Calls of an agent's API, however it is reached."""

    @abstractmethod
    def exchange(self, method: str, target: str, data: bytes | None, repeatable: bool, timeout_s: float) -> Answer:
        """One call and its answer, whatever that is.

        Args:
            target: path and query. ``data``: the body.
            repeatable: making the call twice is the same as making it once.

        Raises:
            AgentUnreachable: it could not be asked, or has not answered in time.
        """

    def get(self, path: str, query: Query = (), timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """GET; the JSON of the answer.

        Raises:
            LwfmError: what the agent reported. AgentUnreachable: it could not be asked.
        """
        return _json(self.exchange("GET", _target(path, query), None, True, timeout_s))

    def get_bytes(self, path: str, query: Query = (), timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """GET of something that is not JSON; raises like :meth:`get`."""
        return _checked(self.exchange("GET", _target(path, query), None, True, timeout_s))

    def post(self, path: str, body: Any, *, repeatable: bool = False, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """POST ``body`` as JSON (bytes are sent as they are); raises like :meth:`get`.

        Args:
            repeatable: making the call twice is the same as making it once, so it may be sent again when the connection
                breaks before the answer.
        """
        return _json(self.exchange("POST", _target(path), _encode(body), repeatable, timeout_s))

    def post_bytes(self, path: str, body: Any, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """POST, which must be repeatable, for something that is not JSON; raises like :meth:`get`."""
        return _checked(self.exchange("POST", _target(path), _encode(body), True, timeout_s))

    def delete(self, path: str, query: Query = ()) -> Any:
        """DELETE, which is always repeatable; raises like :meth:`get`."""
        return _json(self.exchange("DELETE", _target(path, query), None, True, CALL_TIMEOUT_S))


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
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def post_each(self, path: str, bodies: Iterable[Any], timeout_s: float = CALL_TIMEOUT_S) -> Iterator[Any]:
        """POST one body after another, making the next while the agent works on the last. All must be repeatable."""
        target = _target(path)
        waiting: bytes | None = None
        sent_on: _Connection | None = None
        for body in bodies:
            data = _encode(body)
            if waiting is not None:
                yield _json(self._receive(sent_on, target, waiting, timeout_s))
            waiting, sent_on = data, self._try_send(target, data, timeout_s)
        if waiting is not None:
            yield _json(self._receive(sent_on, target, waiting, timeout_s))

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

    def _try_send(self, target: str, data: bytes, timeout_s: float) -> _Connection | None:
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

    def _receive(self, connection: _Connection | None, target: str, data: bytes, timeout_s: float) -> Answer:
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

    def _connect(self, timeout_s: float) -> _Connection:
        timeout = None if timeout_s == NO_TIMEOUT else timeout_s
        held: _Connection | None = getattr(self._local, "connection", None)
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

    def _open_elsewhere(self, timeout: float | None) -> _Connection | None:
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

    def _start(self, timeout: float | None) -> _Connection:
        if not self.endpoint.may_start:
            raise AgentUnreachable(
                f"no agent answers at {self.endpoint.socket}", hint="start it with: lwfm agent start"
            )
        from .startup import start_agent  # loads much that is rarely needed

        self.has_started_agent = True
        return start_agent(
            self.endpoint.home, self._idle_exit_s, lambda: self._open(timeout), at_rest=self.endpoint.at_rest
        )

    def _dial(self, place: rendezvous.Rendezvous, timeout: float | None) -> _Connection:
        connection = _RemoteConnection(place)
        connection.connect()
        connection.set_timeout(timeout)
        return connection

    def _open_anywhere(self, timeout: float | None) -> _Connection:
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

    def _open_where_it_is(self, told: Path, timeout: float | None) -> _Connection:
        """A new connection to where the rendezvous file says, or by the socket, for the agent of this node."""
        try:
            place = rendezvous.read(told)
        except AgentUnreachable:  # it listens to no other node; that it does not run is said by the socket
            return self._open(timeout)
        if place.host in ("", socket.gethostname()):
            return self._open(timeout)
        return self._dial(place, timeout)

    def _open(self, timeout: float | None) -> _Connection:
        """A new connection.

        Raises:
            FileNotFoundError, ConnectionRefusedError: nobody is there.
            InsecureState: the socket is somebody else's. AgentUnreachable: any other reason.
        """
        where = self.endpoint.socket
        try:
            paths.check_owner(where)
            connection = _Connection(where)
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
        held: _Connection | None = self._local.__dict__.pop("connection", None)
        if held is not None:
            held.close()


class _Connection(http.client.HTTPConnection):
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


class _RemoteConnection(_Connection):
    """The same over TLS, to the agent of another node."""

    def __init__(self, place: rendezvous.Rendezvous):
        super().__init__(place.key)
        self._place = place

    def connect(self) -> None:
        self.sock = rendezvous.dial(self._place, CONNECT_TIMEOUT_S)


def path_of(*parts: str) -> str:
    """``/v1/…`` with each part quoted: an id or a name may hold anything."""
    return "/v1/" + "/".join(quote(part, safe="", errors="surrogateescape") for part in parts)


def _target(path: str, query: Query = ()) -> str:
    pairs = query.items() if isinstance(query, Mapping) else query
    flat: list[tuple[str, str]] = []
    for name, value in pairs:
        values = value if isinstance(value, (list, tuple)) else [value]
        flat.extend((name, str(item)) for item in values if item is not None)
    return f"{path}?{urlencode(flat, errors='surrogateescape')}" if flat else path


def _encode(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _checked(answer: Answer) -> Answer:
    if answer.status < 400:
        return answer
    try:
        reported = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        raise LwfmError(
            f"the agent answered with HTTP status {answer.status}", hint="lwfm agent logs may tell more"
        ) from None
    raise errors.from_json(reported)


def _json(answer: Answer) -> Any:
    _checked(answer)
    try:
        return json.loads(answer.body) if answer.body else {}
    except ValueError:
        raise AgentUnreachable("what answers at the agent's socket does not speak as an agent does") from None


def _hung(timeout_s: float) -> AgentUnreachable:
    return AgentUnreachable(
        f"the agent has not answered for {timeout_s:.0f} s", hint="lwfm agent logs tells what it does; lwfm agent stop"
    )


def _broken(error: Exception, repeatable: bool) -> AgentUnreachable:
    message = f"the connection to the agent broke: {str(error) or type(error).__name__}"
    if repeatable:
        return AgentUnreachable(message, hint="lwfm agent logs may tell why; try again")
    return AgentUnreachable(message, hint="see whether it was recorded before you try again", transient=False)
