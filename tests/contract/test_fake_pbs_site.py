"""The site ``pbs`` under the contract, on a *fake* PBS: its hooks and the driver's part are real, the scheduler is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from lwfm.models import Resources
from lwfm.sites.base import SiteContext
from lwfm.sites.batch_site import PbsSite
from lwfm.states import JobState

from support import fake_pbs
from support.agents import new_home
from support.site_contract import SiteContract, SiteUnderTest


class TestPbsSiteOnAFake(SiteContract):
    """Jobs of a fake."""

    @pytest.fixture(scope="class")
    def site(self) -> Iterator[SiteUnderTest]:
        place = new_home()
        for name in ("home", "here", "there"):
            (place / name).mkdir()
        fake_pbs.install(place / "bin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
            home = place / "home"
            driver = PbsSite(SiteContext("pbs", {"grace_s": 2}, home, home / "repository"))
            driver.spin.list()
            yield SiteUnderTest(driver, place / "here", str(place / "there"))
            driver.close()
        shutil.rmtree(place)

    def test_its_nodes_are_in_a_file(self, site: SiteUnderTest) -> None:
        job_id = site.submit("cat $LWFM_NODEFILE", resources=Resources(nodes=1, cores=2))
        assert site.until(job_id).state is JobState.COMPLETE
        assert site.output(job_id) == b"m0 slots=2\n"

    def test_what_it_refuses_fails(self, site: SiteUnderTest) -> None:
        request = site.request("true", options={"partition": "no-such-queue"})
        said = site.run.submit([request])[request.job_id]
        assert (said.state, said.reason) == (JobState.FAILED, "qsub: Unknown queue")
