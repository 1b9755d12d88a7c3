"""Whether a store is still the one it was: a mark beside the database tells copies, and one that was restored, from the original.

The mark names the origin, the number of its last record that anybody may have seen, and the file: its inode, its path, and the
machine. It lies outside the database, so that a database that was brought back does not bring its mark along; and where the whole
directory was copied, or brought back with the mark in it, the file has another inode, or one that was made later. A store that is
not what its mark says writes under a new origin from then on: two stores that both went on under one would each tell another story
of the same numbers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..host.filesystems import birth_time_ns, filesystem_type, is_shared
from ..host.private import write_private
from ..host.processes import machine_id
from ..jsontext import compact_ascii

FILE = "identity.json"


@dataclass(frozen=True)
class Mark:
    """What is noted beside a database.

    Args:
        origin: under which it writes. ``seq``: the number of its last record when this was noted.
        path, inode: of the file; ``inode`` is 0 where the file system has none that last.
        born_ns: when the file was made, since its inode may have the number of one that was removed; 0 where that is not told.
        machine: where it is; empty where several may have the file system mounted, or the machine has no name.
    """

    origin: str
    seq: int
    path: str
    inode: int
    machine: str
    born_ns: int = 0


def mark_of(database: Path, origin: str, seq: int) -> Mark:
    """The mark for a database as it is now."""
    kind = filesystem_type(database.parent) or ""
    lasting = not kind.startswith("fuse")  # there inodes may be made up at every mount
    shared = is_shared(database.parent)
    machine = "" if shared else machine_id()
    path = os.path.realpath(database)
    inode = os.stat(path).st_ino if lasting else 0
    born_ns = birth_time_ns(Path(path)) if lasting and not shared else 0  # hosts might tell different ones
    return Mark(origin, seq, path, inode, machine, born_ns)


def write(database: Path, mark: Mark) -> None:
    """Note it beside the database. Raises OSError."""
    write_private(database.with_name(FILE), compact_ascii(asdict(mark)).encode("ascii"))


def read(database: Path) -> Optional[Mark]:
    """What is noted; None where there is nothing that can be read."""
    try:
        told = json.loads(database.with_name(FILE).read_bytes())
        where = str(told["path"]), int(told["inode"]), str(told["machine"])
        return Mark(str(told["origin"]), int(told["seq"]), *where, int(told.get("born_ns", 0)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def difference(noted: Optional[Mark], now: Mark) -> Optional[str]:
    """Why the database is not the one that was noted, for a person to read; None when it is.

    Args:
        noted: the mark beside it; None when it has lost it. ``now``: what the database says itself.
    """
    if noted is None:
        return "the file that tells this store from its copies is gone: it was copied here, or restored, without it"
    if noted.origin != now.origin:
        return "the database does not belong to the directory it is in: it was copied here, or restored"
    if now.seq < noted.seq:
        return f"the database ends at record {now.seq}, but had come to {noted.seq}: it was restored from a backup"
    if noted.machine and now.machine and noted.machine != now.machine:
        return "the store was copied from another machine"
    if (noted.inode and now.inode and noted.inode != now.inode) or (
        noted.born_ns and now.born_ns and noted.born_ns != now.born_ns
    ):
        return f"the database is another file than before: a copy, or restored from a backup (it was {noted.path})"
    if not (noted.inode and now.inode) and noted.path != now.path:
        return f"the store was copied from {noted.path}, or moved"
    return None
