"""From records to tables: how each kind of record changes what people query.

The tables are a fold of the log that does not depend on the order in which origins are folded: every projection may run
twice, and may run before the record it refers to has come. Unknown kinds are left alone; they stay in the log.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Optional

from ..matching import flatten
from ..states import JobState
from .log import Record

FACTS = (
    "native_id", "host", "allocation", "started_at", "ended_at", "exit_code", "signal", "cpu_seconds", "peak_rss_bytes",
    "read_bytes", "write_bytes", "stdout_bytes", "stderr_bytes",
)  # fmt: skip
"""What a status may tell of the attempt, beside its state; each is a column of ``jobs``."""

_FACT_COLUMNS = (*FACTS, "stdout", "stderr")
_UPDATE = "update jobs set state = ?, attempt = ?, reason = ?, native_status = ?, status_at = ?, state_key = ?, {} where id = ?"
_OVERLAY = _UPDATE.format(", ".join(f"{name} = coalesce(?, {name})" for name in _FACT_COLUMNS))
_RENEW = _UPDATE.format(", ".join(f"{name} = ?" for name in _FACT_COLUMNS))
"""The same for a new attempt: what the attempt before it left is forgotten."""
_INSERT_JOB = (
    "insert or ignore into jobs (id, origin, name, command, site, workflow_id, parent_id, context_id, handler_id, trigger_job,"
    " trigger_data, state, attempt, reason, submitted_at, status_at, cores, memory_bytes, gpus, time_limit_s, cwd, retries,"
    " meta, definition, state_key) values (?,?,?,?,?,?,?,?,?,?,?,?,1,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_INSERT_STATUS = "insert or ignore into statuses values (?,?,?,?,?,?,?,?,?,?,?)"


def state_key(attempt: int, state: str, hlc: str) -> str:
    """Orders the statuses of one job: a later attempt wins, within it an end, within that the later one."""
    return f"{attempt:06d}.{1 if JobState(state).terminal else 0}.{hlc}"


def project(connection: sqlite3.Connection, record: Record, *, fresh: bool = False) -> None:
    """Fold one record into the tables.

    Args:
        connection: in a transaction.
        record: the record.
        fresh: it was made here just now, so that nothing can have arrived before it that refers to it.
    """
    projection = _PROJECTIONS.get(record.kind)
    if projection is not None:
        projection(connection, record, fresh)


def clear(connection: sqlite3.Connection, tables: tuple[str, ...]) -> None:
    """Empty the projected tables, before they are folded anew."""
    for table in tables:
        connection.execute(f"delete from {table}")


def _instance(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    connection.execute(
        "insert or replace into origins values (?,?,?,?,?,?)",
        (record.origin, body.get("store_id"), body.get("host"), body.get("user"), body.get("home"), record.wall_utc),
    )


def _context(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    git = body.get("git") or {}
    connection.execute(
        "insert or ignore into contexts values (?,?,?,?,?,?,?,?,?,?,?)",
        (
            record.uid, record.origin, body.get("host"), body.get("user"), text(body.get("cwd")), git.get("commit"),
            git.get("dirty"), body.get("python"), body.get("version"), dump(body.get("env") or {}), dump(body),
        ),
    )  # fmt: skip


def _workflow(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    identifier = body["workflow_id"]
    found = connection.execute("select hlc, created_at from workflows where id = ?", (identifier,)).fetchone()
    created = min(record.wall_utc, found[1]) if found else record.wall_utc
    if found and found[0] > record.hlc:
        connection.execute("update workflows set created_at = ? where id = ?", (created, identifier))
        return
    extra = {
        key: value
        for key, value in body.items()
        if key not in ("workflow_id", "name", "description", "meta", "parent_job")
    }
    connection.execute("delete from workflows where id = ?", (identifier,))
    connection.execute(
        "insert into workflows values (?,?,?,?,?,?,?,?,?)",
        (
            identifier, record.origin, text(body["name"]), text(body.get("description") or ""), body.get("parent_job"), created,
            dump(body.get("meta") or {}), record.hlc, dump(extra) if extra else None,
        ),
    )  # fmt: skip
    _index(connection, "workflow", identifier, f"{body['name']} {body.get('description') or ''}")
    if found:
        connection.execute("delete from properties where owner_kind = 'workflow' and owner = ?", (identifier,))
    _properties(connection, "workflow", identifier, body.get("meta") or {})


def _job(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    definition = body["definition"]
    resources = definition.get("resources") or {}
    state = body["state"]
    name, command = text(definition.get("name") or ""), text(command_line(definition["command"]))
    meta = definition.get("meta")
    key = state_key(0, state, record.hlc)
    cursor = connection.execute(
        _INSERT_JOB,
        (
            record.uid, record.origin, name, command, body["site"], body.get("workflow_id"), body.get("parent_id"),
            body.get("context_id"), body.get("handler_id"), body.get("trigger_job"), body.get("trigger_data"), state,
            text(body.get("reason")), record.wall_utc, record.wall_utc, resources.get("cores"), resources.get("memory_bytes"),
            resources.get("gpus"), resources.get("time_limit_s"), text(definition.get("cwd")), definition.get("retries", 0),
            dump(meta) if meta else "{}", dump(definition), key,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        return
    connection.execute(
        _INSERT_STATUS,
        (
            record.uid,
            record.uid,
            record.origin,
            1,
            state,
            None,
            text(body.get("reason")),
            record.wall_utc,
            record.hlc,
            "{}",
            key,
        ),
    )
    _index(connection, "job", record.uid, f"{name} {command}")
    if meta:
        _properties(connection, "job", record.uid, meta)
    if not fresh:
        _refold_job(connection, record.uid)
        _refold_trigger(connection, record.uid)


def _status(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    job, attempt, state = body["job_id"], body.get("attempt", 1), body["state"]
    key = state_key(attempt, state, record.hlc)
    facts = {name: value for name, value in body.items() if name not in _STATUS_COLUMNS}
    time, reason = body.get("time") or record.wall_utc, text(body.get("reason"))
    row = (
        job,
        record.uid,
        record.origin,
        attempt,
        state,
        body.get("native_status"),
        reason,
        time,
        record.hlc,
        dump(facts),
        key,
    )
    if connection.execute(_INSERT_STATUS, row).rowcount == 0 or state == JobState.INFO.value:
        return
    found = connection.execute("select state_key, attempt from jobs where id = ?", (job,)).fetchone()
    if found is None:
        return
    if key > found[0]:
        _overlay(
            connection,
            job,
            attempt,
            state,
            reason,
            body.get("native_status"),
            time,
            key,
            facts,
            renew=attempt > found[1],
        )
    else:
        _refold_job(connection, job)


_STATUS_COLUMNS = frozenset({"job_id", "attempt", "state", "native_status", "reason", "time"})


def _overlay(
    connection: sqlite3.Connection, job: str, attempt: int, state: str, reason: Optional[str], native: Optional[str],
    time: str, key: str, facts: Mapping[str, Any], *, renew: bool,
) -> None:  # fmt: skip
    values: list[Any] = [state, attempt, reason, native, time, key]
    values.extend(text(facts.get(name)) for name in FACTS)
    for stream in ("stdout", "stderr"):
        output = facts.get(stream)
        values.append(dump(output) if output else None)
    connection.execute(_RENEW if renew else _OVERLAY, (*values, job))


def _refold_job(connection: sqlite3.Connection, job: str) -> None:
    """Fold the statuses of one job again, in their order: for records that came out of order."""
    query = (
        "select attempt, state, reason, native_status, time, status_key, facts from statuses where job_id = ? and state <> 'INFO'"
        " order by status_key, id"
    )
    rows = connection.execute(query, (job,)).fetchall()
    last_attempt = 0
    for attempt, state, reason, native, time, key, facts in rows:
        _overlay(
            connection, job, attempt, state, reason, native, time, key, json.loads(facts), renew=attempt > last_attempt
        )
        last_attempt = attempt


def _metasheet(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    known = (
        "op",
        "site",
        "url",
        "path",
        "host",
        "size_bytes",
        "sha256",
        "source_url",
        "job_id",
        "workflow_id",
        "properties",
    )
    extra = {key: value for key, value in body.items() if key not in known}
    properties = body.get("properties") or {}
    cursor = connection.execute(
        "insert or ignore into metasheets values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            record.uid, record.origin, body.get("op", "put"), body.get("site", "local"), text(body.get("url")),
            text(body.get("path")), body.get("host"), body.get("size_bytes"), body.get("sha256"), text(body.get("source_url")),
            body.get("job_id"), body.get("workflow_id"), record.wall_utc, dump(properties), dump(extra) if extra else None,
        ),
    )  # fmt: skip
    if cursor.rowcount:
        _properties(connection, "data", record.uid, properties)


def _handler(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    event = body["event"]
    cursor = connection.execute(
        "insert or ignore into handlers values (?,?,?,?,?,?,?,?,?,?,?,0,'waiting',null,?)",
        (
            record.uid, record.origin, body["kind"], event.get("name") or "", event.get("site") or "local", body.get("workflow_id"),
            body.get("parent_id"), body.get("context_id"), dump(event), dump(body.get("job_ids") or []), body.get("fire_limit"),
            record.wall_utc,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        return
    connection.executemany(
        "insert or ignore into handler_jobs values (?,?)", [(job, record.uid) for job in event.get("jobs") or ()]
    )
    if not fresh:
        query = "select json_extract(body, '$.reason') from log where kind = 'unset' and json_extract(body, '$.handler_id') = ?"
        for (reason,) in connection.execute(query, (record.uid,)).fetchall():
            _set_unset(connection, record.uid, reason)
        _count_firings(connection, record.uid)


def _unset(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    _set_unset(connection, record.body["handler_id"], record.body.get("reason"))


def _set_unset(connection: sqlite3.Connection, handler: str, reason: Optional[str]) -> None:
    connection.execute("update handlers set state = 'unset', reason = ? where id = ?", (text(reason), handler))


def _firing(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    cursor = connection.execute(
        "insert or ignore into firings values (?,?,?,?,?,?,?,?)",
        (
            body["handler_id"], body["trigger_id"], record.uid, record.origin, body.get("job_id"), body.get("trigger_job"),
            body.get("trigger_data"), record.wall_utc,
        ),
    )  # fmt: skip
    if cursor.rowcount == 0:
        return
    _count_firings(connection, body["handler_id"])
    if body.get("job_id"):
        _set_trigger(connection, body["job_id"], body.get("trigger_job"), body.get("trigger_data"))


def _refold_trigger(connection: sqlite3.Connection, job: str) -> None:
    query = (
        "select f.trigger_job, f.trigger_data from firings f join jobs j on j.handler_id = f.handler_id"
        " where f.job_id = ? and j.id = ?"
    )
    for trigger_job, trigger_data in connection.execute(query, (job, job)).fetchall():
        _set_trigger(connection, job, trigger_job, trigger_data)


def _set_trigger(
    connection: sqlite3.Connection, job: str, trigger_job: Optional[str], trigger_data: Optional[str]
) -> None:
    connection.execute(
        "update jobs set trigger_job = ?, trigger_data = ? where id = ?", (trigger_job, trigger_data, job)
    )


def _count_firings(connection: sqlite3.Connection, handler: str) -> None:
    connection.execute(
        "update handlers set fired = (select count(*) from firings where handler_id = handlers.id) where id = ?",
        (handler,),
    )
    connection.execute(
        "update handlers set state = 'done' where id = ? and state = 'waiting' and fired >= fire_limit", (handler,)
    )


def _log(connection: sqlite3.Connection, record: Record, fresh: bool) -> None:
    body = record.body
    level = str(body.get("level") or "INFO").upper()
    number = logging.getLevelName(level)
    number = number if isinstance(number, int) else logging.INFO
    message = text(body.get("message") or "")
    cursor = connection.execute(
        "insert or ignore into logs values (?,?,?,?,?,?,?,?)",
        (
            record.uid, record.origin, body.get("time") or record.wall_utc, level, number,
            message, body.get("job_id"), body.get("workflow_id"),
        ),
    )  # fmt: skip
    if cursor.rowcount:
        _index(connection, "log", record.uid, message or "")


_PROJECTIONS: dict[str, Callable[[sqlite3.Connection, Record, bool], None]] = {
    "instance": _instance,
    "context": _context,
    "workflow": _workflow,
    "job": _job,
    "status": _status,
    "metasheet": _metasheet,
    "handler": _handler,
    "unset": _unset,
    "firing": _firing,
    "log": _log,
}


def _properties(connection: sqlite3.Connection, kind: str, owner: str, properties: Mapping[str, Any]) -> None:
    connection.executemany(
        "insert or ignore into properties values (?,?,?,?,?)",
        [(kind, owner, text(key), text(value), number) for key, value, number in flatten(properties)],
    )


def _index(connection: sqlite3.Connection, kind: str, identifier: str, words: str) -> None:
    connection.execute("insert into search (kind, id, text) values (?,?,?)", (kind, identifier, text(words)))


def command_line(command: Any) -> str:
    """A command as people read it."""
    return command if isinstance(command, str) else " ".join(str(word) for word in command)


def text(value: Any) -> Any:
    """A value for a text column: what Unicode cannot say is shown with backslashes (the log keeps the exact bytes)."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def dump(value: Any) -> str:
    """A value for a JSON column."""
    return str(text(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))
