"""Drivers as users write them under the contract: in the test's process, and in one of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.sites.base import SiteContext
from lwfm.testing import SiteContract, SiteUnderTest, in_own_process

from support.agents import new_home
from support.shell_site import ShellSite

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture(scope="class")
def place() -> Iterator[Path]:
    """Directories for a site and its tests."""
    place = new_home()
    for name in ("home", "here", "there"):
        (place / name).mkdir()
    yield place
    shutil.rmtree(place)


class TestShellSite(SiteContract):
    """In this process."""

    @pytest.fixture(scope="class")
    def site(self, place: Path) -> Iterator[SiteUnderTest]:
        context = SiteContext("shell", {"directory": str(place / "jobs")}, place / "home", place / "home")
        driver = ShellSite(context)
        yield SiteUnderTest(driver, place / "here", str(place / "there"))
        driver.close()


class TestShellSiteInItsOwnProcess(SiteContract):
    """As the agent has it."""

    @pytest.fixture(scope="class")
    def site(self, place: Path) -> Iterator[SiteUnderTest]:
        context = SiteContext("shell", {"directory": str(place / "jobs")}, place / "home", place / "home")
        driver = in_own_process(f"{SUPPORT / 'shell_site.py'}:ShellSite", context)
        yield SiteUnderTest(driver, place / "here", str(place / "there"))
        driver.close()
