"""Running the built ``lwfm.pyz`` as a new user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_built: list[Path] = []


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly built ``lwfm.pyz``, the same in all modules that import this."""
    if not _built:
        target = tmp_path_factory.mktemp("dist") / "lwfm.pyz"
        words = [sys.executable, str(ROOT / "build" / "make_pyz.py"), "--output", str(target)]
        subprocess.run(words, check=True, timeout=600)
        _built.append(target)
    return _built[0]


class Pyz:
    """The built file, run by one Python in a home of its own.

    Args:
        archive: the file. ``home``: an empty directory. ``python``: the interpreter. ``variables``: more of its environment.
    """

    def __init__(self, archive: Path, home: Path, python: str, variables: Mapping[str, str]):
        self.archive = archive
        self.home = home
        self.python = python
        kept = ("PATH", "LANG", "TMPDIR")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment.update(HOME=str(home), **variables)

    @property
    def cache(self) -> Path:
        """The directory into which this user's parts are unpacked."""
        return Path(self.environment["LWFM_CACHE"]) / f"lwfm-parts-{os.getuid()}"

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it, whatever comes of it."""
        return subprocess.run(
            [self.python, str(self.archive), *words],
            env={**self.environment, **variables},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def __call__(self, *words: str, code: int = 0, **variables: str) -> str:
        """Run it; the exit code must be ``code``. Returns what it printed."""
        done = self.run(*words, **variables)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def groups(self) -> set[str]:
        """Which groups of packages have been unpacked."""
        return {path.stem for path in self.cache.glob("*/*/*.files") if not path.name.startswith(".")}
