"""Instances: who they are, and of which others they go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..columns import text
from ..connection import Connection
from ..log import Record
from .statuses import refold_job


def project_instance(connection: Connection, record: Record, fresh: bool) -> None:
    """An instance has begun to write under this origin."""
    body = record.body
    _origin(connection, record, body, body.get("succeeds") or {}, fresh)


def project_fork(connection: Connection, record: Record, fresh: bool) -> None:
    """A branch of another origin's log, moved to an origin of its own."""
    _origin(connection, record, record.body.get("instance") or {}, record.body, fresh)


def _origin(
    connection: Connection, record: Record, made_by: Mapping[str, Any], parent: Mapping[str, Any], fresh: bool
) -> None:
    values = (
        record.origin, text(made_by.get("store_id")), text(made_by.get("host")), text(made_by.get("user")),
        text(made_by.get("home")), record.wall_utc, parent.get("origin"), parent.get("seq"), text(record.body.get("reason")),
    )  # fmt: skip
    connection.execute(
        "insert into origins values (?,?,?,?,?,?,?,?,?) on conflict (id) do update set store_id = excluded.store_id,"
        " host = excluded.host, user = excluded.user, home = excluded.home, parent = coalesce(excluded.parent, parent),"
        " parent_seq = coalesce(excluded.parent_seq, parent_seq), reason = coalesce(excluded.reason, reason)",
        values,
    )
    if not fresh and values[6] is not None:  # statuses that did not count may count now
        for (job,) in connection.execute(
            "select distinct j.id from statuses s join jobs j on j.id = s.job_id where s.origin <> j.origin"
        ).fetchall():
            refold_job(connection, job)
