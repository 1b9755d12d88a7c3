"""Whose word counts: of a store that was copied, restored, or has forked, each branch is of one family with the others."""

from __future__ import annotations

from typing import Optional

from ..connection import Connection
from ..log import Record
from ..origins import family

TO_FIRST = "on conflict (id) do update set origin = min(origin, excluded.origin)"
"""A record that stands in two origins' logs, as after a fork that was resolved in two ways, belongs to the first of them."""


def decides(connection: Connection, origin: str, *deciding: Optional[str]) -> bool:
    """Whether what an origin says of a job decides the job's state.

    Args:
        deciding: the origin of the job, and the one that runs it, if another does: only their own families' word counts.
    """
    if origin in deciding:
        return True
    own = family(connection, origin)
    return any(own == family(connection, other) for other in deciding if other is not None)


def give_to_first(connection: Connection, table: str, record: Record) -> None:
    """Of a record that stands in two origins' logs: see :data:`TO_FIRST`."""
    query = f"update {table} set origin = ? where id = ? and origin > ?"
    if table == "statuses":
        query += " and job_id = ?"
        job = record.body.get("job_id", record.uid)
        connection.execute(query, (record.origin, record.uid, record.origin, job))
    else:
        connection.execute(query, (record.origin, record.uid, record.origin))
