"""Snapshots: a whole, sound copy of the store in one file, made while the store is written to.

Where a second connection may read, it holds one moment fast and copies that. Where there is one alone (a shared file system), the
copy is made by it, portion by portion between its transactions; what is written meanwhile is written to the copy too
(https://sqlite.org/backup.html). Nothing has the name of a snapshot that is not whole, checked and on the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..errors import Conflict, StoreCorrupt, StoreError
from . import files, log
from .connection import connect, connect_reading
from .database import Store
from .failures import mapped_errors

PAGES_AT_ONCE = 256
"""A megabyte: so long the one connection of a store on a shared file system is taken."""
PAUSE_S = 0.002
"""Until it is tried again while a transaction is open."""


def write(store: Store, target: Path, cancelled: Callable[[], bool], *, replace: bool = False) -> dict[str, Any]:
    """Copy the store into the file ``target``. For a thread of its own; the store goes on meanwhile.

    Args:
        cancelled: asked from time to time whether to give up. ``replace``: a file of this name.

    Returns:
        ``file``, ``bytes``, ``records``, ``origins`` and the ``seconds`` it took.

    Raises:
        Conflict: there is such a file; or it was given up. StoreCorrupt: the store is damaged. StoreFull, StoreError: as they say.
    """
    began = time.monotonic()
    if target.exists() and not replace:
        raise Conflict(f"{target} is there already", hint="give another name, or --force to replace it")
    part = target.with_name(f".{target.name}.part")
    try:
        _forget(part)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(store, part, cancelled)
        records, origins = _examine(part)
        size = files.sync(part)
        os.replace(part, target)
        files.sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}", hint="choose another place") from error
    finally:
        _forget(part)
    seconds = round(time.monotonic() - began, 3)
    return {"file": str(target), "bytes": size, "records": records, "origins": origins, "seconds": seconds}


def _copy(store: Store, part: Path, cancelled: Callable[[], bool]) -> None:
    def look(_status: int, _remaining: int, _total: int) -> None:
        if cancelled():
            raise Conflict("the snapshot was given up: the agent is leaving", hint="try again", transient=True)

    reader = store.reader()
    try:
        with mapped_errors(part), closing(connect(str(part))) as copy:
            copy.execute("pragma synchronous = off")
            if reader is not None:
                reader.execute("begin")
                log.read_head(reader, store.origin)  # the moment that it holds fast
            (reader or store.connection).backup(copy, pages=PAGES_AT_ONCE, progress=look, sleep=PAUSE_S)
            copy.execute("pragma journal_mode = delete")
    finally:
        if reader is not None:
            reader.close()


def _examine(part: Path) -> tuple[int, int]:
    """How many records of how many origins there are in a copy, which must be sound.

    Raises:
        StoreCorrupt: it is not.
    """
    with mapped_errors(part), closing(connect_reading(part, immutable=True)) as copy:
        (integrity,) = copy.execute("pragma quick_check(1)").fetchone()
        problem = next(log.chain_problems(copy), None) if integrity == "ok" else integrity
        if problem is not None:
            raise StoreCorrupt(f"the store is damaged: {problem}", hint="lwfm store check says more")
        records, origins = copy.execute("select count(*), count(distinct origin) from log").fetchone()
        return int(records), int(origins)


def _forget(part: Path) -> None:
    for file in (part, *files.beside(part)):
        with suppress(OSError):
            file.unlink()
