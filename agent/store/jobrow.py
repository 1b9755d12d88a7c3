"""What the agent asks of a job again and again while it runs, kept at hand: its row, as far as recording needs it.

The store has one writer, so that what is remembered here is what the table says; whatever is undone makes it forget.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Optional

from . import parts

MAX_ROWS = 20_000
_QUERY = (
    "select j.id, j.state, j.attempt, j.workflow_id, coalesce(a.site, j.site), j.retries, j.origin, j.handler_id, j.state_key,"
    " j.started_at, j.runner, a.job_id is not null from jobs j left join local_adopted a on a.job_id = j.id where j.id in (?)"
)


class JobRow:
    """Where a job stands.

    Args:
        site: where it is to run; of a job that was adopted, here. ``adopted``: it is another instance's, and this one runs it.
        runner: the instance that runs it, where that is known to be another than ``origin``.
    """

    __slots__ = (
        "adopted", "attempt", "handler_id", "origin", "retries", "runner", "site", "started", "state", "state_key", "workflow_id",
    )  # fmt: skip

    def __init__(
        self, state: str, attempt: int, workflow_id: Optional[str], site: str, retries: int, origin: str,
        handler_id: Optional[str], state_key: str, started_at: Optional[str], runner: Optional[str] = None, adopted: bool = False,
    ):  # fmt: skip
        self.state = state
        self.attempt = attempt
        self.workflow_id = workflow_id
        self.site = site
        self.retries = retries
        self.origin = origin
        self.handler_id = handler_id
        self.state_key = state_key
        self.started = started_at is not None
        self.runner = runner
        self.adopted = bool(adopted)


class JobRows:
    """The rows at hand."""

    def __init__(self) -> None:
        self._rows: dict[str, JobRow] = {}

    def get(self, connection: sqlite3.Connection, job_id: str) -> Optional[JobRow]:
        """A job's row; None for an unknown job."""
        row = self._rows.get(job_id)
        if row is None:
            found = connection.execute(_QUERY, (job_id,)).fetchone()
            if found is None:
                return None
            row = JobRow(*found[1:])
            self.put(job_id, row)
        return row

    def find(self, connection: sqlite3.Connection, job_ids: Iterable[str]) -> set[str]:
        """Which of these jobs there are; their rows are at hand then."""
        wanted = set(job_ids)
        found = {job_id for job_id in wanted if job_id in self._rows}
        missing = list(wanted - found)
        for job_id, *columns in parts.execute(connection, _QUERY, missing):
            self.put(job_id, JobRow(*columns))
            found.add(job_id)
        return found

    def put(self, job_id: str, row: JobRow) -> None:
        """Keep a row."""
        if len(self._rows) >= MAX_ROWS:
            self._rows.clear()
        self._rows[job_id] = row

    def forget(self, job_ids: Optional[Iterable[str]] = None) -> None:
        """Forget these rows, or all: something was undone, or came from elsewhere."""
        if job_ids is None:
            self._rows.clear()
        else:
            for job_id in job_ids:
                self._rows.pop(job_id, None)
