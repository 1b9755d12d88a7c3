"""Handlers: how often they have fired, upon what, and whether somebody has unset them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..columns import dump, text
from ..connection import Connection
from ..log import Record
from .jobs import refold_trigger, set_trigger
from .whose import give_to_first


def project_handler(connection: Connection, record: Record, fresh: bool) -> None:
    """An event was set."""
    body = record.body
    event = body["event"]
    cursor = connection.execute(
        "insert into handlers values (?,?,?,?,?,?,?,?,?,?,?,0,'waiting',null,?) on conflict do nothing",
        (
            record.uid, record.origin, body["kind"], text(event.get("name") or ""), text(event.get("site") or "local"),
            body.get("workflow_id"), body.get("parent_id"), body.get("context_id"), dump(event),
            dump(body.get("job_ids") or []), body.get("fire_limit"), record.wall_utc,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        give_to_first(connection, "handlers", record)
        return
    connection.executemany(
        "insert into handler_jobs values (?,?) on conflict do nothing",
        [(job, record.uid) for job in event.get("jobs") or ()],
    )
    if not fresh:
        connection.execute(
            "update handlers set fired = (select count(*) from firings where handler_id = ?1) where id = ?1",
            (record.uid,),
        )
        connection.execute("update handlers set state = 'done' where id = ? and fired >= fire_limit", (record.uid,))
        _take_notice_of_unset(connection, record.uid)


def project_unsetting(connection: Connection, record: Record, fresh: bool) -> None:
    """Somebody has unset a handler."""
    handler = record.body["handler_id"]
    connection.execute(
        "insert into unsets values (?,?,?,?,?,?) on conflict do update set origin = min(origin, excluded.origin)",
        (handler, record.hlc, record.uid, record.origin, text(record.body.get("reason")), record.wall_utc),
    )
    _take_notice_of_unset(connection, handler)


def project_firing(connection: Connection, record: Record, fresh: bool) -> None:
    """A handler has fired: its job has a cause."""
    body = record.body
    cursor = connection.execute(
        "insert into firings values (?,?,?,?,?,?,?,?) on conflict do nothing",
        (
            body["handler_id"], body["trigger_id"], record.uid, record.origin, body.get("job_id"), body.get("trigger_job"),
            body.get("trigger_data"), record.wall_utc,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        _first_firing(connection, record, body)
        return
    connection.execute(
        "update handlers set fired = fired + 1,"
        " state = case when state = 'waiting' and fired + 1 >= fire_limit then 'done' else state end where id = ?",
        (body["handler_id"],),
    )
    if body.get("job_id"):
        triggers = (body.get("trigger_job"), body.get("trigger_data"))
        found = connection.execute(
            "select trigger_job, trigger_data from jobs where id = ? and handler_id = ?",
            (body["job_id"], body["handler_id"]),
        ).fetchone()
        if found is not None and found not in ((None, None), triggers):
            refold_trigger(connection, body["job_id"])
        elif found is not None:  # one that comes later looks for itself
            set_trigger(connection, body["job_id"], *triggers)


def contradicts(connection: Connection, record: Record) -> bool:
    """Whether an unsetting has the id of another one, and says something else."""
    body = record.body
    key = (body["handler_id"], record.hlc, record.uid)
    query = "select reason, time from unsets where handler_id = ? and hlc = ? and id = ?"
    found = connection.execute(query, key).fetchone()
    return found is not None and found != (text(body.get("reason")), record.wall_utc)


def _take_notice_of_unset(connection: Connection, handler: str) -> None:
    """The handler is unset if anybody has unset it; the first to do so gave the reason."""
    first = connection.execute(
        "select reason from unsets where handler_id = ? order by hlc, id limit 1", (handler,)
    ).fetchone()
    if first is not None:
        connection.execute("update handlers set state = 'unset', reason = ? where id = ?", (first[0], handler))


def _first_firing(connection: Connection, record: Record, body: Mapping[str, Any]) -> None:
    """A handler has fired twice for one trigger, in two copies of its store that did not know of each other: the first counts."""
    connection.execute(
        "update firings set id = ?1, origin = ?2, job_id = ?3, trigger_job = ?4, trigger_data = ?5, time = ?6"
        " where handler_id = ?7 and trigger_id = ?8 and (time, id, origin) > (?6, ?1, ?2)",
        (
            record.uid, record.origin, body.get("job_id"), body.get("trigger_job"), body.get("trigger_data"),
            record.wall_utc, body["handler_id"], body["trigger_id"],
        ),
    )  # fmt: skip
    if body.get("job_id"):
        refold_trigger(connection, body["job_id"])
