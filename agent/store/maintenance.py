"""Verifying a store and making its tables anew from its log."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlite_utils

from . import log, projections, schema
from .database import Store, mapped_errors

_COMPARED = tuple(table for table in schema.PROJECTIONS if table != "search")
_MAX_PROBLEMS = 50


def verify(connection: sqlite3.Connection) -> dict[str, Any]:
    """Check every chain, and that the tables are what the log folds to.

    Args:
        connection: on the store; reading is enough.

    Returns:
        ``ok``, ``origins``, ``records`` and ``problems``, one sentence each (the first 50).
    """
    problems: list[str] = []
    (integrity,) = connection.execute("pragma quick_check(1)").fetchone()
    if integrity != "ok":
        problems.append(f"the file is damaged: {integrity}")
    for problem in _bounded(log.chain_problems(connection), problems):
        problems.append(problem)
    for problem in _bounded(_drift(connection), problems):
        problems.append(problem)
    origins, records = connection.execute("select count(distinct origin), count(*) from log").fetchone()
    return {"ok": not problems, "origins": origins, "records": records, "problems": problems}


def rebuild(store: Store) -> dict[str, Any]:
    """Make all projected tables anew from the log, in one transaction.

    Returns:
        ``records`` folded and the ``seconds`` it took.
    """
    began = time.monotonic()
    count = 0
    with store.transaction() as transaction:
        projections.clear(transaction.connection, schema.PROJECTIONS)
        for record in log.read_all(transaction.connection):
            projections.project(transaction.connection, record)
            count += 1
    return {"records": count, "seconds": round(time.monotonic() - began, 3)}


def _bounded(found: Iterator[str], problems: list[str]) -> Iterator[str]:
    for problem in found:
        if len(problems) >= _MAX_PROBLEMS:
            return
        yield problem


def _drift(connection: sqlite3.Connection) -> Iterator[str]:
    """Fold the log into a scratch database and compare the tables with it."""
    with tempfile.TemporaryDirectory(prefix="lwfm-verify-") as directory:
        path = Path(directory) / "fold.db"
        scratch = sqlite3.connect(str(path), isolation_level=None)
        with mapped_errors(path):
            scratch.execute("pragma journal_mode = off")
            scratch.execute("pragma synchronous = off")
            schema.migrate(sqlite_utils.Database(scratch))
            scratch.execute("begin")
            for record in log.read_all(connection):
                projections.project(scratch, record)
            scratch.execute("commit")
            for table in _COMPARED:
                yield from _compare(connection, scratch, table)
        scratch.close()


def _compare(connection: sqlite3.Connection, scratch: sqlite3.Connection, table: str) -> Iterator[str]:
    keys = [row[1] for row in scratch.execute(f"pragma table_info({table})") if row[5]] or ["id"]
    query = f"select * from {table} order by {', '.join(keys)}"
    ours, theirs = connection.execute(query), scratch.execute(query)
    while True:
        mine, folded = ours.fetchone(), theirs.fetchone()
        if mine is None and folded is None:
            return
        if mine != folded:
            yield f"table {table} differs from the log at {(mine or folded)[0]}: lwfm store rebuild makes it anew"
            return
