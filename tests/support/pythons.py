"""The Pythons of this machine: those on PATH and those that pyenv keeps, or those that ``LWFM_TEST_PYTHONS`` names."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

VARIABLE = "LWFM_TEST_PYTHONS"
"""Paths of interpreters, separated as in PATH; instead of looking for them."""
_TELL = (
    "import sys, platform; print('%d.%d' % sys.version_info[:2]);"
    "print(sys.prefix == getattr(sys, 'base_prefix', sys.prefix)); print(platform.python_implementation())"
)


@lru_cache(maxsize=1)
def pythons() -> dict[tuple[int, int], str]:
    """One CPython that belongs to no virtual environment for each minor version found, by version."""
    given = os.environ.get(VARIABLE)
    candidates = given.split(os.pathsep) if given else [*_kept_by_pyenv(), *_on_path()]
    found: dict[tuple[int, int], str] = {}
    for candidate in candidates:
        version = _version(candidate)
        if version is not None:
            found.setdefault(version, candidate)
    return dict(sorted(found.items()))


def supported() -> list[str]:
    """Those that the one file has parts for."""
    return [path for version, path in pythons().items() if (3, 9) <= version <= (3, 14)]


def too_old() -> list[str]:
    """Those that are older."""
    return [path for version, path in pythons().items() if version < (3, 9)]


def name_of(path: str) -> str:
    """The version of one of them, for the name of a test."""
    return next(f"{major}.{minor}" for (major, minor), found in pythons().items() if found == path)


def _kept_by_pyenv() -> list[str]:
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    return [str(path) for path in sorted(Path(root).glob("versions/*/bin/python")) if os.access(path, os.X_OK)]


def _on_path() -> list[str]:
    names = ["python3", *(f"python3.{minor}" for minor in range(6, 15)), "python2.7"]
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(place, name) for place in places for name in names if place and "shims" not in place)
    return [path for path in paths if os.access(path, os.X_OK)]


def _version(path: str) -> tuple[int, int] | None:
    try:
        done = subprocess.run(
            [path, "-I" if "2.7" not in path else "-E", "-c", _TELL], capture_output=True, text=True, timeout=20
        )
        told, outside, kind = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    major, minor = told.split(".")
    return (int(major), int(minor)) if outside == "True" and kind == "CPython" else None
