"""A connection to the thread store, with the functions its queries use."""

from __future__ import annotations

import fnmatch
import re
import sqlite3
from collections import Counter
from typing import Any, Optional

_ADD = "insert into job_counts values (?,?,?) on conflict do update set jobs = jobs + excluded.jobs"


class Connection(sqlite3.Connection):
    """A connection that gathers how the numbers of jobs change, so that a unit of work writes them once.

    Counting a million jobs when somebody asks would take too long, and counting with every record makes each dearer.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._changes: Counter[tuple[str, str]] = Counter()
        self.create_function("regexp", 2, _regexp, deterministic=True)
        self.create_function("fnmatch", 2, _fnmatch, deterministic=True)

    def count_job(self, workflow_id: Optional[str], before: Optional[str], after: str) -> None:
        """A job of a workflow, or of none, has come to another state; ``before`` is None for a new job."""
        workflow = workflow_id or ""
        self._changes[workflow, after] += 1
        if before is not None:
            self._changes[workflow, before] -= 1

    def write_counts(self) -> None:
        """Write what has been counted since the last time."""
        if self._changes:
            self.executemany(_ADD, [(*key, change) for key, change in self._changes.items() if change])
            self._changes.clear()

    def forget_counts(self) -> None:
        """What has been counted since the last time was undone."""
        self._changes.clear()


def connect(path: str, **options: Any) -> Connection:
    """Open a database whose transactions are begun and ended by hand."""
    return sqlite3.connect(path, isolation_level=None, factory=Connection, **options)


def _regexp(pattern: str, text: Optional[str]) -> bool:
    """``text regexp pattern``, which SQLite leaves to its host."""
    return text is not None and re.search(pattern, text) is not None


def _fnmatch(text: Optional[str], pattern: str) -> bool:
    return text is not None and fnmatch.fnmatchcase(text, pattern)
