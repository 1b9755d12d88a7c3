"""That no record of another store claims the id of another thing: which of the two was seen would depend on who came first."""

from __future__ import annotations

import json

from ..errors import InvalidRecord
from . import projections
from .connection import Connection
from .log import Record

_OWN_TABLES = {
    "job": "jobs",
    "metasheet": "metasheets",
    "handler": "handlers",
    "context": "contexts",
    "log": "logs",
    "node": "nodes",
}


def claim_id(connection: Connection, record: Record) -> None:
    """See that a record does not claim the id of another one.

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
