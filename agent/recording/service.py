"""What can be done to an instance: the commands behind the API, each one transaction's worth of records.

Every command takes a :class:`~lwfm.recording.recorder.Recorder`, appends records and returns a JSON object as ``docs/api.md`` has
it. Nothing here waits, starts processes or speaks to sites; what is to be done lies in the recorder's effects.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ..clock import utc_now
from ..errors import Conflict, InvalidRecord
from ..ids import new_id
from ..jsontext import compact_ascii
from ..models import JobDefn, JobEvent, MetadataEvent, Metasheet, Notification, Workflow
from ..placing.candidates import Placement
from ..records import check_facts, check_properties
from ..redaction import redact_text, taken_along, taken_over
from ..states import JobState, parse_state
from ..store import nesting, origins, queries
from ..store.columns import FACTS, command_line
from .earlier import Earlier
from .recorder import JobNow, Recorder
from .sealing import Vault

JSON = dict[str, Any]
MAX_ATTEMPTS = 1_000_000
MAX_LOG_CHARACTERS = 64 * 1024
MAX_COMMAND_CHARACTERS = 2 * 1024 * 1024
"""What a program can be given on Linux with the usual limits (execve(2)); also keeps messages to workers within a frame."""
_OWN = frozenset({"command", "name", "job_id"})
"""The keys of a definition in which jobs of one submission usually differ."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_NO_BODY: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Adopted:
    """A job of another instance that this one is asked to run.

    Args:
        site: of ours. ``defn``: what to run, secrets in place. ``attempt``: which attempt.
        variables: what the job is told beside. ``environment``: of its submitter, as far as it means something here.
        workflow_name: what its workflow is called, of which nothing else may be known here.
    """

    job_id: str
    site: str
    defn: JobDefn
    workflow_id: Optional[str] = None
    workflow_name: Optional[str] = None
    parent_id: Optional[str] = None
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1

    @classmethod
    def from_json(cls, body: Any) -> Adopted:
        """As it is asked for.

        Raises:
            InvalidRecord: it is malformed.
        """
        if not isinstance(body, Mapping):
            raise InvalidRecord("a job is an object")
        variables = body.get("variables") or {}
        if not isinstance(variables, Mapping) or not all(
            isinstance(value, str) and name.startswith("LWFM_TRIGGER_") for name, value in variables.items()
        ):
            raise InvalidRecord("variables must be an object of LWFM_TRIGGER_ names and texts")
        environment, attempt = body.get("environment") or {}, body.get("attempt", 1)
        if not isinstance(environment, Mapping) or not all(isinstance(value, str) for value in environment.values()):
            raise InvalidRecord("environment must be an object of texts")
        if isinstance(attempt, bool) or not isinstance(attempt, int) or not 1 <= attempt < MAX_ATTEMPTS:
            raise InvalidRecord("attempt must be a number from 1")
        for name in ("workflow_id", "workflow_name", "parent_id"):
            if body.get(name) is not None:
                text_of(body, name)
        return cls(
            _checked_id(body.get("job_id")),
            text_of(body, "site"),
            JobDefn.from_json(body.get("definition")),
            body.get("workflow_id"),
            body.get("workflow_name"),
            body.get("parent_id"),
            dict(variables),
            taken_along(environment),
            attempt,
        )


class Service:
    """The commands. Holds what they share: the vault for secrets, and which contexts have been recorded.

    Args:
        vault: where the secret parts of definitions are kept.
        notifier: turns a notification into the job that delivers it.
    """

    def __init__(self, vault: Vault, notifier: Any):
        self._vault = vault
        self._notifier = notifier
        self._contexts: dict[str, str] = {}
        self._earlier: dict[str, Earlier] = {}

    def reset(self) -> None:
        """Forget what was learned in a transaction that was undone."""
        self._contexts.clear()
        self._earlier.clear()

    def put_workflow(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """Record a workflow, or a new version of one."""
        given = Workflow.from_json(body)
        connection = recorder.transaction.connection
        earlier = self._earlier_runs(recorder, body, body.get("parent_job"))
        made = earlier.workflow(given.name, _occurrence(body)) if earlier and not given.workflow_id else None
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

    def submit(
        self,
        recorder: Recorder,
        body: Mapping[str, Any],
        definitions: Sequence[JobDefn],
        placements: Sequence[Placement] = (),
    ) -> JSON:
        """Record new jobs, PENDING at their sites. A definition whose ``job_id`` is known already is not recorded again.

        Args:
            recorder: the unit of work. ``body``: of the call. ``definitions``: what it says under ``jobs``.
            placements: where each goes; without them, to the site that is named.
        """
        workflow, parent = self._belonging(recorder, body)
        context = context_of(body)
        context_id = self._context(recorder, context)
        default_site = str(body.get("site") or "local")
        earlier = self._earlier_runs(recorder, body, parent)
        answers = []
        given = [_checked_id(defn.extra["job_id"]) for defn in definitions if defn.extra.get("job_id") is not None]
        known = recorder.transaction.find_jobs(given)
        for index, defn in enumerate(definitions):
            job_id = defn.extra.get("job_id")
            if job_id is not None:
                if job_id in known:
                    answers.append(queries.job(recorder.transaction.connection, job_id))
                    continue
                known.add(job_id)
            place = placements[index] if placements else Placement(str(defn.extra.get("site") or default_site))
            if earlier is not None and "occurrence" in defn.extra:
                wanted = self._sealed(defn, "", context.get("cwd"), place.sites)
                made = earlier.job(place.site, wanted, _occurrence(defn.extra))
                if made is not None:
                    answers.append(queries.job(recorder.transaction.connection, made))
                    continue
            answers.append(
                self._new_job(recorder, defn, place, workflow, parent, context_id, context.get("cwd"), job_id)
            )
        return {"jobs": answers}

    def adopt(self, recorder: Recorder, origin: str, jobs: Sequence[Adopted]) -> JSON:
        """Take over jobs of another instance, to run them here; one that was taken over before is not run again.

        Raises:
            Conflict: there is a job of that id here which is not that instance's.
        """
        answers = []
        recorder.transaction.find_jobs([job.job_id for job in jobs])
        for job in jobs:
            known = recorder.job_now(job.job_id)
            beside = {"variables": dict(job.variables), "environment": dict(job.environment)}
            if known is not None and known.origin != origin:
                raise Conflict(f"there is a job {job.job_id} here already, and it is no job of the instance that asks")
            if known is None or not known.adopted:
                body: JSON = {"site": job.site, "workflow_id": job.workflow_id, "workflow_name": job.workflow_name}
                body["parent_id"] = job.parent_id
                body["definition"] = self._sealed(job.defn, job.job_id, None)
                recorder.adopt(job.job_id, origin, _without_none(body), beside)
            now = recorder.job_now(job.job_id)
            if now is not None and job.attempt > now.attempt:
                recorder.adopt_again(now, job.attempt, self._sealed(job.defn, job.job_id, None), beside)
                now = recorder.job_now(job.job_id)
            answers.append({"job_id": job.job_id, "state": now.state.value if now else "UNKNOWN"})
        return {"jobs": answers}

    def hand_over(self, recorder: Recorder, jobs: Sequence[tuple[str, int]], runner: str, host: str) -> JSON:
        """Record which instance runs attempts of jobs of ours from now on, before it hears of them.

        Returns:
            As ``withheld`` those that have ended, or are not ours to hand over, and as ``workflows`` the names of the others'
            workflows, by id.
        """
        withheld, workflows = [], set()
        recorder.transaction.find_jobs([job_id for job_id, _ in jobs])
        for job_id, attempt in jobs:
            job = recorder.job_now(job_id)
            if job is None:
                continue  # there is nothing to record, and nothing against it
            ended = job.state.terminal and job.attempt >= attempt
            if ended or job.origin != recorder.transaction.origin:
                withheld.append(job_id)
                continue
            if job.runner != runner:
                reason = f"handed to the instance on {host}"
                state = JobState.PENDING if job.state.terminal else job.state
                recorder.record_status(job, state, attempt=max(attempt, job.attempt), reason=reason, runner=runner)
            workflows.add(job.workflow_id)
        names = {each: queries.workflow(recorder.transaction.connection, each)["name"] for each in workflows if each}
        return {"withheld": withheld, "workflows": names}

    def attach(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """Record a job that the caller executes itself: RUNNING, its process one that we watch but did not start."""
        workflow, parent = self._belonging(recorder, body)
        context = context_of(body)
        defn = JobDefn.from_json(body.get("definition"))
        context_id = self._context(recorder, context)
        site = str(body.get("site") or "local")
        given = defn.extra.get("job_id")
        if given is not None and recorder.job_now(_checked_id(given)) is not None:
            return queries.job(recorder.transaction.connection, given)
        job_id = given or new_id()
        place = Placement(site)
        record = self._job_body(defn, place, workflow, parent, context_id, context.get("cwd"), JobState.READY, job_id)
        recorder.record_job(record, job_id, defn)
        facts: JSON = {"host": context.get("host"), "native_id": str(body.get("pid")), "native_status": "attached"}
        job = recorder.active_job(job_id)
        recorder.record_status(job, JobState.RUNNING, started_at=utc_now(), **facts)
        return queries.job(recorder.transaction.connection, job_id)

    def emit_status(self, recorder: Recorder, job_id: str, body: Mapping[str, Any]) -> JSON:
        """Record a status that somebody tells of a job."""
        connection = recorder.transaction.connection
        job = recorder.active_job(queries.resolve(connection, "job", job_id))
        state = parse_state(body.get("state"))
        if state in (JobState.READY, JobState.PENDING):
            raise InvalidRecord(
                f"{state} cannot be emitted: it would have the job run again", hint="submit a new job instead"
            )
        if job.state in (JobState.READY, JobState.PENDING) and not (state.terminal or state is JobState.INFO):
            raise Conflict(
                f"job {job.job_id} has not been started: {job.state}", hint="it tells its states when it runs"
            )
        facts = {key: value for key, value in body.items() if key in FACTS or key in ("reason", "native_status")}
        check_facts(facts)
        recorder.record_status(job, state, **facts)
        return queries.job(connection, job.job_id)

    def cancel(self, recorder: Recorder, job_id: str, reason: str, *, placed: bool) -> Optional[JobNow]:
        """Record that a job shall end.

        Args:
            recorder: the unit of work.
            job_id: the job. ``reason``: why.
            placed: whether a site has it; then it is FINISHING until the site says that it has ended.

        Returns:
            The job as it was, if its site is to be told; None otherwise.

        Raises:
            Conflict: it is another instance's, and has not ended as far as is known.
        """
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal:
            return None
        if not recorder.is_ours(job):
            raise origins.refusal(recorder.transaction.connection, f"job {job_id}", job.origin, "cancel it there")
        if job.state is JobState.READY or not placed:
            recorder.record_status(job, JobState.CANCELLED, reason=reason)
            return None
        if job.state is not JobState.FINISHING:
            recorder.record_status(job, JobState.FINISHING, reason=reason, native_status="cancel requested")
        return job

    def set_handler(self, recorder: Recorder, body: Mapping[str, Any], place: Optional[Placement] = None) -> JSON:
        """Record a handler and the jobs it will run, READY; it fires at once if what it waits for has happened.

        Args:
            recorder: the unit of work. ``body``: of the call. ``place``: where its jobs go, if that is not what the event says.
        """
        workflow, parent = self._belonging(recorder, body)
        connection = recorder.transaction.connection
        kind, given = body.get("kind"), body.get("event")
        context = context_of(body)
        context_id = self._context(recorder, context)
        if kind == "job":
            job_event = JobEvent.from_json(given)
            jobs = [queries.resolve(connection, "job", job) for job in job_event.job_ids]
            event = {**job_event.to_json(), "jobs": jobs}
            limit: Optional[int] = 1
            if workflow is None:
                job = recorder.job_now(jobs[0])
                workflow = job.workflow_id if job else None
            action: Any = job_event
        elif kind == "data":
            data_event = MetadataEvent.from_json(given)
            event = data_event.to_json()
            limit = None if data_event.repeat is True else int(data_event.repeat)
            if data_event.workflow not in (None, "any"):
                event["workflow"] = queries.resolve(connection, "workflow", str(data_event.workflow))
            action = data_event
        else:
            raise InvalidRecord(f"a handler's kind is job or data, not {kind!r}")
        defn = action.defn or self._notifier(action.notify if action.notify else Notification(command="true"))
        if action.notify is not None:
            event["notify"] = self._vault.redacted(action.notify.to_json())
        sites = place.sites if place is not None else ()
        if place is not None:
            event["site"] = place.site
        earlier = self._earlier_runs(recorder, body, parent)
        if earlier is not None:
            wanted = {**event, "defn": self._sealed(defn, "", context.get("cwd"), sites)}
            made = earlier.handler(kind, wanted, _occurrence(body))
            if made is not None:
                return queries.handler(connection, made)
        handler_id = new_id()
        job_ids = [new_id() for _ in range(limit or 0)]
        redacted = self._sealed(defn, job_ids[0] if len(job_ids) == 1 else handler_id, context.get("cwd"), sites)
        event["defn"] = redacted
        record = {"kind": kind, "event": event, "job_ids": job_ids, "workflow_id": workflow, "parent_id": parent}
        record.update({"context_id": context_id, "fire_limit": limit})
        for job_id in job_ids:
            job_body = {
                "state": "READY",
                "site": event.get("site") or "local",
                "workflow_id": workflow,
                "parent_id": parent,
            }
            job_body.update({"context_id": context_id, "handler_id": handler_id, "definition": redacted})
            job_body["reason"] = "waits for " + ("jobs" if kind == "job" else "data")
            recorder.record_job(_without_none(job_body), job_id, defn)
        recorder.record("handler", _without_none(record), handler_id)
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

    def put_data(self, recorder: Recorder, sheet: Metasheet, body: Mapping[str, Any] = _NO_BODY) -> JSON:
        """Record a piece of data, unless an earlier run that ``body`` names has."""
        earlier = self._earlier_runs(recorder, body, sheet.job_id)
        made = earlier.data(sheet.to_json(), _occurrence(body)) if earlier else None
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

    def belonging(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """The ``job_id`` and ``workflow_id`` that a body names, whole; the workflow is the job's where only that is given."""
        workflow, job = self._belonging(recorder, {"workflow": body.get("workflow"), "parent": body.get("job")})
        return _without_none({"job_id": job, "workflow_id": workflow})

    def _earlier_runs(self, recorder: Recorder, body: Mapping[str, Any], run: Optional[str]) -> Optional[Earlier]:
        """What was made by the runs that the caller, the job ``run``, resumes; None when it resumes none."""
        runs = body.get("earlier")
        if not runs or not run:
            return None
        if not isinstance(runs, list) or not all(isinstance(job, str) for job in runs):
            raise InvalidRecord("earlier must be a list of job ids")
        if run not in self._earlier:
            connection = recorder.transaction.connection
            since = str(queries.job(connection, run)["submitted_at"])
            self._earlier[run] = Earlier(connection, runs, since)
        return self._earlier[run]

    def _belonging(self, recorder: Recorder, body: Mapping[str, Any]) -> tuple[Optional[str], Optional[str]]:
        connection = recorder.transaction.connection
        workflow, parent = body.get("workflow"), body.get("parent")
        if workflow:
            workflow = nesting.resolve(connection, "workflow", str(workflow))
        if parent:
            parent = nesting.resolve(connection, "job", str(parent))
            if not workflow:
                job = recorder.job_now(parent)
                workflow = job.workflow_id if job else nesting.outer_workflow(connection, parent)
        return workflow or None, parent or None

    def _context(self, recorder: Recorder, given: Mapping[str, Any]) -> str:
        context = dict(given)
        context["env"] = taken_over(context.get("env") or {})
        digest = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()
        if digest not in self._contexts:
            self._contexts[digest] = recorder.record("context", context).uid
        return self._contexts[digest]

    def _new_job(
        self, recorder: Recorder, defn: JobDefn, place: Placement, workflow: Optional[str], parent: Optional[str],
        context_id: str, cwd: Optional[str], job_id: Optional[str],
    ) -> JSON:  # fmt: skip
        job_id = job_id or new_id()
        body = self._job_body(defn, place, workflow, parent, context_id, cwd, JobState.PENDING, job_id)
        record = recorder.record_job(body, job_id, defn)
        answer = {
            "job_id": job_id, "state": "PENDING", "site": place.site, "name": defn.name, "attempt": 1,
            "submitted_at": record.wall_utc, "command": command_line(body["definition"]["command"]),
        }  # fmt: skip
        if workflow:
            answer["workflow_id"] = workflow
        if parent:
            answer["parent_id"] = parent
        if place.reason:
            answer["reason"] = place.reason
        return answer

    def _job_body(
        self, defn: JobDefn, place: Placement, workflow: Optional[str], parent: Optional[str], context_id: str,
        cwd: Optional[str], state: JobState, job_id: Optional[str] = None,
    ) -> JSON:  # fmt: skip
        body: JSON = {"state": state.value, "site": place.site}
        if place.reason:
            body["reason"] = place.reason
        if workflow:
            body["workflow_id"] = workflow
        if parent:
            body["parent_id"] = parent
        body["context_id"] = context_id
        body["definition"] = self._sealed(defn, job_id or "", cwd, place.sites)
        return body

    def _sealed(self, defn: JobDefn, owner: str, cwd: Optional[str], sites: Sequence[str] = ()) -> JSON:
        """The definition as it is recorded: with its directory, and the sites it may go to, where they are several.

        It is without its secrets, which go to the vault.
        """
        if defn.size > MAX_COMMAND_CHARACTERS:
            raise InvalidRecord(
                f"the job's command, environment and outputs have {defn.size} characters, more than {MAX_COMMAND_CHARACTERS}",
                hint="put what is long into a file that the job reads",
            )
        definition = defn.to_json()
        for key in ("job_id", "site", "sites", "occurrence"):
            definition.pop(key, None)
        if sites:
            definition["sites"] = list(sites)
        if "cwd" not in definition and cwd:
            definition["cwd"] = cwd
        return self._vault.seal(owner, definition)


_OF_RESUMING = ("earlier", "occurrence")


def _occurrence(body: Mapping[str, Any]) -> int:
    """Which request of its kind this is, from 0."""
    number = body.get("occurrence")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidRecord(f"occurrence must be a whole number from 0, not {number!r}")
    return number


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


def job_ids_of(body: Mapping[str, Any]) -> list[str]:
    """The ids under ``jobs``.

    Raises:
        InvalidRecord: they are not a list of text.
    """
    given = body.get("jobs")
    if not isinstance(given, list) or not all(isinstance(job, str) for job in given):
        raise InvalidRecord("jobs must be a list of job ids")
    return given


def definitions_of(body: Mapping[str, Any]) -> list[JobDefn]:
    """The definitions under ``jobs``, checked.

    Raises:
        InvalidRecord: one is malformed; the message says which.
    """
    given = body.get("jobs")
    if not isinstance(given, list) or not given:
        raise InvalidRecord("jobs must be a list of at least one definition")
    definitions: list[JobDefn] = []
    known, model = "", None
    for index, item in enumerate(given):
        try:
            shared = _shared(item)
            if model is None or shared != known or not shared:
                known, model = shared, JobDefn.from_json(item)
                definitions.append(model)
            else:
                extra = {key: value for key, value in model.extra.items() if key != "job_id"}
                if "job_id" in item:
                    extra["job_id"] = item["job_id"]
                definitions.append(model.with_command(item["command"], item.get("name", ""), extra))
        except InvalidRecord as error:
            where = f"job {index + 1} of {len(given)}: " if len(given) > 1 else ""
            raise InvalidRecord(where + error.message, hint=error.hint) from None
    return definitions


def _shared(item: Any) -> str:
    """What jobs of one submission have in common, as text that is the same for the same alone; empty if that cannot be told.

    Thousands that differ only in the words of their command need their environment, their resources and so on looked at once.
    """
    if not isinstance(item, dict) or "command" not in item:
        return ""
    return compact_ascii({key: value for key, value in item.items() if key not in _OWN})


def text_of(body: Mapping[str, Any], key: str) -> str:
    """The text under ``key``.

    Raises:
        InvalidRecord: it is not text.
    """
    value = body.get(key)
    if not isinstance(value, str):
        raise InvalidRecord(f"{key} must be text, not {type(value).__name__}")
    return value


def context_of(body: Mapping[str, Any]) -> JSON:
    """The ``context`` of a body; empty when there is none.

    Raises:
        InvalidRecord: it is not what ``docs/api.md`` says.
    """
    if body.get("context") is None:
        return {}
    check_properties(body["context"], "context")
    context = dict(body["context"])  # as it came: a directory's name need not be Unicode
    for key in ("host", "user", "cwd", "python", "version"):
        if context.get(key) is not None:
            text_of(context, key)
    if not str(context.get("cwd") or "/").startswith("/"):
        raise InvalidRecord(f"context: cwd must be an absolute path, not {context['cwd']!r}")
    env, git = context.get("env") or {}, context.get("git") or {}
    for key, part in (("env", env), ("git", git)):
        check_properties(part, f"context: {key}")
    if not all(isinstance(value, str) for value in env.values()):
        raise InvalidRecord("context: env must hold text")
    if not isinstance(git.get("commit") or "", str) or not isinstance(git.get("dirty") or False, bool):
        raise InvalidRecord("context: git must hold a commit, and whether it is dirty")
    return {**context, "env": env, "git": git} if "git" in context else {**context, "env": env}


def _checked_id(job_id: Any) -> str:
    if not isinstance(job_id, str) or not _UUID.fullmatch(job_id):
        raise InvalidRecord(f"{job_id!r} is not a job id", hint="leave it out, or give a UUID")
    return job_id


def _without_none(body: JSON) -> JSON:
    return {key: value for key, value in body.items() if value is not None}
