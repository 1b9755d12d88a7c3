"""Small steps in making the body of a call. Imports nothing of ours: the command line uses it too."""

from __future__ import annotations

import os
from typing import Any, Union


def absolute(path: Union[str, os.PathLike[str]]) -> str:
    """``path`` as the agent, which is in another directory, can use it."""
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def without_none(**values: Any) -> dict[str, Any]:
    """A JSON object of the values that are there."""
    return {key: value for key, value in values.items() if value is not None}
