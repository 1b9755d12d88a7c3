"""Frames between agent and worker: batches of JSON messages, each batch behind its length.

A frame is four bytes, the length of what follows as a big-endian number, then a UTF-8 JSON array of objects, each with
its type under ``t``. What the messages mean is told in ``docs/protocol.md``. Knows neither sockets nor processes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import InvalidRecord, ProtocolMismatch
from .jsontext import compact_ascii

PROTOCOL = 1
"""The version of this release, of the worker's protocol and of the API."""
SPOKEN = tuple(version for version in (PROTOCOL, PROTOCOL - 1) if version > 0)
"""The versions spoken here, best first: this release's and the one before, so that two sides may be one release apart."""
MAX_FRAME_BYTES = 32 * 1024 * 1024
_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


def encode(messages: Sequence[Message]) -> bytes:
    """One frame that holds ``messages``.

    Raises:
        InvalidRecord: larger than a frame may be.
    """
    body = compact_ascii(messages).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidRecord(f"a frame of {len(body)} bytes is larger than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Takes bytes as they come, gives messages as they are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages completed by ``data``.

        Raises:
            InvalidRecord: not a frame of ours; the connection is of no more use.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise InvalidRecord(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            yield from decode_body(body)


def decode_body(body: bytes) -> list[Message]:
    """The messages of a frame's body.

    Raises:
        InvalidRecord: not a JSON array of objects with a type.
    """
    try:
        messages = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRecord("a frame does not hold JSON") from None
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("t"), str) for message in messages
    ):
        raise InvalidRecord("a frame does not hold messages")
    return messages


def agree(theirs: Sequence[int], ours: Sequence[int] = SPOKEN) -> int:
    """The highest protocol version that both sides speak.

    Raises:
        ProtocolMismatch: there is none; the message names both sides' versions.
    """
    common = set(theirs) & set(ours)
    if not common:
        raise ProtocolMismatch(
            f"the other side speaks protocol {sorted(theirs)}, this side {sorted(ours)}",
            hint="use the same lwfm release, or its neighbour, on both sides",
        )
    return max(common)
