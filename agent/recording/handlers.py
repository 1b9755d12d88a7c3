"""What can be done to handlers: events are set, which makes handlers of them, and these are unset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Union

from ..errors import InvalidRecord
from ..ids import new_id
from ..models import JobEvent, MetadataEvent
from ..placing.candidates import Placement
from ..records import JSON, without_none
from ..states import JobState
from ..store import Connection, origins, queries
from .bodies import occurrence_of
from .commands import Commands
from .recorder import Recorder


class HandlerCommands(Commands):
    """The commands on handlers, and on workflows of which nothing is active any more."""

    def set_handler(self, recorder: Recorder, body: Mapping[str, Any], place: Optional[Placement] = None) -> JSON:
        """Record a handler and the jobs it will run, READY; it fires at once if what it waits for has happened.

        Args:
            recorder: the unit of work. ``body``: of the call. ``place``: where its jobs go, if that is not what the event says.
        """
        connection = recorder.transaction.connection
        caller = self._caller(recorder, body)
        kind, asked, event, limit = _event_of(connection, body)
        if kind == "job" and caller.workflow is None:
            first = recorder.job_now(event["jobs"][0])
            caller = caller._replace(workflow=first.workflow_id if first else None)
        defn = asked.defn
        if asked.notify is not None:
            defn = self._delivery(asked.notify)
            event["notify"] = self._vault.redacted(asked.notify.to_json())
        assert defn is not None  # an event has one or the other
        sites = place.sites if place is not None else ()
        if place is not None:
            event["site"] = place.site
        earlier = self._earlier_runs(recorder, body, caller.parent)
        if earlier is not None:
            wanted = {**event, "defn": self._sealed(defn, "", caller.cwd, sites)}
            made = earlier.handler(kind, wanted, occurrence_of(body))
            if made is not None:
                return queries.handler(connection, made)
        handler_id = new_id()
        job_ids = [new_id() for _ in range(limit or 0)]
        redacted = self._sealed(defn, job_ids[0] if len(job_ids) == 1 else handler_id, caller.cwd, sites)
        event["defn"] = redacted
        belonging = {"workflow_id": caller.workflow, "parent_id": caller.parent}
        reason = "waits for " + ("jobs" if kind == "job" else "data")
        for job_id in job_ids:
            job = {"state": JobState.READY.value, "site": event.get("site") or "local", **belonging}
            job.update({"context_id": caller.context_id, "handler_id": handler_id, "definition": redacted})
            recorder.record_job(without_none({**job, "reason": reason}), job_id, defn)
        record: JSON = {"kind": kind, "event": event, "job_ids": job_ids, **belonging}
        record.update({"context_id": caller.context_id, "fire_limit": limit})
        recorder.record("handler", without_none(record), handler_id)
        return queries.handler(connection, handler_id)

    def unset_handler(self, recorder: Recorder, handler_id: str, reason: str) -> JSON:
        """Record that a handler shall fire no more; its jobs that were never triggered are cancelled.

        Raises:
            Conflict: it waits at another instance.
        """
        connection = recorder.transaction.connection
        identifier = queries.resolve(connection, "handler", handler_id)
        handler = queries.handler(connection, identifier)
        if handler["state"] == "waiting":
            if handler["origin"] != recorder.transaction.origin:
                raise origins.refusal(connection, f"handler {identifier}", handler["origin"], "unset it there")
            recorder.record("unset", {"handler_id": identifier, "reason": reason})
        return queries.handler(connection, identifier)

    def close_workflow(self, recorder: Recorder, workflow_id: str, reason: str) -> JSON:
        """If nothing of a workflow is active, unset its handlers that wait for data; those of other instances wait on there."""
        connection = recorder.transaction.connection
        identifier = queries.resolve(connection, "workflow", workflow_id)
        unset: list[str] = []
        if not active_count(recorder, identifier):
            here = [recorder.transaction.origin]
            for handler in queries.list_handlers(
                connection, workflow=identifier, state="waiting", origins=here, limit=0
            ):
                if handler["kind"] == "data":
                    self.unset_handler(recorder, handler["handler_id"], reason)
                    unset.append(handler["handler_id"])
        return {"unset": unset}


def _event_of(
    connection: Connection, body: Mapping[str, Any]
) -> tuple[str, Union[JobEvent, MetadataEvent], JSON, Optional[int]]:
    """The kind of a handler, the event that is asked for, the same as it is recorded, and how often it may fire."""
    kind, given = body.get("kind"), body.get("event")
    if kind == "job":
        on_jobs = JobEvent.from_json(given)
        jobs = [queries.resolve(connection, "job", job) for job in on_jobs.job_ids]
        return kind, on_jobs, {**on_jobs.to_json(), "jobs": jobs}, 1
    if kind == "data":
        on_data = MetadataEvent.from_json(given)
        event = on_data.to_json()
        if on_data.workflow not in (None, "any"):
            event["workflow"] = queries.resolve(connection, "workflow", str(on_data.workflow))
        return kind, on_data, event, None if on_data.repeat is True else int(on_data.repeat)
    raise InvalidRecord(f"a handler's kind is job or data, not {kind!r}")


def active_count(recorder: Recorder, workflow_id: str) -> int:
    """How many jobs of a workflow run, wait for resources, or can still be triggered by jobs outside it; all at this instance.

    What becomes of the jobs of other instances is known when it is synced, which may be never: nothing ends later because of them.
    """
    execute, here = recorder.transaction.execute, recorder.transaction.origin
    (active,) = execute(
        "select coalesce(sum(jobs), 0) from job_counts"
        " where workflow_id = ? and state in ('PENDING', 'RUNNING', 'FINISHING', 'UNKNOWN')",
        (workflow_id,),
    ).fetchone()
    if active:
        (active,) = execute(
            "select count(*) from jobs where workflow_id = ? and state in ('PENDING', 'RUNNING', 'FINISHING', 'UNKNOWN')"
            " and origin = ?",
            (workflow_id, here),
        ).fetchone()
    if active:
        return int(active)
    (outside,) = execute(
        "select count(*) from handlers h join handler_jobs hj on hj.handler_id = h.id join jobs j on j.id = hj.job_id"
        " where h.workflow_id = ?1 and h.state = 'waiting' and j.workflow_id is not h.workflow_id"
        " and j.state in ('READY', 'PENDING', 'RUNNING', 'FINISHING', 'UNKNOWN') and h.origin = ?2 and j.origin = ?2",
        (workflow_id, here),
    ).fetchone()
    return int(outside)
