"""Records that travel without those before them: what belongs to one workflow, for a bundle. Each is proved by its own hash alone.

They are kept apart from the log, whose beginnings have no gaps, and are folded into the tables like it. When a sync brings the
whole log they go; those that continue what it brought become the log themselves.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import InvalidRecord
from ..jsontext import compact_ascii
from . import foreign, log, parts, projections
from .batch import MAX_ROWS, Row, check_place, check_row
from .connection import Connection
from .exchange import forked, understood
from .log import Record
from .transaction import Transaction
from .uniqueness import claim_id

_COLUMNS = "seq, prev, hash, uid, kind, hlc, wall_utc, body"


class Fragment(NamedTuple):
    """One record with its place and its proof."""

    seq: int
    prev: str
    hash: str
    row: Row


def places(connection: sqlite3.Connection, workflow: str) -> dict[str, list[int]]:
    """Where the records of a workflow stand: of it, of those that its jobs made, and of all their jobs, data, handlers and logs.

    Returns:
        By origin, the numbers of its records in order; the first record of each origin, which tells whose it is, among them.
    """
    workflows, jobs = _belonging(connection, workflow)
    handlers = _column(connection, "select id from handlers where workflow_id in (?)", workflows)
    handlers |= _column(connection, "select id from handlers where parent_id in (?)", jobs)
    contexts = _column(connection, "select context_id from jobs where id in (?)", jobs)
    contexts |= _column(connection, "select context_id from handlers where id in (?)", handlers)
    found: dict[str, list[int]] = {}
    for origin, seq, uid, kind, body in connection.execute(
        "select origin, seq, uid, kind, body from log where prev <> '' order by origin, seq"
    ):
        told = json.loads(body)
        belongs = (
            (kind == "job" and uid in jobs)
            or (kind == "status" and told["job_id"] in jobs)
            or (kind == "workflow" and told["workflow_id"] in workflows)
            or (kind == "context" and uid in contexts)
            or (kind == "handler" and uid in handlers)
            or (kind in ("unset", "firing") and told["handler_id"] in handlers)
            or (kind in ("metasheet", "log") and (told.get("job_id") in jobs or told.get("workflow_id") in workflows))
        )
        if belongs:
            found.setdefault(origin, []).append(seq)
    return {origin: seqs if seqs[0] == 1 else [1, *seqs] for origin, seqs in found.items()}


def read(connection: sqlite3.Connection, origin: str, seqs: Sequence[int]) -> list[Fragment]:
    """These records of an origin."""
    check_place(origin, 0)
    query = f"select {_COLUMNS} from log where origin = ? and prev <> '' and seq in (?) order by seq"
    found = parts.execute(connection, query, seqs, origin)
    return [Fragment(seq, prev, digest, Row(*row)) for seq, prev, digest, *row in found]


def encode(origin: str, fragments: Iterable[Fragment]) -> bytes:
    """Records as they travel: JSON in ASCII."""
    return compact_ascii({"origin": origin, "fragments": list(fragments)}).encode("ascii")


def decode(data: bytes) -> tuple[str, list[Fragment]]:
    """What travelled; each record's hash is its own.

    Raises:
        InvalidRecord: it is not, or something else is wrong with it.
    """
    try:
        told = json.loads(data)
        origin = told["origin"]
        fragments = [Fragment(seq, prev, digest, Row(*row)) for seq, prev, digest, row in told["fragments"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRecord(f"these are no records: {type(error).__name__}") from None
    if len(fragments) > MAX_ROWS:
        raise InvalidRecord(f"{len(fragments)} records; {MAX_ROWS} may come together")
    for fragment in fragments:
        check_place(origin, fragment.seq)
        check_row(fragment.row)
        parts: tuple[Any, ...] = (fragment.prev, fragment.hash)
        if not all(isinstance(part, str) and len(part) == len(log.GENESIS) for part in parts) or fragment.seq < 1:
            raise InvalidRecord("a record without its hashes")
        try:
            digest = log.row_hash(origin, fragment.seq, fragment.prev, *fragment.row, errors="strict")
        except UnicodeEncodeError:
            raise InvalidRecord(f"a record of origin {origin} holds text that is not Unicode") from None
        if digest != fragment.hash:
            raise InvalidRecord(f"record {fragment.seq} of origin {origin} was changed: its hash is another")
    return origin, fragments


def awaited(transaction: Transaction, origin: str, fragments: Sequence[Fragment]) -> list[Fragment]:
    """Those of these records of which others have left stubs, as their hashes prove.

    The others are passed over: of several stubs in a row only the last one's hash is proved by the record behind it.
    """
    query = "select 1 from log where origin = ? and seq = ? and hash = ? and prev = '' and body = ?"
    absent = log.STUB_BODY[log.ELSEWHERE]
    return [item for item in fragments if transaction.execute(query, (origin, item.seq, item.hash, absent)).fetchone()]


def receive(transaction: Transaction, origin: str, fragments: Sequence[Fragment]) -> list[Record]:
    """Keep those of these records that are new here, and fold them into the tables; the new ones.

    Raises:
        Conflict: another record has one's number. InvalidRecord: one is not as its kind must be, or of this very instance.
    """
    connection = transaction.connection
    new = []
    for fragment in fragments:
        known = connection.execute(
            "select hash, body = ?3 and prev = '' from log where origin = ?1 and seq = ?2"
            " union select hash, 0 from fragments where origin = ?1 and seq = ?2",
            (origin, fragment.seq, log.STUB_BODY[log.ELSEWHERE]),
        ).fetchone()
        if known is not None and known[0] != fragment.hash:
            raise forked(origin, fragment.seq)
        if known is not None:
            if known[1]:
                new.append(_filled(connection, origin, fragment))
            continue
        if origin == transaction.origin:
            raise InvalidRecord(f"record {fragment.seq} is said to be of this instance, which does not know it")
        connection.execute(
            "insert into fragments values (?,?,?,?,?,?,?,?,?)",
            (origin, fragment.seq, fragment.prev, fragment.hash, *fragment.row),
        )
        new.append(_folded(connection, origin, fragment))
    if new:
        transaction.witness(max(record.hlc for record in new))
        transaction.forget_rows()
    return new


def _filled(connection: Connection, origin: str, fragment: Fragment) -> Record:
    """Another store had pruned a record before it came here, and now it comes: its hash says that it is the one."""
    connection.execute(
        "update log set prev = ?, uid = ?, kind = ?, hlc = ?, wall_utc = ?, body = ? where origin = ? and seq = ?",
        (fragment.prev, *fragment.row, origin, fragment.seq),
    )
    place = (fragment.row.uid, origin, fragment.seq)
    connection.execute("delete from pruned where id = ? and origin = ? and seq = ?", place)
    return _folded(connection, origin, fragment)


def _folded(connection: Connection, origin: str, fragment: Fragment) -> Record:
    record = foreign.parsed(origin, fragment.seq, fragment.row)
    with understood(f"record {fragment.seq} of origin {origin}"):
        claim_id(connection, record)
        projections.project(connection, record)
    return record


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many such records are here, by origin."""
    return dict(connection.execute("select origin, count(*) from fragments group by origin").fetchall())


def _belonging(connection: sqlite3.Connection, workflow: str) -> tuple[set[str], set[str]]:
    """The workflow and those that its jobs made, and so on; and all their jobs, with those that they started."""
    workflows, jobs = {workflow}, set[str]()
    while True:
        size = len(workflows), len(jobs)
        jobs |= _column(connection, "select id from jobs where workflow_id in (?)", workflows)
        jobs |= _column(connection, "select parent_job from workflows where id in (?)", workflows)
        jobs |= _column(connection, "select id from jobs where parent_id in (?) and workflow_id is null", jobs)
        workflows |= _column(connection, "select id from workflows where parent_job in (?)", jobs)
        if (len(workflows), len(jobs)) == size:
            return workflows, jobs


def _column(connection: sqlite3.Connection, query: str, keys: Iterable[str]) -> set[str]:
    return {str(value) for (value,) in parts.execute(connection, query, sorted(keys)) if value is not None}
