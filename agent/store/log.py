"""The log: what is true, one immutable row per fact, chained by hash, gapless per origin. See ``docs/store.md``.

Of a record that was pruned a stub is left, so that the chain can still be followed: see ``docs/decisions/0013-housekeeping.md``.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from ..errors import InvalidRecord
from ..jsontext import strict, strict_ascii

INSERT = "insert into log values (?,?,?,?,?,?,?,?,?)"
GENESIS = "0" * 64
"""What the first row of an origin has as the hash before it."""
MAX_RECORD_BYTES = 16 * 1024 * 1024
"""Of a record's body: so that whoever syncs knows how much may come at once."""
PRUNED = "pruned"
"""What a record that was pruned counts as: of it are left its place, its hash, its id and its kind. Its ``prev`` is empty."""
HERE, ELSEWHERE = "here", "elsewhere"
"""Who pruned it: this store, which does not want it back; or another one, before it came here."""
STUB_BODY = {where: f'{{"pruned":"{where}"}}' for where in (HERE, ELSEWHERE)}
_PARTS = (
    "origin, seq, uid, case when prev = '' then 'pruned' else kind end, hlc, wall_utc,"
    " case when prev = '' then json_object('kind', kind, 'where', json_extract(body, '$.pruned')) else body end"
)


class Record(NamedTuple):
    """One row of the log, its body parsed.

    Args:
        origin: the store that wrote it. ``seq``: its place there, from 1, without gaps.
        uid: the id of this record, unique everywhere; for the first record of a thing also that thing's id.
        kind: what it is about. ``hlc``: hybrid clock. ``wall_utc``: wall clock. ``body``: the fact.
    """

    origin: str
    seq: int
    uid: str
    kind: str
    hlc: str
    wall_utc: str
    body: dict[str, Any]


class Head(NamedTuple):
    """The end of one origin's chain."""

    seq: int = 0
    hash: str = GENESIS


def encode_body(body: dict[str, Any]) -> str:
    """A body as it is stored: compact JSON, readable where it is valid Unicode, escaped where it is not.

    Raises:
        InvalidRecord: it holds what JSON has no word for, such as NaN.
    """
    try:
        text = strict(body)
        return text if text.isascii() or _encodable(text) else strict_ascii(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRecord(f"this cannot be recorded as JSON: {error}") from None


def encode_job(body: dict[str, Any]) -> tuple[str, Optional[str]]:
    """The body of a job as it is stored; and its definition by itself where that can stand in a column as it is.

    Raises:
        InvalidRecord: it holds what JSON has no word for, such as NaN.
    """
    try:
        begin = strict({key: value for key, value in body.items() if key != "definition"})
        definition = strict(body["definition"])
        text = f'{begin[:-1]},"definition":{definition}}}'
        return (text, definition) if text.isascii() or _encodable(text) else (strict_ascii(body), None)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRecord(f"this cannot be recorded as JSON: {error}") from None


def encode_in_parts(head: dict[str, Any], rest: dict[str, Any]) -> tuple[str, Optional[str]]:
    """Two parts of a body, of which the first is not empty: all of it as it is stored; and the second by itself where that can
    stand in a column as it is, so that it need not be encoded twice.

    Raises:
        InvalidRecord: it holds what JSON has no word for, such as NaN.
    """
    if not rest:
        return encode_body(head), "{}"
    try:
        begin, end = strict(head), strict(rest)
        text = f"{begin[:-1]},{end[1:]}"
        return (text, end) if text.isascii() or _encodable(text) else (strict_ascii({**head, **rest}), None)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRecord(f"this cannot be recorded as JSON: {error}") from None


def row_hash(
    origin: str,
    seq: int,
    prev: str,
    uid: str,
    kind: str,
    hlc: str,
    wall_utc: str,
    body: str,
    errors: str = "surrogateescape",
) -> str:
    """SHA-256 over the stored text of a row, its fields joined with ``|``; ``errors``: as in ``str.encode``."""
    text = f"{origin}|{seq}|{prev}|{uid}|{kind}|{hlc}|{wall_utc}|{body}"
    return hashlib.sha256(text.encode("utf-8", errors)).hexdigest()


def read_head(connection: sqlite3.Connection, origin: str) -> Head:
    """The end of ``origin``'s chain."""
    row = connection.execute(
        "select seq, hash from log where origin = ? order by seq desc limit 1", (origin,)
    ).fetchone()
    return Head(*row) if row else Head()


def hash_at(connection: sqlite3.Connection, origin: str, seq: int) -> Optional[str]:
    """The hash of a record; None for one that is not here."""
    if seq == 0:
        return GENESIS
    found = connection.execute("select hash from log where origin = ? and seq = ?", (origin, seq)).fetchone()
    return str(found[0]) if found else None


def heads(connection: sqlite3.Connection) -> dict[str, Head]:
    """How far this store knows each origin. The time it takes depends on the number of origins, not of records."""
    known: dict[str, Head] = {}
    origin = ""
    while True:
        found = connection.execute(
            "select origin from log where origin > ? order by origin limit 1", (origin,)
        ).fetchone()
        if found is None:
            return known
        origin = str(found[0])
        known[origin] = read_head(connection, origin)


def read_rows(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """Every row, origin by origin, in order, those that came without the ones before them among them: what :func:`parsed` takes."""
    return connection.execute(f"select {_PARTS} from log union all select {_PARTS} from fragments order by 1, 2")


def stub(origin: str, seq: int, digest: str, uid: str, kind: str, where: str) -> tuple[Any, ...]:
    """The row that stands for a record that was pruned."""
    return (origin, seq, "", digest, uid, kind, "", "", STUB_BODY[where])


def parsed(row: Sequence[Any]) -> Record:
    """A row as a record. Raises ValueError when its body is not JSON."""
    origin, seq, uid, kind, hlc, wall_utc, body = row
    return Record(origin, seq, uid, kind, hlc, wall_utc, json.loads(body))


def chain_problems(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with the chains, one sentence each; nothing for a sound log."""
    expected: dict[str, Head] = {}
    query = "select origin, seq, prev, hash, uid, kind, hlc, wall_utc, body from log order by origin, seq"
    for origin, seq, prev, stored, uid, kind, hlc, wall_utc, body in connection.execute(query):
        head = expected.get(origin, Head())
        if seq != head.seq + 1:
            yield f"origin {origin}: record {head.seq + 1} is missing before {seq}"
        elif prev and prev != head.hash:
            yield f"origin {origin}: record {seq} does not continue record {head.seq}"
        if not prev:
            if (hlc, wall_utc) != ("", "") or body not in STUB_BODY.values():
                yield f"origin {origin}: record {seq} was changed after it was written"
        elif row_hash(origin, seq, prev, uid, kind, hlc, wall_utc, body) != stored:
            yield f"origin {origin}: record {seq} was changed after it was written"
        expected[origin] = Head(seq, stored)
    for origin, seq, prev, stored, *fields in connection.execute(query.replace("from log", "from fragments")):
        if row_hash(origin, seq, prev, *fields) != stored:
            yield f"origin {origin}: record {seq} was changed after it was written"


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
