"""What a worker leaves behind for the agent when it must go and the agent is not there: its events, beside the rendezvous.

Its node, and the spool on it, will not be ours any more; the directory of the allocation is on a file system that the agent sees,
and reads what lies there when it runs again (:mod:`lwfm.allocations.allotment`).
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from .spool import Spool

PREFIX = "left-"


def write_testament(spool: Spool, host: str, directory: str) -> None:
    """Write every event that was not acknowledged into ``directory``, large outputs as files beside it.

    Raises:
        OSError: it cannot be written.
    """
    from pathlib import Path

    from ..host.private import write_private
    from ..jsontext import compact_ascii

    texts, _ = spool.event_texts(spool.acked, 2**62)
    events = [json.loads(text) for text in texts]
    name = f"{PREFIX}{spool.worker}"
    for event in events:
        for stream in ("stdout", "stderr"):
            output = event.get(stream) or {}
            if "path" in output:
                target = os.path.join(directory, f"{name}.{event['n']}.{stream}")
                event[stream] = _copied(output, target)
    body = {"worker": spool.worker, "host": host, "events": events}
    write_private(Path(directory, f"{name}.json"), compact_ascii(body).encode("ascii"))


def _copied(output: dict[str, Any], target: str) -> dict[str, Any]:
    """The output with its file where the agent can take it over; without it when that fails, as when a quota is full."""
    try:
        shutil.copyfile(output["path"], target)
    except OSError:
        return {"size": output.get("size", 0)}
    return {**output, "path": target}
