"""What kind of file system a path lies on, and what it promises. Reads ``/proc/self/mountinfo``; owns no state."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple, Optional

LOCAL_TYPES = frozenset(
    [
        "aufs",
        "bcachefs",
        "btrfs",
        "ecryptfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "jfs",
        "msdos",
        "nilfs2",
        "ntfs",
        "ntfs3",
        "overlay",
        "ramfs",
        "reiserfs",
        "rootfs",
        "squashfs",
        "tmpfs",
        "ubifs",
        "vfat",
        "xfs",
        "zfs",
    ]
)
"""File system types that one host has for itself. Any other counts as shared, FUSE and what is not known too: a rollback journal
is right everywhere, a write-ahead log only here."""

_MAPPED_WRITES_FAIL = frozenset(["bcachefs", "btrfs", "nilfs2", "ubifs"])
"""Those that write a page to a new place: where there is none, or a quota forbids it, a process that writes to a file it has
mapped is ended by SIGBUS, though the file is there in full (``page_mkwrite`` of these in the kernel's sources; seen on Btrfs)."""
_LOCKING_TYPES = frozenset(["nfs", "nfs4", "lustre", "ceph", "gfs2", "ocfs2"])
"""Those on which flock(2) may reach other hosts: nfs(5), mount.lustre(8), and the kernel's documentation of the others."""
_LOCAL_LOCKS = frozenset(["nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock"])
"""Options of a mount by which locks do not reach them."""


_AT_FDCWD, _STATX_BTIME, _STATX_BYTES = -100, 0x800, 256
_MASK, _TIME, _BTIME_AT = struct.Struct("=I"), struct.Struct("=qI"), 80
"""Of struct statx: what it tells, a time, and where that of the birth lies."""


class Mount(NamedTuple):
    """A mounted file system: its type, and the options of its superblock."""

    kind: str
    options: frozenset[str]


def find_mount(path: Path) -> Optional[Mount]:
    """The mount that ``path``, or its nearest existing parent, lies on; None where it cannot be told."""
    wanted = path
    while not wanted.exists() and wanted != wanted.parent:
        wanted = wanted.parent
    real = os.path.realpath(wanted)
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, found = "", None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, told = before.split(), after.split()
        if len(fields) < 5 or not told:
            continue
        mount_point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == mount_point or real.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, found = mount_point, Mount(told[0], frozenset(told[-1].split(",")))
    return found


def filesystem_type(path: Path) -> Optional[str]:
    """The type of the file system that ``path``, or its nearest existing parent, lies on; None where it cannot be told."""
    found = find_mount(path)
    return None if found is None else found.kind


def is_shared(path: Path) -> bool:
    """Whether other hosts may see the file system of ``path``. Where the type cannot be told, no."""
    kind = filesystem_type(path)
    return kind is not None and kind not in LOCAL_TYPES


def mapped_writes_fail(path: Path) -> bool:
    """Whether a full disk ends a process that writes to a file there that it has mapped into memory."""
    return filesystem_type(path) in _MAPPED_WRITES_FAIL


def locks_reach_other_hosts(path: Path) -> bool:
    """Whether a lock that is held by flock(2) on another host is seen here: the type and the options of the mount say so."""
    found = find_mount(path)
    if found is None or found.kind not in _LOCKING_TYPES or found.options & _LOCAL_LOCKS:
        return False
    return found.kind != "lustre" or "flock" in found.options


def birth_time_ns(path: Path) -> int:
    """When a file was made, in ns since the epoch: what tells it from an earlier one that had its inode's number, for numbers are
    given again as soon as a file is removed. 0 where the system or its file system does not tell.

    By statx(2), which opens nothing: to close a file would let go of the locks that SQLite has on it (fcntl(2)).
    """
    import ctypes  # takes a while to load

    ask = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    told = ctypes.create_string_buffer(_STATX_BYTES)
    if ask is None or ask(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, told):
        return 0
    (mask,), (seconds, ns) = _MASK.unpack_from(told), _TIME.unpack_from(told, _BTIME_AT)
    return seconds * 1_000_000_000 + ns if mask & _STATX_BTIME else 0
