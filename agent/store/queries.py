"""What can be asked of the store.

Every function takes a connection, reads, and returns JSON objects as ``docs/api.md`` has them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ..errors import AmbiguousId, InvalidRecord, NotFound
from ..matching import parse_match
from ..records import JSON
from . import log, parts, stubs
from . import origins as instances
from .columns import FACTS, text
from .selection import Selection, glob_clause

TABLE_OF = {"job": "jobs", "workflow": "workflows", "data": "metasheets", "handler": "handlers", "log": "logs"}
_JOB_COLUMNS = (
    "j.id as job_id, j.state, j.attempt, j.reason, j.native_status, j.name, j.command, j.site, j.workflow_id, j.parent_id,"
    " j.origin, o.host as origin_host, j.runner, j.submitted_at, j.status_at as time, j.cores, j.meta, "
    + ", ".join(f"j.{name}" for name in FACTS)
)
_FROM_JOBS = " from jobs j left join origins o on o.id = j.origin"
_WORKFLOW = (
    "select w.id as workflow_id, w.name, w.description, w.parent_job, w.created_at, w.meta, w.origin,"
    " o.host as origin_host, w.extra"
    " from workflows w left join origins o on o.id = w.origin"
)
_DATA = (
    "select m.id as data_id, m.op, m.site, m.url, m.path, m.host, m.size_bytes, m.sha256, m.source_url, m.job_id, m.workflow_id,"
    " m.time, m.properties, m.origin, o.host as origin_host, m.extra from metasheets m left join origins o on o.id = m.origin"
)
_HANDLER = (
    "select h.id as handler_id, h.kind, h.event, h.job_ids, h.workflow_id, h.state, h.reason, h.fired, h.created_at, h.origin,"
    " o.host as origin_host from handlers h left join origins o on o.id = h.origin"
)
_LOG = (
    "select l.id as log_id, l.time, l.level, l.message, l.job_id, l.workflow_id, l.origin, o.host as origin_host"
    " from logs l left join origins o on o.id = l.origin"
)


def rows(connection: sqlite3.Connection, query: str, parameters: Sequence[Any] = ()) -> list[JSON]:
    """The rows of a query as objects, without what is null."""
    found = connection.execute(query, list(parameters))
    names = [column[0] for column in found.description]
    return [{name: value for name, value in zip(names, row) if value is not None} for row in found]


def resolve(connection: sqlite3.Connection, kind: str, given: str) -> str:
    """The whole id that ``given`` means: an id, a unique prefix of one, or ``last``.

    Raises:
        NotFound: no ``kind`` has such an id. AmbiguousId: several do; the message lists some.
    """
    table = TABLE_OF[kind]
    if not isinstance(given, str):
        raise InvalidRecord(f"the id of a {kind} must be text, not {given!r}"[:200])
    if not given.isascii():
        raise NotFound(f"no {kind} has an id that begins with {given!r}")
    if given == "last":
        found = connection.execute(f"select max(id) from {table}").fetchone()
        if found[0] is None:
            raise NotFound(f"there is no {kind} yet")
        return str(found[0])
    query = f"select id from {table} where id >= ? and id < ? order by id limit 6"
    matches = [str(row[0]) for row in connection.execute(query, (given, given + "\x7f"))]
    if given in matches:
        return given
    if not matches and (found := stubs.pruned(connection, kind, given)):
        raise _pruned(kind, *found)
    if not matches or not given:
        listing = {"data": "lwfm find", "handler": "lwfm handler list", "log": "lwfm log"}.get(
            kind, f"lwfm {kind} list"
        )
        raise NotFound(f"no {kind} has an id that begins with {given!r}", hint=f"{listing} shows what there is")
    if len(matches) > 1:
        some = ", ".join(matches[:5]) + (", …" if len(matches) > 5 else "")
        raise AmbiguousId(f"{given!r} begins the ids of several: {some}", hint="type more of it")
    return matches[0]


def _pruned(kind: str, identifier: str, where: str) -> NotFound:
    if where == log.HERE:
        return NotFound(f"{kind} {identifier} was pruned from the history", hint="another instance may still have it")
    hint = "it comes with a sync with an instance that still has it"
    return NotFound(f"{kind} {identifier} was pruned by another instance before it came here", hint=hint)


def job(connection: sqlite3.Connection, job_id: str) -> JSON:
    """One job. Raises NotFound."""
    found = rows(connection, f"select {_JOB_COLUMNS}{_FROM_JOBS} where j.id = ?", (job_id,))
    if not found and (gone := stubs.pruned(connection, "job", job_id)):
        raise _pruned("job", *gone)
    if not found:
        raise NotFound(f"no job {job_id}", hint="lwfm job list shows what there is")
    return _parsed(instances.name_others(connection, found)[0], "meta")


def jobs_by_id(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[JSON]:
    """These jobs, in this order; unknown ones are left out."""
    return [_parsed(row, "meta") for row in _by_id(connection, f"select {_JOB_COLUMNS}{_FROM_JOBS}", "j.id", job_ids)]


def _by_id(connection: sqlite3.Connection, query: str, column: str, ids: Sequence[str]) -> list[JSON]:
    """The rows of ``query`` that these ids in ``column``, its first, stand for; in this order."""
    found: dict[str, JSON] = {}
    for part in parts.of(ids):
        for row in rows(connection, f"{query} where {column} in ({parts.marks(part)})", part):
            found[next(iter(row.values()))] = row
    return instances.name_others(connection, [found[identifier] for identifier in ids if identifier in found])


def job_details(connection: sqlite3.Connection, job_id: str) -> JSON:
    """One job with its definition, its context, its trigger and its outputs."""
    details = job(connection, job_id)
    (extra,) = rows(
        connection,
        "select definition, context_id, handler_id, trigger_job, trigger_data, stdout, stderr from jobs where id = ?",
        (job_id,),
    )
    details["definition"] = json.loads(extra["definition"])
    if "context_id" in extra:
        context = rows(connection, "select body from contexts where id = ?", (extra["context_id"],))
        details["context"] = json.loads(context[0]["body"]) if context else {}
    details.update({key: extra[key] for key in ("handler_id", "trigger_job", "trigger_data") if key in extra})
    details.update({key: json.loads(extra[key]) for key in ("stdout", "stderr") if key in extra})
    adopted = connection.execute("select site from local_adopted where job_id = ?", (job_id,)).fetchone()
    if adopted is not None:
        details["adopted_at"] = adopted[0]
    return details


def list_jobs(
    connection: sqlite3.Connection,
    *,
    states: Sequence[str] = (),
    workflow: Optional[str] = None,
    site: Optional[str] = None,
    parent: Optional[str] = None,
    name: Optional[str] = None,
    words: Optional[str] = None,
    match: Optional[Mapping[str, Any]] = None,
    origins: Sequence[str] = (),
    limit: int = 50,
) -> list[JSON]:
    """The newest jobs that fulfil all that is given."""
    selection = Selection(
        "jobs",
        "job",
        states=states,
        workflow=workflow,
        conditions=parse_match(match or {}).conditions,
        origins=origins,
    )
    clauses = selection.clauses
    if site is not None:
        clauses.append(("t.site = ?" + ("" if site == "local" else " and t.site <> 'local'"), [site]))
    if parent is not None:
        clauses.append(("t.parent_id = ?", [parent]))
    if name is not None:
        clauses.append(glob_clause("t.name", name))
    if words is not None:
        selection.words = fts_query(words)
    return jobs_by_id(connection, selection.newest(connection, limit))


def statuses(connection: sqlite3.Connection, job_id: str) -> list[JSON]:
    """All statuses of a job, oldest first."""
    query = (
        "select id as status_id, job_id, attempt, state, native_status, reason, time, origin, facts from statuses"
        " where job_id = ? order by hlc, id"
    )
    listed = []
    for row in rows(connection, query, (job_id,)):
        facts = json.loads(row.pop("facts"))
        listed.append({**row, **facts})
    return listed


def children(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """The jobs that a job submitted, or that it fired through a handler."""
    found = connection.execute(
        "select id from jobs where parent_id = ?"
        " union select f.job_id from firings f join jobs j on j.id = f.job_id where f.trigger_job = ?",
        (job_id, job_id),
    )
    return sorted(str(row[0]) for row in found if row[0] != job_id)


def workflow(connection: sqlite3.Connection, workflow_id: str) -> JSON:
    """One workflow with the number of its jobs in each state. Raises NotFound."""
    found = rows(connection, f"{_WORKFLOW} where w.id = ?", (workflow_id,))
    if not found:
        raise NotFound(f"no workflow {workflow_id}", hint="lwfm workflow list shows what there is")
    (row,) = instances.name_others(connection, found)
    return {**_parsed(row, "meta"), "job_counts": job_counts(connection, workflow_id)}


def list_workflows(
    connection: sqlite3.Connection,
    *,
    name: Optional[str] = None,
    parent: Optional[str] = None,
    match: Optional[Mapping[str, Any]] = None,
    origins: Sequence[str] = (),
    limit: int = 50,
) -> list[JSON]:
    """The newest workflows that fulfil all that is given."""
    selection = Selection("workflows", "workflow", conditions=parse_match(match or {}).conditions, origins=origins)
    if name is not None:
        selection.clauses.append(glob_clause("t.name", name))
    if parent is not None:
        selection.clauses.append(("t.parent_job = ?", [parent]))
    found = _by_id(connection, _WORKFLOW, "w.id", selection.newest(connection, limit))
    return [{**_parsed(row, "meta"), "job_counts": job_counts(connection, row["workflow_id"])} for row in found]


def job_counts(connection: sqlite3.Connection, workflow_id: Optional[str] = None) -> dict[str, int]:
    """How many jobs are in each state; of one workflow, or of all."""
    if workflow_id is None:
        return dict(connection.execute("select state, sum(jobs) from job_counts group by state having sum(jobs) > 0"))
    return dict(
        connection.execute("select state, jobs from job_counts where workflow_id = ? and jobs > 0", (workflow_id,))
    )


def own_job_counts(
    connection: sqlite3.Connection, elsewhere: instances.JobsElsewhere, workflow_id: Optional[str] = None
) -> dict[str, int]:
    """How many jobs of this instance are in each state; of one workflow, or of all."""
    counts = Counter(job_counts(connection, workflow_id))
    return dict(counts - elsewhere.of(connection, workflow_id))


def data(connection: sqlite3.Connection, data_id: str) -> JSON:
    """One piece of data. Raises NotFound."""
    found = rows(connection, f"{_DATA} where m.id = ?", (data_id,))
    if not found:
        raise NotFound(f"no data {data_id}", hint="lwfm find shows what there is")
    return _parsed(instances.name_others(connection, found)[0], "properties")


def list_data(
    connection: sqlite3.Connection,
    *,
    match: Optional[Mapping[str, Any]] = None,
    workflow: Optional[str] = None,
    job: Optional[str] = None,
    site: Optional[str] = None,
    op: Optional[str] = None,
    origins: Sequence[str] = (),
    limit: int = 50,
) -> list[JSON]:
    """The newest data whose properties match and that fulfil all else that is given."""
    selection = Selection("metasheets", "data", conditions=parse_match(match or {}).conditions, origins=origins)
    for column, value in (("workflow_id", workflow), ("job_id", job), ("site", site), ("op", op)):
        if value is not None:
            selection.clauses.append((f"t.{column} = ?", [value]))
    return data_by_id(connection, selection.newest(connection, limit))


def data_by_id(connection: sqlite3.Connection, data_ids: Sequence[str]) -> list[JSON]:
    """These pieces of data, in this order; unknown ones are left out."""
    return [_parsed(row, "properties") for row in _by_id(connection, _DATA, "m.id", data_ids)]


def data_at(connection: sqlite3.Connection, place: str) -> Optional[JSON]:
    """The newest data put under a url, or at a path; what this instance has put at a path goes before what others have."""
    here = instances.own(connection)
    for column, of_instance, values in (("url", "", ()), ("path", " and m.origin = ?", (here,)), ("path", "", ())):
        query = f"{_DATA} where m.{column} = ? and m.op = 'put'{of_instance} order by m.id desc limit 1"
        found = rows(connection, query, (text(place), *values))
        if found:
            return _parsed(instances.name_others(connection, found)[0], "properties")
    return None


def handler(connection: sqlite3.Connection, handler_id: str) -> JSON:
    """One handler. Raises NotFound."""
    found = rows(connection, f"{_HANDLER} where h.id = ?", (handler_id,))
    if not found:
        raise NotFound(f"no handler {handler_id}", hint="lwfm handler list shows what there is")
    return _handler_row(connection, instances.name_others(connection, found)[0])


def list_handlers(
    connection: sqlite3.Connection,
    *,
    workflow: Optional[str] = None,
    state: Optional[str] = None,
    origins: Sequence[str] = (),
    limit: int = 50,
) -> list[JSON]:
    """The newest handlers."""
    where: list[str] = []
    values: list[Any] = []
    if origins:
        condition, values = instances.clause("h.origin", origins)
        where.append(condition)
    for column, value in (("workflow_id", workflow), ("state", state)):
        if value is not None:
            where.append(f"h.{column} = ?")
            values.append(value)
    query = f"{_HANDLER}{_where(where)} order by h.id desc{_limit(limit)}"
    return [_handler_row(connection, row) for row in instances.name_others(connection, rows(connection, query, values))]


def count_waiting_handlers(connection: sqlite3.Connection, workflow: str) -> int:
    """How many handlers of this instance and of a workflow have not fired as often as they may."""
    query = "select count(*) from handlers where state = 'waiting' and workflow_id = ? and origin = ?"
    return int(connection.execute(query, (workflow, instances.own(connection))).fetchone()[0])


def _handler_row(connection: sqlite3.Connection, row: JSON) -> JSON:
    row["event"] = json.loads(row["event"])
    row["job_ids"] = json.loads(row["job_ids"])
    if not row["job_ids"]:
        query = "select job_id from firings where handler_id = ? and job_id is not null order by id"
        row["job_ids"] = [found[0] for found in connection.execute(query, (row["handler_id"],))]
    return row


def list_logs(
    connection: sqlite3.Connection,
    *,
    job: Optional[str] = None,
    workflow: Optional[str] = None,
    level_number: int = 0,
    words: Optional[str] = None,
    origins: Sequence[str] = (),
    limit: int = 50,
) -> list[JSON]:
    """The newest log lines that fulfil all that is given, oldest of them first."""
    selection = Selection("logs", "log", words=fts_query(words) if words is not None else None, origins=origins)
    if level_number:
        selection.clauses.append(("t.level_number >= ?", [level_number]))
    for column, value in (("job_id", job), ("workflow_id", workflow)):
        if value is not None:
            selection.clauses.append((f"t.{column} = ?", [value]))
    return _by_id(connection, _LOG, "l.id", selection.newest(connection, limit)[::-1])


def search(connection: sqlite3.Connection, words: str, limit: int = 50, origins: Sequence[str] = ()) -> list[JSON]:
    """Names, commands and log lines in which all of ``words`` occur, the latest recorded first."""
    of_instance, values = (
        instances.clause("coalesce(j.origin, w.origin, l.origin)", origins) if origins else ("true", [])
    )
    query = (
        "select s.kind, s.id, s.text, coalesce(j.submitted_at, w.created_at, l.time) as time,"
        " coalesce(j.origin, w.origin, l.origin) as origin, o.host as origin_host from search s"
        " left join jobs j on s.kind = 'job' and j.id = s.id left join logs l on s.kind = 'log' and l.id = s.id"
        " left join workflows w on s.kind = 'workflow' and w.id = s.id"
        " left join origins o on o.id = coalesce(j.origin, w.origin, l.origin)"
        " where s.search match ? and (s.kind <> 'workflow' or s.text = w.name || ' ' || w.description)"
        f" and {of_instance} order by s.rowid desc"
    )
    return instances.name_others(connection, rows(connection, query + _limit(limit), (fts_query(words), *values)))


def fts_query(words: str) -> str:
    """What a person typed as a full-text query: every word as it stands, the last also as a beginning."""
    quoted = ['"' + word.replace('"', '""') + '"' for word in words.replace("\0", " ").split()]
    return " ".join(quoted) + ("*" if quoted else '""')


def dump_workflow(connection: sqlite3.Connection, workflow_id: str) -> JSON:
    """All that is known of a workflow."""
    listed = list_jobs(connection, workflow=workflow_id, limit=0)
    ids = [row["job_id"] for row in listed]
    definitions = connection.execute("select id, definition from jobs where workflow_id = ?", (workflow_id,))
    firings = "select f.* from firings f join handlers h on h.id = f.handler_id where h.workflow_id = ? order by f.id"
    return {
        "workflow": workflow(connection, workflow_id),
        "jobs": listed,
        "definitions": {job_id: json.loads(definition) for job_id, definition in definitions},
        "statuses": [status for job_id in ids for status in statuses(connection, job_id)],
        "data": list_data(connection, workflow=workflow_id, limit=0),
        "handlers": list_handlers(connection, workflow=workflow_id, limit=0),
        "firings": rows(connection, firings, (workflow_id,)),
        "logs": list_logs(connection, workflow=workflow_id, limit=0),
    }


def node_changes(connection: sqlite3.Connection, since: Optional[str], until: Optional[str], limit: int) -> list[JSON]:
    """When nodes came and went, oldest first.

    Args:
        since: from this time on, and for each worker the last change before it. ``until``: up to this time. ``limit``: at most so
            many of the newest; 0: all.
    """
    known = (
        "select n.id as change_id, n.worker_id, n.host, n.allocation, n.state, n.cores, n.memory_bytes, n.gpus, n.reason, n.time,"
        " n.origin, o.host as origin_host from nodes n left join origins o on o.id = n.origin"
    )
    where = (
        " where (?1 is null or n.time >= ?1 or n.id = (select max(id) from nodes"
        " where worker_id = n.worker_id and origin = n.origin and time < ?1)) and (?2 is null or n.time <= ?2)"
    )
    query = f"{known}{where} order by n.time desc, n.id desc limit ?3"
    return instances.name_others(connection, rows(connection, query, (since, until, limit or -1))[::-1])


def _where(clauses: Iterable[str]) -> str:
    joined = " and ".join(clauses)
    return f" where {joined}" if joined else ""


def _limit(limit: int) -> str:
    return f" limit {int(limit)}" if limit else ""


def _parsed(row: JSON, *columns: str) -> JSON:
    for column in columns:
        value = json.loads(row.pop(column, "{}"))
        if value:
            row[column] = value
    row.update(json.loads(row.pop("extra", "{}")))
    return row
