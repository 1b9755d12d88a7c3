"""What a record that another store made must hold, so that the tables made of it can be relied on. Pure.

Kinds that this release does not know pass: they are kept and given on, and looked at by a release that knows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidRecord
from ..models import JobDefn, JobEvent, MetadataEvent
from ..records import MAX_INTEGER, check_facts
from ..states import WORDS
from .batch import Entry, Row, Stub
from .columns import FACTS, MAX_ATTEMPT, STATUS_TEXTS
from .log import ELSEWHERE, PRUNED, Record

_STATES = frozenset(WORDS.values())
_INTEGERS = ("size_bytes",)
_TEXTS = ("op", "site", "url", "path", "host", "sha256", "source_url", "job_id", "workflow_id", "source_job")
_NODE_NUMBERS = ("cores", "memory_bytes", "gpus")


def parsed(origin: str, seq: int, row: Entry) -> Record:
    """The record that a row holds, or what a pruned one counts as.

    Raises:
        InvalidRecord: it is of a kind that we know, and not as that must be.
    """
    if isinstance(row, Stub):
        return Record(origin, seq, row.uid, PRUNED, "", "", {"kind": row.kind, "where": ELSEWHERE})
    try:
        body = json.loads(row.body)
        known = _KINDS.get(row.kind)
        if known is not None:
            if not isinstance(body, dict):
                raise InvalidRecord("its body is no object")
            known(body)
    except (ValueError, RecursionError) as error:
        raise _refused(origin, seq, row, f"its body is no JSON: {error}") from None
    except InvalidRecord as error:
        raise _refused(origin, seq, row, error.message) from None
    return Record(origin, seq, row.uid, row.kind, row.hlc, row.wall_utc, body)


def _refused(origin: str, seq: int, row: Row, why: str) -> InvalidRecord:
    message = f"record {seq} of origin {origin} is no {row.kind} that this lwfm understands: {why}"
    return InvalidRecord(message[:500], hint="was it written by a newer lwfm? update this one")


def _text(body: Mapping[str, Any], *names: str, needed: bool = False) -> None:
    for name in names:
        value = body.get(name)
        if (value is None and needed) or not (value is None or (isinstance(value, str) and "\0" not in value)):
            raise InvalidRecord(f"{name} must be text")


def _whole(body: Mapping[str, Any], *names: str) -> None:
    for name in names:
        value = body.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER
        ):
            raise InvalidRecord(f"{name} must be a whole number")


def _object(body: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(body.get(name) or {}, dict):
            raise InvalidRecord(f"{name} must be an object")


def _state(body: Mapping[str, Any]) -> None:
    if not isinstance(body.get("state"), str) or body["state"] not in _STATES:
        raise InvalidRecord(f"{body.get('state')!r} is no state")


def _origin(body: Mapping[str, Any]) -> None:
    parent = body.get("succeeds")
    _object(body, "succeeds")
    _parent(parent or {})


def _parent(told: Mapping[str, Any]) -> None:
    _text(told, "origin")
    _whole(told, "seq")


def _fork(body: Mapping[str, Any]) -> None:
    _text(body, "origin", needed=True)
    _parent(body)
    _object(body, "instance")


def _context(body: Mapping[str, Any]) -> None:
    _object(body, "git", "env")


def _workflow(body: Mapping[str, Any]) -> None:
    _text(body, "workflow_id", "name", needed=True)
    _text(body, "description", "parent_job")
    _object(body, "meta")


def _job(body: Mapping[str, Any]) -> None:
    _text(body, "site", needed=True)
    _text(body, "workflow_id", "parent_id", "context_id", "handler_id", "trigger_job", "trigger_data", "reason")
    _state(body)
    JobDefn.from_json(body.get("definition"))


def _adopt(body: Mapping[str, Any]) -> None:
    _text(body, "job_id", "of", "site", needed=True)
    if not body["job_id"].isascii():
        raise InvalidRecord("job_id must be the id of a job")
    _text(body, "workflow_id", "workflow_name", "parent_id", "reason")
    JobDefn.from_json(body.get("definition"))


def _status(body: Mapping[str, Any]) -> None:
    _text(body, "job_id", needed=True)
    if not body["job_id"].isascii():
        raise InvalidRecord("job_id must be the id of a job")
    _state(body)
    _text(body, *STATUS_TEXTS)
    attempt = body.get("attempt", 1)
    if isinstance(attempt, bool) or not isinstance(attempt, int) or not 0 < attempt <= MAX_ATTEMPT:
        raise InvalidRecord("attempt must be a whole number")
    check_facts({name: body[name] for name in FACTS if name in body})
    _object(body, "stdout", "stderr")
    _text(body, "runner")


def _metasheet(body: Mapping[str, Any]) -> None:
    _text(body, *_TEXTS)
    _whole(body, *_INTEGERS)
    _object(body, "properties")


def _handler(body: Mapping[str, Any]) -> None:
    _text(body, "workflow_id", "parent_id", "context_id")
    _whole(body, "fire_limit")
    event = body.get("event")
    if not isinstance(event, dict):
        raise InvalidRecord("its event is no object")
    _object(event, "notify")
    told = {name: value for name, value in event.items() if name != "notify"}
    if body.get("kind") == "job":
        JobEvent.from_json(told)
    elif body.get("kind") == "data":
        MetadataEvent.from_json(told)
    else:
        raise InvalidRecord("its kind is neither job nor data")
    jobs = body.get("job_ids") or []
    if not isinstance(jobs, list) or not all(isinstance(job, str) for job in jobs):
        raise InvalidRecord("job_ids must be a list of ids")


def _unset(body: Mapping[str, Any]) -> None:
    _text(body, "handler_id", needed=True)
    _text(body, "reason")


def _firing(body: Mapping[str, Any]) -> None:
    _text(body, "handler_id", "trigger_id", needed=True)
    _text(body, "job_id", "trigger_job", "trigger_data")


def _log(body: Mapping[str, Any]) -> None:
    _text(body, "level", "message", "job_id", "workflow_id", "time")


def _prune(body: Mapping[str, Any]) -> None:
    _text(body, "what", needed=True)
    _text(body, "before", "digest")
    _whole(body, "things", "records", "larger_than")
    _object(body, "places")
    for ranges in (body.get("places") or {}).values():
        if not isinstance(ranges, list) or not all(_is_range(item) for item in ranges):
            raise InvalidRecord("places must be numbers of records, from and to")


def _is_range(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(type(seq) is int and 0 < seq < 2**53 for seq in item)


def _pruned(body: Mapping[str, Any]) -> None:
    _text(body, "kind", needed=True)
    _text(body, "where")


def _node(body: Mapping[str, Any]) -> None:
    _text(body, "worker_id", "host", "state", needed=True)
    _text(body, "allocation", "reason")
    _whole(body, *_NODE_NUMBERS)


_KINDS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "instance": _origin,
    "fork": _fork,
    "context": _context,
    "workflow": _workflow,
    "job": _job,
    "status": _status,
    "adopt": _adopt,
    "metasheet": _metasheet,
    "handler": _handler,
    "unset": _unset,
    "firing": _firing,
    "log": _log,
    "node": _node,
    "prune": _prune,
    PRUNED: _pruned,
}
