"""Checking a store and making its tables anew from its log."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import StoreCorrupt, StoreFull
from . import log, origins, projections, schema, settings, stubs
from .connection import Connection, connect
from .database import Store

_COMPARED = tuple(table for table in schema.PROJECTIONS if table != "search")
_MAX_PROBLEMS = 50


def check(connection: sqlite3.Connection) -> dict[str, Any]:
    """Check every chain, and that the tables are what the log folds to.

    Args:
        connection: on the store; reading is enough.

    Returns:
        ``ok``, ``origins``, ``records``, how many of them are ``pruned``, and ``problems``, one sentence each (the first 50).

    Raises:
        StoreFull: there is no room for the scratch database.
    """
    problems: list[str] = []
    origins = records = pruned = 0
    with snapshot(connection):
        try:
            for problem in _bounded(_all_problems(connection), problems):
                problems.append(problem)
            origins, records = connection.execute("select count(distinct origin), count(*) from log").fetchone()
            (pruned,) = connection.execute("select count(*) from log where prev = ''").fetchone()
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                place = tempfile.gettempdir()
                raise StoreFull(
                    f"no space left in {place} to check the store", hint="set TMPDIR to where there is more"
                ) from error
            problems.append(f"the file is damaged: {error}")
    return {"ok": not problems, "origins": origins, "records": records, "pruned": pruned, "problems": problems}


def rebuild(store: Store) -> dict[str, Any]:
    """Make all projected tables anew from the log, in one transaction.

    Returns:
        ``records`` folded and the ``seconds`` it took.

    Raises:
        StoreCorrupt: a record cannot be folded; nothing has changed then.
    """
    began = time.monotonic()
    with store.transaction() as transaction:
        count = fold_again(transaction.connection)
        transaction.forget_rows()
    return {"records": count, "seconds": round(time.monotonic() - began, 3)}


def fold_again(connection: Connection) -> int:
    """Make all projected tables anew from the log, in the transaction that is open; how many records that were.

    Raises:
        StoreCorrupt: a record cannot be folded.
    """
    count = 0
    for table in schema.PROJECTIONS:
        connection.execute(f"delete from {table}")
    for problem in _fold(connection, connection):
        if problem:
            raise StoreCorrupt(problem, hint="lwfm store check says more; nothing was changed")
        count += 1
    return count


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One state of the database for many statements, whatever is written meanwhile."""
    began = not connection.in_transaction
    if began:
        connection.execute("begin")
    try:
        yield
    finally:
        if began and connection.in_transaction:
            connection.execute("rollback")


def _all_problems(connection: sqlite3.Connection) -> Iterator[str]:
    (integrity,) = connection.execute("pragma quick_check(1)").fetchone()
    if integrity != "ok":
        yield f"the file is damaged: {integrity}"
    yield from log.chain_problems(connection)
    yield from stubs.unfounded(connection)
    yield from _drift(connection)


def _bounded(found: Iterator[str], problems: list[str]) -> Iterator[str]:
    for problem in found:
        if len(problems) >= _MAX_PROBLEMS:
            return
        yield problem


def _drift(connection: sqlite3.Connection) -> Iterator[str]:
    """Fold the log into a scratch database and compare the tables with it."""
    with tempfile.TemporaryDirectory(prefix="lwfm-check-") as directory:
        path = Path(directory) / "fold.db"
        scratch = connect(str(path))
        try:
            scratch.execute("pragma journal_mode = off")
            scratch.execute("pragma synchronous = off")
            schema.migrate(scratch)
            scratch.execute("begin")
            settings.put(scratch, settings.ORIGIN, origins.own(connection))
            yield from filter(None, _fold(connection, scratch))
            scratch.execute("commit")
            for table in _COMPARED:
                yield from _compare(connection, scratch, table)
        finally:
            scratch.close()


def _fold(source: sqlite3.Connection, target: Connection) -> Iterator[str]:
    """Fold every record of one database's log into the tables of another; for each what was wrong, or an empty text."""
    for row in log.read_rows(source):
        try:
            projections.project(target, log.parsed(row))
            yield ""
        except (ValueError, TypeError, LookupError, AttributeError, sqlite3.IntegrityError) as error:
            kind = type(error).__name__
            yield f"origin {row[0]}: record {row[1]} ({row[3]}) cannot be folded into the tables: {kind}: {error}"
    target.write_counts()


def _compare(connection: sqlite3.Connection, scratch: sqlite3.Connection, table: str) -> Iterator[str]:
    keys = [row[1] for row in scratch.execute(f"pragma table_info({table})") if row[5]] or ["id"]
    where = " where jobs <> 0" if table == "job_counts" else ""
    query = f"select * from {table}{where} order by {', '.join(keys)}"
    ours, theirs = connection.execute(query), scratch.execute(query)
    while True:
        mine, folded = ours.fetchone(), theirs.fetchone()
        if mine is None and folded is None:
            return
        if mine != folded:
            yield f"table {table} differs from the log at {(mine or folded)[0]}: lwfm store repair makes it anew"
            return
