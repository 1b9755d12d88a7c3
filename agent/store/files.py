"""The files of a database: which others SQLite has beside it, and that what was written to them is on the disk."""

from __future__ import annotations

import os
from pathlib import Path

ENDINGS = ("-journal", "-wal", "-shm")
"""How the names of the files end that SQLite has beside a database."""


def beside(path: Path) -> list[Path]:
    """The files that SQLite may have beside the database at ``path``."""
    return [path.with_name(path.name + ending) for ending in ENDINGS]


def sync(path: Path) -> int:
    """Have the content of a file on the disk; its bytes. Raises OSError."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
