"""How stores become equal: what one knows, what another lacks of it, and taking that over. See ``docs/decisions/0007-sync.md``.

The log is a grow-only set of chains, one per origin; a store has a beginning of each. What it knows is read from the log itself.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

from ..errors import Conflict, InvalidRecord
from ..ids import derived_id
from . import foreign, log, maintenance, projections
from .batch import BATCH_BYTES, BATCH_ROWS, Batch, Entry, Row, Stub, Vector, chain, check_place
from .connection import Connection
from .log import GENESIS, Head, Record
from .transaction import Transaction

_OWN_TABLES = {
    "job": "jobs",
    "metasheet": "metasheets",
    "handler": "handlers",
    "context": "contexts",
    "log": "logs",
    "node": "nodes",
}
_ROWS = (
    "select prev, hash, uid, kind, hlc, wall_utc, body from log where origin = ? and seq > ? and seq <= ? order by seq"
)
_FOLLOWING = "select * from fragments where origin = ? and seq = ? and prev = ?"
_MAX_ASKED = 100_000
_NO_HLC, _NO_TIME = "000000000000-0000", "1970-01-01T00:00:00.000000Z"
_FAULTS = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
    sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError,
)  # fmt: skip
"""What a record's content can cause. A full disk is none of them."""


def vector(connection: sqlite3.Connection) -> Vector:
    """How far this store knows each origin."""
    return log.heads(connection)


def hashes(connection: sqlite3.Connection, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
    """The hashes of these records, by origin; None for one that is not here.

    Raises:
        InvalidRecord: the question is malformed, or too long.
    """
    if sum(len(seqs) for seqs in asked.values()) > _MAX_ASKED:
        raise InvalidRecord(f"more than {_MAX_ASKED} hashes are asked for at once")
    return {origin: [_hash_at(connection, origin, seq) for seq in seqs] for origin, seqs in asked.items()}


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
    prev, head = _hash_at(connection, origin, after), _hash_at(connection, origin, after + len(rows))
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
        if _hash_at(connection, origin, batch.last) != batch.head:
            raise forked(origin, batch.last)
        return []
    if batch.after > here.seq:
        raise Conflict(
            f"these records of origin {origin[:8]} begin behind record {batch.after}; here it ends at {here.seq}",
            hint="those between are missing: sync, or export again with --since",
        )
    if _hash_at(connection, origin, batch.after) != batch.prev:
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
    _append(connection, origin, here, batch.rows[first:], hashed[first:])
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


class Branch(NamedTuple):
    """A branch that has moved to an origin of its own, ``moved_to``, because another store went on otherwise behind record ``at``
    of ``origin``. ``rows``: how many records moved."""

    origin: str
    at: int
    moved_to: str
    rows: int

    @property
    def notice(self) -> str:
        """A sentence that says so."""
        return (
            f"two copies of one store went on under origin {self.origin[:8]} after record {self.at}, without knowing of each other:"
            f" {self.rows} records of one of them now have origin {self.moved_to[:8]}"
        )


def settle_fork(transaction: Transaction, origin: str, at: int, their_hash: str) -> Optional[Branch]:
    """Two stores have the same record ``at`` of an origin and different ones behind it: move our branch if it is the one to go.

    The branch whose first record has the larger hash goes, to an origin that follows from that hash: whoever moves it, and
    whenever, comes to the same. The ids of its records stay.

    Args:
        transaction: the tables are made anew in it.
        origin: which. ``at``: the last record in common. ``their_hash``: of the record behind it, at the other store.

    Returns:
        Where our branch went; None where it stays and theirs has to go.

    Raises:
        Conflict: there is no such fork.
    """
    check_place(origin, at)
    connection = transaction.connection
    ours = _hash_at(connection, origin, at + 1)
    if ours is None or ours == their_hash:
        raise Conflict(f"origin {origin} does not fork at record {at}")
    if ours < their_hash:
        return None
    rows = _rows_behind(connection, origin, at)
    derived = _branch_name(origin, at, ours)
    connection.execute("delete from log where origin = ? and seq > ?", (origin, at))
    moved = [_movable(row) for row in rows]
    _merge(connection, derived, 0, [_fork_row(connection, origin, at, ours, moved[0]), *moved])
    if transaction.origin == origin:
        transaction.take_origin(derived)
    connection.execute("delete from fragments where (origin, seq) in (select origin, seq from log)")
    maintenance.fold_again(transaction.connection)
    transaction.forget_rows()
    return Branch(origin, at, derived, len(rows))


def _merge(connection: sqlite3.Connection, origin: str, after: int, rows: list[Row]) -> None:
    """Have these records behind record ``after`` of an origin; where others are there already, one of the two branches moves on."""
    here, before = _rows_behind(connection, origin, after), _hash_at(connection, origin, after)
    assert before is not None
    pairs = zip(chain(origin, after, before, here), chain(origin, after, before, rows))
    same = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(here), len(rows)))
    at, ours, new = after + same, here[same:], rows[same:]
    prev = _hash_at(connection, origin, at)
    assert prev is not None
    moving: list[Row] = []
    if ours and new:
        here_hash, new_hash = chain(origin, at, prev, ours[:1])[0], chain(origin, at, prev, new[:1])[0]
        if new_hash > here_hash:
            moving, new, digest = new, [], new_hash
        else:
            moving, digest = [_movable(row) for row in ours], here_hash
            connection.execute("delete from log where origin = ? and seq > ?", (origin, at))
    _append(connection, origin, Head(at, prev), new, chain(origin, at, prev, new))
    if moving:
        marker = _fork_row(connection, origin, at, digest, moving[0])
        _merge(connection, _branch_name(origin, at, digest), 0, [marker, *moving])


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


def _append(
    connection: sqlite3.Connection, origin: str, here: Head, rows: Sequence[Entry], hashed: Sequence[str]
) -> None:
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


def _movable(row: Entry) -> Row:
    """A record as it stands in the log of another origin, where it has another hash: of one that was pruned only that is told."""
    if isinstance(row, Row):
        return row
    return Row(row.uid, log.PRUNED, _NO_HLC, _NO_TIME, log.encode_body({"kind": row.kind, "hash": row.hash}))


def _fork_row(connection: sqlite3.Connection, origin: str, at: int, digest: str, first: Row) -> Row:
    """The first record of a branch's own origin: where it comes from. All of it follows from the branch."""
    made_by = connection.execute(
        "select body from log where origin = ? and seq <= ? and kind in ('instance', 'fork') order by seq limit 1",
        (origin, at),
    ).fetchone()
    instance: Any = json.loads(made_by[0]) if made_by else {}
    instance = instance.get("instance", instance)
    named = {name: instance[name] for name in ("store_id", "host", "user", "home") if name in instance}
    reason = f"two stores went on under origin {origin} after record {at}"
    body = {"origin": origin, "seq": at, "hash": digest, "instance": named, "reason": reason}
    return Row(derived_id(first.uid, "fork", digest), "fork", first.hlc, first.wall_utc, log.encode_body(body))


def _branch_name(origin: str, at: int, digest: str) -> str:
    return hashlib.sha256(f"{origin}|{at}|{digest}".encode("ascii")).hexdigest()[:32]


def _rows_behind(connection: sqlite3.Connection, origin: str, seq: int) -> list[Entry]:
    return [_entry(*row) for row in connection.execute(_ROWS, (origin, seq, 2**53))]


def _hash_at(connection: sqlite3.Connection, origin: str, seq: int) -> Optional[str]:
    if seq == 0:
        return GENESIS
    found = connection.execute("select hash from log where origin = ? and seq = ?", (origin, seq)).fetchone()
    return str(found[0]) if found else None


def claim_id(connection: Connection, record: Record) -> None:
    """See that a record does not claim the id of another one: which of the two was seen would depend on who came first.

    Raises:
        InvalidRecord: it does.
    """
    if projections.contradicts(connection, record):
        raise _claimed(record)
    table = _OWN_TABLES.get(record.kind)
    if table is None:
        return
    found = connection.execute(f"select origin from {table} where id = ?", (record.uid,)).fetchone()
    if found is None or (table == "jobs" and projections.decides(connection, record.origin, found[0])):
        return  # copies of one store may both have made the job that a handler's trigger asks for
    known = connection.execute(
        "select hlc, body from log where origin = ?1 and uid = ?2 and kind = ?3"
        " union select hlc, body from fragments where origin = ?1 and uid = ?2 and kind = ?3",
        (found[0], record.uid, record.kind),
    ).fetchone()
    if known is None or known[0] != record.hlc or json.loads(known[1]) != record.body:
        raise _claimed(record)


def _claimed(record: Record) -> InvalidRecord:
    return InvalidRecord(
        f"record {record.seq} of origin {record.origin} claims the id of another {record.kind}, {record.uid}"
    )
