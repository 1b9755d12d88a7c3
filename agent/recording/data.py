"""What can be recorded beside jobs: workflows, data, log lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidRecord
from ..ids import new_id
from ..models import Metasheet, Workflow
from ..records import JSON
from ..redaction import redact_text
from ..store import nesting, queries
from .bodies import occurrence_of
from .commands import Commands
from .recorder import Recorder

MAX_LOG_CHARACTERS = 64 * 1024
_OF_RESUMING = ("earlier", "occurrence")
_NO_BODY: Mapping[str, Any] = {}


class DataCommands(Commands):
    """The commands on workflows, data and log lines."""

    def put_workflow(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """Record a workflow, or a new version of one."""
        given = Workflow.from_json(body)
        connection = recorder.transaction.connection
        earlier = self._earlier_runs(recorder, body, body.get("parent_job"))
        made = earlier.workflow(given.name, occurrence_of(body)) if earlier and not given.workflow_id else None
        if made is not None:
            return queries.workflow(connection, made)
        given = replace(given, extra={key: item for key, item in given.extra.items() if key not in _OF_RESUMING})
        identifier = queries.resolve(connection, "workflow", given.workflow_id) if given.workflow_id else new_id()
        record = {
            "workflow_id": identifier,
            "name": given.name,
            "description": given.description,
            "meta": dict(given.meta),
        }
        if given.parent_job:
            record["parent_job"] = nesting.resolve(connection, "job", given.parent_job)
        recorder.record("workflow", {**record, **given.extra}, None if given.workflow_id else identifier)
        return queries.workflow(connection, identifier)

    def put_data(self, recorder: Recorder, sheet: Metasheet, body: Mapping[str, Any] = _NO_BODY) -> JSON:
        """Record a piece of data, unless an earlier run that ``body`` names has."""
        earlier = self._earlier_runs(recorder, body, sheet.job_id)
        made = earlier.data(sheet.to_json(), occurrence_of(body)) if earlier else None
        if made is not None:
            return queries.data(recorder.transaction.connection, made)
        record = recorder.record_data(sheet.to_json())
        return queries.data(recorder.transaction.connection, record.uid)

    def log(self, recorder: Recorder, lines: Sequence[Any]) -> JSON:
        """Record log lines."""
        for line in lines:
            if not isinstance(line, Mapping) or not isinstance(line.get("message"), str):
                raise InvalidRecord("a log line is an object with a message")
            message = redact_text(line["message"][:MAX_LOG_CHARACTERS])
            body = {"level": str(line.get("level") or "INFO").upper(), "message": message}
            body.update({key: line[key] for key in ("job_id", "workflow_id", "time") if line.get(key)})
            recorder.record("log", body)
        return {}
