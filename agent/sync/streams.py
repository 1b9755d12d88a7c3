"""Streams that are no ssh: a file, a socket, standard input and output. See :class:`~.frames.Stream` for what each method does."""

from __future__ import annotations

import os
import socket
import sys
from typing import IO


class _Silent:
    def complaint(self) -> str:
        """Nothing is said beside these."""
        return ""


class FileStream(_Silent):
    """A file, read or written."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def read(self, most: int) -> bytes:
        """Up to so many bytes."""
        return self._file.read(most)

    def write(self, data: bytes) -> None:
        """All of it."""
        self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SocketStream(_Silent):
    """A connected socket."""

    def __init__(self, end: socket.socket):
        self._end = end

    def read(self, most: int) -> bytes:
        """Up to so many bytes."""
        return self._end.recv(most)

    def write(self, data: bytes) -> None:
        """All of it."""
        self._end.sendall(data)

    def close(self) -> None:
        """Close the socket."""
        self._end.close()


class StandardStream(_Silent):
    """Standard input and output; what anything else prints from now on goes to standard error."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.buffer
        sys.stdout = sys.stderr

    def read(self, most: int) -> bytes:
        """Up to so many bytes, as soon as there are any."""
        return os.read(self._input, most)

    def write(self, data: bytes) -> None:
        """All of it, at once."""
        self._output.write(data)
        self._output.flush()

    def close(self) -> None:
        """Close standard output."""
        self._output.close()
