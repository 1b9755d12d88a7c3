"""Files that a job is given when it starts, such as the list of its nodes, and that go when it ends.

Owns ``files/`` of the spool.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .disk import listed, unlink
from .jobs import Job


class JobFiles:
    """The files of all jobs of one spool; a job names them by the variables in which it is to find their paths."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def variables(self, job: Job) -> dict[str, str]:
        """The variables that tell the job where its files are."""
        return {name: self._path(job, name) for name in job.message.get("files") or ()}

    def write(self, job: Job) -> None:
        """Make the job's files.

        Raises:
            OSError: they cannot be written.
        """
        for name, text in (job.message.get("files") or {}).items():
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(self._path(job, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)

    def remove(self, job: Job) -> None:
        """Remove the job's files."""
        for path in self.variables(job).values():
            unlink(path)

    def keep_only(self, jobs: Iterable[Job]) -> None:
        """Remove what an earlier process left and belongs to none of these."""
        wanted = {os.path.basename(path) for job in jobs for path in self.variables(job).values()}
        for name in listed(self._directory):
            if name not in wanted:
                unlink(os.path.join(self._directory, name))

    def _path(self, job: Job, name: str) -> str:
        return f"{self._directory}/{job.key[0]}.{job.key[1]}.{name}"
