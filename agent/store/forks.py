"""Forks: two copies of one store went on under one origin, each with other records behind the last that they have in common.

One of the branches moves to an origin of its own. Which one, and where to, follows from the records alone: whoever settles it,
and whenever, comes to the same. The ids of its records stay.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any, NamedTuple, Optional

from ..errors import Conflict
from ..ids import derived_id
from . import log, maintenance
from .batch import Entry, Row, chain, check_place
from .exchange import append_rows, rows_behind
from .log import Head
from .transaction import Transaction

_NO_HLC, _NO_TIME = "000000000000-0000", "1970-01-01T00:00:00.000000Z"


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


def settle(transaction: Transaction, origin: str, at: int, their_hash: str) -> Optional[Branch]:
    """Two stores have the same record ``at`` of an origin and different ones behind it: move our branch if it is the one to go.

    The branch whose first record has the larger hash goes, to an origin that follows from that hash.

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
    ours = log.hash_at(connection, origin, at + 1)
    if ours is None or ours == their_hash:
        raise Conflict(f"origin {origin} does not fork at record {at}")
    if ours < their_hash:
        return None
    rows = rows_behind(connection, origin, at)
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
    here, before = rows_behind(connection, origin, after), log.hash_at(connection, origin, after)
    assert before is not None
    pairs = zip(chain(origin, after, before, here), chain(origin, after, before, rows))
    same = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(here), len(rows)))
    at, ours, new = after + same, here[same:], rows[same:]
    prev = log.hash_at(connection, origin, at)
    assert prev is not None
    moving: list[Row] = []
    if ours and new:
        here_hash, new_hash = chain(origin, at, prev, ours[:1])[0], chain(origin, at, prev, new[:1])[0]
        if new_hash > here_hash:
            moving, new, digest = new, [], new_hash
        else:
            moving, digest = [_movable(row) for row in ours], here_hash
            connection.execute("delete from log where origin = ? and seq > ?", (origin, at))
    append_rows(connection, origin, Head(at, prev), new, chain(origin, at, prev, new))
    if moving:
        marker = _fork_row(connection, origin, at, digest, moving[0])
        _merge(connection, _branch_name(origin, at, digest), 0, [marker, *moving])


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
