"""The site of ``lwfm site new`` as a driver that needs a package of its own: its jobs are told which version it has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tiny  # type: ignore[import-not-found]  # is in the driver's virtual environment, and nowhere else

from lwfm.sites.base import JobRequest, Observation, SiteContext, SiteDriver
from lwfm.sites.skeleton import SkeletonRun


class VersionedSite(SiteDriver):
    def __init__(self, context: SiteContext):
        super().__init__(context)
        self.run = VersionedRun(Path(context.options["directory"]))


class VersionedRun(SkeletonRun):
    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        told = [
            replace(item, variables={**item.variables, "TINY": tiny.VERSION, "TOOL": tiny.tool()}) for item in requests
        ]
        observed: Mapping[str, Observation] = super().submit(told)
        return observed
