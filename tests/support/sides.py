"""Two instances that exchange contents, without agents: the real stores and API calls, a socket pair between them.

::

    with Side(tmp_path / "near", "near") as near, Side(tmp_path / "far", "far") as far:
        far.file("a.txt", b"content")
        near.hear(far)
        moved = move(far, near, DataRequest(data=True))
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

from lwfm.api import contents as calls
from lwfm.api.server import Call
from lwfm.data.files import file_url
from lwfm.paths import Home
from lwfm.store import projections
from lwfm.store.failures import mapped_errors
from lwfm.sync.contents import Moved, Tell, silent
from lwfm.sync.frames import Line
from lwfm.sync.receiver import Receiver
from lwfm.sync.sender import Sender
from lwfm.sync.wanted import DataRequest

from support.threads import Thread

JSON = dict[str, Any]
ALL = DataRequest(data=True, outputs=True)


class Side:
    """One instance: its store, its home, a directory of files, and the API calls on contents, asked as a client does."""

    def __init__(self, directory: Path, host: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.home = Home(directory)
        self.host = host
        self.files = directory / "files"
        self.files.mkdir(exist_ok=True)
        self.thread = Thread(directory)
        self._one_at_a_time = threading.Lock()
        self.asked: list[str] = []
        writer = SimpleNamespace(read=self._read, write=self._write)
        self._instance: Any = SimpleNamespace(
            store=self.thread.store, home=self.home, host=host, outputs=self.thread.outputs, writer=writer
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.close()

    async def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with mapped_errors(self.thread.store.path):
            return work(self.thread.connection, *arguments)

    async def _write(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return self.thread.unit(work, *arguments)

    def post(self, path: str, body: Any, *, repeatable: bool = False, timeout_s: float = 0) -> Any:
        """What the agent would answer."""
        name = path.rpartition("/")[2]
        self.asked.append(name)
        call = Call((), {}, json.dumps(body).encode())
        with self._one_at_a_time:
            answer: Any = getattr(calls, name)(self._instance, call)
            return asyncio.run(answer)

    def file(self, name: str, content: bytes, **sheet: Any) -> str:
        """A file of this side, put; its checksum."""
        path = self.files / name
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.record(path, len(content), digest, **sheet)
        return digest

    def record(self, file: Any, size: Any, sha256: Any, **sheet: Any) -> str:
        """A metasheet, true or not; its id."""
        place = {"url": file_url(self.host, str(file)), "path": str(file), "host": self.host, **sheet}
        return self.thread.put(size_bytes=size, sha256=sha256, **place)

    def hear(self, other: Side) -> None:
        """Know all that the other side has recorded."""
        with self.thread.store.transaction() as transaction:
            for record in other.thread.records():
                if record.origin == other.thread.store.origin:
                    projections.project(transaction.connection, record)

    def copies(self) -> dict[str, bytes]:
        """The contents here, by checksum; each file there must be one, and there must be nothing else."""
        found = {}
        for root, _, names in os.walk(self.home.contents):
            for name in names:
                path = Path(root) / name
                assert not path.is_symlink()
                assert not name.endswith(".part"), f"a part is left: {path}"
                content = path.read_bytes()
                found[hashlib.sha256(content).hexdigest()] = content
                assert name.startswith(hashlib.sha256(content).hexdigest() + "-")
                assert path.parent.name == name[:2]
                assert path.stat().st_mode & 0o777 == 0o600
                assert path.parent.stat().st_mode & 0o777 == 0o700
        return found

    def arrivals(self) -> list[str]:
        """The checksums of what is recorded as having come, in order."""
        query = "select sha256 from metasheets where op = 'get' and origin = ? order by id"
        return [str(row[0]) for row in self.thread.connection.execute(query, (self.thread.store.origin,))]

    def missing(self, request: DataRequest = ALL, **body: Any) -> list[JSON]:
        found: list[JSON] = self.post("/v1/contents/missing", {**request.to_json(), **body})["files"]
        return found


class SocketStream:
    """Bytes over a socket; with ``cut_after``, the connection ends when so many have been read from it.

    The socket is shut down then, so that the other side sees the end as well.
    """

    def __init__(self, connection: socket.socket, cut_after: Optional[int] = None) -> None:
        self._socket = connection
        self._left = cut_after
        self.read_bytes = 0

    def read(self, most: int) -> bytes:
        if self._left is not None:
            most = min(most, self._left)
            if most == 0:
                self._socket.shutdown(socket.SHUT_RDWR)
                return b""
        data = self._socket.recv(most)
        self.read_bytes += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()

    def complaint(self) -> str:
        return ""


def beside(
    work: Callable[[Line], Any], other: Callable[[Line], Any], cut_after: Optional[int] = None
) -> tuple[Any, Any]:
    """Run ``work`` here and ``other`` in a thread, on the two ends of a connection; what each gives, or what it raised.

    With ``cut_after`` the connection ends when the end of ``work`` has read so many bytes.
    """
    one, two = socket.socketpair()
    results: list[Any] = [None]

    def run() -> None:
        try:
            results[0] = other(Line(SocketStream(two)))
        except Exception as error:
            results[0] = error
        finally:
            two.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        result = work(Line(SocketStream(one, cut_after)))
    except Exception as error:
        result = error
    finally:
        one.close()
        thread.join()
    return result, results[0]


def move(
    sender: Side, receiver: Side, request: DataRequest = ALL, cut_after: Optional[int] = None, tell: Tell = silent
) -> tuple[Any, Any]:
    """Move contents from one side to the other; what the receiver and the sender say, or raise."""
    return beside(
        lambda line: Receiver(line, receiver, receiver.home, request, tell).run(),
        lambda line: Sender(line, sender, request).run(),
        cut_after,
    )


def moved(sender: Side, receiver: Side, request: DataRequest = ALL) -> Moved:
    """The same where all goes well."""
    came, told = move(sender, receiver, request)
    assert isinstance(came, Moved), came
    assert told == came
    return came
