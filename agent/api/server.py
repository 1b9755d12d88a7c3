"""HTTP on the agent's Unix socket: routing, JSON, errors. Which function answers which call is in :mod:`.routes`."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import unquote

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from ..errors import AgentBusy, InsecureState, InvalidRecord, LwfmError, NotFound
from ..host.shortages import busy_with, of_number
from ..host.socketpeer import check_peer
from ..instance import Instance
from ..jsontext import compact_ascii
from ..wire import PROTOCOL, agree
from .listener import Listener

MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_NUMBER = 2.0**53
PROTOCOL_HEADER = "Lwfm-Protocol"
_logger = logging.getLogger(__name__)

JSON = dict[str, Any]


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON: bytes, with headers."""

    body: bytes
    headers: dict[str, str]


class Call:
    """One request, its parts where they are easy to get at.

    Args:
        arguments: what stands in the path. ``query``: of the request.
    """

    def __init__(self, arguments: tuple[str, ...], query: dict[str, list[bytes]], raw_body: bytes):
        self.arguments = arguments
        self._query = query
        self._raw_body = raw_body

    def body(self) -> JSON:
        """The body, a JSON object; empty when there is none.

        Raises:
            InvalidRecord: it is not.
        """
        if not self._raw_body:
            return {}
        try:
            parsed = json.loads(self._raw_body, parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise InvalidRecord(f"the body is not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise InvalidRecord("the body must be a JSON object")
        return parsed

    def data(self) -> bytes:
        """The body, as it is."""
        return self._raw_body

    def values(self, name: str) -> list[str]:
        """All values of a query parameter; what is no Unicode, such as a file name may be, as the store shows it."""
        texts = [value.decode("utf-8", "surrogateescape") for value in self._query.get(name, ())]
        return [text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts]

    def value(self, name: str) -> Optional[str]:
        """The last value of a query parameter; None when it is absent or empty."""
        found = self.values(name)
        return found[-1] or None if found else None

    def number(self, name: str, default: float) -> float:
        """A query parameter as a number that is not negative.

        Raises:
            InvalidRecord: it is not one.
        """
        value = self.value(name)
        return default if value is None else _number(value, name)

    def limit(self) -> int:
        """How many rows are wanted; 0: all."""
        return int(self.number("limit", 50))


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def number_of(body: JSON, name: str) -> float:
    """A number of a body that is not negative; 0 when it is absent.

    Raises:
        InvalidRecord: it is not one.
    """
    value = body.get(name)
    return 0.0 if value is None else _number(value, name)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number <= MAX_NUMBER:
        raise InvalidRecord(f"{name} must be a number from 0, not {value!r}"[:200])
    return number


Answer = Union[JSON, Raw]
Function = Callable[[Instance, Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """Which function answers which calls.

    Args:
        always: also when the agent has run out of file descriptors.
    """

    method: str
    pattern: re.Pattern[str]
    function: Function
    always: bool = False


def route(method: str, path: str, function: Function, *, always: bool = False) -> Route:
    """A route for ``path``, in which ``*`` stands for one part of it."""
    return Route(method, re.compile(re.escape(path).replace(r"\*", "([^/]+)") + "$"), function, always)


def _agreed(asked: Optional[str]) -> int:
    """The version of the API for a caller that says which ones it speaks.

    Raises:
        ProtocolMismatch: none of ours.
    """
    if asked is None:
        return PROTOCOL
    try:
        return agree([int(word) for word in asked.split(",")])
    except ValueError:
        raise InvalidRecord(f"{PROTOCOL_HEADER}: {asked!r} is not a list of versions"[:200]) from None


class Handler(RequestHandler):
    """Answers every request from the table of routes."""

    def initialize(self, instance: Instance, routes: list[Route], is_late: Callable[[int], bool]) -> None:
        """Take what the application was made with."""
        self.instance = instance
        self.routes = routes
        self.is_late = is_late
        self.protocol = PROTOCOL

    async def answer(self) -> None:
        """Find the function, run it, write what it returns."""
        self.instance.open_requests += 1
        try:
            answer = await self._run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            reported = error if isinstance(error, LwfmError) else self._unexpected(error)
            self.set_status(reported.http_status)
            answer = {"error": reported.to_json()}
        finally:
            self.instance.open_requests -= 1
            self.instance.last_request = time.monotonic()
        self.set_header(PROTOCOL_HEADER, str(self.protocol))
        if isinstance(answer, Raw):
            for name, value in answer.headers.items():
                self.set_header(name, value)
            self.set_header("Content-Type", "application/octet-stream")
            self.write(answer.body)
        else:
            self.set_header("Content-Type", "application/json")
            self.write(compact_ascii(answer).encode("ascii"))

    get = post = delete = answer

    def compute_etag(self) -> None:
        """No entity tags: nobody caches these answers."""

    async def _run(self) -> Answer:
        request: HTTPServerRequest = self.request
        self.protocol = _agreed(request.headers.get(PROTOCOL_HEADER))
        allowed = False
        for candidate in self.routes:
            found = candidate.pattern.match(request.path)
            if found is None:
                continue
            allowed = True
            if candidate.method == request.method:
                if not candidate.always:
                    self._refuse_late()
                arguments = tuple(unquote(part) for part in found.groups())
                return await candidate.function(self.instance, Call(arguments, request.query_arguments, request.body))
        raise NotFound(
            f"there is no {request.method} {request.path} in this API"
            if not allowed
            else f"{request.path} has no {request.method}"
        )

    def _refuse_late(self) -> None:
        """Let nobody wait, or open anything, on one of the last descriptors."""
        stream = getattr(self.request.connection, "stream", None)
        if stream is not None and stream.socket is not None and self.is_late(stream.socket.fileno()):
            self.set_header("Connection", "close")
            short = of_number(errno.EMFILE)
            assert short is not None
            raise AgentBusy(f"the agent accepts nothing now: {short.message}", hint=short.hint)

    def _unexpected(self, error: Exception) -> LwfmError:
        busy = busy_with(error)
        if busy is not None:
            _logger.error("%s %s: %s: %s", self.request.method, self.request.path, type(error).__name__, error)
            return busy
        _logger.error("%s %s failed", self.request.method, self.request.path, exc_info=error)
        return LwfmError(
            f"internal error: {type(error).__name__}: {error}", hint="the agent's log has the details: lwfm agent logs"
        )

    def log_exception(self, *_: Any) -> None:
        """Exceptions were logged where they were answered."""


class _OwnersServer(HTTPServer):
    """An HTTP server that hangs up on everybody else, should the socket's mode ever let them in."""

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """A connection has come."""
        try:
            check_peer(stream.socket)
        except (InsecureState, OSError) as error:
            _logger.warning("a connection is refused: %s", error)
            stream.close()
            return
        super().handle_stream(stream, address)


class Server:
    """The HTTP server of an instance.

    Args:
        instance: what it serves. ``routes``: the calls. ``path``: the socket.
    """

    def __init__(self, instance: Instance, routes: list[Route], path: Path):
        self._listener: Optional[Listener] = None
        self._troubles = instance.troubles
        with_all = {"instance": instance, "routes": routes, "is_late": self._is_late}
        application = Application([(r".*", Handler, with_all)], log_function=lambda _: None)
        self._server = _OwnersServer(
            application, max_body_size=MAX_BODY_BYTES, max_buffer_size=MAX_BODY_BYTES, max_header_size=MAX_HEADER_BYTES
        )
        self._path = path

    def start(self) -> None:
        """Listen; the socket is the owner's alone from its first moment."""
        mask = os.umask(0o177)
        try:
            self._listener = Listener(bind_unix_socket(str(self._path), mode=0o600), self._troubles)
        finally:
            os.umask(mask)
        self._server.add_socket(self._listener)

    def _is_late(self, descriptor: int) -> bool:
        return self._listener is not None and self._listener.is_late(descriptor)

    async def stop(self) -> None:
        """Stop listening, end open connections, remove the socket."""
        self._server.stop()
        self._path.unlink(missing_ok=True)
        await self._server.close_all_connections()
