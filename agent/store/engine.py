"""sqlite-utils, which the migrations are written with: loaded when one is due, for that takes longer than opening a store.

Without the numpy it would load where there is one: that doubles the size of the process for nothing.
"""

from __future__ import annotations

import sqlite3
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Database


def database(connection: sqlite3.Connection) -> Database:
    """A connection, as migrations use it."""
    opened: Database = _loaded().Database(connection)
    return opened


def migrations(name: str) -> Any:
    """An empty set of migrations. sqlite-utils 4 has them of its own; for 3.x the same come as sqlite-migrate."""
    if sys.version_info >= (3, 10):
        return _loaded().Migrations(name)
    _loaded()
    from sqlite_migrate import Migrations

    return Migrations(name)


def _loaded() -> Any:
    hidden: Any = sys.modules.get("numpy")
    if hidden is None:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        return import_module("sqlite_utils")
    finally:
        if hidden is None:
            del sys.modules["numpy"]
