"""lwfm: the lightweight workflow manager that fits in one file.

The names below are loaded when they are first used, so that ``import lwfm`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME_OF = {
    "LwfManager": ".library",
    "Site": ".library",
    "logging_handler": ".library",
    "JobDefn": ".models",
    "Resources": ".models",
    "JobStatus": ".models",
    "JobContext": ".models",
    "Workflow": ".models",
    "Metasheet": ".models",
    "JobEvent": ".models",
    "MetadataEvent": ".models",
    "Handler": ".models",
    "Notification": ".models",
    "JobState": ".states",
    "LwfmError": ".errors",
}

__all__ = [
    "Handler",
    "JobContext",
    "JobDefn",
    "JobEvent",
    "JobState",
    "JobStatus",
    "LwfManager",
    "LwfmError",
    "MetadataEvent",
    "Metasheet",
    "Notification",
    "Resources",
    "Site",
    "Workflow",
    "__version__",
    "logging_handler",
]

if TYPE_CHECKING:
    from .errors import LwfmError
    from .library import LwfManager, Site, logging_handler
    from .models import (
        Handler,
        JobContext,
        JobDefn,
        JobEvent,
        JobStatus,
        MetadataEvent,
        Metasheet,
        Notification,
        Resources,
        Workflow,
    )
    from .states import JobState


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
