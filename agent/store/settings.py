"""What this instance notes under keys of its own: no history, and never of interest to another."""

from __future__ import annotations

import sqlite3
from typing import Optional

ORIGIN = "origin"
"""Under which this store writes."""
STORE_ID = "store_id"
"""Stays when the origin changes."""


def get(connection: sqlite3.Connection, key: str) -> Optional[str]:
    """What is noted under a key."""
    row = connection.execute("select value from local_settings where key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def put(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Note it, in the place of what was noted before."""
    connection.execute("insert or replace into local_settings values (?, ?)", (key, value))


def remove(connection: sqlite3.Connection, key: str) -> None:
    """Note nothing any more."""
    connection.execute("delete from local_settings where key = ?", (key,))
