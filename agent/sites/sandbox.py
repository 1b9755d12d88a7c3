"""Virtual environments for drivers: made when they are not there, made anew when what they were made from has changed.

An environment is made in a directory of its own beside its path, and when it is whole its path becomes a link to that, in one step.
So the programs in it, which name their interpreter by its path, work, and nobody sees half of one. What somebody else has made is
used as it is, and never changed. Blocks, for minutes; for threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..config import VenvConfig
from ..errors import ConfigError, SiteError

COMMAND_LIMIT_S = 1800.0
"""How long one command may take: packages are built from source now and then."""
LOOK_S = 0.1
TOLD_LINES = 5
"""So many of the last lines of a command that failed are told."""
MARK = "lwfm-venv.json"
"""In an environment that was made here: from what."""


@dataclass(frozen=True)
class Venv:
    """The virtual environment of a site.

    Args:
        site: its name, for messages. ``config``: its section. ``home``: what paths are relative to.
        log: what the commands print goes there.
    """

    site: str
    config: VenvConfig
    home: Path
    log: Path

    def make(self, stopping: threading.Event) -> list[str]:
        """The words that start the process of a driver in it, which is made if need be.

        Raises:
            ConfigError: it cannot be made from what is given; with the end of what the command printed.
            SiteError, transient: it could not be made in time, or ``stopping`` was set.
        """
        key = self._key()
        if not self._is_made_of(key):
            with _locked(self._path.parent / f"{self._beside}lock", stopping) as (lock, alone):
                if not self._is_made_of(key):  # or else somebody else did it while this waited
                    try:
                        self._make(key, lock, stopping)
                    finally:
                        if alone:
                            self._tidy()
        return [str(self._python_in(self._path.resolve())), "-I", str(Path(__file__).with_name("sandboxed.py"))]

    @property
    def _path(self) -> Path:
        return self._at(self.config.path)

    @property
    def _beside(self) -> str:
        """How the names begin of what lies beside the path."""
        return f".{self._path.name}-lwfm-"

    def _at(self, path: str) -> Path:
        return Path(os.path.abspath(self.home / os.path.expanduser(path)))

    @staticmethod
    def _python_in(directory: Path) -> Path:
        return directory / "bin" / "python"

    def _key(self) -> str:
        """Tells environments apart that are made from different things."""
        digest = hashlib.sha256(f"1\0{self.config.python or ''}\0".encode())
        if self.config.requirements is not None:
            file = self._at(self.config.requirements)
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise ConfigError(
                    f"site {self.site!r}: cannot read the requirements {file}: {error.strerror}"
                ) from None
        return digest.hexdigest()

    def _is_made_of(self, key: str) -> bool:
        """Whether it is there, made from the same; or is somebody else's.

        Raises:
            ConfigError: it is somebody else's, and not what was asked for.
        """
        python = self._python_in(self._path)
        usable = os.access(python, os.X_OK)
        try:
            mark = json.loads((self._path / MARK).read_bytes())
            return usable and mark["key"] == key
        except OSError:
            pass
        except (ValueError, KeyError, TypeError):
            return False
        if not os.path.lexists(self._path) or (self._path.is_symlink() and not self._path.exists()):
            return False
        if not usable:
            raise ConfigError(f"site {self.site!r}: {self._path} is no virtual environment: it has no bin/python")
        if self.config.requirements is not None or self.config.python is not None:
            raise ConfigError(
                f"site {self.site!r}: {self._path} was not made by lwfm, which therefore installs nothing into it",
                hint="give venv another path; or take requirements and python out of the site's section",
            )
        return True

    def _make(self, key: str, lock: int, stopping: threading.Event) -> None:
        fresh = self._path.parent / f"{self._beside}{os.getpid()}-{time.time_ns():x}"
        run = _Runner(self.site, self.log, lock, stopping)
        python = self._python_in(fresh)
        uv = shutil.which("uv")
        try:
            wanted = os.path.expanduser(self.config.python or sys.executable)
            if uv is not None:
                run([uv, "venv", "--no-project", "--python", wanted, str(fresh)])
                install = [uv, "pip", "install", "--python", str(python)]
            else:
                run([_interpreter(self.site, wanted), "-I", "-m", "venv", str(fresh)])
                install = [str(python), "-I", "-m", "pip", "install"]
            if self.config.requirements is not None:
                file = self._at(self.config.requirements)
                run([*install, "-r", str(file)], cwd=file.parent)
            (fresh / MARK).write_text(json.dumps({"key": key, "requirements": self.config.requirements}) + "\n")
            link = fresh.with_name(fresh.name + ".link")
            link.symlink_to(fresh.name)
            os.replace(link, self._path)
        except OSError as error:
            raise ConfigError(f"site {self.site!r}: cannot make {self._path}: {error}") from error

    def _tidy(self) -> None:
        """Remove what the link does not lead to: what was before, and what was not finished."""
        current = os.path.realpath(self._path)
        for path in self._path.parent.iterdir():
            if path.name.startswith(self._beside) and path.is_symlink():
                path.unlink()
            elif path.name.startswith(self._beside) and path.is_dir() and str(path.resolve()) != current:
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Runner:
    """Runs commands, one after the other.

    Args:
        lock: held as long as a command runs, even if this process does not live to see its end.
    """

    site: str
    log: Path
    lock: int
    stopping: threading.Event

    def __call__(self, words: Sequence[str], cwd: Optional[Path] = None) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _HARMFUL}
        environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab+") as log:
            begin = log.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                cwd=cwd or "/", start_new_session=True, pass_fds=[self.lock],
            )  # fmt: skip
            trouble = self._wait(process)
            if trouble is None and process.returncode == 0:
                return
            if trouble is not None:
                raise SiteError(f"site {self.site!r}: {' '.join(words[:4])} … {trouble}", transient=True)
            log.seek(begin)
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        raise ConfigError(
            f"the virtual environment of site {self.site!r} cannot be made: {' | '.join(lines[-TOLD_LINES:])[-1500:]}",
            hint=f"all that {Path(words[0]).name} said is in {self.log}",
        )

    def _wait(self, process: subprocess.Popen[Any]) -> Optional[str]:
        """Until it has ended; why it had to be ended, if so."""
        until = time.monotonic() + COMMAND_LIMIT_S
        while True:
            try:
                process.wait(LOOK_S)
                return None
            except subprocess.TimeoutExpired:
                late = time.monotonic() > until
                if late or self.stopping.is_set():
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return f"took longer than {COMMAND_LIMIT_S:.0f} s" if late else "was stopped"


_HARMFUL = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
"""Variables with which packages would go elsewhere, or come from there."""


def _interpreter(site: str, wanted: str) -> str:
    """The Python that ``wanted`` means: a version as ``3.12``, or a path."""
    found = shutil.which(f"python{wanted}" if wanted[:1].isdigit() else wanted)
    if found is None:
        raise ConfigError(
            f"site {site!r}: there is no Python {wanted} on PATH",
            hint="give the path of one; or install uv, which fetches it",
        )
    return found


@contextmanager
def _locked(path: Path, stopping: threading.Event) -> Iterator[tuple[int, bool]]:
    """Hold a lock while an environment is made, and say whether it is held: where there are no locks, whoever is last wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    try:
        alone = None
        while alone is None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                if stopping.wait(LOOK_S):
                    raise SiteError("the agent leaves", transient=True) from None
            except OSError:
                alone = False
        yield descriptor, alone
    finally:
        os.close(descriptor)
