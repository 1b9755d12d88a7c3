"""What can be done to an instance: the commands behind the API, each one transaction's worth of records.

Every command takes a :class:`~lwfm.recording.recorder.Recorder`, appends records and returns a JSON object as ``docs/api.md`` has
it. Nothing here waits, starts processes or speaks to sites; what is to be done lies in the recorder's effects.
"""

from __future__ import annotations

from .data import DataCommands
from .handlers import HandlerCommands
from .jobs import JobCommands


class Service(JobCommands, HandlerCommands, DataCommands):
    """All the commands, which share what was learned of those who call."""
