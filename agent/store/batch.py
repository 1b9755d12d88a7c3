"""A batch: consecutive records of one origin as they travel between stores, and the proof that they continue a chain.

Only what cannot be computed travels: the hashes are made anew from the records, and the last of them is compared. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Union

from ..errors import InvalidRecord
from ..jsontext import compact_ascii
from .log import GENESIS, MAX_RECORD_BYTES, Head, row_hash

BATCH_ROWS = 500
"""How many records travel, and are written, together: few enough that the agent answers others in between."""
BATCH_BYTES = 4 * 1024 * 1024
"""When a batch has so many bytes it is closed, whatever its number of records."""
MAX_ROWS = 4 * BATCH_ROWS
_ORIGIN = re.compile(r"[0-9a-f]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_HLC = re.compile(r"[0-9a-f]{12}-[0-9a-f]{4}")
_WALL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_UID = re.compile(r"[\x21-\x7e]{1,100}")
_KIND = re.compile(r"[a-z][a-z0-9_.-]{0,63}")

Vector = dict[str, Head]
"""How far a store knows each origin: the number of its last record, and its hash."""


class Row(NamedTuple):
    """One record as it is stored, without what follows from its place."""

    uid: str
    kind: str
    hlc: str
    wall_utc: str
    body: str


class Stub(NamedTuple):
    """What is left of a record that was pruned: its hash, which cannot be made anew, its id and its kind."""

    hash: str
    uid: str
    kind: str


Entry = Union[Row, Stub]


class Batch(NamedTuple):
    """Consecutive records of one origin.

    Args:
        origin: whose. ``after``: the number of the record before the first; 0 for none. ``prev``: that one's hash.
        head: the hash of the last. ``rows``: the records, at least one.
    """

    origin: str
    after: int
    prev: str
    head: str
    rows: Sequence[Entry]

    @property
    def last(self) -> int:
        """The number of its last record."""
        return self.after + len(self.rows)


def encode(batch: Batch) -> bytes:
    """A batch as JSON, in ASCII."""
    told = {"origin": batch.origin, "after": batch.after, "prev": batch.prev, "head": batch.head, "rows": batch.rows}
    return compact_ascii(told).encode("ascii")


def decode(data: bytes) -> tuple[Batch, list[str]]:
    """The batch that ``data`` holds, and the hashes of its rows. Everything is checked that can be without a store.

    Raises:
        InvalidRecord: it is no batch, or its records do not lead from ``prev`` to ``head``.
    """
    try:
        told = json.loads(data)
        batch = Batch(told["origin"], told["after"], told["prev"], told["head"], list(map(_entry, told["rows"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRecord(f"this is no batch of records: {type(error).__name__}") from None
    _check_frame(batch)
    for row in batch.rows:
        check_row(row)
    hashes = chain(batch.origin, batch.after, batch.prev, batch.rows)
    if hashes[-1] != batch.head:
        raise InvalidRecord(
            f"records {batch.after + 1} to {batch.last} of origin {batch.origin} were changed on the way: another hash"
        )
    return batch, hashes


def chain(origin: str, after: int, prev: str, rows: Sequence[Entry]) -> list[str]:
    """The hashes of consecutive records that follow record ``after``, whose hash is ``prev``. That of one that was pruned is
    believed; the next one's is made of it.

    Raises:
        InvalidRecord: text that is not Unicode.
    """
    hashes = []
    try:
        for seq, row in enumerate(rows, after + 1):
            if isinstance(row, Stub):
                prev = row.hash
            else:
                prev = row_hash(origin, seq, prev, row.uid, row.kind, row.hlc, row.wall_utc, row.body, "strict")
            hashes.append(prev)
    except UnicodeEncodeError:
        raise InvalidRecord(f"a record of origin {origin} holds text that is not Unicode") from None
    return hashes


def digest(vector: Vector) -> str:
    """A name for what a store knows: the same for equal logs, whatever they hold."""
    text = "\n".join(f"{origin} {head.seq} {head.hash}" for origin, head in sorted(vector.items()))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def vector_to_json(vector: Vector) -> dict[str, list[Any]]:
    """A vector as it travels."""
    return {origin: [head.seq, head.hash] for origin, head in vector.items()}


def vector_from_json(told: Any) -> Vector:
    """The vector that travelled.

    Raises:
        InvalidRecord: it is none.
    """
    if not isinstance(told, Mapping):
        raise InvalidRecord("this is no vector of origins")
    vector: Vector = {}
    for origin, head in told.items():
        if not isinstance(head, (list, tuple)) or len(head) != 2 or not isinstance(head[1], str):
            raise InvalidRecord("this is no vector of origins")
        check_place(origin, head[0])
        if not _HASH.fullmatch(head[1]):
            raise InvalidRecord("this is no vector of origins: a hash is not one")
        vector[origin] = Head(head[0], head[1])
    return vector


def check_place(origin: Any, seq: Any) -> None:
    """Make sure that these are an origin and the number of a record, from 0.

    Raises:
        InvalidRecord: they are not.
    """
    if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
        raise InvalidRecord(f"{origin!r} is not the name of an origin"[:200])
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq < 2**53:
        raise InvalidRecord(f"{seq!r} is not the number of a record"[:200])


def check_hash(value: Any) -> None:
    """Make sure that this is the hash of a record.

    Raises:
        InvalidRecord: it is not.
    """
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise InvalidRecord(f"{value!r} is not the hash of a record"[:200])


def _check_frame(batch: Batch) -> None:
    check_place(batch.origin, batch.after)
    hashes: tuple[Any, ...] = (batch.prev, batch.head)
    for value in hashes:
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            raise InvalidRecord("a batch without its hashes")
    if (batch.prev == GENESIS) is not (batch.after == 0):
        raise InvalidRecord("a batch that does not say what it continues")
    if not 1 <= len(batch.rows) <= MAX_ROWS:
        raise InvalidRecord(f"a batch of {len(batch.rows)} records; 1 to {MAX_ROWS} may come together")


def _entry(told: Sequence[Any]) -> Entry:
    return Stub(*told) if len(told) == len(Stub._fields) else Row(*told)


def check_row(row: Entry) -> None:
    """Make sure that a record has an id, a kind and times as they must be.

    Raises:
        InvalidRecord: it has not.
    """
    parts: tuple[Any, ...] = row
    if not all(isinstance(value, str) for value in parts):
        raise InvalidRecord("a record whose parts are not text")
    if isinstance(row, Stub):
        if not (_HASH.fullmatch(row.hash) and _UID.fullmatch(row.uid) and _KIND.fullmatch(row.kind)):
            raise InvalidRecord(f"what is left of a pruned record is not as it must be: {row!r}"[:300])
        return
    fits = (
        _UID.fullmatch(row.uid)
        and _KIND.fullmatch(row.kind)
        and _HLC.fullmatch(row.hlc)
        and _WALL.fullmatch(row.wall_utc)
        and _is_time(row.wall_utc)
    )
    if not fits:
        raise InvalidRecord(f"a record whose id, kind or time is not one: {row[:4]!r}"[:300])
    if len(row.body) > MAX_RECORD_BYTES:
        raise InvalidRecord(f"a record of {len(row.body)} characters; {MAX_RECORD_BYTES} is the most")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text[:-1])
    except ValueError:  # the 30th of February
        return False
    return True
