"""What earlier runs of a script have made, so that a run that resumes them need not make it again.

A script that is run again asks for the same things in the same order. What it asks for is compared, by a digest of all that
matters, with what its earlier runs have recorded: the first such request is given the first of what they made, the second the
second, and so on. What had failed or was cancelled when this run began does not count: it is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..records import JSON
from ..store import Connection
from ..store.parts import marks

_JOBS = """
    select id, site, definition from jobs where parent_id in (?) and handler_id is null
    and not (state in ('FAILED', 'CANCELLED') and status_at < ?)
"""
_HANDLERS = """
    select id, kind, event from handlers where parent_id in (?) and state <> 'unset' and not exists (
        select 1 from jobs where handler_id = handlers.id and state in ('FAILED', 'CANCELLED') and status_at < ?)
"""
_DATA = "select id, op, path, sha256, properties from metasheets where job_id in (?)"
_WORKFLOWS = "select id, name from workflows where parent_job in (?)"


class Earlier:
    """What was made by earlier runs.

    Args:
        connection: for reading.
        runs: the jobs that were those runs. ``since``: when this run began; what failed later counts as made.
    """

    def __init__(self, connection: Connection, runs: Sequence[str], since: str):
        self._made: dict[str, list[str]] = {}

        def made(query: str, *more: str) -> list[tuple[Any, ...]]:
            return connection.execute(
                query.replace("(?)", f"({marks(runs)})") + " order by id", (*runs, *more)
            ).fetchall()

        for job_id, site, definition in made(_JOBS, since):
            self._note(_job_key(site, json.loads(definition)), job_id)
        for handler_id, kind, event in made(_HANDLERS, since):
            self._note(_handler_key(kind, json.loads(event)), handler_id)
        for data_id, op, path, sha256, properties in made(_DATA):
            self._note(("data", op, path, sha256, json.loads(properties)), data_id)
        for workflow_id, name in made(_WORKFLOWS):
            self._note(("workflow", name), workflow_id)

    def job(self, site: str, definition: Mapping[str, Any], occurrence: int) -> Optional[str]:
        """The job that a submission stands for: the ``occurrence``-th (from 0) with this definition, as it is recorded."""
        return self._find(_job_key(site, definition), occurrence)

    def handler(self, kind: str, event: Mapping[str, Any], occurrence: int) -> Optional[str]:
        """Likewise the handler of an event."""
        return self._find(_handler_key(kind, event), occurrence)

    def data(self, sheet: JSON, occurrence: int) -> Optional[str]:
        """Likewise a piece of data, given as its metasheet."""
        key = ("data", sheet.get("op"), sheet.get("path"), sheet.get("sha256"), sheet.get("properties") or {})
        return self._find(key, occurrence)

    def workflow(self, name: str, occurrence: int) -> Optional[str]:
        """Likewise a workflow."""
        return self._find(("workflow", name), occurrence)

    def _note(self, key: Any, made: str) -> None:
        self._made.setdefault(digest(key), []).append(made)

    def _find(self, key: Any, occurrence: int) -> Optional[str]:
        made = self._made.get(digest(key), ())
        return made[occurrence] if occurrence < len(made) else None


def _job_key(site: str, definition: Mapping[str, Any]) -> Any:
    """Of a job that may go to several sites it does not matter to which of them it went."""
    return ("job", "" if "sites" in definition else site, definition)


def _handler_key(kind: str, event: Mapping[str, Any]) -> Any:
    several = "sites" in (event.get("defn") or {})
    return ("handler", kind, {key: value for key, value in event.items() if not (several and key == "site")})


def digest(value: Any) -> str:
    """A name for a JSON value, the same for equal ones."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
