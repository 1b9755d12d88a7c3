"""Folding many records of another store at once: those whose ids are new here are written like our own, many with one statement.

That is nearly all of them. The others, of whose thing something is here already, are left to :func:`.projections.project`, which
takes records in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import parts, projections
from .columns import split_status
from .connection import Connection
from .jobrow import JobRows
from .log import Record

_PLAIN = {"metasheet": "metasheets", "log": "logs"}
"""Kinds of which nothing else depends on whether they have come, and their tables."""


class Fresh:
    """What is here of the jobs that a batch tells of.

    Args:
        connection: in a transaction. ``rows``: those at hand, which are kept true.
        new: the batch, in order; its statuses name their jobs.
    """

    def __init__(self, connection: Connection, rows: JobRows, new: Sequence[Record]):
        self._connection = connection
        self._rows = rows
        jobs = [record.uid for record in new if record.kind == "job"]
        told_of = [record.body["job_id"] for record in new if record.kind == "status"]
        self._jobs = {row[0] for row in _among(connection, "select id from jobs where id in (?)", jobs)}
        self._statuses = set(
            _among(connection, "select job_id, id from statuses where job_id in (?)", [*jobs, *told_of])
        )
        self._early = {job_id for job_id, _ in self._statuses} - self._jobs
        self._at_hand = rows.find(connection, told_of)
        self._taken = {kind: self._known(table, kind, new) for kind, table in _PLAIN.items()}

    def fold(self, record: Record) -> bool:
        """Fold a record into the tables, if nothing is here of its thing that could stand against it; whether that was so."""
        if record.kind == "job":
            return self._fold_job(record)
        if record.kind == "status":
            return self._fold_status(record)
        taken = self._taken.get(record.kind)
        if taken is None or record.uid in taken:
            return False
        taken.add(record.uid)
        projections.project(self._connection, record, fresh=True)
        return True

    def folded(self, record: Record) -> None:
        """A record was folded otherwise: what is at hand of its job is no longer true."""
        if record.kind in ("job", "status", "adopt"):
            job_id = record.body.get("job_id", record.uid)
            self._jobs.add(record.uid)
            self._at_hand.discard(job_id)
            self._rows.forget([job_id])
        elif record.kind in ("instance", "fork"):
            self._at_hand.clear()
            self._rows.forget()

    def _known(self, table: str, kind: str, new: Sequence[Record]) -> set[str]:
        """Those ids of these records of a kind that are taken."""
        ids = [record.uid for record in new if record.kind == kind]
        return {row[0] for row in _among(self._connection, f"select id from {table} where id in (?)", ids)}

    def _fold_job(self, record: Record) -> bool:
        body, uid = record.body, record.uid
        triggered = body.get("trigger_job") or body.get("trigger_data")
        if uid in self._jobs or uid in self._early or (body.get("handler_id") and not triggered):
            return False
        projections.project_new_job(self._connection, record, self._rows, None)
        self._jobs.add(uid)
        self._statuses.add((uid, uid))
        self._at_hand.add(uid)
        return True

    def _fold_status(self, record: Record) -> bool:
        job_id = record.body["job_id"]
        row = self._rows.get(self._connection, job_id) if job_id in self._at_hand else None
        if row is None or row.origin != record.origin or (job_id, record.uid) in self._statuses:
            return False
        self._statuses.add((job_id, record.uid))
        facts = split_status(record.body)[1]
        if not projections.project_new_status(self._connection, record, row, facts, None):
            self._at_hand.discard(job_id)
            self._rows.forget([job_id])
        return True


def _among(connection: Connection, query: str, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    return parts.execute(connection, query, list(dict.fromkeys(ids)))
