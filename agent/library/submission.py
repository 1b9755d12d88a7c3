"""The circumstances of a submission: who, where, with which environment, from which commit. Reads; changes nothing."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time

from .. import __version__
from ..client.startup import COMMAND_VARIABLE
from ..paths import user_name
from ..records import JSON
from ..redaction import taken_over

GIT_TIMEOUT_S = 2.0
GIT_FRESH_S = 10.0
"""How long what git said of a directory is believed."""

_git_answers: dict[str, tuple[float, JSON | None]] = {}


def capture_context(cwd: str | None = None) -> JSON:
    """The ``context`` of a submission (see ``docs/api.md``): who, where, with what.

    Args:
        cwd: the directory the jobs are to run in; the current one when None.

    Raises:
        FileNotFoundError: there is no current directory any more.
    """
    directory = cwd or os.getcwd()
    environment = taken_over(os.environ)
    if COMMAND_VARIABLE in os.environ:
        environment[COMMAND_VARIABLE] = os.environ[COMMAND_VARIABLE]
    context: JSON = {
        "host": socket.gethostname(),
        "user": user_name(),
        "cwd": directory,
        "env": environment,
        "python": platform.python_version(),
        "version": __version__,
    }
    git = git_state(directory)
    if git is not None:
        context["git"] = git
    return context


def git_state(directory: str) -> JSON | None:
    """``{"commit": …, "dirty": …}`` of the working copy that holds ``directory``.

    ``dirty`` tells whether tracked files differ from the commit; it is left out where git takes too long to say. None
    outside a working copy, before its first commit, and without git.
    """
    known = _git_answers.get(directory)
    now = time.monotonic()
    if known is not None and now - known[0] < GIT_FRESH_S:
        return known[1]
    answer = _ask_git(directory) if _in_working_copy(directory) else None
    _git_answers[directory] = (now, answer)
    return answer


def _ask_git(directory: str) -> JSON | None:
    try:
        text = _git(directory, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    except subprocess.TimeoutExpired:
        try:
            return {"commit": _git(directory, "rev-parse", "HEAD").strip()}
        except (OSError, subprocess.SubprocessError):
            return None
    except (OSError, subprocess.SubprocessError):
        return None
    commit, dirty = "", False
    for line in text.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.split()[2]
        elif line and not line.startswith("#"):
            dirty = True
    return {"commit": commit, "dirty": dirty} if commit and not commit.startswith("(") else None


def _git(directory: str, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", directory, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=GIT_TIMEOUT_S,
        check=True,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
    )
    return done.stdout.decode("utf-8", "replace")


def _in_working_copy(directory: str) -> bool:
    """Whether starting git is worth it."""
    if "GIT_DIR" in os.environ:
        return True
    while True:
        if os.path.exists(os.path.join(directory, ".git")):
            return True
        parent = os.path.dirname(directory)
        if parent == directory:
            return False
        directory = parent
