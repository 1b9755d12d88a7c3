"""The fuzzer's corpus holds, and a short run of it on all targets finds nothing new."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import run
from fuzz.targets import CORPUS, TARGETS, seeds

SECONDS = 12
CORPUS_BYTES = 64 * 1024
WITH_ATHERIS = (3, 11) <= sys.version_info[:2] <= (3, 13) and platform.machine() == "x86_64"
"""Where requirements-dev.lock has it."""


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_corpus_holds(name: str) -> None:
    """What was found once, and what is usual."""
    assert seeds(name)
    for data in seeds(name).values():
        TARGETS[name](data)


def test_the_corpus_is_small_and_has_no_strangers() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < CORPUS_BYTES


@pytest.mark.skipif(not WITH_ATHERIS, reason="atheris has no build for this Python or machine")
@pytest.mark.optin
def test_a_short_run_finds_nothing() -> None:
    assert importlib.util.find_spec("atheris"), "requirements-dev.lock was to install it"
    words = [sys.executable, "-I", str(Path(run.__file__)), "--minutes", str(SECONDS / 60), "all"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
