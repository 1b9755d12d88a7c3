"""Files and directories that are ours alone: made so, and seen to be so before they are trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from ..errors import ConfigError, InsecureState


def private_directory(path: Path) -> None:
    """Make ``path`` a directory of ours with mode 0700, or check that it is one. What is missing above it is made likewise.

    Raises:
        ConfigError: it cannot be made, or is not a directory, or cannot be written to.
        InsecureState: it belongs to somebody else, or somebody else could put another in its place.
    """
    try:
        for missing in reversed([above for above in path.parents if not os.path.lexists(above)]):
            missing.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        check_above(path)
        found = os.stat(path)
        if found.st_uid != os.getuid():
            raise InsecureState(
                f"{path} belongs to user {found.st_uid}, not to you", hint="set LWFM_HOME to a directory of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{path} is in the way: a directory is needed there", hint="move it away, or set LWFM_HOME"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot use {path}: {error.strerror}", hint="set LWFM_HOME to a directory you can write to"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise ConfigError(
                f"cannot write to {path}: its file system is mounted read-only",
                hint="have it mounted for writing, or set LWFM_HOME to a directory you can write to",
            )
        raise ConfigError(f"cannot write to {path}", hint="set LWFM_HOME to a directory you can write to")


def check_above(path: Path) -> None:
    """Make sure that strangers cannot replace ``path``: no link on the way to it is theirs, no directory open to all.

    In a directory with the sticky bit, as ``/tmp`` has it, only the owner of something can rename or remove it (chmod(2)). Whoever
    owns a directory above, or is in a group that may write there, is trusted: so are projects set up on many clusters.

    Raises:
        InsecureState: they can.
    """
    for place in (path, *path.parents):
        link = os.lstat(place)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.getuid(), 0):
            raise InsecureState(
                f"{place} is a link of user {link.st_uid}", hint="set LWFM_HOME to a directory of your own"
            )
    for place in dict.fromkeys((*path.parents, *path.resolve().parents)):
        mode = os.stat(place).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise InsecureState(
                f"anybody can replace what is in {place}", hint=f"chmod o-w {place}, or set LWFM_HOME to another place"
            )


def check_owner(path: Path) -> None:
    """Make sure that ``path`` is ours before it is trusted.

    Raises:
        InsecureState: it belongs to somebody else.
        FileNotFoundError: it is not there.
    """
    found = os.stat(path)
    if found.st_uid != os.getuid():
        raise InsecureState(
            f"{path} belongs to user {found.st_uid}, not to you", hint="set LWFM_HOME to a directory of your own"
        )


def check_private(path: Path) -> None:
    """Make sure that nobody else can read or change ``path``.

    Raises:
        InsecureState: somebody can. OSError: it is not there.
    """
    found = os.stat(path)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InsecureState(f"{path} is not yours alone", hint="remove its directory; the agent makes it anew")


def append_private(path: Path) -> IO[bytes]:
    """A file to append to, made for the owner alone where it is not there. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only the owner can read: whole and on the disk, or not at all. One process writes it at a time.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
