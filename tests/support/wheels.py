"""Tiny packages, made without any tool or network: a wheel is a zip file (PEP 427)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(directory: Path, name: str, version: str, files: Mapping[str, str], entry_points: str = "") -> Path:
    """A wheel of pure Python.

    Args:
        files: contents by path. ``entry_points``: the text of ``entry_points.txt``.
    """
    info = f"{name}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **({f"{info}/entry_points.txt": entry_points} if entry_points else {}),
    }
    whole[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*whole, f"{info}/RECORD"])
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as target:
        for path, text in whole.items():
            target.writestr(path, text)
    return wheel
