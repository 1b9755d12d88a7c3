"""From what is recorded of a job to what a site is asked to run: secrets in place, the environment, what lwfm tells the job."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from ..models import JobDefn
from ..redaction import taken_over
from ..sites.base import JobRequest
from ..store import Connection, parts
from .sealing import Vault

CACHED_CONTEXTS = 64
MAX_VARIABLE_BYTES = 100_000
"""A variable that is larger could keep the job from starting (Linux: MAX_ARG_STRLEN, 128 KiB); who needs what is left out asks
the agent."""
_QUERY = (
    "select j.id, coalesce(a.site, j.site), attempt, workflow_id, context_id, handler_id, trigger_job, trigger_data, cwd,"
    " definition, request from jobs j left join local_adopted a on a.job_id = j.id where j.id in (?)"
)


class SiteRequest(NamedTuple):
    """A request and the site it is for."""

    site: str
    request: JobRequest


class NewJob(NamedTuple):
    """A job that was recorded just now: what it runs, secrets in place, and the body of its record."""

    defn: JobDefn
    body: Mapping[str, Any]


@dataclass
class RequestBuilder:
    """Builds requests from the store.

    Args:
        vault: holds the secrets of definitions.
        variables: what every job is told: the instance's home and socket.
        programs: the directory at the end of every job's PATH, in which ``lwfm`` lies.
        labels: what a site asks of the agent's nodes.
    """

    vault: Vault
    variables: Mapping[str, str]
    programs: str
    labels: Callable[[str], frozenset[str]] = lambda _: frozenset()
    _contexts: dict[str, tuple[dict[str, str], Optional[str]]] = field(default_factory=dict)

    def build(self, connection: Connection, jobs: Mapping[str, Optional[NewJob]]) -> list[SiteRequest]:
        """The requests for ``jobs``, in this order; those that are not new are read from the store."""
        built: dict[str, SiteRequest] = {}
        ids = [job_id for job_id, new in jobs.items() if new is None]
        for row in parts.execute(connection, _QUERY, ids):
            built[row[0]] = self._from_store(connection, row)
        for job_id, new in jobs.items():
            if new is not None:
                built[job_id] = self._of_new(connection, job_id, new)
        return [built[job_id] for job_id in jobs if job_id in built]

    def _from_store(self, connection: Connection, row: Sequence[Any]) -> SiteRequest:
        job_id, site, attempt, workflow, context_id, handler, trigger_job, trigger_data, cwd, definition, adopted = row
        if adopted is not None:
            return SiteRequest(site, self._build_adopted(job_id, attempt, site, workflow, json.loads(adopted)))
        defn = JobDefn.recorded(self.vault.unseal([job_id, handler or ""], json.loads(definition)))
        told = workflow, context_id, trigger_job, trigger_data
        return SiteRequest(site, self._build(connection, job_id, attempt, site, defn, cwd, *told))

    def _build_adopted(
        self, job_id: str, attempt: int, site: str, workflow: Optional[str], asked: Mapping[str, Any]
    ) -> JobRequest:
        """The request of another instance's job: what that asked for counts, and the environment of its user here."""
        defn = JobDefn.recorded(self.vault.unseal([job_id], asked["definition"]))
        if defn.cwd is None:
            object.__setattr__(defn, "cwd", os.path.expanduser("~"))
        variables = {"LWFM_JOB_ID": job_id, "LWFM_ATTEMPT": str(attempt), **asked["variables"]}
        if workflow:
            variables["LWFM_WORKFLOW_ID"] = workflow
        environment = {**taken_over(os.environ), **asked["environment"], **self._environment_of_ours()}
        context = hashlib.sha256(repr(sorted(environment.items())).encode("utf-8", "surrogateescape")).hexdigest()
        return JobRequest(
            job_id, attempt, defn, context, environment, variables, self.labels(site), None, site.partition("/")[2]
        )

    def _of_new(self, connection: Connection, job_id: str, new: NewJob) -> SiteRequest:
        of = new.body.get
        told = of("workflow_id"), of("context_id"), of("trigger_job"), of("trigger_data")
        recorded = new.body["definition"]
        cwd = recorded.get("cwd")
        site = new.body["site"]
        new.defn.extra.pop("sites", None)
        if "sites" in recorded:
            new.defn.extra["sites"] = recorded["sites"]
        return SiteRequest(site, self._build(connection, job_id, 1, site, new.defn, cwd, *told))

    def _build(
        self, connection: Connection, job_id: str, attempt: int, site: str, defn: JobDefn, cwd: Optional[str],
        workflow: Optional[str], context_id: Optional[str], trigger_job: Optional[str], trigger_data: Optional[str],
    ) -> JobRequest:  # fmt: skip
        variables = {"LWFM_JOB_ID": job_id, "LWFM_ATTEMPT": str(attempt)}
        if workflow:
            variables["LWFM_WORKFLOW_ID"] = workflow
        if trigger_job:
            variables["LWFM_TRIGGER_JOB"] = trigger_job
        if trigger_data:
            variables.update(_data_variables(connection, trigger_data))
        if defn.cwd is None and cwd:
            object.__setattr__(defn, "cwd", cwd)
        environment, directory = self._environment(connection, context_id)
        told = context_id or "", environment, variables, self.labels(site), directory, site.partition("/")[2]
        return JobRequest(job_id, attempt, defn, *told)

    def _environment(self, connection: Connection, context_id: Optional[str]) -> tuple[dict[str, str], Optional[str]]:
        """The variables of a submitter, and its directory."""
        if not context_id:
            return self._environment_of_ours(), None
        if context_id not in self._contexts:
            row = connection.execute("select env, cwd from contexts where id = ?", (context_id,)).fetchone()
            if len(self._contexts) >= CACHED_CONTEXTS:
                self._contexts.clear()
            environment = json.loads(row[0]) if row else {}
            environment.update(self.variables)
            environment["PATH"] = os.pathsep.join([environment.get("PATH") or os.defpath, self.programs])
            self._contexts[context_id] = environment, row[1] if row else None
        return self._contexts[context_id]

    def _environment_of_ours(self) -> dict[str, str]:
        path = os.pathsep.join([os.environ.get("PATH") or os.defpath, self.programs])
        return {**self.variables, "PATH": path}


def _data_variables(connection: Connection, data_id: str) -> dict[str, str]:
    """What a job is told of the data that triggered it."""
    variables = {"LWFM_TRIGGER_DATA": data_id}
    row = connection.execute("select path, properties from metasheets where id = ?", (data_id,)).fetchone()
    if row:
        if row[0]:
            variables["LWFM_TRIGGER_PATH"] = row[0]
        if len(row[1].encode()) < MAX_VARIABLE_BYTES:
            variables["LWFM_TRIGGER_PROPERTIES"] = row[1]
    return variables
