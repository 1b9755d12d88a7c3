"""What ``doctor`` looks at on the host itself: the one file's parts, the batch scheduler, ssh."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import archive
from ..errors import LwfmError
from ..host import filesystems

OK, WARNING, FAILURE = "ok", "warning", "failure"
ASK_TIMEOUT_S = 10.0
"""A scheduler whose controller is gone may never answer."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do."""

    subject: str
    result: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class _Scheduler:
    """How a batch scheduler is recognised.

    Args:
        name: for people. ``version``: the words that make it tell its version. ``pattern``: finds it in the answer.
        allocation: the variable that names the job one is in.
    """

    name: str
    version: Sequence[str]
    pattern: str
    allocation: str


_SCHEDULERS = (
    _Scheduler("Slurm", ("sinfo", "--version"), r"slurm\S*\s+(\S+)", "SLURM_JOB_ID"),
    _Scheduler("PBS", ("pbsnodes", "--version"), r"(\d+\.\S+)", "PBS_JOBID"),
    _Scheduler("LSF", ("lsid", "-V"), r"(\d+\.\S+)", "LSB_JOBID"),
    _Scheduler("Flux", ("flux", "--version"), r"(\d+\.\S+)", "FLUX_JOB_ID"),
    _Scheduler("Grid Engine", ("qconf", "-help"), r"(?:GE|SGE|UGE)\S*\s+(\S+)", "JOB_ID"),
    _Scheduler("Cobalt", ("cobalt-mpirun", "-version"), r"(\d+\.\S+)", "COBALT_JOBID"),
)
"""Sources: the manuals of these commands."""


def examine_file() -> Iterator[Finding]:
    """The one file, if it is in use."""
    used = archive.unpacked()
    if used is None:
        return
    message = f"{used.archive}, build {used.build}; in use: {used.target} ({', '.join(used.groups)})"
    yield Finding("archive", OK, message)
    kind = filesystems.filesystem_type(used.directory) or "unknown"
    where = f"{used.directory}, file system {kind}"
    if used.damage:
        advice = f"remove {used.directory}; the next start unpacks it anew"
        yield Finding("cache", FAILURE, f"{where}: {used.damage}", advice)
    elif filesystems.is_shared(used.directory):
        advice = "set LWFM_CACHE to a directory of this node: many nodes at once would wait for its server"
        yield Finding("cache", WARNING, f"{where}, seen by other hosts", advice)
    else:
        yield Finding("cache", OK, where)


def examine_scheduler() -> Iterator[Finding]:
    """The batch schedulers whose commands are here, and the allocation that this process is in."""
    found = False
    for scheduler in _SCHEDULERS:
        if shutil.which(scheduler.version[0]) is None:
            continue
        found = True
        try:
            version = _ask(scheduler)
        except subprocess.TimeoutExpired:
            advice = f"try it by hand: {' '.join(scheduler.version)}"
            yield Finding("scheduler", WARNING, f"{scheduler.name} does not answer in {ASK_TIMEOUT_S:.0f} s", advice)
            continue
        except OSError as error:
            advice = f"try it by hand: {' '.join(scheduler.version)}"
            yield Finding("scheduler", WARNING, f"{scheduler.name}: {error.strerror}", advice)
            continue
        job = os.environ.get(scheduler.allocation)
        inside = f", in allocation {job}" if job else ", not in an allocation"
        yield Finding("scheduler", OK, f"{scheduler.name} {version}{inside}")
    if not found:
        yield Finding("scheduler", OK, "none on this host; jobs run on this machine")


def _ask(scheduler: _Scheduler) -> str:
    done = subprocess.run(
        list(scheduler.version),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=ASK_TIMEOUT_S,
        check=False,
    )
    version = re.search(scheduler.pattern, done.stdout.decode("utf-8", "replace"))
    return version[1] if version else "(version unknown)"


def examine_ssh() -> Iterator[Finding]:
    """Whether other hosts can be reached: the library, and the keys of the hosts that are known."""
    try:
        archive.provide("ssh")
        versions = [f"{name} {importlib.import_module(name).__version__}" for name in ("paramiko", "cryptography")]
    except (ImportError, LwfmError) as error:
        advice = "everything but the exchange with other hosts works without it"
        yield Finding("ssh", WARNING, f"cannot be used: {error}", advice)
        return
    known = Path("~/.ssh/known_hosts").expanduser()
    hosts = "known_hosts is there" if known.is_file() else "no known_hosts yet"
    yield Finding("ssh", OK, f"{', '.join(versions)}; {hosts}")
