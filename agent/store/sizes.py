"""What in the database takes how much room. Reads every page of it: may take long."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Optional

from ..records import JSON
from . import schema

RECORDS, TABLES, SEARCH, OUTPUTS, OTHER = "records", "tables", "search", "small outputs", "not history"
FREE, JOURNAL = "free pages", "journal"


def sizes(connection: sqlite3.Connection, path: Path) -> JSON:
    """What takes how much.

    Returns:
        ``parts``: objects of ``what`` and ``bytes`` on the disk, null where this SQLite cannot tell. ``records``: of each kind its
        ``count``, the ``bytes`` of their text, and how many more were ``pruned``.
    """
    (page_bytes,) = connection.execute("pragma page_size").fetchone()
    (free,) = connection.execute("pragma freelist_count").fetchone()
    parts = _by_part(connection) or dict.fromkeys((RECORDS, TABLES, SEARCH, OUTPUTS, OTHER))
    journals = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
    parts[FREE] = free * page_bytes
    parts[JOURNAL] = sum(os.stat(journal).st_size for journal in journals if journal.exists())
    query = (
        "select kind, sum(prev <> ''), sum((prev <> '') * (length(body) + length(uid) + 64 * 2 + 32 + 27 + 17)), sum(prev = '')"
        " from log group by kind order by 3 desc"
    )
    kinds = [
        {"kind": kind, "count": count, "bytes": taken, "pruned": pruned}
        for kind, count, taken, pruned in connection.execute(query)
    ]
    return {"parts": [{"what": what, "bytes": taken} for what, taken in parts.items()], "records": kinds}


def _by_part(connection: sqlite3.Connection) -> Optional[dict[str, Optional[int]]]:
    """The bytes that tables take with their indexes; None where SQLite was built without the table that tells."""
    try:
        taken = dict(connection.execute("select name, pgsize from dbstat where aggregate = true").fetchall())
    except sqlite3.OperationalError:
        return None
    table_of = dict(connection.execute("select name, tbl_name from sqlite_master").fetchall())
    found: dict[str, Optional[int]] = dict.fromkeys((RECORDS, TABLES, SEARCH, OUTPUTS, OTHER), 0)
    for name, count in taken.items():
        part = _part_of(str(table_of.get(name) or name))
        found[part] = (found[part] or 0) + count
    return found


def _part_of(table: str) -> str:
    if table in ("log", "fragments"):
        return RECORDS
    if table == "search" or table.startswith("search_"):
        return SEARCH
    if table == "local_blobs":
        return OUTPUTS
    return TABLES if table in schema.PROJECTIONS else OTHER
