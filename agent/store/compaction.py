"""Giving room back that the database does not need: it is written anew without its free pages, and in order.

SQLite's ``vacuum`` (https://sqlite.org/lang_vacuum.html) does it in one transaction: whatever ends it, the database is as before.
It takes up to twice the room that the database has, for a copy and for the journal.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Conflict, StoreFull
from ..records import JSON
from .database import Store
from .failures import mapped_errors

ROOM_FACTOR = 2.1
SHRINK_TRIES = 50
SHRINK_PAUSE_S = 0.1
TEMPORARY = "SQLITE_TMPDIR"


def needed_bytes(store: Store) -> int:
    """How much room compacting takes meanwhile."""
    return int(_used_bytes(store.connection) * ROOM_FACTOR)


def compact(store: Store) -> JSON:
    """Write the database anew. Blocks; between transactions.

    Returns:
        ``before``, ``after``: its bytes with its journal. ``seconds``: it took.

    Raises:
        StoreFull: there is too little room for it; nothing was begun. Conflict: it was interrupted; nothing has changed.
    """
    needed, free = needed_bytes(store), shutil.disk_usage(store.path.parent).free
    if free < needed:
        raise StoreFull(
            f"compacting takes {needed} bytes beside {store.path} meanwhile; {free} are free",
            hint="free some space first; nothing was begun",
        )
    before, began = _bytes(store), time.monotonic()
    try:
        with mapped_errors(store.path), _on_disk(store):
            store.connection.execute("insert into search (search) values ('optimize')")  # it keeps what was deleted
            store.connection.execute("vacuum")
    except Exception as error:
        if "interrupted" in str(error):
            raise Conflict("compacting was stopped; the store is as before") from None
        raise
    _shrink(store)
    return {"before": before, "after": _bytes(store), "seconds": round(time.monotonic() - began, 3)}


def stop(store: Store) -> None:
    """Stop :func:`compact`, which another thread is at; does nothing where none is."""
    if store.compacting:
        store.connection.interrupt()


def _used_bytes(connection: sqlite3.Connection) -> int:
    (pages,), (free,), (size,) = (
        connection.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


@contextmanager
def _on_disk(store: Store) -> Iterator[None]:
    """The copy is made beside the database, not in memory, and not where there may be little room."""
    before = os.environ.get(TEMPORARY)
    os.environ[TEMPORARY] = str(store.path.parent)
    store.connection.execute("pragma temp_store = file")
    store.compacting = True
    try:
        yield
    finally:
        store.compacting = False
        store.connection.execute("pragma temp_store = memory")
        if before is None:
            del os.environ[TEMPORARY]
        else:
            os.environ[TEMPORARY] = before


def _shrink(store: Store) -> None:
    """Fold the journal in, which makes the file shorter; who reads meanwhile delays it."""
    if store.journal_mode != "wal":
        return
    with mapped_errors(store.path):
        for _ in range(SHRINK_TRIES):
            busy, _, _ = store.connection.execute("pragma wal_checkpoint(truncate)").fetchone()
            if not busy:
                return
            time.sleep(SHRINK_PAUSE_S)


def _bytes(store: Store) -> int:
    files = [store.path, store.path.with_name(store.path.name + "-wal")]
    return sum(os.stat(file).st_size for file in files if file.exists())
