"""Identifiers: UUIDv7 text (RFC 9562), ordered by creation within a process, and ids derived from what they name."""

from __future__ import annotations

import os
import threading
import time

SHORT_LENGTH = 18
"""Characters of an id that people are shown: the millisecond and the counter within it."""

NOISE_BYTES = 2048
"""How many random bytes are asked of the system at a time."""
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit that says what kind of UUID it is: its two upper bits are fixed, the two lower ones those of a random digit."""

_lock = threading.Lock()
_last = (0, 0, "")
_noise = (0, 0, "")


def new_id() -> str:
    """A new UUIDv7: 48 bits of Unix milliseconds, 12 bits that count within one millisecond, 62 random bits.

    Later calls in one process give larger text, also when the clock steps back.
    """
    global _last
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        stamp_ms, count, head = _last
        if now_ms > stamp_ms:
            stamp_ms, count, head = now_ms, 0, _head(now_ms)
        elif count < 0xFFF:
            count += 1
        else:
            stamp_ms, count, head = stamp_ms + 1, 0, _head(stamp_ms + 1)
        _last = (stamp_ms, count, head)
        noise = _take_noise()
    return f"{head}{count:03x}-{_VARIANT[noise[0]]}{noise[1:4]}-{noise[4:]}"


def _head(stamp_ms: int) -> str:
    """What ids of one millisecond begin with."""
    stamp = f"{stamp_ms:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7"


def _take_noise() -> str:
    """Sixteen random hexadecimal digits, which nobody gets a second time: a child does not go on with its parent's."""
    global _noise
    pid, at, digits = _noise
    if at >= len(digits) or pid != os.getpid():
        pid, at, digits = os.getpid(), 0, os.urandom(NOISE_BYTES).hex()
    _noise = (pid, at + 16, digits)
    return digits[at : at + 16]


def derived_id(after: str, *parts: str) -> str:
    """The id that belongs to ``after`` and ``parts``: the same everywhere and always, in the layout of a UUIDv8 (RFC 9562).

    It takes its millisecond and its place within that from ``after``, the id of what it follows from, so that it is found
    among the ids of its time, and what follows from several things comes in their order.
    """
    import hashlib

    digest = hashlib.sha256("\0".join((after, *parts)).encode("utf-8", "surrogateescape")).digest()
    value = bytearray(_stamp_of(after) + digest[8:16])
    value[6] = (value[6] & 0x0F) | 0x80
    value[8] = (value[8] & 0x3F) | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _stamp_of(identifier: str) -> bytes:
    """The eight bytes that an id begins with: time, version and count; zeros for what is not an id."""
    try:
        return bytes.fromhex(identifier.replace("-", "")[:16]).rjust(8, b"\0")
    except ValueError:
        return bytes(8)


def new_origin() -> str:
    """A new identity for a store: 128 random bits, in hexadecimal."""
    return os.urandom(16).hex()


def short(identifier: str) -> str:
    """What people are shown of an id, and may type back."""
    return identifier[:SHORT_LENGTH]
