"""The records people handle: what a job is, what became of it, what data was put, what shall happen upon what.

Frozen dataclasses that turn to and from JSON objects. A key that this version does not know is kept in ``extra`` and
written back, so that records made by a newer version pass through an older one unharmed. Pure: no store, no process.
"""

from __future__ import annotations

from .data import Metasheet
from .definitions import JobDefn, Resources
from .events import Handler, JobEvent, MetadataEvent, Notification
from .jobs import JobContext, JobStatus
from .workflows import Workflow

__all__ = [
    "Handler",
    "JobContext",
    "JobDefn",
    "JobEvent",
    "JobStatus",
    "MetadataEvent",
    "Metasheet",
    "Notification",
    "Resources",
    "Workflow",
]
