"""A small agent: the other side of ``docs/protocol.md``, for tests of the worker.

Serves a Unix socket in a thread of its own and keeps what workers say. It acknowledges every event unless told not to,
takes repeated events for what they are, and answers a repeated greeting, as an agent must.
"""

from __future__ import annotations

import base64
import itertools
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Optional

from lwfm.wire import Decoder, Message, encode

from support.waiting import wait_until

Key = tuple[str, int]


class FakeAgent:
    """An agent at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acknowledges = True
        self.refuses = ""
        self.hellos: list[Message] = []
        self.events: list[Message] = []
        self.started: dict[Key, Message] = {}
        self.ended: dict[Key, Message] = {}
        self.duplicates: list[Message] = []
        self.chunks: dict[Any, Message] = {}
        self.holding: list[Message] = []
        self.pongs = 0
        self._acked: dict[str, int] = {}
        self._seen: set[tuple[str, int]] = set()
        self._changed = threading.Condition()
        self._connection: Optional[socket.socket] = None
        self._send_lock = threading.Lock()
        self._ids = itertools.count(1)
        self._closing = False
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Go away, and take the socket along."""
        if self._closing:
            return
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(10)
        self.path.unlink(missing_ok=True)

    def cut(self) -> None:
        """Break the connection."""
        connection = self._connection
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def send(self, *messages: Message) -> None:
        """Send messages in one frame; they are lost when there is no connection."""
        connection = self._connection
        if connection is not None:
            try:
                with self._send_lock:
                    connection.sendall(encode(messages))
            except OSError:
                pass

    def run(self, job: str, *argv: str, attempt: int = 1, **keys: Any) -> Key:
        """Send a job to the worker."""
        self.send(run_message(job, *argv, attempt=attempt, **keys))
        return job, attempt

    def read(
        self, key: Key, stream: str = "stdout", offset: int = 0, limit: int = 1 << 16, wait_s: float = 0
    ) -> Message:
        """A piece of a job's output; ``data`` as bytes."""
        number = next(self._ids)
        self.send(
            {
                "t": "read",
                "id": number,
                "job": key[0],
                "attempt": key[1],
                "stream": stream,
                "offset": offset,
                "limit": limit,
                "wait_s": wait_s,
            }
        )
        self.wait(lambda: number in self.chunks, "the answer to read")
        chunk = dict(self.chunks[number])
        chunk["data"] = base64.b64decode(chunk["data"])
        return chunk

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Wait until something has come that makes ``condition`` true."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise AssertionError(f"{what} did not come within {timeout_s} s; came:\n" + self.dump())

    def wait_connected(self, timeout_s: float = 15.0) -> None:
        self.wait(lambda: self._connection is not None, "a worker", timeout_s)

    def wait_started(self, key: Key) -> Message:
        self.wait(lambda: key in self.started, f"the start of {key}")
        return self.started[key]

    def wait_ended(self, key: Key, timeout_s: float = 30.0) -> Message:
        self.wait(lambda: key in self.ended, f"the end of {key}", timeout_s)
        return self.ended[key]

    def dump(self) -> str:
        """What has come lately, for a failing test."""
        return "\n".join(str(event)[:300] for event in self.events[-20:])

    def _serve(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        decoder = Decoder()
        try:
            while True:
                data = connection.recv(1 << 18)
                if not data:
                    return
                for message in decoder.feed(data):
                    self._receive(message, connection)
        except OSError:
            return
        finally:
            with self._changed:
                self._connection = None
                self._changed.notify_all()
            connection.close()

    def _receive(self, message: Message, connection: socket.socket) -> None:
        kind = message["t"]
        with self._changed:
            if kind == "hello":
                self.hellos.append(message)
                if self.refuses:
                    connection.sendall(encode([{"t": "refused", "reason": self.refuses}]))
                    connection.close()
                    return
                connection.sendall(
                    encode([{"t": "welcome", "protocol": 1, "acked": self._acked.get(message["worker"], 0)}])
                )
                self._connection = connection
            elif kind == "chunk":
                self.chunks[message["id"]] = message
            elif kind == "pong":
                self.pongs += 1
            elif kind == "holding":
                self.holding.append(message)
            elif kind in ("started", "ended"):
                self._event(message)
                if self.acknowledges:
                    worker = self.hellos[-1]["worker"]
                    self._acked[worker] = max(self._acked.get(worker, 0), message["n"])
                    with self._send_lock:
                        connection.sendall(encode([{"t": "ack", "n": message["n"]}]))
            self._changed.notify_all()

    def _event(self, message: Message) -> None:
        worker = self.hellos[-1]["worker"]
        if (worker, message["n"]) in self._seen:
            return  # sent again after a reconnection: as promised
        self._seen.add((worker, message["n"]))
        self.events.append(message)
        known = self.started if message["t"] == "started" else self.ended
        key = (message["job"], message["attempt"])
        if key in known:
            self.duplicates.append(message)
        known[key] = message


def run_message(job: str, *argv: str, attempt: int = 1, **keys: Any) -> Message:
    """A ``run`` message."""
    body: Message = {"t": "run", "job": job, "attempt": attempt, "cwd": "/", "grace_s": 2.0}
    if argv:
        body["argv"] = list(argv)
    return {**body, **keys}


def printed(event: Message, stream: str = "stdout") -> bytes:
    """What a job printed, as its ``ended`` event has it inline."""
    return base64.b64decode(event[stream].get("data", ""))


class WorkerProcess:
    """A real worker: keeper and loop."""

    def __init__(self, spool: Path, socket_path: Path, *options: str, env: Optional[dict[str, str]] = None) -> None:
        self.spool = spool
        code = "import sys; from lwfm.worker.main import main; sys.exit(main(sys.argv[1:]))"
        link = Path(__file__).resolve().parents[2] / "build" / "link"
        environment = {**os.environ, "PYTHONPATH": str(link), **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--connect", str(socket_path), "--spool", str(spool), *options],
            env=environment,
            start_new_session=True,
        )

    @property
    def keeper(self) -> int:
        return self.process.pid

    def log(self) -> str:
        try:
            return (self.spool / "worker.log").read_text()
        except OSError:
            return ""

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code of the worker that leaves by itself."""
        return self.process.wait(timeout_s)

    def loop_pid(self, agent: FakeAgent) -> int:
        """The pid of the loop that last greeted the agent."""
        agent.wait_connected()
        return int(agent.hellos[-1]["pid"])

    def kill_all(self, agent: FakeAgent) -> None:
        """Kill keeper and loop as one, as far as that is possible: the keeper first, so that it starts no other loop."""
        loop = agent.hellos[-1]["pid"] if agent.hellos else 0
        self.process.kill()
        if loop:
            try:
                os.kill(loop, 9)
            except ProcessLookupError:
                pass
        self.process.wait(10)
        if loop:
            wait_until(lambda: not alive(loop), "the loop to be gone")


def alive(pid: int) -> bool:
    """Whether a process runs: there, and not just waiting to be waited for."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as source:
            return source.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
