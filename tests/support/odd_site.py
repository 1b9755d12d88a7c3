"""A driver whose calls do what a test asks of them: to be run in a process of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from lwfm.errors import LoginRequired, ResourcesImpossible, SiteError
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


class OwnError(SiteError):
    """An error of the driver's own."""


class OddSite(SiteDriver):
    """Options: ``begin``, what is done when it is made: ``die``, ``raise``, ``exit``, ``hang``, ``wait`` for a file ``go``."""

    def __init__(self, context: SiteContext):
        super().__init__(context)
        begin = context.options.get("begin")
        if begin == "die":
            os._exit(7)
        if begin == "raise":
            raise ValueError("no such luck")
        if begin == "exit":
            sys.exit("enough")
        if begin == "hang":
            time.sleep(3600)
        while begin == "wait" and not (context.home / "go").exists():
            time.sleep(0.01)
        self.auth = OddAuth()
        self.run = OddRun(context)
        self.repo = OddRepo()
        self.spin = None if context.options.get("spinless") else OddSpin()

    def close(self) -> None:
        (self.context.home / "closed").touch()


class OddAuth(Auth):
    def __init__(self) -> None:
        self.current = False

    def login(self, ask: Callable[[str, bool], str]) -> None:
        if (ask("user", False), ask("password", True)) != ("me", "sesame"):
            raise LoginRequired("these are not the words")
        self.current = True

    def is_auth_current(self) -> bool:
        return self.current


class OddRun(Run):
    def __init__(self, context: SiteContext):
        self.context = context
        self.seen: dict[str, JobRequest] = {}

    def check(self, defn: JobDefn) -> None:
        if defn.resources.cores:
            raise ResourcesImpossible("0 cores", hint="ask for none")

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        self.seen.update({request.job_id: request for request in requests})
        return {request.job_id: Observation(JobState.PENDING, "Q") for request in requests}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        return {
            job_id: Observation(
                JobState.RUNNING, "R", job_id, "ü\udcff", {"exit_code": 2**60, "x": [1.5, None, {"y": True}]}
            )
            for job_id in job_ids
        }

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """``job_id`` is what to do."""
        if job_id == "die":
            os._exit(9)
        if job_id == "print":
            print("printed", reason, flush=True)  # noqa: T201 (which a driver may well do)
            sys.stderr.write("and complained\n")
            os.system("echo from a program")
        if job_id == "own":
            raise OwnError("of my own", hint="a hint", transient=True)
        if job_id == "other":
            raise KeyError("thing")
        if job_id == "exit":
            sys.exit(3)
        if job_id == "hang":
            (self.context.home / "hanging").touch()
            time.sleep(3600)

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """``job_id`` is what is told: ``request JOB`` or ``environ``, ``argv``, ``pid``, ``modules``, ``bytes``."""
        word, _, name = job_id.partition(" ")
        if word == "request":
            return repr(self.seen[name]).encode()
        if word == "bytes":
            return bytes(range(256)) * 4096
        told: dict[str, Any] = {
            "environ": dict(os.environ), "argv": Path("/proc/self/cmdline").read_bytes(), "pid": os.getpid(),
            "modules": sorted(sys.modules), "prefix": sys.prefix,
        }  # fmt: skip
        return repr(told[word]).encode()


class OddRepo(Repo):
    def __init__(self) -> None:
        self.busy = 0

    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Tells in the URL how many calls it is in; waits while the file is there."""
        self.busy += 1
        try:
            local_path.with_name(f"{local_path.name}.{self.busy}.begun").touch()
            while local_path.exists():
                time.sleep(0.005)
            return StoredData(f"odd://{self.busy}", str(local_path), None, 2**40, None)
        finally:
            self.busy -= 1

    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        return stored


class OddSpin(Spin):
    def list(self) -> Sequence[Resource]:
        return [Resource("one", "node", "up", {"cores": 4, "names": ["a"]})]

    def create(self, kind: str, spec: Mapping[str, Any]) -> Resource:
        return Resource("made", kind, "pending", dict(spec))
