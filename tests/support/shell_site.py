"""A small driver for a site that must be asked: jobs are processes that leave their exit code in a directory.

Used by tests as a stand-in for batch schedulers; it is real, in that processes run and their ends are found in files.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lwfm.errors import SiteError
from lwfm.sites.base import JobRequest, Observation, Run, SiteContext, SiteDriver
from lwfm.states import JobState


class ShellSite(SiteDriver):
    """Options: ``directory``, where jobs leave their traces. A file ``down`` in it makes every call fail."""

    def __init__(self, context: SiteContext):
        super().__init__(context)
        self.run = ShellRun(Path(context.options["directory"]))


class ShellRun(Run):
    """Jobs as processes of their own."""

    def __init__(self, directory: Path):
        self._directory = directory

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        self._check()
        for request in requests:
            base = self._directory / request.job_id
            try:
                base.with_suffix(".submitted").touch(exist_ok=False)
            except FileExistsError:
                continue
            defn = request.defn
            line = defn.command if isinstance(defn.command, str) else shlex.join(defn.command)
            script = f"( {line} ) > {base}.stdout 2> {base}.stderr; echo $? > {base}.part; mv {base}.part {base}.code"
            subprocess.Popen(
                ["/bin/sh", "-c", script],
                env={**os.environ, **request.environment, **defn.env, **request.variables},
                start_new_session=True,
            )
            if (self._directory / "lose-answer").exists():
                (self._directory / "lose-answer").unlink()
                raise SiteError("the answer was lost")
        return self.status([request.job_id for request in requests])

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        self._check()
        said = {}
        for job_id in job_ids:
            base = self._directory / job_id
            if base.with_suffix(".code").exists():
                code = int(base.with_suffix(".code").read_text())
                state = JobState.COMPLETE if code == 0 else JobState.FAILED
                said[job_id] = Observation(
                    state, f"exit {code}", job_id[:8], None if code == 0 else f"exit code {code}", {"exit_code": code}
                )
            elif base.with_suffix(".cancelled").exists():
                said[job_id] = Observation(JobState.CANCELLED, "gone", job_id[:8], "cancelled")
            elif base.with_suffix(".submitted").exists():
                said[job_id] = Observation(JobState.RUNNING, "R", job_id[:8])
        return said

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        self._check()
        (self._directory / f"{job_id}.cancelled").touch()

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        try:
            return (self._directory / f"{job_id}.{stream}").read_bytes()[offset : offset + limit]
        except FileNotFoundError:
            return b""

    def _check(self) -> None:
        if (self._directory / "down").exists():
            raise SiteError("the site is down")
