"""What is asked of the spool's disk where it does not matter whether it can be done. Raises nothing."""

from __future__ import annotations

import os


def listed(directory: str) -> list[str]:
    """The names in a directory; none where it cannot be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def unlink(path: str) -> None:
    """Remove a file, if it is there and can be."""
    try:
        os.unlink(path)
    except OSError:
        pass
