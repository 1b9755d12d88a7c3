"""Jobs: what was recorded when they were made, or adopted; where they stand is the fold of their statuses."""

from __future__ import annotations

from typing import Any, Optional

from ...states import JobState
from ..columns import command_line, dump, text
from ..connection import Connection
from ..jobrow import JobRow, JobRows
from ..log import Record
from .indexes import Write, index_properties, index_words
from .statuses import INSERT_STATUS, adopter, is_recorded, refold_job, state_key
from .things import mention_workflow

_INSERT_JOB = (
    "insert into jobs (id, origin, name, command, site, workflow_id, parent_id, context_id, handler_id, trigger_job,"
    " trigger_data, state, attempt, reason, submitted_at, status_at, cores, memory_bytes, gpus, time_limit_s, cwd, retries,"
    " meta, definition, state_key) values (?,?,?,?,?,?,?,?,?,?,?,?,1,?,?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"
)


def project_job(connection: Connection, record: Record, fresh: bool) -> None:
    """A job was submitted, or is to run when its handler fires."""
    values = _job_values(record)
    if connection.execute(_INSERT_JOB, values).rowcount == 0:
        if is_recorded(connection, record.uid):
            _first_job(connection, record, values)
            return
        _remove_job(connection, record.uid)  # it was known from who runs it alone
        connection.execute(_INSERT_JOB, values)
    connection.execute(INSERT_STATUS, _first_status(record, values))
    _count_and_index(connection, record, values, connection.execute)
    refold_job(connection, record.uid)
    if record.body.get("handler_id") and not (values[9] or values[10]):
        refold_trigger(connection, record.uid)


def project_new_job(connection: Connection, record: Record, rows: JobRows, definition: Optional[str]) -> None:
    """As :func:`project_job`, for a job made here just now, of whose id there is none yet.

    Args:
        connection: in a transaction. ``record``: the record.
        rows: those at hand, which its row joins.
        definition: as text, where that can stand in the column.
    """
    values = _job_values(record, definition)
    connection.later(_INSERT_JOB, values)
    connection.later(INSERT_STATUS, _first_status(record, values))
    _count_and_index(connection, record, values, connection.later)
    body = record.body
    workflow, handler, retries = body.get("workflow_id"), body.get("handler_id"), body["definition"].get("retries", 0)
    row = JobRow(body["state"], 1, workflow, body["site"], retries, record.origin, handler, values[-1], None)
    rows.put(record.uid, row)


def project_adoption(connection: Connection, record: Record, fresh: bool) -> None:
    """An instance runs a job that another has recorded. Until that one's record comes, this one tells of the job."""
    body = record.body
    job = body["job_id"]
    if body.get("workflow_id") and body.get("workflow_name"):
        mention_workflow(connection, record)
    values = (job, record.uid, record.origin, body["of"], text(body["site"]), record.hlc, record.wall_utc)
    if connection.execute("insert into adoptions values (?,?,?,?,?,?,?) on conflict do nothing", values).rowcount == 0:
        connection.execute(
            "update adoptions set origin = min(origin, ?) where job_id = ? and id = ?", (record.origin, job, record.uid)
        )
    elif not is_recorded(connection, job):
        if adopter(connection, job) != (record.uid, record.origin):
            return  # it was adopted again since, which tells of it
        _remove_job(connection, job)
        told = {**body, "state": JobState.PENDING.value}
        row = _job_values(record._replace(uid=job, origin=body["of"], body=told))
        connection.execute(_INSERT_JOB, row)
        connection.count_job(row[5], None, row[11])
        refold_job(connection, job)
    else:
        refold_job(connection, job)  # whose word counts here may be another's now


def _first_job(connection: Connection, record: Record, values: tuple[Any, ...]) -> None:
    """Two copies of a store that did not know of each other have made the same job, upon one trigger: the first counts."""
    known = connection.execute("select submitted_at, origin from jobs where id = ?", (record.uid,)).fetchone()
    if (record.wall_utc, record.origin) >= known:
        return
    connection.execute(
        "update jobs set submitted_at = ?, origin = ? where id = ?", (record.wall_utc, record.origin, record.uid)
    )
    connection.execute("delete from statuses where job_id = ?1 and id = ?1", (record.uid,))
    connection.execute(INSERT_STATUS, _first_status(record, values))
    refold_job(connection, record.uid)


def _remove_job(connection: Connection, job: str) -> None:
    found = connection.execute("select workflow_id, state from jobs where id = ?", (job,)).fetchone()
    if found is not None:
        connection.execute("delete from jobs where id = ?", (job,))
        connection.count_job(found[0], found[1], None)


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
    index_words(write, "job", record.uid, f"{name} {command}")
    meta = record.body["definition"].get("meta")
    if meta:
        index_properties(write, "job", record.uid, meta)


def refold_trigger(connection: Connection, job: str) -> None:
    """Find out again what triggered a job: of firings that came out of order."""
    query = (
        "select f.trigger_job, f.trigger_data from firings f join jobs j on j.handler_id = f.handler_id"
        " where f.job_id = ? and j.id = ? order by f.time desc, f.id desc"  # of two that fired in copies the first counts
    )
    for trigger_job, trigger_data in connection.execute(query, (job, job)).fetchall():
        set_trigger(connection, job, trigger_job, trigger_data)


def set_trigger(connection: Connection, job: str, trigger_job: Optional[str], trigger_data: Optional[str]) -> None:
    """A job was triggered by that job, or by that data which it put."""
    connection.execute(
        "update jobs set trigger_job = ?, trigger_data = ? where id = ?", (trigger_job, trigger_data, job)
    )
