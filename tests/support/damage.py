"""Stores that are damaged on purpose, and what is in them."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from lwfm.store.pages import Pages

Row = tuple[Any, ...]


def rows(path: Path, table: str = "log") -> set[Row]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return set(connection.execute(f"select * from {table}"))


def roots_of(path: Path, *tables: str) -> list[int]:
    """The pages at which tables and their indexes begin."""
    marks = ",".join("?" * len(tables))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [
            row[0]
            for row in connection.execute(f"select rootpage from sqlite_master where tbl_name in ({marks})", tables)
        ]


def overwrite(path: Path, *numbers: int) -> None:
    """Put nonsense on pages of a database, counted from 1."""
    with path.open("r+b") as file:
        for number in numbers:
            file.seek((number - 1) * 4096)
            file.write(random.Random(number).randbytes(4096))


def pages_of_log(path: Path) -> dict[int, set[Row]]:
    """The pages that hold records, with those they hold."""
    found = {}
    with Pages(path) as pages:
        for number in range(2, path.stat().st_size // 4096 + 1):
            held = {row for row in pages._cells(pages._page(number), 9, first=False) if len(str(row[0])) == 32}
            if held:
                found[number] = held
    return found
