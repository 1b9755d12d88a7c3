"""A connection to the thread store, with the functions its queries use, and what is still to be written before it is read."""

from __future__ import annotations

import fnmatch
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

_ADD = "insert into job_counts values (?,?,?) on conflict do update set jobs = jobs + excluded.jobs"


class Connection(sqlite3.Connection):
    """A connection that gathers what is to be written, until something is read or the unit of work ends.

    Many rows for one statement cost half of what they cost one by one, and a job that starts and ends within a unit of work
    has its row written once. Whatever is executed here finds everything written that was given to :meth:`later` before.

    How the numbers of jobs change is gathered likewise: counting a million jobs when somebody asks would take too long, and
    counting with every record makes each dearer.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._later: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self._columns: dict[str, dict[str, Any]] = {}
        self._changes: dict[tuple[str, str], int] = {}
        self.create_function("regexp", 2, _regexp, deterministic=True)
        self.create_function("fnmatch", 2, _fnmatch, deterministic=True)

    def later(self, statement: str, row: tuple[Any, ...]) -> None:
        """Execute a statement with this row before anything else is executed.

        Statements that differ may change places with each other: they must be on different tables.
        """
        self._later[statement].append(row)

    def update_job_later(self, job: str, columns: dict[str, Any]) -> None:
        """Give columns of a job's row these values, before anything else is executed; the last value of each counts."""
        known = self._columns.get(job)
        if known is None:
            self._columns[job] = columns
        else:
            known.update(columns)

    def flush(self) -> None:
        """Write what is still to be written: new rows, then what is changed in them.

        Up to Python 3.10 each statement asks for a cursor by the method below, which comes back here: nothing may be left then.
        """
        later, columns = self._later, self._columns
        if later:
            self._later = defaultdict(list)
        if columns:
            self._columns = {}
        for statement, rows in later.items():
            super().executemany(statement, rows)
        if columns:
            alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
            for job, values in columns.items():
                alike.setdefault(tuple(values), []).append((*values.values(), job))
            for names, rows in alike.items():
                super().executemany(update_job(names), rows)

    def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement; what was to be written before is written."""
        if self._later or self._columns:
            self.flush()
        return super().execute(statement, parameters)

    def executemany(self, statement: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        """Execute a statement with many rows; what was to be written before is written."""
        if self._later or self._columns:
            self.flush()
        return super().executemany(statement, rows)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """A cursor; what was to be written before is written."""
        self.flush()
        return super().cursor(*arguments, **options)

    def count_job(self, workflow_id: Optional[str], before: Optional[str], after: Optional[str]) -> None:
        """A job of a workflow, or of none, has come to another state: from None for a new job, to None for one that goes."""
        changes = self._changes
        for state, change in ((after, 1), (before, -1)):
            if state is not None:
                key = (workflow_id or "", state)
                changes[key] = changes.get(key, 0) + change

    def write_counts(self) -> None:
        """Write what has been counted since the last time."""
        if self._changes:
            self.executemany(_ADD, [(*key, change) for key, change in self._changes.items() if change])
            self._changes.clear()

    def forget(self) -> None:
        """What was to be written, and what has been counted since the last time, was undone."""
        self._later.clear()
        self._columns.clear()
        self._changes.clear()


@lru_cache(maxsize=256)
def update_job(names: tuple[str, ...]) -> str:
    """The statement that gives these columns of a job's row new values; its id comes last."""
    return "update jobs set " + ", ".join([f"{name} = ?" for name in names]) + " where id = ?"


def connect(path: str, **options: Any) -> Connection:
    """Open a database whose transactions are begun and ended by hand."""
    return sqlite3.connect(path, isolation_level=None, factory=Connection, **options)


def connect_reading(path: Path, *, immutable: bool = False, **options: Any) -> Connection:
    """Open a database only to read it; nothing is left beside it. ``immutable``: nobody has it open, so nothing is locked."""
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    return connect(uri, uri=True, **options)


def _regexp(pattern: str, text: Optional[str]) -> bool:
    """``text regexp pattern``, which SQLite leaves to its host."""
    return text is not None and re.search(pattern, text) is not None


def _fnmatch(text: Optional[str], pattern: str) -> bool:
    return text is not None and fnmatch.fnmatchcase(text, pattern)
