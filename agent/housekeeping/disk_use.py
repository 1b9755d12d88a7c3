"""What of an instance takes how much of the disk, beside its database. Reads; may take long."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from ..paths import Home
from .leftovers import files, log_directories

JSON = dict[str, Any]
CACHE_NAME = "lwfm-parts-"
"""How the directory is called in which ``lwfm.pyz`` unpacks its parts: ``build/onefile/lwfm_start.py``."""


def parts(home: Home) -> list[JSON]:
    """Of each part ``what`` it is, ``where`` it lies, how many ``files``, and the ``bytes`` that they take of the disk.

    What is there several times under several names counts as often.
    """
    brought = home.outputs / "contents"
    found = [
        _part("outputs of jobs", home.outputs, without=brought),
        _part("outputs of jobs of other instances", brought),
        _part("copies of data", home.contents),
        _part("data put into the home", home.repository),
        _part("spool of the worker", home.spool, logs=False),
        _logs(home),
        _part("sealed values", home.sealed),
        _part("allocations", home.allocations),
        _part("batch jobs", home.root / "batch"),
    ]
    cache = next((parent for parent in Path(__file__).parents if parent.name.startswith(CACHE_NAME)), None)
    if cache is not None:
        found.append(_part("unpacked lwfm.pyz", cache))
    return [part for part in found if part["files"]]


def _part(what: str, where: Path, *, without: Optional[Path] = None, logs: bool = True) -> JSON:
    left_out = f"{without}/" if without else None
    listed = (
        status
        for path, status in files(where)
        if not (left_out and path.startswith(left_out)) and (logs or not _is_log(path))
    )
    return _summed(what, where, listed)


def _logs(home: Home) -> JSON:
    listed = (
        status for directory in log_directories(home) for path, status in files(directory, deep=False) if _is_log(path)
    )
    return _summed("logs", home.root, listed)


def _is_log(path: str) -> bool:
    name = os.path.basename(path)
    return name.endswith(".log") or ".log." in name


def _summed(what: str, where: Path, listed: Iterable[os.stat_result]) -> JSON:
    count = taken = 0
    for status in listed:
        count, taken = count + 1, taken + status.st_blocks * 512
    return {"what": what, "where": str(where), "files": count, "bytes": taken}
