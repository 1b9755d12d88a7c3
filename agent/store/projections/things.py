"""What depends on no other record: contexts, workflows, data, log lines, nodes; and what is left of what was pruned."""

from __future__ import annotations

import logging

from ..columns import dump, text
from ..connection import Connection
from ..log import ELSEWHERE, Record
from .indexes import index_properties, index_words
from .whose import TO_FIRST, give_to_first

_INSERT_METASHEET = "insert into metasheets values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing"
_INSERT_LOG = "insert into logs values (?,?,?,?,?,?,?,?) on conflict do nothing"
_METASHEET_COLUMNS = frozenset({
    "op", "site", "url", "path", "host", "size_bytes", "sha256", "source_url", "job_id", "workflow_id", "properties",
})  # fmt: skip
_WORKFLOW_COLUMNS = frozenset({"workflow_id", "name", "description", "meta", "parent_job"})
_ASKED_FOR = frozenset({"job", "workflow", "handler"})
"""Of these kinds people may ask for one that was pruned."""


def project_context(connection: Connection, record: Record, fresh: bool) -> None:
    """In which circumstances jobs were submitted: where, by whom, from which sources."""
    body = record.body
    git = body.get("git") or {}
    connection.execute(
        f"insert into contexts values (?,?,?,?,?,?,?,?,?,?,?) {TO_FIRST}",
        (
            record.uid, record.origin, text(body.get("host")), text(body.get("user")), text(body.get("cwd")),
            text(git.get("commit")), text(git.get("dirty")), text(body.get("python")), text(body.get("version")),
            dump(body.get("env") or {}), dump(body),
        ),
    )  # fmt: skip


def project_workflow(connection: Connection, record: Record, fresh: bool) -> None:
    """A workflow was made, or changed: the newest version counts."""
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
    extra = {key: value for key, value in body.items() if key not in _WORKFLOW_COLUMNS}
    connection.execute("delete from workflows where id = ?", (identifier,))
    connection.execute(
        "insert into workflows values (?,?,?,?,?,?,?,?,?,?)",
        (
            identifier, record.origin, text(body["name"]), text(body.get("description") or ""), body.get("parent_job"), created,
            dump(body.get("meta") or {}), record.hlc, dump(extra) if extra else None, record.uid,
        ),
    )  # fmt: skip
    index_words(connection.execute, "workflow", identifier, f"{body['name']} {body.get('description') or ''}")
    if found:
        connection.execute("delete from properties where owner_kind = 'workflow' and owner = ?", (identifier,))
    index_properties(connection.execute, "workflow", identifier, body.get("meta") or {})


def mention_workflow(connection: Connection, record: Record) -> None:
    """A workflow that is known by name alone, until a record of it comes: any is newer than this."""
    body = record.body
    connection.execute(
        "insert into workflows values (?,?,?,'',null,?,'{}','',null,'') on conflict (id) do update set"
        " name = max(name, excluded.name), origin = min(origin, excluded.origin), created_at = min(created_at, excluded.created_at)"
        " where hlc = ''",
        (body["workflow_id"], body["of"], text(body["workflow_name"]), record.wall_utc),
    )


def project_metasheet(connection: Connection, record: Record, fresh: bool) -> None:
    """Data was put or read, or an event told."""
    body = record.body
    extra = {key: value for key, value in body.items() if key not in _METASHEET_COLUMNS}
    properties = body.get("properties") or {}
    values = (
        record.uid, record.origin, body.get("op", "put"), body.get("site", "local"), text(body.get("url")),
        text(body.get("path")), text(body.get("host")), body.get("size_bytes"), body.get("sha256"),
        text(body.get("source_url")), body.get("job_id"), body.get("workflow_id"), record.wall_utc,
        dump(properties), dump(extra) if extra else None,
    )  # fmt: skip
    if fresh:
        connection.later(_INSERT_METASHEET, values)
        index_properties(connection.later, "data", record.uid, properties)
    elif connection.execute(_INSERT_METASHEET, values).rowcount:
        index_properties(connection.execute, "data", record.uid, properties)
    else:
        give_to_first(connection, "metasheets", record)


def project_log(connection: Connection, record: Record, fresh: bool) -> None:
    """Somebody has written a line."""
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
        index_words(connection.later, "log", record.uid, message)
    elif connection.execute(_INSERT_LOG, values).rowcount:
        index_words(connection.execute, "log", record.uid, message)
    else:
        give_to_first(connection, "logs", record)


def project_node(connection: Connection, record: Record, fresh: bool) -> None:
    """A worker came, or went."""
    body = record.body
    connection.execute(
        f"insert into nodes values (?,?,?,?,?,?,?,?,?,?,?) {TO_FIRST}",
        (
            record.uid, record.origin, text(body["worker_id"]), text(body["host"]), body.get("allocation"), body["state"],
            body.get("cores"), body.get("memory_bytes"), body.get("gpus"), body.get("reason"), record.wall_utc,
        ),
    )  # fmt: skip


def project_pruning(connection: Connection, record: Record, fresh: bool) -> None:
    """An instance has pruned something: records of the history, or of what its jobs left."""
    body = record.body
    connection.execute(
        f"insert into prunings values (?,?,?,?,?,?,?,?,?,?) {TO_FIRST}",
        (
            record.uid, record.origin, record.wall_utc, text(body["what"]), text(body.get("before")), body.get("larger_than"),
            body.get("things"), body.get("records"), text(body.get("digest")), dump(body.get("places") or {}),
        ),
    )  # fmt: skip


def project_stub(connection: Connection, record: Record, fresh: bool) -> None:
    """What is left of a record that was pruned."""
    body = record.body
    if body["kind"] in _ASKED_FOR:
        where = body.get("where") or ELSEWHERE
        connection.execute(
            "insert into pruned values (?,?,?,?,?) on conflict do update set pruned_where = excluded.pruned_where",
            (record.uid, record.origin, record.seq, body["kind"], text(where)),
        )


def contradicts(connection: Connection, record: Record) -> bool:
    """Whether a workflow's version has the id of another one, and says something else."""
    body = record.body
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
