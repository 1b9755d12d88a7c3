"""A stand-in for the agent's HTTP side, for tests of the client, the library and the command line.

Answers what it was told to answer, on a real Unix socket, and remembers what it was asked. The real agent is what the
integration tests use; this is for what a real one cannot be brought to do: to hang, to break off, to answer nonsense.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Callable, Optional, Union
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from lwfm.errors import LwfmError, NotFound

Reply = Union[Callable[["Request"], Any], Any]


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    body: Any = None


class BreakOff(Exception):
    """Raised by a reply: close the connection without an answer."""


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    api: FakeApi


class FakeApi:
    """Serves ``home/agent.sock``.

    ``replies``: by ``METHOD /v1/path``; a value, or a function of the :class:`Request`. What is not there is a 404.
    """

    def __init__(self, home: Path, replies: Optional[dict[str, Reply]] = None):
        self.home = home
        self.socket = home / "agent.sock"
        self.replies: dict[str, Reply] = {"GET /v1/agent": {"pid": 1, "version": "fake"}, **(replies or {})}
        self.requests: list[Request] = []
        self.connections = 0
        self._server: Optional[_Server] = None
        self._open: set[Any] = set()

    def start(self) -> FakeApi:
        """Begin to answer."""
        self.home.mkdir(exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self._server = _Server(str(self.socket), _Handler)
        self._server.api = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self.drop_connections()
            self.socket.unlink(missing_ok=True)

    def drop_connections(self) -> None:
        """Close the connections that are open, as an agent does with idle ones."""
        for connection in list(self._open):
            try:
                connection.shutdown(2)
            except OSError:
                pass

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of that kind, in order."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def __enter__(self) -> FakeApi:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.connections += 1
        self.server.api._open.add(self.request)

    def finish(self) -> None:
        self.server.api._open.discard(self.request)
        try:
            super().finish()
        except OSError:
            pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, whatever the method."""
        api = self.server.api
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        path = unquote(parts.path)
        request = Request(self.command, path, parse_qs(parts.query), json.loads(data) if data else None)
        api.requests.append(request)
        reply = api.replies.get(f"{self.command} {path}", NotFound(f"{path} is not there"))
        status, headers = 200, {"Content-Type": "application/json", "Lwfm-Protocol": "1"}
        try:
            value = reply(request) if callable(reply) else reply
        except BreakOff:
            self.close_connection = True
            return
        except LwfmError as error:
            value = error
        if isinstance(value, LwfmError):
            status, value = value.http_status, {"error": value.to_json()}
        if isinstance(value, Raw):
            status, body = value.status, value.body
            headers.update(value.headers)
        else:
            body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The same."""
        self.do_GET()

    def do_DELETE(self) -> None:
        """The same."""
        self.do_GET()


@contextmanager
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A fake agent that the command line finds as a user's would be found, outside of any job; ``tmp_path`` is the directory."""
    for name in ("LWFM_SOCKET", "LWFM_JOB_ID", "LWFM_WORKFLOW_ID"):
        monkeypatch.delenv(name, raising=False)
    with FakeApi(tmp_path / "home") as fake:
        monkeypatch.setenv("LWFM_HOME", str(fake.home))
        monkeypatch.chdir(tmp_path)
        yield fake
