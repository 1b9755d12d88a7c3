"""The site ``slurm`` under the contract: its driver, on a real Slurm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from lwfm.sites.base import SiteContext
from lwfm.sites.batch_site import SlurmSite

from support import cluster as bed
from support.agents import new_home
from support.cluster import Cluster
from support.site_contract import SiteContract, SiteUnderTest

pytestmark = [pytest.mark.root, pytest.mark.slurm]

cluster = bed.cluster


class TestSlurmSite(SiteContract):
    """Jobs in the queue of a real Slurm."""

    @pytest.fixture(scope="class")
    def site(self, cluster: Cluster) -> Iterator[SiteUnderTest]:
        place = new_home()
        for name in ("home", "here", "there"):
            (place / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.environment.items():
                patch.setenv(name, value)
            home = place / "home"
            driver = SlurmSite(SiteContext("slurm", {"grace_s": 3}, home, home / "repository"))
            driver.spin.list()  # what is not known cannot be refused
            yield SiteUnderTest(driver, place / "here", str(place / "there"))
            driver.close()
        cluster.restore()
        shutil.rmtree(place)
