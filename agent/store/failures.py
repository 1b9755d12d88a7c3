"""SQLite's errors as ours: the one seam between the two, and what the system says where SQLite does not tell."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from ..errors import LwfmError, StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreUnwritable
from ..host.shortages import FULL, shortage_of


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """What SQLite raises in this block about the database at ``path``, as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _mapped(error, path) from error


def _mapped(error: sqlite3.Error, path: Path) -> LwfmError:
    text = str(error)
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return LwfmError(f"internal error: the store refused a record: {text}")
    if "disk is full" in text or "No space left" in text:
        return StoreFull(f"no space left for {path}", hint="free some space or quota; nothing acknowledged was lost")
    if "locked" in text:
        return StoreLocked(f"another process uses {path}", hint="only the agent may open it: lwfm agent status")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return StoreCorrupt(f"{path} is damaged: {text}", hint="lwfm store repair keeps the file beside")
    if "I/O error" in text or "readonly" in text or "unable to open" in text:
        return _unwritable(path, text)
    return StoreError(f"{path}: {text}")


def _unwritable(path: Path, text: str) -> StoreError:
    """SQLite does not say what the system said to it (a quota is an I/O error for it): a small file beside the store tells."""
    said = _said_to_a_probe(path)
    if said is not None and shortage_of(said) is not None:
        return refused(said, f"cannot write {path}")
    if "I/O error" in text:
        hint = (
            "its disk or file server fails, or did at that moment: see the system's log; nothing acknowledged was lost"
        )
        return StoreUnwritable(f"cannot write {path}: {text}", hint=hint)
    return StoreError(f"cannot write {path}: {text}", hint="check its permissions and those of its directory")


def refused(said: OSError, what: str) -> StoreError:
    """What the system has said when something was written for the store."""
    short = shortage_of(said)
    if short is None:
        return StoreError(f"{what}: {said.strerror}")
    kind = StoreFull if said.errno in FULL else StoreUnwritable
    return kind(f"{what}: {short.message}", hint=short.hint)


def _said_to_a_probe(path: Path) -> Optional[OSError]:
    """What the system says when a small file is written beside ``path``; None: it can be."""
    probe = path.with_name(f".{path.name}.probe")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            probe.unlink()
    return None
