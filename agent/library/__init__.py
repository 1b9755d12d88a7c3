"""What a user's script uses: ``LwfManager``, ``Site``, ``logging_handler``. Everything is asked of the agent."""

from __future__ import annotations

from .logs import logging_handler
from .manager import LwfManager
from .site import Site

__all__ = ["LwfManager", "Site", "logging_handler"]
