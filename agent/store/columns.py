"""What records say, as the columns of the tables hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..jsontext import compact
from ..records import MAX_INTEGER

FACTS = (
    "native_id", "host", "hosts", "allocation", "started_at", "ended_at", "exit_code", "signal", "cpu_seconds", "peak_rss_bytes",
    "read_bytes", "write_bytes", "stdout_bytes", "stderr_bytes",
)  # fmt: skip
"""What a status may tell of the attempt, beside its state; each is a column of ``jobs``."""
STATUS_TEXTS = ("reason", "native_status", "time")
MAX_ATTEMPT = 999_999
"""So that attempts are in order as text too."""
_STATUS_COLUMNS = frozenset({"job_id", "attempt", "state", *STATUS_TEXTS})


def split_status(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a status says that has columns of its own in ``statuses``, and the facts it tells beside."""
    head: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, value in body.items():
        if name in _STATUS_COLUMNS:
            head[name] = value
        else:
            facts[name] = value
    return head, facts


def command_line(command: Any) -> str:
    """A command as people read it."""
    return command if isinstance(command, str) else " ".join(map(str, command))


def text(value: Any) -> Any:
    """A value for a column: what Unicode cannot say is shown with backslashes (the log keeps the exact bytes).

    What no column can hold (a list, a number beyond 64 bits), in a record that somebody else made, becomes text.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if value is None:
        return None
    if isinstance(value, (dict, list)) or (isinstance(value, int) and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER):
        return dump(value)
    return value


def dump(value: Any) -> str:
    """A value for a JSON column."""
    return str(text(compact(value)))
