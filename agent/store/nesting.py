"""Instances within jobs of others: a batch job that calls lwfm, away from its submitter's agent, has an instance of its own.

The inner one knows the job it is in, and that job's workflow, by their ids alone: what it records belongs to them, and is one
thread with theirs once both are in one store. The outer one knows which instances those were. Neither is history.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Optional

from . import queries, settings
from .transaction import Transaction

_OUTER = "within"
_INNER = "inner:"
_INNERS = "select substr(key, 7) from local_settings where key >= 'inner:' and key < 'inner;'"


def note_outer(transaction: Transaction, job_id: str, workflow_id: Optional[str]) -> None:
    """This instance is within that job."""
    settings.put(transaction.connection, _OUTER, json.dumps({"job": job_id, "workflow": workflow_id}))


def resolve(connection: sqlite3.Connection, kind: str, given: str) -> str:
    """As :func:`~.queries.resolve`, of what may also be the job this instance is within, or its workflow."""
    if _outer(connection).get(kind) == given:
        return given
    return queries.resolve(connection, kind, given)


def outer_workflow(connection: sqlite3.Connection, job_id: str) -> Optional[str]:
    """The workflow of the job this instance is within, if that is ``job_id``."""
    told = _outer(connection)
    return told["workflow"] if told.get("job") == job_id else None


def note_inner(transaction: Transaction, origin: str, home: str) -> None:
    """The instance of ``origin`` was within a job of this one; its things lie in ``home``, as seen from here."""
    settings.put(transaction.connection, _INNER + origin, json.dumps(home))


def inner_origins(connection: sqlite3.Connection) -> frozenset[str]:
    """The instances that were within jobs of this one."""
    return frozenset(row[0] for row in connection.execute(_INNERS))


def _outer(connection: sqlite3.Connection) -> dict[str, Any]:
    """The job this instance is within, and its workflow; nothing where it is within none."""
    told: dict[str, Any] = json.loads(settings.get(connection, _OUTER) or "{}")
    return told
