"""Statements about more values than one of them may have: some hundred at a time (https://sqlite.org/limits.html)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence, Sized
from typing import Any, TypeVar

T = TypeVar("T")
AT_A_TIME = 500


def marks(values: Sized) -> str:
    """A mark for each of these values, as they stand behind ``in`` between brackets."""
    return ",".join("?" * len(values))


def of(values: Sequence[T], size: int = AT_A_TIME) -> Iterator[Sequence[T]]:
    """The values, so many at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def execute(
    connection: sqlite3.Connection, statement: str, values: Sequence[Any], *before: Any
) -> list[tuple[Any, ...]]:
    """Execute a statement that says ``in (?)`` for all of these values; what all of its executions find.

    Args:
        before: values of marks that stand before these.
    """
    found: list[tuple[Any, ...]] = []
    for part in of(values):
        found += connection.execute(statement.replace("(?)", f"({marks(part)})", 1), (*before, *part)).fetchall()
    return found
