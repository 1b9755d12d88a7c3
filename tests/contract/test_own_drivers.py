"""Drivers as users write them under the contract: in the test's process, and in one of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.sites.base import SiteContext
from lwfm.sites.skeleton import SkeletonSite
from lwfm.testing import SiteContract, SiteUnderTest, in_own_process

from support.agents import new_home
from support.rest_service import answer, rest_service

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="class")
def place() -> Iterator[Path]:
    """Directories for a site and its tests."""
    place = new_home()
    for name in ("home", "here", "there"):
        (place / name).mkdir()
    yield place
    shutil.rmtree(place)


class TestSkeletonSite(SiteContract):
    """What ``lwfm site new`` writes, in this process."""

    @pytest.fixture(scope="class")
    def site(self, place: Path) -> Iterator[SiteUnderTest]:
        context = SiteContext("mine", {"directory": str(place / "jobs")}, place / "home", place / "home")
        driver = SkeletonSite(context)
        yield SiteUnderTest(driver, place / "here", str(place / "there"))
        driver.close()


class TestSkeletonSiteInItsOwnProcess(SiteContract):
    """As the agent has it."""

    @pytest.fixture(scope="class")
    def site(self, place: Path) -> Iterator[SiteUnderTest]:
        context = SiteContext("mine", {"directory": str(place / "jobs")}, place / "home", place / "home")
        driver = in_own_process("lwfm.sites.skeleton:SkeletonSite", context)
        yield SiteUnderTest(driver, place / "here", str(place / "there"))
        driver.close()


class TestRestSite(SiteContract):
    """The example of the site author's guide: a real service, asked over HTTP."""

    @pytest.fixture(scope="class")
    def site(self, place: Path) -> Iterator[SiteUnderTest]:
        with rest_service() as url:
            driver = in_own_process(
                f"{ROOT / 'examples' / 'rest_site' / 'rest_site.py'}:RestSite",
                SiteContext("rest", {"url": url}, place / "home", place / "home"),
            )
            assert driver.auth is not None
            driver.auth.login(answer)
            yield SiteUnderTest(driver, place / "here", str(place / "there"), answer=answer)
            driver.close()
