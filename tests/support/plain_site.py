"""A plain driver for a site that must be asked, made from the skeleton: what the contract of sites judges. See also shell_site.

Used by tests as a stand-in for batch schedulers; it is real, in that processes run and their ends are found in files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lwfm.errors import SiteError
from lwfm.sites.base import JobRequest, Observation, SiteContext
from lwfm.sites.skeleton import SkeletonRun, SkeletonSite


class ShellSite(SkeletonSite):
    """Options: ``directory``, where jobs leave their traces. A file ``down`` in it makes every call on jobs fail; one called
    ``lose-answer`` the next submission, after its first job was started."""

    own_process = False

    def __init__(self, context: SiteContext):
        super().__init__(context)
        self.run = ShellRun(Path(context.options["directory"]))


class ShellRun(SkeletonRun):
    """Jobs as processes of their own."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        self._directory = directory

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        self._check()
        losing = self._directory / "lose-answer"
        if losing.exists():
            losing.unlink()
            super().submit(requests[:1])
            raise SiteError("the answer was lost")
        return super().submit(requests)

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        self._check()
        return super().status(job_ids)

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        self._check()
        super().cancel(job_id, attempt, reason)

    def _check(self) -> None:
        if (self._directory / "down").exists():
            raise SiteError("the site is down")
