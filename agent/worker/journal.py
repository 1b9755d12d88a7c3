"""A file of JSON lines that is only appended to, and now and then written anew. Knows nothing of what the lines mean.

Durability: a line counts as written when write(2) has taken it. That survives the death of the process, SIGKILL included,
since the page cache belongs to the kernel; it does not survive the death of the node, where the jobs die as well. So
there is no fsync, which on many a disk would cost more than a short job.

A full disk does not raise: :meth:`Journal.flush` says False and keeps what it could not write, in order, for the next
attempt. Nothing may be done or told that stands in lines not yet flushed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, Optional

from .log import Log

Line = dict[str, Any]


class Journal:
    """The journal at ``path``; made when it is not there."""

    def __init__(self, path: str, log: Log) -> None:
        self._path = path
        self._log = log
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._pending: list[str] = []
        self._rest = b""  # of what a full disk did not take
        self._pending_bytes = 0
        self.blocked = False
        self.refusal = ""

    @property
    def size(self) -> int:
        """Bytes, those not yet flushed included."""
        return self._size + self._pending_bytes

    @property
    def pending(self) -> bool:
        """Whether there is anything to flush."""
        return self._pending_bytes > 0

    def load(self) -> Iterator[tuple[int, int, Line]]:
        """All lines with their offset and length. A torn last line is cut off; one that is not JSON is left out."""
        with open(self._path, "rb") as source:
            offset = 0
            for raw in source:
                if not raw.endswith(b"\n"):
                    os.ftruncate(self._fd, offset)
                    self._size = offset
                    self._log(f"{self._path}: a torn last line of {len(raw)} bytes was dropped")
                    return
                try:
                    line = json.loads(raw)
                except ValueError:
                    line = None
                if isinstance(line, dict):
                    yield offset, len(raw) - 1, line
                else:
                    self._log(f"{self._path}: {len(raw)} bytes at {offset} are not a line of the journal")
                offset += len(raw)

    def append(self, text: str) -> tuple[int, int]:
        """Add a line, to be written by the next :meth:`flush`.

        Returns:
            The offset it will have, and its length without the line's end.
        """
        length = len(text)
        offset = self._size + self._pending_bytes
        self._pending.append(text)
        self._pending_bytes += length + 1
        return offset, length

    def flush(self) -> bool:
        """Write what has been added.

        Returns:
            Whether all of it has been written; if not (a full disk), it is kept and :attr:`blocked` is set.
        """
        if not self._pending and not self._rest:
            return True
        if self._pending:
            self._pending.append("")
            self._rest += "\n".join(self._pending).encode("ascii")
            self._pending.clear()
        data = self._rest
        try:
            done = os.write(self._fd, data)
            while done < len(data):
                self._size += done
                self._rest = data = data[done:]
                self._pending_bytes = len(data)
                done = os.write(self._fd, data)
        except OSError as error:
            if not self.blocked:
                self._log(
                    f"cannot write {self._path}: {error.strerror}; no job is started until this is possible again"
                )
            self.blocked = True
            self.refusal = error.strerror or str(error)
            return False
        self._size += done
        self._rest = b""
        self._pending_bytes = 0
        if self.blocked:
            self._log(f"{self._path} can be written again")
            self.blocked = False
        return True

    def read(self, offset: int, length: int) -> str:
        """A line that has been flushed."""
        return os.pread(self._fd, length, offset).decode("ascii")

    def rewrite(self, lines: Iterable[str]) -> Optional[list[tuple[int, int]]]:
        """Replace the whole journal by ``lines``: all or nothing, whenever the process dies.

        Returns:
            Offset and length of each line; None when it could not be written and the old journal stands.
        """
        new = self._path + ".new"
        places: list[tuple[int, int]] = []
        offset = 0
        try:
            with open(new, "wb", opener=_private) as target:
                for text in lines:
                    raw = text.encode("ascii") + b"\n"
                    target.write(raw)
                    places.append((offset, len(raw) - 1))
                    offset += len(raw)
            os.replace(new, self._path)
        except OSError as error:
            self._log(f"cannot rewrite {self._path}: {error.strerror}")
            try:
                os.unlink(new)
            except OSError:
                pass
            return None
        os.close(self._fd)
        self._fd = self._open()
        self._size = offset
        self._pending.clear()
        self._rest = b""
        self._pending_bytes = 0
        return places

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
