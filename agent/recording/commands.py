"""What all commands ask of who calls: in which workflow and which job, under which circumstances, and to resume which runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ..errors import InvalidRecord
from ..models import JobDefn, Notification
from ..records import JSON, without_none
from ..redaction import taken_over
from ..store import nesting, queries
from .bodies import context_of
from .earlier import Earlier
from .recorder import Recorder
from .sealing import Vault

MAX_COMMAND_CHARACTERS = 2 * 1024 * 1024
"""What a program can be given on Linux with the usual limits (execve(2)); also keeps messages to workers within a frame."""


class Caller(NamedTuple):
    """Who calls, as far as it is recorded with what is made upon the call.

    Args:
        workflow, parent: that it belongs to. ``context_id``: of the record of the circumstances.
        host, cwd: two of these.
    """

    workflow: Optional[str]
    parent: Optional[str]
    context_id: str
    host: Optional[str]
    cwd: Optional[str]


class Commands:
    """What commands share: the vault for secrets, which contexts have been recorded, and what resumed runs have made.

    Args:
        vault: where the secret parts of definitions are kept.
        delivery: turns a notification into the job that delivers it.
    """

    def __init__(self, vault: Vault, delivery: Callable[[Notification], JobDefn]):
        self._vault = vault
        self._delivery = delivery
        self._contexts: dict[str, str] = {}
        self._earlier: dict[str, Earlier] = {}

    def reset(self) -> None:
        """Forget what was learned in a transaction that was undone."""
        self._contexts.clear()
        self._earlier.clear()

    def belonging(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """The ``job_id`` and ``workflow_id`` that a body names, whole; the workflow is the job's where only that is given."""
        workflow, job = _belonging(recorder, body.get("workflow"), body.get("job"))
        return without_none({"job_id": job, "workflow_id": workflow})

    def _caller(self, recorder: Recorder, body: Mapping[str, Any]) -> Caller:
        """Who calls; the circumstances are recorded, if they were not yet."""
        workflow, parent = _belonging(recorder, body.get("workflow"), body.get("parent"))
        context = context_of(body)
        return Caller(workflow, parent, self._context(recorder, context), context.get("host"), context.get("cwd"))

    def _context(self, recorder: Recorder, given: Mapping[str, Any]) -> str:
        context = dict(given)
        context["env"] = taken_over(context.get("env") or {})
        digest = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()
        if digest not in self._contexts:
            self._contexts[digest] = recorder.record("context", context).uid
        return self._contexts[digest]

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


def _belonging(recorder: Recorder, workflow: Any, job: Any) -> tuple[Optional[str], Optional[str]]:
    """The workflow and the job that these begin the ids of; where no workflow is given, the job's."""
    connection = recorder.transaction.connection
    if workflow:
        workflow = nesting.resolve(connection, "workflow", str(workflow))
    if job:
        job = nesting.resolve(connection, "job", str(job))
        if not workflow:
            known = recorder.job_now(job)
            workflow = known.workflow_id if known else nesting.outer_workflow(connection, job)
    return workflow or None, job or None
