"""Putting another file in the place of a store: whole or not at all, and so that an owner that was ousted writes to it no more.

The new file waits beside the old one under a name of its own, complete; from then on it counts, and whoever opens the store next
puts it there, if that was not done.

An owner that was ousted and may still live has the old file open, and its journal. Whatever it writes when it goes on, at any
moment, goes to those, which nobody reads any more; a lock, or a look before each write, could not promise that. What it has
acknowledged is in the copy: it looks after each commit, before it answers, whether it is still the owner
(:mod:`lwfm.ownership.lease`), and is copied when it is so no more.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path

from ..errors import StoreCorrupt, StoreError, StoreLocked
from . import files, identity, log, origins
from .connection import connect, connect_reading
from .failures import mapped_errors

_TRIES = 10
_PAUSE_S = 1.0


def waiting(path: Path) -> Path:
    """Where a file waits, complete and on the disk, to be put in the place of the database at ``path``."""
    return path.with_name(f"{path.name}.next")


def finish(path: Path) -> None:
    """Put the file that waits, if there is one, in the place of the database. Only its owner may do so, before it is opened.

    Raises:
        StoreError: it cannot be done.
    """
    if not waiting(path).exists():
        return
    try:
        for file in files.beside(path):
            file.unlink(missing_ok=True)
        os.replace(waiting(path), path)
        files.sync_directory(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot put another file in the place of {path}: {error.strerror}", hint="lwfm doctor"
        ) from error


def replace_by_copy(path: Path) -> None:
    """Put a copy in the place of the database at ``path``. What was interrupted is taken up again; no database: nothing to do.

    Raises:
        StoreLocked: its last owner goes on writing to it. StoreCorrupt: it is damaged. StoreFull, StoreError: as they say.
    """
    try:
        if not waiting(path).exists():
            if not path.exists():
                return
            _copy(path)
        noted, now = identity.read(path), _mark(path)
        finish(path)
        if identity.difference(noted, now) is None:
            identity.write(path, identity.mark_of(path, now.origin, now.seq))
    except OSError as error:
        raise StoreError(f"cannot put a copy in the place of {path}: {error.strerror}", hint="lwfm doctor") from error


def _copy(path: Path) -> None:
    """Have a sound copy of the database wait, from a moment at which it rested."""
    part = path.with_name(f"{path.name}.copy")
    pairs = [*list(zip(files.beside(path), files.beside(part)))[:2], (path, part)]  # not what processes share in memory
    for _ in range(_TRIES):
        before = [_stamp(source) for source, _ in pairs]
        for (source, target), stamp in zip(pairs, before):
            target.unlink(missing_ok=True)
            if stamp is not None:
                shutil.copyfile(source, target)
        if before == [_stamp(source) for source, _ in pairs]:
            break
        time.sleep(_PAUSE_S)
    else:
        raise StoreLocked(f"another process goes on writing to {path}", hint="find it, and end it: lwfm agent status")
    os.chmod(part, 0o600)
    with mapped_errors(path), closing(connect(str(part))) as connection:
        connection.execute("pragma locking_mode = exclusive")
        connection.execute("pragma synchronous = full")
        connection.execute("begin immediate")  # what was under way is undone, by the journal that was copied along
        (integrity,) = connection.execute("pragma quick_check(1)").fetchone()
        connection.execute("commit")
    if integrity != "ok":
        raise StoreCorrupt(f"{path} is damaged: {integrity}", hint="lwfm store repair")
    for _, target in pairs[:2]:
        target.unlink(missing_ok=True)
    files.sync(part)
    os.replace(part, waiting(path))


def _mark(path: Path) -> identity.Mark:
    """What the database says of itself, as the file that it still is."""
    with mapped_errors(path), closing(connect_reading(waiting(path))) as connection:
        origin = origins.own(connection)
        return identity.mark_of(path, origin, log.read_head(connection, origin).seq)


def _stamp(path: Path) -> object:
    """Tells a file from one that was written to since; None where there is none."""
    try:
        with path.open("rb") as stream:  # which asks the server
            found = os.fstat(stream.fileno())
            return (found.st_size, found.st_mtime_ns, stream.read(512))
    except FileNotFoundError:
        return None
