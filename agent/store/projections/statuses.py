"""Where a job stands: the fold of its statuses, of those whose word counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from ...records import MAX_INTEGER
from ...states import TERMINAL, JobState
from ..columns import FACTS, dump, split_status, text
from ..connection import Connection, update_job
from ..jobrow import JobRow
from ..log import Record
from .whose import decides, give_to_first

_FACT_COLUMNS = (*FACTS, "stdout", "stderr")
_NO_FACTS: dict[str, Any] = dict.fromkeys(_FACT_COLUMNS)
_TOLD = frozenset((*_FACT_COLUMNS, "site"))
"""What a status may change in its job's row. A job that goes to another site stays there: its next attempt does not forget that."""
INSERT_STATUS = "insert into statuses values (?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"


def state_key(attempt: int, state: str, hlc: str) -> str:
    """Orders the statuses of one job: a later attempt wins, within it an end, within that the later one."""
    return f"{attempt:06d}.{1 if state in TERMINAL else 0}.{hlc}"


def project_status(connection: Connection, record: Record, fresh: bool) -> None:
    """A job has come to a state, or something is told of it."""
    values, columns = _status_values(record, split_status(record.body)[1])
    if connection.execute(INSERT_STATUS, values).rowcount == 0:
        give_to_first(connection, "statuses", record)
        return
    if record.body["state"] == JobState.INFO.value:
        return
    job, attempt = record.body["job_id"], record.body.get("attempt", 1)
    query = "select state_key, attempt, workflow_id, state, origin, runner from jobs where id = ?"
    found = connection.execute(query, (job,)).fetchone()
    if found is None or not decides(connection, record.origin, found[4], found[5]):
        return
    if columns["state_key"] > found[0] and "runner" not in record.body:
        _overlay(connection, job, columns, renew=attempt > found[1])
        connection.count_job(found[2], found[3], columns["state"])
    else:
        refold_job(connection, job)


def project_new_status(
    connection: Connection, record: Record, job: Optional[JobRow], facts: dict[str, Any], written: Optional[str]
) -> bool:
    """As :func:`project_status`, for a status made here just now, whose id is new.

    Args:
        connection: in a transaction. ``record``: the record.
        job: the job's row, which is kept true; None for an unknown job.
        facts: what it tells beside its state; ``written``: the same as text, where that can stand in the column.

    Returns:
        Whether the row is true; else all rows at hand are to be forgotten.
    """
    values, columns = _status_values(record, facts, written)
    connection.later(INSERT_STATUS, values)
    job_id, attempt, state, key = values[0], values[3], values[4], values[10]
    if job is None or state == "INFO":
        return True
    if record.origin != job.origin and not decides(connection, record.origin, job.origin, job.runner):
        return True
    if key <= job.state_key or "runner" in facts:
        refold_job(connection, job_id)
        return False
    renew = attempt > job.attempt
    connection.update_job_later(job_id, {**_NO_FACTS, **columns} if renew else columns)
    connection.count_job(job.workflow_id, job.state, state)
    job.state, job.attempt, job.state_key = state, attempt, key
    job.started = "started_at" in columns or (job.started and not renew)
    job.site = columns.get("site", job.site)
    return True


def contradicts(connection: Connection, record: Record) -> bool:
    """Whether a status has the id of another one, and says something else."""
    values = _status_values(record, split_status(record.body)[1])[0]
    found = connection.execute("select * from statuses where job_id = ? and id = ?", values[:2]).fetchone()
    return record.uid == values[0] or (found is not None and found[3:] != values[3:])


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
    columns = _columns(attempt, state, reason, native, time, key, facts)
    return (body["job_id"], record.uid, record.origin, attempt, state, native, reason, time, hlc, written, key), columns


def _columns(
    attempt: int,
    state: str,
    reason: Optional[str],
    native: Optional[str],
    time: str,
    key: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What a status changes in its job's row."""
    columns = {
        "state": state, "attempt": attempt, "reason": reason, "native_status": native, "status_at": time, "state_key": key,
    }  # fmt: skip
    for name, value in facts.items():
        if name in _TOLD and value is not None:
            kind = type(value)
            as_it_is = kind is float or (kind is str and value.isascii()) or (kind is int and 0 <= value <= MAX_INTEGER)
            columns[name] = value if as_it_is else text(value)
    return columns


def _overlay(connection: Connection, job: str, columns: Mapping[str, Any], *, renew: bool) -> None:
    """Write what a status tells into the job's row; for a new attempt, what the one before it left is forgotten."""
    if renew:
        columns = {**_NO_FACTS, **columns}
    connection.execute(update_job(tuple(columns)), (*columns.values(), job))


def refold_job(connection: Connection, job: str) -> None:
    """Fold the statuses of one job again, in their order: for records that came out of order."""
    query = "select workflow_id, state, origin from jobs where id = ?"
    workflow, before, origin = connection.execute(query, (job,)).fetchone()
    runner = _runner(connection, job, origin)
    connection.execute("update jobs set runner = ?1 where id = ?2 and runner is not ?1", (runner, job))
    query = (
        "select attempt, state, reason, native_status, time, status_key, facts, origin from statuses"
        " where job_id = ? and state <> 'INFO' order by status_key, id"
    )
    rows = [row for row in connection.execute(query, (job,)).fetchall() if decides(connection, row[7], origin, runner)]
    last_attempt = 0
    for attempt, state, reason, native, time, key, facts, _ in rows:
        columns = _columns(attempt, state, reason, native, time, key, json.loads(facts))
        _overlay(connection, job, columns, renew=attempt > last_attempt)
        last_attempt = attempt
    if rows:
        connection.count_job(workflow, before, rows[-1][1])


def _runner(connection: Connection, job: str, origin: str) -> Optional[str]:
    """The instance that runs a job, where it is another than the one that recorded it: which only that one can say.

    Where its word has not come, the one that says to run it; and where only a part of it has come, this instance, if it does.
    """
    if not is_recorded(connection, job):
        adopted = adopter(connection, job)
        return adopted[1] if adopted else None
    named = connection.execute(
        "select origin, json_extract(facts, '$.runner') from statuses where job_id = ? and instr(facts, '\"runner\"')"
        " order by status_key desc, id desc",
        (job,),
    ).fetchall()
    found = next((runner for by, runner in named if runner is not None and decides(connection, by, origin)), None)
    return _adopted_by_us(connection, job) if found is None else str(found)


def _adopted_by_us(connection: Connection, job: str) -> Optional[str]:
    """This very instance, if it has adopted the job: it was asked to, and the record that says so is still on its way.

    By a sync that is cut off the job's own record may come before that one. Else a job that has ended here would for a while stand
    as it was before, and be run again if the agent is started then.
    """
    query = "select origin from adoptions where job_id = ? and origin = (select value from local_settings where key = 'origin')"
    found = connection.execute(query, (job,)).fetchone()
    return None if found is None else str(found[0])


def adopter(connection: Connection, job: str) -> Optional[tuple[str, str]]:
    """The newest adoption of a job, and the instance that adopted it."""
    found = connection.execute(
        "select id, origin from adoptions where job_id = ? order by hlc desc, id desc limit 1", (job,)
    ).fetchone()
    return None if found is None else (str(found[0]), str(found[1]))


def is_recorded(connection: Connection, job: str) -> bool:
    """Whether a job's own record is here, of which its first status comes."""
    return connection.execute("select 1 from statuses where job_id = ?1 and id = ?1", (job,)).fetchone() is not None
