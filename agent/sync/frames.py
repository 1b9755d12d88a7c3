"""Frames between two instances that sync: a JSON head and a body of bytes, in both directions of one stream.

A frame is two big-endian numbers of four bytes, the lengths of head and body, then both. The head is a JSON object with its type
under ``t``; with ``"z": 1`` the body is compressed (zlib, RFC 1950). The far side begins with a line of its own, so that what its
login shell may print before is told from it. Knows neither ssh nor what the frames mean.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, NamedTuple, Optional, Protocol

from ..errors import SiteError, from_json
from ..jsontext import compact_ascii

PROTOCOL = 2
"""The version of the exchange that this release speaks."""
WITH_PRUNED = 2
"""From this version on there are records that were pruned, and each side hears how far the other knows."""
UPDATE = "the lwfm of the other side does not know pruned records: update it"
SPOKEN = (2, 1)
"""The versions spoken here, best first."""
GREETING = b"\nlwfm sync 1\n"
"""What the far side says first; never changes, so that any two releases can tell each other which versions they speak."""
MAX_CHATTER_BYTES = 64 * 1024
"""How much a login shell may print before the greeting."""
MAX_HEAD_BYTES = 8 * 1024 * 1024
MAX_BODY_BYTES = 24 * 1024 * 1024
"""Of a body as it is after decompression: a batch's worth and the largest record there may be."""
COMPRESSED_FROM_BYTES = 200
_LENGTHS = struct.Struct(">II")
_READ_BYTES = 256 * 1024


class Cut(SiteError):
    """The connection ended before what was to come."""

    transient = True


class Refused(SiteError):
    """The other side does not speak as an instance does."""


class Stream(Protocol):
    """Bytes to and from the other side, in order."""

    def read(self, most: int) -> bytes:
        """Up to ``most`` bytes, as soon as there are any; empty at the end."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``; returns when it is on its way. Raises OSError where there is no way any more."""

    def close(self) -> None:
        """End it; the other side sees the end."""

    def complaint(self) -> str:
        """What the far side printed beside the stream (its standard error), the end of it; empty when nothing."""


class Frame(NamedTuple):
    """One message: its head, and its body as it was before compression."""

    head: dict[str, Any]
    body: bytes


class Line:
    """Frames on a stream, counted.

    Args:
        stream: the bytes.
    """

    def __init__(self, stream: Stream):
        self.stream = stream
        self._buffer = bytearray()
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, head: dict[str, Any], body: bytes = b"", *, compress: bool = False) -> None:
        """Send one frame.

        Raises:
            Cut: the connection has ended.
        """
        if compress and len(body) >= COMPRESSED_FROM_BYTES:
            packed = zlib.compress(body, 6)
            if len(packed) < len(body):
                head, body = {**head, "z": 1}, packed
        text = compact_ascii(head).encode("ascii")
        self._write(_LENGTHS.pack(len(text), len(body)) + text + body)

    def receive(self, kind: Optional[str] = None) -> Frame:
        """The next frame; with ``kind``, one of another type is refused. An ``error`` frame is raised as the error it tells.

        Raises:
            Cut: the connection has ended. Refused: what came is no such frame. LwfmError: what the other side reports.
        """
        head_length, body_length = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if head_length > MAX_HEAD_BYTES or body_length > MAX_BODY_BYTES:
            raise Refused(f"the other side announced a message of {head_length + body_length} bytes: too large")
        head = _parsed(self._exactly(head_length))
        body = self._exactly(body_length)
        if head.get("z"):
            body = _unpacked(body)
        if head["t"] == "error":
            raise _reported(head)
        if kind is not None and head["t"] != kind:
            raise Refused(f"the other side sent {str(head['t'])[:40]!r} where {kind!r} was to come")
        return Frame(head, body)

    @property
    def position(self) -> int:
        """How many bytes of what came have been taken, of a stream that is a file: where the next frame begins."""
        return self.bytes_received - len(self._buffer)

    def greet(self) -> None:
        """As the far side: say that what follows are frames."""
        self._write(GREETING)

    def await_greeting(self) -> str:
        """As the near side: pass over what a login shell prints; it is returned.

        Raises:
            Cut: the far side ended before. Refused: something else speaks there.
        """
        while True:
            at = self._buffer.find(GREETING)
            if at >= 0:
                chatter = bytes(self._buffer[:at])
                del self._buffer[: at + len(GREETING)]
                return chatter.decode("utf-8", "replace")
            if len(self._buffer) > MAX_CHATTER_BYTES:
                raise Refused("what answers there is not lwfm")
            try:
                self._fill()
            except Cut:
                said = bytes(self._buffer).decode("utf-8", "replace").strip()
                said = _last_line(self.stream.complaint(), said)
                raise Cut("the far side ended before it answered" + (f": {said}" if said else "")) from None

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _fill(self) -> None:
        try:
            piece = self.stream.read(_READ_BYTES)
        except OSError as error:
            raise Cut(f"the connection broke: {error}") from error
        if not piece:
            said = _last_line(self.stream.complaint())
            raise Cut("the connection ended" + (f": {said}" if said else ""))
        self.bytes_received += len(piece)
        self._buffer += piece

    def _last_words(self) -> None:
        """The other side takes nothing more: raise the error it has told, if it has."""
        try:
            while True:
                self.receive()
        except Cut:
            return

    def _write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except OSError as error:
            self._last_words()
            said = _last_line(self.stream.complaint())
            raise Cut(f"the connection broke: {said or error}") from error
        self.bytes_sent += len(data)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("what the other side sent is not JSON") from None
    if not isinstance(head, dict) or not isinstance(head.get("t"), str):
        raise Refused("what the other side sent is no message")
    return head


def _unpacked(body: bytes) -> bytes:
    """A compressed body, never more of it than a body may be."""
    unpacker = zlib.decompressobj()
    try:
        whole = unpacker.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        raise Refused("what the other side sent cannot be decompressed") from None
    if len(whole) > MAX_BODY_BYTES:
        raise Refused(f"the other side sent a message that unpacks to more than {MAX_BODY_BYTES} bytes")
    if not unpacker.eof:
        raise Refused("what the other side sent cannot be decompressed")
    return whole


def _reported(head: dict[str, Any]) -> Exception:
    told = head.get("error")
    error = from_json(told if isinstance(told, dict) else {})
    error.message = f"the other side: {error.message}"[:2000]
    error.args = (error.message,)
    return error


def _last_line(*texts: str) -> str:
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1][:500]
    return ""
