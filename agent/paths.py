"""Where an instance keeps its things, and how lwfm starts itself again.

Everything an instance owns lies under its home. Only what must be on a node-local disk or must have a short path (the
sockets and the worker's spool, where the home does not suit) lies in a private directory of the node's scratch.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shlex
import stat
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Optional

from .errors import ConfigError, InsecureState
from .host.filesystems import is_shared

HOME_VARIABLE = "LWFM_HOME"
CACHE_VARIABLE = "LWFM_CACHE"
"""Where the one file unpacks its parts (``build/onefile/``)."""
MAX_SOCKET_PATH = 100
"""Bytes a Unix socket's path may have everywhere (Linux: 107)."""


@dataclass(frozen=True)
class Home:
    """The places of one instance. Construct with :func:`locate`."""

    root: Path

    @property
    def database(self) -> Path:
        """The thread store."""
        return self.root / "thread.db"

    @property
    def sites_file(self) -> Path:
        """The configuration of the sites."""
        return self.root / "sites.toml"

    @property
    def agent_log(self) -> Path:
        """What the agent has to say."""
        return self.root / "agent.log"

    @property
    def lock_file(self) -> Path:
        """Locked by the agent as long as it runs, where the home is on a file system of one host."""
        return self.root / "agent.lock"

    @property
    def lease(self) -> Path:
        """Holds the lease of the agent, where several hosts share the file system."""
        return self.root / "lease"

    @property
    def wanted(self) -> Path:
        """Written by who needs an agent on another host: one that has no work leaves."""
        return self.root / "agent.wanted"

    @property
    def repository(self) -> Path:
        """Where data put to the local site under a relative path is stored."""
        return self.root / "repository"

    @property
    def outputs(self) -> Path:
        """Job output too large for the store."""
        return self.root / "outputs"

    @property
    def contents(self) -> Path:
        """Copies of data that other instances have recorded, by their content."""
        return self.root / "contents"

    @property
    def sealed(self) -> Path:
        """Secret values of jobs that have not ended: beside the store, never in it."""
        return self.root / "sealed"

    @property
    def allocations(self) -> Path:
        """What the nodes of allocations have to know: a directory for each, with its key."""
        return self.root / "allocations"

    @property
    def programs(self) -> Path:
        """Holds ``lwfm`` itself, for the PATH of jobs."""
        return self.runtime / "bin"

    @property
    def runtime(self) -> Path:
        """For sockets and spool: the home where it is node-local and its path short, else private scratch of the node."""
        socket_fits = len(os.fsencode(self.root / "worker.sock")) <= MAX_SOCKET_PATH
        return self.root if socket_fits and not is_shared(self.root) else self._scratch()

    @property
    def socket(self) -> Path:
        """Where the agent answers."""
        return self.runtime / "agent.sock"

    @property
    def worker_socket(self) -> Path:
        """Where the agent's workers report."""
        return self.runtime / "worker.sock"

    @property
    def spool(self) -> Path:
        """The local worker's spool."""
        return self.runtime / "spool"

    def _scratch(self) -> Path:
        import hashlib
        import tempfile

        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"lwfm-{os.getuid()}" / digest

    def create(self) -> None:
        """Make the directories of the instance, for the owner alone.

        Raises:
            ConfigError: the home cannot be made or written to.
            InsecureState: a directory is somebody else's.
        """
        for directory in (self.root, self.sealed, *self._private_parents(), self.runtime):
            private_directory(directory)

    def _private_parents(self) -> list[Path]:
        return [] if self.runtime == self.root else [self.runtime.parent]


def locate(explicit: Optional[str] = None) -> Home:
    """The home: ``explicit``, else ``$LWFM_HOME``, else ``~/.lwfm``. Makes nothing."""
    chosen = explicit or os.environ.get(HOME_VARIABLE) or os.path.join(os.path.expanduser("~"), ".lwfm")
    return Home(Path(os.path.abspath(os.path.expanduser(chosen))))


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


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether some process holds a file's lock (flock(2)) for itself; not, where there is no such file to be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


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


def write_program(home: Home) -> None:
    """Put an ``lwfm`` into :attr:`Home.programs` that starts this very lwfm.

    Raises:
        ConfigError: it cannot be written.
    """
    private_directory(home.programs)
    text = "#!/bin/sh\nexec " + " ".join(shlex.quote(word) for word in self_command()) + ' "$@"\n'
    target = home.programs / "lwfm"
    part = target.with_name(f".lwfm.{os.getpid()}")
    try:
        if target.is_file() and target.read_text(encoding="utf-8", errors="surrogateescape") == text:
            return
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.chmod(0o700)
        part.replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None


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


@lru_cache(maxsize=1)
def user_name() -> str:
    """The user's name; the number where nobody knows a name, as in a container or while a directory service is down."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def self_command() -> list[str]:
    """The words that start lwfm again as it was started now: from the one file, or as an installed package."""
    archive = running_archive()
    if archive:
        return [sys.executable, str(archive)]
    return [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "lwfm"]


def running_archive() -> Optional[Path]:
    """The ``lwfm.pyz`` this process was started from, if it was; it may have been given another name."""
    candidate = Path(os.path.abspath(sys.argv[0] if sys.argv and sys.argv[0] else "-"))
    return candidate if candidate.is_file() and (candidate.suffix == ".pyz" or _is_zip(candidate)) else None


def _is_zip(path: Path) -> bool:
    """Whether a file ends as a zip archive without a comment does (APPNOTE.TXT, 4.3.16)."""
    try:
        with path.open("rb") as stream:
            stream.seek(-22, os.SEEK_END)
            return stream.read(4) == b"PK\5\6"
    except OSError:
        return False
