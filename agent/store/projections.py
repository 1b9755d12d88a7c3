"""From records to tables: how each kind of record changes what people query.

The tables are a fold of the log that does not depend on the order in which origins are folded: every projection may run
twice, and may run before the record it refers to has come. Unknown kinds are left alone; they stay in the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Optional

from ..jsontext import compact
from ..matching import flatten
from ..states import TERMINAL, JobState
from .connection import Connection, update_job
from .jobrow import JobRow, JobRows
from .log import ELSEWHERE, PRUNED, Record

FACTS = (
    "native_id", "host", "hosts", "allocation", "started_at", "ended_at", "exit_code", "signal", "cpu_seconds", "peak_rss_bytes",
    "read_bytes", "write_bytes", "stdout_bytes", "stderr_bytes",
)  # fmt: skip
"""What a status may tell of the attempt, beside its state; each is a column of ``jobs``."""

Write = Callable[[str, tuple[Any, ...]], Any]
"""Executes a statement with a row: at once, or with others like it before anything is read."""
_FACT_COLUMNS = (*FACTS, "stdout", "stderr")
_NO_FACTS: dict[str, Any] = dict.fromkeys(_FACT_COLUMNS)
_TOLD = frozenset((*_FACT_COLUMNS, "site"))
"""What a status may change in its job's row. A job that goes to another site stays there: its next attempt does not forget that."""
_INSERT_JOB = (
    "insert into jobs (id, origin, name, command, site, workflow_id, parent_id, context_id, handler_id, trigger_job,"
    " trigger_data, state, attempt, reason, submitted_at, status_at, cores, memory_bytes, gpus, time_limit_s, cwd, retries,"
    " meta, definition, state_key) values (?,?,?,?,?,?,?,?,?,?,?,?,1,?,?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"
)
_SAME = "on conflict (id) do update set origin = min(origin, excluded.origin)"
"""A record that stands in two origins' logs, as after a fork that was resolved in two ways, belongs to the first of them."""
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_INSERT_STATUS = "insert into statuses values (?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"
_INSERT_METASHEET = "insert into metasheets values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"
_INSERT_LOG = "insert into logs values (?,?,?,?,?,?,?,?) on conflict do nothing"
_INSERT_SEARCH = "insert into search (kind, id, text) values (?,?,?)"
_INSERT_PROPERTY = "insert into properties values (?,?,?,?,?) on conflict do nothing"
STATUS_TEXTS = ("reason", "native_status", "time")
_STATUS_COLUMNS = frozenset({"job_id", "attempt", "state", *STATUS_TEXTS})
_ENDS = frozenset(state.value for state in TERMINAL)
_ASKED_FOR = frozenset({"job", "workflow", "handler"})
"""Of these kinds people may ask for one that was pruned."""


def state_key(attempt: int, state: str, hlc: str) -> str:
    """Orders the statuses of one job: a later attempt wins, within it an end, within that the later one."""
    return f"{attempt:06d}.{1 if state in _ENDS else 0}.{hlc}"


def project(connection: Connection, record: Record, *, new: bool = False) -> None:
    """Fold one record into the tables, whatever has come before it.

    Args:
        connection: in a transaction. ``record``: the record.
        new: it was made here just now, so that nothing can have come before it that refers to it.
    """
    projection = _PROJECTIONS.get(record.kind)
    if projection is not None:
        projection(connection, record, new)


def contradicts(connection: Connection, record: Record) -> bool:
    """Whether a status, an unsetting or a workflow's version has the id of another one, and says something else: which of the two
    counted would depend on who came first."""
    body = record.body
    if record.kind == "status":
        values = _status_values(record, split_status(body)[1])[0]
        found = connection.execute("select * from statuses where job_id = ? and id = ?", values[:2]).fetchone()
        return record.uid == body["job_id"] or (found is not None and found[3:] != values[3:])
    if record.kind == "unset":
        key = (body["handler_id"], record.hlc, record.uid)
        query = "select reason, time from unsets where handler_id = ? and hlc = ? and id = ?"
        found = connection.execute(query, key).fetchone()
        return found is not None and found != (text(body.get("reason")), record.wall_utc)
    if record.kind == "workflow":
        key = (body["workflow_id"], record.hlc, record.uid)
        query = "select name, description, meta, parent_job from workflows where id = ? and hlc = ? and record_id = ?"
        found = connection.execute(query, key).fetchone()
        told = (
            text(body["name"]),
            text(body.get("description") or ""),
            dump(body.get("meta") or {}),
            body.get("parent_job"),
        )
        return found is not None and found != told
    return False


def split_status(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a status says that has columns of its own in ``statuses``, and the facts it tells beside."""
    head: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, value in body.items():
        if name in _STATUS_COLUMNS:
            head[name] = value
        else:
            facts[name] = value
    return head, facts


def clear(connection: Connection, tables: tuple[str, ...]) -> None:
    """Empty the projected tables, before they are folded anew."""
    for table in tables:
        connection.execute(f"delete from {table}")


def _instance(connection: Connection, record: Record, fresh: bool) -> None:
    body = record.body
    _origin(connection, record, body, body.get("succeeds") or {}, fresh)


def _fork(connection: Connection, record: Record, fresh: bool) -> None:
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
            _refold_job(connection, job)


def family(connection: Connection, origin: str) -> str:
    """The first of the origins that ``origin`` goes on with: of one whose store was copied, restored, or has forked."""
    seen = set()
    while origin not in seen:
        seen.add(origin)
        found = connection.execute("select parent from origins where id = ?", (origin,)).fetchone()
        if found is None or found[0] is None:
            return origin
        origin = found[0]
    return min(seen)


def counts(connection: Connection, origin: str, *deciding: Optional[str]) -> bool:
    """Whether what an origin says of a job decides the job's state.

    Args:
        deciding: the origin of the job, and the one that runs it, if another does: only their own families' word counts.
    """
    if origin in deciding:
        return True
    own = family(connection, origin)
    return any(own == family(connection, other) for other in deciding if other is not None)


def _context(connection: Connection, record: Record, fresh: bool) -> None:
    body = record.body
    git = body.get("git") or {}
    connection.execute(
        f"insert into contexts values (?,?,?,?,?,?,?,?,?,?,?) {_SAME}",
        (
            record.uid, record.origin, text(body.get("host")), text(body.get("user")), text(body.get("cwd")),
            text(git.get("commit")), text(git.get("dirty")), text(body.get("python")), text(body.get("version")),
            dump(body.get("env") or {}), dump(body),
        ),
    )  # fmt: skip


def _workflow(connection: Connection, record: Record, fresh: bool) -> None:
    body = record.body
    identifier = body["workflow_id"]
    found = connection.execute(
        "select hlc, record_id, created_at from workflows where id = ?", (identifier,)
    ).fetchone()
    created = min(record.wall_utc, found[2]) if found and found[0] else record.wall_utc
    if found and (found[0], found[1]) >= (record.hlc, record.uid):
        same = (found[0], found[1]) == (record.hlc, record.uid)
        connection.execute(
            "update workflows set created_at = ?, origin = case when ? then min(origin, ?) else origin end where id = ?",
            (created, same, record.origin, identifier),
        )
        return
    extra = {
        key: value
        for key, value in body.items()
        if key not in ("workflow_id", "name", "description", "meta", "parent_job")
    }
    connection.execute("delete from workflows where id = ?", (identifier,))
    connection.execute(
        "insert into workflows values (?,?,?,?,?,?,?,?,?,?)",
        (
            identifier, record.origin, text(body["name"]), text(body.get("description") or ""), body.get("parent_job"), created,
            dump(body.get("meta") or {}), record.hlc, dump(extra) if extra else None, record.uid,
        ),
    )  # fmt: skip
    _index(connection, "workflow", identifier, f"{body['name']} {body.get('description') or ''}")
    if found:
        connection.execute("delete from properties where owner_kind = 'workflow' and owner = ?", (identifier,))
    _properties(connection.execute, "workflow", identifier, body.get("meta") or {})


def _job(connection: Connection, record: Record, fresh: bool) -> None:
    values = _job_values(record)
    if connection.execute(_INSERT_JOB, values).rowcount == 0:
        if _is_recorded(connection, record.uid):
            _first_job(connection, record, values)
            return
        _remove_job(connection, record.uid)  # it was known from who runs it alone
        connection.execute(_INSERT_JOB, values)
    connection.execute(_INSERT_STATUS, _first_status(record, values))
    _count_and_index(connection, record, values, connection.execute)
    _refold_job(connection, record.uid)
    if record.body.get("handler_id") and not (values[9] or values[10]):
        _refold_trigger(connection, record.uid)


def _first_job(connection: Connection, record: Record, values: tuple[Any, ...]) -> None:
    """Two copies of a store that did not know of each other have made the same job, upon one trigger: the first counts."""
    known = connection.execute("select submitted_at, origin from jobs where id = ?", (record.uid,)).fetchone()
    if (record.wall_utc, record.origin) >= known:
        return
    connection.execute(
        "update jobs set submitted_at = ?, origin = ? where id = ?", (record.wall_utc, record.origin, record.uid)
    )
    connection.execute("delete from statuses where job_id = ?1 and id = ?1", (record.uid,))
    connection.execute(_INSERT_STATUS, _first_status(record, values))
    _refold_job(connection, record.uid)


def _is_recorded(connection: Connection, job: str) -> bool:
    """Whether a job's own record is here, of which its first status comes."""
    return connection.execute("select 1 from statuses where job_id = ?1 and id = ?1", (job,)).fetchone() is not None


def _remove_job(connection: Connection, job: str) -> None:
    found = connection.execute("select workflow_id, state from jobs where id = ?", (job,)).fetchone()
    if found is not None:
        connection.execute("delete from jobs where id = ?", (job,))
        connection.count_job(found[0], found[1], None)


def _adopt(connection: Connection, record: Record, fresh: bool) -> None:
    """An instance runs a job that another has recorded. Until that one's record comes, this one tells of the job."""
    body = record.body
    job = body["job_id"]
    if body.get("workflow_id") and body.get("workflow_name"):
        _mention_workflow(connection, record)
    values = (job, record.uid, record.origin, body["of"], text(body["site"]), record.hlc, record.wall_utc)
    if connection.execute("insert into adoptions values (?,?,?,?,?,?,?) on conflict do nothing", values).rowcount == 0:
        connection.execute(
            "update adoptions set origin = min(origin, ?) where job_id = ? and id = ?", (record.origin, job, record.uid)
        )
    elif not _is_recorded(connection, job):
        if _adopter(connection, job) != (record.uid, record.origin):
            return  # it was adopted again since, which tells of it
        _remove_job(connection, job)
        told = {**body, "state": JobState.PENDING.value}
        row = _job_values(record._replace(uid=job, origin=body["of"], body=told))
        connection.execute(_INSERT_JOB, row)
        connection.count_job(row[5], None, row[11])
        _refold_job(connection, job)
    else:
        _refold_job(connection, job)  # whose word counts here may be another's now


def _mention_workflow(connection: Connection, record: Record) -> None:
    """A workflow that is known by name alone, until a record of it comes: any is newer than this."""
    body = record.body
    connection.execute(
        "insert into workflows values (?,?,?,'',null,?,'{}','',null,'') on conflict (id) do update set"
        " name = max(name, excluded.name), origin = min(origin, excluded.origin), created_at = min(created_at, excluded.created_at)"
        " where hlc = ''",
        (body["workflow_id"], body["of"], text(body["workflow_name"]), record.wall_utc),
    )


def _adopter(connection: Connection, job: str) -> Optional[tuple[str, str]]:
    """The newest adoption of a job, and the instance that adopted it."""
    found = connection.execute(
        "select id, origin from adoptions where job_id = ? order by hlc desc, id desc limit 1", (job,)
    ).fetchone()
    return None if found is None else (str(found[0]), str(found[1]))


def _runner(connection: Connection, job: str, origin: str) -> Optional[str]:
    """The instance that runs a job, where it is another than the one that recorded it: which only that one can say.

    Where its word has not come, the one that says to run it; and where only a part of it has come, this instance, if it does.
    """
    if not _is_recorded(connection, job):
        adopter = _adopter(connection, job)
        return adopter[1] if adopter else None
    named = connection.execute(
        "select origin, json_extract(facts, '$.runner') from statuses where job_id = ? and instr(facts, '\"runner\"')"
        " order by status_key desc, id desc",
        (job,),
    ).fetchall()
    found = next((runner for by, runner in named if runner is not None and counts(connection, by, origin)), None)
    return _adopted_by_us(connection, job) if found is None else str(found)


def _adopted_by_us(connection: Connection, job: str) -> Optional[str]:
    """This very instance, if it has adopted the job: it was asked to, and the record that says so is still on its way.

    By a sync that is cut off the job's own record may come before that one. Else a job that has ended here would for a while stand
    as it was before, and be run again if the agent is started then.
    """
    query = "select origin from adoptions where job_id = ? and origin = (select value from local_settings where key = 'origin')"
    found = connection.execute(query, (job,)).fetchone()
    return None if found is None else str(found[0])


def project_job(connection: Connection, record: Record, rows: JobRows, definition: Optional[str]) -> None:
    """The same for a job made here just now, of whose id there is none yet.

    Args:
        connection: in a transaction. ``record``: the record.
        rows: those at hand, which its row joins.
        definition: as text, where that can stand in the column.
    """
    values = _job_values(record, definition)
    connection.later(_INSERT_JOB, values)
    connection.later(_INSERT_STATUS, _first_status(record, values))
    _count_and_index(connection, record, values, connection.later)
    body = record.body
    workflow, handler, retries = body.get("workflow_id"), body.get("handler_id"), body["definition"].get("retries", 0)
    row = JobRow(body["state"], 1, workflow, body["site"], retries, record.origin, handler, values[-1], None)
    rows.put(record.uid, row)


def _job_values(record: Record, written: Optional[str] = None) -> tuple[Any, ...]:
    body = record.body
    definition = body["definition"]
    resources = definition.get("resources") or {}
    meta, state, reason = definition.get("meta"), body["state"], body.get("reason")
    cores = resources.get("cores", resources.get("tasks_per_node"))
    return (
        record.uid, record.origin, text(definition.get("name") or ""), text(command_line(definition["command"])),
        text(body["site"]), body.get("workflow_id"), body.get("parent_id"), body.get("context_id"), body.get("handler_id"),
        body.get("trigger_job"), body.get("trigger_data"), state, reason and text(reason), record.wall_utc, record.wall_utc,
        cores, resources.get("memory_bytes"), resources.get("gpus"), resources.get("time_limit_s"),
        text(definition.get("cwd")), definition.get("retries", 0), dump(meta) if meta else "{}",
        dump(definition) if written is None else written, state_key(0, state, record.hlc),
    )  # fmt: skip


def _first_status(record: Record, job: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of the status that a job begins with; ``job``: its row."""
    state, reason, key = job[11], job[12], job[-1]
    return (record.uid, record.uid, record.origin, 1, state, None, reason, record.wall_utc, record.hlc, "{}", key)


def _count_and_index(connection: Connection, record: Record, job: tuple[Any, ...], write: Write) -> None:
    name, command, workflow, state = job[2], job[3], job[5], job[11]
    connection.count_job(workflow, None, state)
    write(_INSERT_SEARCH, ("job", record.uid, f"{name} {command}"))
    meta = record.body["definition"].get("meta")
    if meta:
        _properties(write, "job", record.uid, meta)


def _status(connection: Connection, record: Record, fresh: bool) -> None:
    values, columns = _status_values(record, split_status(record.body)[1])
    if connection.execute(_INSERT_STATUS, values).rowcount == 0:
        _belongs_to_first(connection, "statuses", record)
        return
    if record.body["state"] == JobState.INFO.value:
        return
    job, attempt = record.body["job_id"], record.body.get("attempt", 1)
    query = "select state_key, attempt, workflow_id, state, origin, runner from jobs where id = ?"
    found = connection.execute(query, (job,)).fetchone()
    if found is None or not counts(connection, record.origin, found[4], found[5]):
        return
    if columns["state_key"] > found[0] and "runner" not in record.body:
        _overlay(connection, job, columns, renew=attempt > found[1])
        connection.count_job(found[2], found[3], columns["state"])
    else:
        _refold_job(connection, job)


def project_status(
    connection: Connection, record: Record, job: Optional[JobRow], facts: dict[str, Any], written: Optional[str]
) -> bool:
    """The same for a status made here just now, whose id is new.

    Args:
        connection: in a transaction. ``record``: the record.
        job: the job's row, which is kept true; None for an unknown job.
        facts: what it tells beside its state; ``written``: the same as text, where that can stand in the column.

    Returns:
        Whether the row is true; else all rows at hand are to be forgotten.
    """
    values, columns = _status_values(record, facts, written)
    connection.later(_INSERT_STATUS, values)
    job_id, attempt, state, key = values[0], values[3], values[4], values[10]
    if job is None or state == "INFO":
        return True
    if record.origin != job.origin and not counts(connection, record.origin, job.origin, job.runner):
        return True
    if key <= job.state_key or "runner" in facts:
        _refold_job(connection, job_id)
        return False
    renew = attempt > job.attempt
    connection.update_job_later(job_id, {**_NO_FACTS, **columns} if renew else columns)
    connection.count_job(job.workflow_id, job.state, state)
    job.state, job.attempt, job.state_key = state, attempt, key
    job.started = "started_at" in columns or (job.started and not renew)
    job.site = columns.get("site", job.site)
    return True


def _status_values(
    record: Record, facts: dict[str, Any], written: Optional[str] = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The row of a status, and what it changes in the job's row."""
    body = record.body
    attempt, state, hlc = body.get("attempt", 1), body["state"], record.hlc
    reason, native, time = body.get("reason"), body.get("native_status"), body.get("time")
    if reason is not None:
        reason = text(reason)
    if native is not None:
        native = text(native)
    time = text(time) if time else record.wall_utc
    key = state_key(attempt, state, hlc)
    if written is None:
        written = dump(facts) if facts else "{}"
    columns = {
        "state": state, "attempt": attempt, "reason": reason, "native_status": native, "status_at": time, "state_key": key,
    }  # fmt: skip
    for name, value in facts.items():
        if name in _TOLD and value is not None:
            kind = type(value)
            as_it_is = (
                kind is float or (kind is str and value.isascii()) or (kind is int and 0 <= value <= _MAX_INTEGER)
            )
            columns[name] = value if as_it_is else text(value)
    return (body["job_id"], record.uid, record.origin, attempt, state, native, reason, time, hlc, written, key), columns


def _fact_columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: text(value) for name, value in facts.items() if value is not None and name in _TOLD}


def _overlay(connection: Connection, job: str, columns: Mapping[str, Any], *, renew: bool) -> None:
    """Write what a status tells into the job's row; for a new attempt, what the one before it left is forgotten."""
    if renew:
        columns = {**_NO_FACTS, **columns}
    connection.execute(update_job(tuple(columns)), (*columns.values(), job))


def _refold_job(connection: Connection, job: str) -> None:
    """Fold the statuses of one job again, in their order: for records that came out of order."""
    query = "select workflow_id, state, origin from jobs where id = ?"
    workflow, before, origin = connection.execute(query, (job,)).fetchone()
    runner = _runner(connection, job, origin)
    connection.execute("update jobs set runner = ?1 where id = ?2 and runner is not ?1", (runner, job))
    query = (
        "select attempt, state, reason, native_status, time, status_key, facts, origin from statuses"
        " where job_id = ? and state <> 'INFO' order by status_key, id"
    )
    rows = [row for row in connection.execute(query, (job,)).fetchall() if counts(connection, row[7], origin, runner)]
    last_attempt = 0
    for attempt, state, reason, native, time, key, facts, _ in rows:
        columns = {"state": state, "attempt": attempt, "reason": reason, "native_status": native, "status_at": time}
        columns.update({"state_key": key, **_fact_columns(json.loads(facts))})
        _overlay(connection, job, columns, renew=attempt > last_attempt)
        last_attempt = attempt
    if rows:
        connection.count_job(workflow, before, rows[-1][1])


def _belongs_to_first(connection: Connection, table: str, record: Record) -> None:
    """Of a record that stands in two origins' logs: see :data:`_SAME`."""
    query = f"update {table} set origin = ? where id = ? and origin > ?"
    if table == "statuses":
        query += " and job_id = ?"
        job = record.body.get("job_id", record.uid)
        connection.execute(query, (record.origin, record.uid, record.origin, job))
    else:
        connection.execute(query, (record.origin, record.uid, record.origin))


def _metasheet(connection: Connection, record: Record, fresh: bool) -> None:
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
    values = (
        record.uid, record.origin, body.get("op", "put"), body.get("site", "local"), text(body.get("url")),
        text(body.get("path")), text(body.get("host")), body.get("size_bytes"), body.get("sha256"),
        text(body.get("source_url")), body.get("job_id"), body.get("workflow_id"), record.wall_utc,
        dump(properties), dump(extra) if extra else None,
    )  # fmt: skip
    if fresh:
        connection.later(_INSERT_METASHEET, values)
        _properties(connection.later, "data", record.uid, properties)
    elif connection.execute(_INSERT_METASHEET, values).rowcount:
        _properties(connection.execute, "data", record.uid, properties)
    else:
        _belongs_to_first(connection, "metasheets", record)


def _handler(connection: Connection, record: Record, fresh: bool) -> None:
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
        _belongs_to_first(connection, "handlers", record)
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


def _unset(connection: Connection, record: Record, fresh: bool) -> None:
    handler = record.body["handler_id"]
    connection.execute(
        "insert into unsets values (?,?,?,?,?,?) on conflict do update set origin = min(origin, excluded.origin)",
        (handler, record.hlc, record.uid, record.origin, text(record.body.get("reason")), record.wall_utc),
    )
    _take_notice_of_unset(connection, handler)


def _take_notice_of_unset(connection: Connection, handler: str) -> None:
    """The handler is unset if anybody has unset it; the first to do so gave the reason."""
    first = connection.execute(
        "select reason from unsets where handler_id = ? order by hlc, id limit 1", (handler,)
    ).fetchone()
    if first is not None:
        connection.execute("update handlers set state = 'unset', reason = ? where id = ?", (first[0], handler))


def _firing(connection: Connection, record: Record, fresh: bool) -> None:
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
            _refold_trigger(connection, body["job_id"])
        elif found is not None:  # one that comes later looks for itself
            _set_trigger(connection, body["job_id"], *triggers)


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
        _refold_trigger(connection, body["job_id"])


def _refold_trigger(connection: Connection, job: str) -> None:
    query = (
        "select f.trigger_job, f.trigger_data from firings f join jobs j on j.handler_id = f.handler_id"
        " where f.job_id = ? and j.id = ? order by f.time desc, f.id desc"  # of two that fired in copies the first counts
    )
    for trigger_job, trigger_data in connection.execute(query, (job, job)).fetchall():
        _set_trigger(connection, job, trigger_job, trigger_data)


def _set_trigger(connection: Connection, job: str, trigger_job: Optional[str], trigger_data: Optional[str]) -> None:
    connection.execute(
        "update jobs set trigger_job = ?, trigger_data = ? where id = ?", (trigger_job, trigger_data, job)
    )


def _log(connection: Connection, record: Record, fresh: bool) -> None:
    body = record.body
    level = str(body.get("level") or "INFO").upper()
    number = logging.getLevelName(level)
    number = number if isinstance(number, int) else logging.INFO
    message = text(body.get("message") or "")
    values = (
        record.uid, record.origin, text(body.get("time") or record.wall_utc), text(level), number,
        message, body.get("job_id"), body.get("workflow_id"),
    )  # fmt: skip
    if fresh:
        connection.later(_INSERT_LOG, values)
        connection.later(_INSERT_SEARCH, ("log", record.uid, message or ""))
    elif connection.execute(_INSERT_LOG, values).rowcount:
        _index(connection, "log", record.uid, message or "")
    else:
        _belongs_to_first(connection, "logs", record)


def _node(connection: Connection, record: Record, fresh: bool) -> None:
    body = record.body
    connection.execute(
        f"insert into nodes values (?,?,?,?,?,?,?,?,?,?,?) {_SAME}",
        (
            record.uid, record.origin, text(body["worker_id"]), text(body["host"]), body.get("allocation"), body["state"],
            body.get("cores"), body.get("memory_bytes"), body.get("gpus"), body.get("reason"), record.wall_utc,
        ),
    )  # fmt: skip


def _prune(connection: Connection, record: Record, fresh: bool) -> None:
    """An instance has pruned something: records of the history, or of what its jobs left."""
    body = record.body
    connection.execute(
        f"insert into prunings values (?,?,?,?,?,?,?,?,?,?) {_SAME}",
        (
            record.uid, record.origin, record.wall_utc, text(body["what"]), text(body.get("before")), body.get("larger_than"),
            body.get("things"), body.get("records"), text(body.get("digest")), dump(body.get("places") or {}),
        ),
    )  # fmt: skip


def _pruned(connection: Connection, record: Record, fresh: bool) -> None:
    """What is left of a pruned record."""
    body = record.body
    if body["kind"] in _ASKED_FOR:
        where = body.get("where") or ELSEWHERE
        connection.execute(
            "insert into pruned values (?,?,?,?,?) on conflict do update set pruned_where = excluded.pruned_where",
            (record.uid, record.origin, record.seq, body["kind"], text(where)),
        )


_PROJECTIONS: dict[str, Callable[[Connection, Record, bool], None]] = {
    "instance": _instance,
    "fork": _fork,
    "context": _context,
    "workflow": _workflow,
    "job": _job,
    "status": _status,
    "metasheet": _metasheet,
    "handler": _handler,
    "unset": _unset,
    "firing": _firing,
    "log": _log,
    "node": _node,
    "adopt": _adopt,
    "prune": _prune,
    PRUNED: _pruned,
}


def _properties(write: Write, kind: str, owner: str, properties: Mapping[str, Any]) -> None:
    for key, value, number in flatten(properties):
        write(_INSERT_PROPERTY, (kind, owner, text(key), text(value), number))


def _index(connection: Connection, kind: str, identifier: str, words: str) -> None:
    connection.execute(_INSERT_SEARCH, (kind, identifier, text(words)))


def command_line(command: Any) -> str:
    """A command as people read it."""
    return command if isinstance(command, str) else " ".join(map(str, command))


def text(value: Any) -> Any:
    """A value for a column: what Unicode cannot say is shown with backslashes (the log keeps the exact bytes).

    What no column can hold (a list, a number beyond 64 bits), in a record that somebody else made, becomes text.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if value is None:
        return None
    if isinstance(value, (dict, list)) or (isinstance(value, int) and not _MIN_INTEGER <= value <= _MAX_INTEGER):
        return dump(value)
    return value


def dump(value: Any) -> str:
    """A value for a JSON column."""
    return str(text(compact(value)))
