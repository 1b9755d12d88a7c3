"""How stores become equal: what one knows, what another lacks of it, and taking that over. See ``docs/decisions/0007-sync.md``.

The log is a grow-only set of chains, one per origin; a store has a beginning of each. What it knows is read from the log itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Optional

from ..errors import Conflict, InvalidRecord
from . import foreign, log, projections
from .batch import BATCH_BYTES, BATCH_ROWS, Batch, Entry, Row, Stub, check_place
from .connection import Connection
from .log import Head, Record
from .transaction import Transaction
from .uniqueness import claim_id

_ROWS = (
    "select prev, hash, uid, kind, hlc, wall_utc, body from log where origin = ? and seq > ? and seq <= ? order by seq"
)
_FOLLOWING = "select * from fragments where origin = ? and seq = ? and prev = ?"
_MAX_ASKED = 100_000
_FAULTS = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
    sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError,
)  # fmt: skip
"""What a record's content can cause. A full disk is none of them."""


def hashes(connection: sqlite3.Connection, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
    """The hashes of these records, by origin; None for one that is not here.

    Raises:
        InvalidRecord: the question is malformed, or too long.
    """
    if sum(len(seqs) for seqs in asked.values()) > _MAX_ASKED:
        raise InvalidRecord(f"more than {_MAX_ASKED} hashes are asked for at once")
    return {origin: [log.hash_at(connection, origin, seq) for seq in seqs] for origin, seqs in asked.items()}


def read_batch(connection: sqlite3.Connection, origin: str, after: int, upto: int) -> Optional[Batch]:
    """The next records of an origin behind record ``after``, up to record ``upto``; None where there is none."""
    check_place(origin, after)
    rows: list[Entry] = []
    size = 0
    for found in connection.execute(_ROWS, (origin, after, min(upto, after + BATCH_ROWS))):
        row = _entry(*found)
        size += sum(map(len, row)) + 10
        if rows and size > BATCH_BYTES:
            break
        rows.append(row)
    if not rows:
        return None
    prev, head = log.hash_at(connection, origin, after), log.hash_at(connection, origin, after + len(rows))
    if prev is None or head is None:
        raise Conflict(f"record {after} of origin {origin} is not here")
    return Batch(origin, after, prev, head, rows)


def examine(transaction: Transaction, batch: Batch, hashed: Sequence[str]) -> list[Record]:
    """What of a batch is new here; nothing is written yet.

    Args:
        batch: and ``hashed``: the hashes of its rows, from :func:`~.batch.decode`.

    Raises:
        Conflict: it does not continue what is here. InvalidRecord: a record is not as its kind must be.
    """
    connection = transaction.connection
    origin, here = batch.origin, log.read_head(connection, batch.origin)
    if batch.last <= here.seq:
        if log.hash_at(connection, origin, batch.last) != batch.head:
            raise forked(origin, batch.last)
        return []
    if batch.after > here.seq:
        raise Conflict(
            f"these records of origin {origin[:8]} begin behind record {batch.after}; here it ends at {here.seq}",
            hint="those between are missing: sync, or export again with --since",
        )
    if log.hash_at(connection, origin, batch.after) != batch.prev:
        raise forked(origin, batch.after)
    known = here.seq - batch.after
    if known > 0 and hashed[known - 1] != here.hash:
        raise forked(origin, here.seq)
    return [foreign.parsed(origin, batch.after + 1 + at, batch.rows[at]) for at in range(known, len(batch.rows))]


def append(transaction: Transaction, batch: Batch, hashed: Sequence[str], new: Sequence[Record]) -> None:
    """Append the records that :func:`examine` found new, and fold them into the tables.

    Raises:
        InvalidRecord: a record cannot be folded; nothing of the transaction must be kept then.
    """
    connection, origin = transaction.connection, batch.origin
    if origin == transaction.origin:
        transaction.renew_origin(
            f"others know {len(new)} or more records of this instance that it does not know itself: it was restored"
        )
    first = len(batch.rows) - len(new)
    here = log.read_head(connection, origin)
    append_rows(connection, origin, here, batch.rows[first:], hashed[first:])
    fresh = transaction.fresh(new)
    some = f"one of the records {new[0].seq} to {batch.last}" if len(new) > 1 else f"record {batch.last}"
    with understood(f"{some} of origin {origin}"):
        for record in new:
            with understood(f"record {record.seq} of origin {origin}"):
                if not fresh.fold(record):
                    claim_id(connection, record)
                    projections.project(connection, record)
                    fresh.folded(record)
        connection.flush()  # what is wrong with a record may show only when it is written
    latest = max(record.hlc for record in new)
    if latest:
        transaction.witness(latest)
    connection.execute("delete from fragments where origin = ? and seq <= ?", (origin, batch.last))
    _join_fragments(connection, origin)


@contextmanager
def understood(what: str) -> Iterator[None]:
    """What goes wrong while a record of another store is folded into the tables is its fault; ``what`` names it."""
    try:
        yield
    except _FAULTS as error:
        raise InvalidRecord(
            f"{what} cannot be understood: {type(error).__name__}: {error}"[:500],
            hint="was it written by a newer lwfm? update this one",
        ) from error


def forked(origin: str, seq: int) -> Conflict:
    """The error that tells of two different records with one number."""
    return Conflict(
        f"origin {origin} has forked at or before record {seq}: two copies of a store went on under one name",
        hint="sync again: that settles it",
        transient=True,
    )


def are_fragments(connection: sqlite3.Connection, new: Sequence[Record]) -> set[int]:
    """The numbers of those of these records, all of one origin, that have come before, without the ones before them."""
    query = "select seq from fragments where origin = ? and seq between ? and ?"
    return {row[0] for row in connection.execute(query, (new[0].origin, new[0].seq, new[-1].seq))}


def _join_fragments(connection: Connection, origin: str) -> None:
    """Records that came without those before them, and now have them, are of the log: nobody else may have them to give."""
    while True:
        here = log.read_head(connection, origin)
        place = (origin, here.seq + 1, here.hash)
        if not connection.execute("insert into log " + _FOLLOWING, place).rowcount:
            return
        connection.execute("delete from fragments where origin = ? and seq = ?", place[:2])


def append_rows(
    connection: sqlite3.Connection, origin: str, here: Head, rows: Sequence[Entry], hashed: Sequence[str]
) -> None:
    """Put records, and their hashes, behind the end ``here`` of an origin's log."""
    links = [here.hash, *hashed]
    connection.executemany(
        log.INSERT,
        [
            log.stub(origin, here.seq + 1 + index, *row, log.ELSEWHERE)
            if isinstance(row, Stub)
            else (origin, here.seq + 1 + index, links[index], links[index + 1], *row)
            for index, row in enumerate(rows)
        ],
    )


def _entry(prev: str, digest: str, uid: str, kind: str, hlc: str, wall_utc: str, body: str) -> Entry:
    """A row of the log without what follows from its place."""
    return Row(uid, kind, hlc, wall_utc, body) if prev else Stub(digest, uid, kind)


def rows_behind(connection: sqlite3.Connection, origin: str, seq: int) -> list[Entry]:
    """All records of an origin behind record ``seq``."""
    return [_entry(*row) for row in connection.execute(_ROWS, (origin, seq, 2**53))]
