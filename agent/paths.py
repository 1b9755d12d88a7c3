"""Where an instance keeps its things, and how lwfm starts itself again.

Everything an instance owns lies under its home. Only what must be on a node-local disk or must have a short path (the
sockets and the worker's spool, where the home does not suit) lies in a private directory of the node's scratch.
"""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

from .errors import ConfigError
from .host.filesystems import is_shared
from .host.private import private_directory

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
