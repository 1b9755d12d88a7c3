"""What a resumed script asks for again: each request says which one of its kind it is, so that the agent finds what was made.

``lwfm run --resume`` names the earlier runs in the environment of the script; the first use takes them out of it, so that
programs which the script starts, with counts of their own, do not take part.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from typing import Any

from ..records import JSON

VARIABLE = "LWFM_EARLIER_RUNS"

_lock = threading.Lock()
_runs: list[str] = []
_seen: Counter[str] = Counter()


def earlier_runs() -> list[str]:
    """The ids of the jobs that were this script's earlier runs; empty when it resumes none."""
    given = os.environ.pop(VARIABLE, "")
    if given:
        _runs[:] = given.split(",")
    return list(_runs)


def occurrence(*request: Any) -> int:
    """How many requests like this one there were before."""
    key = json.dumps(request, sort_keys=True, default=str)
    with _lock:
        _seen[key] += 1
        return _seen[key] - 1


def marked(body: JSON, *request: Any) -> JSON:
    """``body`` with what tells the agent that it may have been made already; as it is when nothing is resumed."""
    runs = earlier_runs()
    return {**body, "earlier": runs, "occurrence": occurrence(*request)} if runs else body
