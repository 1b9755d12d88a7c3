"""The one file, built once for all tests that use it, and how they run it: in an empty home, with nothing of ours installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import onefile
from support.onefile import Pyz

archive = onefile.archive


@pytest.fixture
def make_pyz(archive: Path, tmp_path: Path) -> Iterator[Callable[..., Pyz]]:
    """Makes a way to run the file: with which Python, with which further variables. Agents are stopped afterwards."""
    made: list[Pyz] = []

    def make(python: str = sys.executable, **variables: str) -> Pyz:
        home = tmp_path / f"home{len(made)}"
        home.mkdir()
        pyz = Pyz(archive, home, python, {"LWFM_CACHE": str(tmp_path / "cache"), **variables})
        made.append(pyz)
        return pyz

    yield make
    for pyz in made:
        if os.listdir(pyz.home):
            pyz.run("agent", "stop", "--kill")


@pytest.fixture
def pyz(make_pyz: Callable[..., Pyz]) -> Pyz:
    """The file, run by the Python of these tests."""
    return make_pyz()
