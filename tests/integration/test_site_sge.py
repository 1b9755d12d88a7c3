"""The site ``sge`` under the contract: its driver, on a real Grid Engine."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm import hostlist
from lwfm.models import Resources
from lwfm.sites.base import SiteContext
from lwfm.sites.batch_site import GridEngineSite
from lwfm.states import JobState

from support.agents import new_home
from support.gridengine import GridEngine
from support.site_contract import SiteContract, SiteUnderTest

pytestmark = [pytest.mark.root, pytest.mark.slow]


def programs_of(grid: GridEngine, directory: Path) -> Path:
    """Grid Engine's commands, as they are on its login node: where the nodes' names are known."""
    variables = grid.variables()
    directory.mkdir()
    for name in ("qsub", "qstat", "qdel", "qacct", "qhost", "qconf"):
        words = grid.command(f"{variables['SGE_ROOT']}/bin/{variables['SGE_ARCH']}/{name}")
        (directory / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (directory / name).chmod(0o755)
    return directory


class TestGridEngineSite(SiteContract):
    """Jobs in the queue of a real Grid Engine."""

    @pytest.fixture(scope="class")
    def site(self) -> Iterator[SiteUnderTest]:
        reason = GridEngine.why_not()
        if reason:
            pytest.skip(reason)
        place = new_home()
        for name in ("home", "here", "there"):
            (place / name).mkdir()
        with GridEngine(nodes=2, slots=8) as grid, pytest.MonkeyPatch.context() as patch:
            for name, value in grid.environment.items():
                patch.setenv(name, value)
            patch.setenv("PATH", f"{programs_of(grid, place / 'bin')}:{grid.environment['PATH']}")
            home = place / "home"
            options = {"grace_s": 20, "partition": "all.q", "environment": "round"}
            driver = GridEngineSite(SiteContext("sge", options, home, home / "repository"))
            driver.spin.list()
            yield SiteUnderTest(driver, place / "here", str(place / "there"), patience_s=90.0)
            driver.close()
        shutil.rmtree(place)

    def test_several_slots_and_their_hosts(self, site: SiteUnderTest) -> None:
        job_id = site.submit("cat $LWFM_NODEFILE; echo $NSLOTS", resources=Resources(nodes=2, cores=2))
        seen = site.until(job_id)
        assert seen.state is JobState.COMPLETE, seen
        assert sorted(site.output(job_id).decode().splitlines()) == ["4", "n1 slots=2", "n2 slots=2"]
        assert sorted(hostlist.expand(seen.facts["hosts"])) == ["n1", "n2"]  # in the order that they were granted in

    def test_a_limit_of_the_schedulers_own(self, site: SiteUnderTest) -> None:
        """``-l`` counts for the last of the same name."""
        request = site.request("sleep 600", options={"option": "-l h_rt=2"})
        site.run.submit([request])
        seen = site.until(request.job_id)
        assert seen.state is JobState.FAILED, seen
        assert "limit" in str(seen.reason)
