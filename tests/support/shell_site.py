"""A small driver for a site that must be asked: jobs are processes that leave their exit code in a directory.

Used by tests as a stand-in for batch schedulers; it is real, in that processes run and their ends are found in files. What is
wrong with it is a file in its directory, too: ``down``, ``hang``, ``login``, ``lose-answer``, ``refuse``, ``deaf``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

from lwfm.errors import LoginRequired, ResourcesImpossible, SiteError
from lwfm.models import JobDefn
from lwfm.sites.base import Auth, JobRequest, Observation, Run, SiteContext, SiteDriver
from lwfm.sites.local import LocalRepo
from lwfm.states import JobState

HANG_S = 60.0


class ShellSite(SiteDriver):
    """Options: ``directory``, where jobs leave their traces; ``cores``, the most that a job may ask for."""

    def __init__(self, context: SiteContext):
        super().__init__(context)
        directory = Path(context.options["directory"])
        self.auth = ShellAuth(directory)
        self.run = ShellRun(directory, int(context.options.get("cores", 8)))
        self.repo = LocalRepo(directory / "repository")


class ShellAuth(Auth):
    """Asks for a code while there is a file ``login``, and takes ``sesame``."""

    def __init__(self, directory: Path):
        self._login = directory / "login"

    def login(self, ask: Callable[[str, bool], str]) -> None:
        if self._login.exists():
            if ask("code", True) != "sesame":
                raise LoginRequired("wrong code")
            self._login.unlink()

    def is_auth_current(self) -> bool:
        return not self._login.exists()


class ShellRun(Run):
    """Jobs as processes of their own. Each attempt has its own traces; the last one counts."""

    def __init__(self, directory: Path, cores: int):
        self._directory = directory
        self._cores = cores

    def check(self, defn: JobDefn) -> None:
        if (defn.resources.cores or 1) > self._cores:
            raise ResourcesImpossible(f"{defn.resources.cores} cores, where there are {self._cores}")

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        self._check()
        refused = {}
        for request in requests:
            if (self._directory / "refuse").exists():
                said = Observation(JobState.FAILED, reason="no such queue", facts={"refused": True})
                refused[request.job_id] = said
                continue
            base = self._directory / f"{request.job_id}.{request.attempt}"
            mark = base.with_name(base.name + ".submitted")
            if mark.exists():
                continue
            defn = request.defn
            line = defn.command if isinstance(defn.command, str) else shlex.join(defn.command)
            # The process itself says that it is there, or that another is: nothing is lost between its start and that.
            script = f"set -C; true > {mark} || exit 0; set +C; "
            script += f"( {line} ) > {base}.stdout 2> {base}.stderr; echo $? > {base}.part; mv {base}.part {base}.code"
            subprocess.Popen(
                ["/bin/sh", "-c", script],
                env={**os.environ, **request.environment, **defn.env, **request.variables},
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
            while not mark.exists():
                time.sleep(0.001)
            if (self._directory / "lose-answer").exists():
                (self._directory / "lose-answer").unlink()
                raise SiteError("the answer was lost")
        return {**self.status([request.job_id for request in requests if request.job_id not in refused]), **refused}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        self._check()
        said = {}
        for job_id in job_ids:
            base = self._last(job_id)
            if base is None:
                continue
            name, native_id = base.name, f"{job_id[:8]}.{base.name.rpartition('.')[2]}"
            if base.with_name(name + ".code").exists():
                code = int(base.with_name(name + ".code").read_text())
                state = JobState.COMPLETE if code == 0 else JobState.FAILED
                said[job_id] = Observation(
                    state, f"exit {code}", native_id, None if code == 0 else f"exit code {code}", {"exit_code": code}
                )
            elif base.with_name(name + ".cancelled").exists():
                said[job_id] = Observation(JobState.CANCELLED, "gone", native_id, "cancelled")
            else:
                said[job_id] = Observation(JobState.RUNNING, "R", native_id)
        return said

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        self._check()
        if (self._directory / "deaf").exists():
            raise SiteError("it does not listen")
        (self._directory / f"{job_id}.{attempt}.cancelled").touch()

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        self._check()
        base = self._last(job_id)
        try:
            return b"" if base is None else Path(f"{base}.{stream}").read_bytes()[offset : offset + limit]
        except FileNotFoundError:
            return b""

    def _last(self, job_id: str) -> Path | None:
        attempts = [int(path.name.split(".")[1]) for path in self._directory.glob(f"{job_id}.*.submitted")]
        return self._directory / f"{job_id}.{max(attempts)}" if attempts else None

    def _check(self) -> None:
        until = time.monotonic() + HANG_S
        while (self._directory / "hang").exists() and time.monotonic() < until:
            time.sleep(0.02)
        if (self._directory / "down").exists():
            raise SiteError("the site is down")
        if (self._directory / "login").exists():
            raise LoginRequired("nobody is logged in")
