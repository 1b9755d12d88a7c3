"""The site NAME: a driver to begin with, as ``lwfm site new`` wrote it. It works as it is.

Its site is a directory of this host: jobs are processes that leave their traces there, data are files. Replace that, one method
after the other, by what your site has. docs/site-authors.md of lwfm has the rules with a complete example; ``test_NAME_site.py``
beside this file checks that they are kept:

    lwfm python -m pytest test_NAME_site.py

Anything a method raises is told to the person. Raise ``SiteError(message, hint=…)`` for what you foresee; ``transient=True`` when
the same call may succeed later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from lwfm.errors import ConfigError, NotFound, ResourcesImpossible, SiteError
from lwfm.models import JobDefn
from lwfm.sites.base import (
    Auth,
    JobRequest,
    Observation,
    Repo,
    Resource,
    Run,
    SiteContext,
    SiteDriver,
    Spin,
    StoredData,
)
from lwfm.states import JobState


class SkeletonSite(SiteDriver):
    """The site. Leave out (None) the pillars that yours does not have."""

    own_process = True  # the agent loads this file, but calls it in a process of its own

    def __init__(self, context: SiteContext):
        super().__init__(context)
        # context.options: the keys of the site's section in sites.toml. Refuse here what cannot work; connect later.
        directory = context.options.get("directory")
        if not isinstance(directory, str) or not os.path.isabs(directory):
            raise ConfigError(f"[{context.name}]: directory must be an absolute path, not {directory!r}")
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        self.auth = SkeletonAuth()
        self.run = SkeletonRun(place)
        self.repo = SkeletonRepo(place)
        self.spin = SkeletonSpin()

    def close(self) -> None:
        """Let go of connections. Jobs go on."""


class SkeletonAuth(Auth):
    """Getting in. Here everybody is in."""

    def login(self, ask: Callable[[str, bool], str]) -> None:
        """Log in; ``ask("Password", True)`` puts a question to the person. Raise LoginRequired when it was answered wrongly."""

    def is_auth_current(self) -> bool:
        """Whether a call would be accepted now. Ask the site, not the person."""
        return True


class SkeletonRun(Run):
    """Jobs: each attempt has a directory of its own, in which its runner notes what becomes of it."""

    def __init__(self, place: Path):
        self._place = place

    def check(self, defn: JobDefn) -> None:
        """Refuse what could never run here, with numbers; quickly, and without asking the site."""
        cores, there = defn.resources.cores or 1, os.cpu_count() or 1
        if cores > there:
            raise ResourcesImpossible(f"{cores} cores are asked for; this site has {there}")

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Hand jobs over. A job that the site has already (same id and attempt) must not start again: it is only told of."""
        for request in requests:
            directory = self._place / "jobs" / request.job_id / str(request.attempt)
            if not directory.exists():
                self._start(request, directory)
        return self.status([request.job_id for request in requests])

    def _start(self, request: JobRequest, directory: Path) -> None:
        defn = request.defn
        told = {
            "command": ["/bin/sh", "-c", defn.command] if isinstance(defn.command, str) else list(defn.command),
            "cwd": defn.cwd or "/",
            "env": {**request.environment, **defn.env, **request.variables},  # in this order
            "limit_s": defn.resources.time_limit_s,
            "grace_s": defn.grace_s,
        }
        directory.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-I",
            "-c",
            RUNNER,
            str(directory),
        ]  # this process may end at any time: jobs must go on
        subprocess.run(command, input=json.dumps(told), text=True, start_new_session=True, timeout=60, check=True)

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What becomes of jobs: one question for all of them. Leave out those that the site does not know; never guess."""
        said = {}
        for job_id in job_ids:
            directory = self._latest(job_id)
            if directory is not None:
                said[job_id] = self._observed(job_id, directory)
        return said

    def _observed(self, job_id: str, directory: Path) -> Observation:
        native_id = f"{job_id}.{directory.name}"  # what the site itself calls it
        try:
            end = json.loads((directory / "end").read_text())
        except FileNotFoundError:
            if (directory / "begin").exists():
                return Observation(JobState.RUNNING, "running", native_id)
            return Observation(JobState.PENDING, "queued", native_id)
        code, why = end["code"], end["why"]
        facts = {"exit_code": code if code is None or code >= 0 else None}  # only what is known
        if why == "cancelled":
            return Observation(JobState.CANCELLED, "killed", native_id, "cancelled", facts)
        if code == 0 and not why:
            return Observation(JobState.COMPLETE, "exit 0", native_id, None, facts)
        return Observation(JobState.FAILED, f"exit {code}", native_id, why or f"exit code {code}", facts)

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Ask for the end of a job, in any state; asking again, or for one that has ended, is harmless. Need not wait for it."""
        directory = self._place / "jobs" / job_id / str(attempt)
        if directory.is_dir():
            (directory / "cancel").touch()  # its runner sees it

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of what the latest attempt has printed; empty when there is no more now."""
        directory = self._latest(job_id)
        try:
            if directory is None:
                return b""
            with (directory / stream).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def _latest(self, job_id: str) -> Optional[Path]:
        try:
            return max((self._place / "jobs" / job_id).iterdir(), key=lambda path: int(path.name), default=None)
        except FileNotFoundError:
            return None


class SkeletonRepo(Repo):
    """Data: files in a directory."""

    thread_safe = (
        True  # several calls at once are fine here: a long transfer then keeps nobody from asking how jobs are
    )

    def __init__(self, place: Path):
        self._place = place

    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Store a file or directory. What exists is replaced, in one step where that can be done."""
        if not local_path.exists():
            raise NotFound(f"there is no file {local_path}")
        if site_path is None:  # "record it where it is": only for a site that sees the files of this host
            return self._stored(local_path)
        return self._stored(_copy(local_path, self._place / "data" / site_path, None))

    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        """Fetch data, and compare it with its checksum before anything appears at ``local_path``."""
        source = Path(stored.url.partition("://")[2])
        if not source.exists():
            raise NotFound(f"{source} is gone")
        return self._stored(_copy(source, local_path, stored.sha256))  # what counts of it: path, size_bytes, sha256

    def remove(self, stored: StoredData) -> None:
        """Remove data; that it is gone already is harmless."""
        path = Path(stored.url.partition("://")[2])
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @staticmethod
    def _stored(path: Path) -> StoredData:
        """``url``: by which :meth:`get` finds it again. ``sha256`` and ``size_bytes``: of files only."""
        if path.is_dir():
            return StoredData(f"skeleton://{path}", str(path))
        return StoredData(f"skeleton://{path}", str(path), None, path.stat().st_size, _checksum(path))


class SkeletonSpin(Spin):
    """Resources. ``create`` and ``destroy`` say by themselves that they are not offered; write them if they are."""

    def list(self) -> Sequence[Resource]:
        """What there is: nodes, partitions, queues …"""
        return [Resource(os.uname().nodename, "node", "up", {"cores": os.cpu_count()})]


def _copy(source: Path, target: Path, sha256: Optional[str]) -> Path:
    """Copy by way of a name beside the target, so that nobody sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        return Path(shutil.copytree(source, target, dirs_exist_ok=True))
    part = target.with_name(f".{target.name}.{os.getpid()}.{time.time_ns()}")
    try:
        shutil.copyfile(source, part)
        if sha256 is not None and _checksum(part) != sha256:
            raise SiteError(f"{source} is not what it was when it was recorded")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


RUNNER = """
import json, os, signal, subprocess, sys, time
told, directory = json.load(sys.stdin), sys.argv[1]
try:
    os.mkdir(directory)  # of several runners of one attempt one makes it: so a job runs once, whoever dies when
except FileExistsError:
    sys.exit()
if os.fork():
    os._exit(0)
os.chdir(directory)
null = os.open(os.devnull, os.O_RDWR)
for number in range(3):
    os.dup2(null, number)

def note(name, what):
    with open(name + ".part", "w") as file:
        json.dump(what, file)
    os.rename(name + ".part", name)

def kill(number):
    try:
        os.killpg(job.pid, number)
    except ProcessLookupError:
        pass

begin, why, killed_at = time.monotonic(), "", None
try:
    with open("stdout", "wb") as out, open("stderr", "wb") as err:
        if os.path.exists("cancel"):
            note("end", {"code": None, "why": "cancelled"})
            sys.exit()
        job = subprocess.Popen(told["command"], cwd=told["cwd"], env=told["env"], stdin=null, stdout=out, stderr=err,
                               start_new_session=True)
except OSError as error:
    note("end", {"code": None, "why": str(error)})
    sys.exit()
note("begin", job.pid)
while job.poll() is None:
    if not why and os.path.exists("cancel"):
        why = "cancelled"
    if not why and told["limit_s"] and time.monotonic() - begin > told["limit_s"]:
        why = "took longer than %g s" % told["limit_s"]
    if why and killed_at is None:
        kill(signal.SIGTERM)
        killed_at = time.monotonic()
    if why and time.monotonic() - killed_at > told["grace_s"]:
        kill(signal.SIGKILL)
    time.sleep(0.02)
if why:
    kill(signal.SIGKILL)
if job.returncode < 0:
    why = why or "ended by signal %d" % -job.returncode
note("end", {"code": job.returncode, "why": why})
"""
"""What runs a job, on any Python: it outlives this process, and the job cannot outlive it unseen."""
