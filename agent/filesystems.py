"""What kind of file system a path lies on. Reads ``/proc/self/mountinfo``; owns no state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

SHARED_TYPES = frozenset(
    [
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "cephfs",
        "fuse",
        "fuseblk",
        "glusterfs",
        "smb3",
        "cifs",
        "9p",
        "afs",
        "panfs",
        "pvfs2",
        "orangefs",
        "wekafs",
        "vastnfs",
        "ocfs2",
        "gfs2",
        "acfs",
        "virtiofs",
    ]
)
"""File system types on which SQLite's write-ahead log is unsafe, because other hosts may have them mounted."""


def filesystem_type(path: Path) -> Optional[str]:
    """The type of the file system that ``path``, or its nearest existing parent, lies on; None where it cannot be told."""
    wanted = path
    while not wanted.exists() and wanted != wanted.parent:
        wanted = wanted.parent
    real = os.path.realpath(wanted)
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mount_point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == mount_point or real.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, after.split()[0]
    return kind


def is_shared(path: Path) -> bool:
    """Whether other hosts may see the file system of ``path``. Where the type cannot be told, no."""
    kind = filesystem_type(path)
    return kind is not None and (kind in SHARED_TYPES or kind.startswith("fuse."))
