"""What a user's script uses: ``LwfManager``, ``Site``, ``logging_handler``. Everything is asked of the agent.

Each is loaded when it is first used: the command line needs parts of this package, and none of the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .logs import logging_handler
    from .manager import LwfManager
    from .site import Site

__all__ = ["LwfManager", "Site", "logging_handler"]

_HOME_OF = {"LwfManager": ".manager", "Site": ".site", "logging_handler": ".logs"}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
