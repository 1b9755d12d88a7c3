"""HTTP on the agent's Unix socket: routing, JSON, errors. Which function answers which call is in :mod:`.routes`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional
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
from .call import Answer, Call, Raw, Route
from .listener import Listener

MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024 * 1024
PROTOCOL_HEADER = "Lwfm-Protocol"
_logger = logging.getLogger(__name__)


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
