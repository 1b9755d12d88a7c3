"""What the agent asks of a job again and again while it runs, kept at hand: its row, as far as recording needs it.

The store has one writer, so that what is remembered here is what the table says; whatever is undone makes it forget.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Optional

MAX_ROWS = 20_000
_QUERY = "select state, attempt, workflow_id, site, retries, origin, handler_id, state_key, started_at from jobs where id = ?"


class JobRow:
    """Where a job stands.

    Args:
        unwritten: columns that the table does not have yet, because the next status follows at once.
    """

    __slots__ = (
        "attempt", "handler_id", "origin", "retries", "site", "started", "state", "state_key", "unwritten", "workflow_id",
    )  # fmt: skip

    def __init__(
        self, state: str, attempt: int, workflow_id: Optional[str], site: str, retries: int, origin: str,
        handler_id: Optional[str], state_key: str, started_at: Optional[str],
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
        self.unwritten: Optional[dict[str, Any]] = None


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
            row = JobRow(*found)
            self.put(job_id, row)
        return row

    def put(self, job_id: str, row: JobRow) -> None:
        """Keep a row."""
        if len(self._rows) >= MAX_ROWS:
            self._rows.clear()
        self._rows[job_id] = row

    def forget(self) -> None:
        """Forget everything: something was undone, or came from elsewhere."""
        self._rows.clear()
