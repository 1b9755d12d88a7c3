"""``LwfManager``: the verbs of workflows, jobs, data and events, for scripts.

Each method is one question to the agent, or a few; nothing is remembered here. Inside a job everything is tagged with
that job and its workflow, unless another is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import clock
from ..client.calls import path_of
from ..models import Handler, JobEvent, JobStatus, MetadataEvent, Workflow
from ..records import JSON
from ..states import JobState, parse_state
from .bodies import without_none
from .data import DataVerbs
from .resuming import marked
from .site import Site
from .submission import capture_context
from .values import HandlerLike, JobLike, WorkflowLike, id_of, match_terms, optional_id, properties_of
from .waiting import wait_until

OUTPUT_PIECE_BYTES = 1024 * 1024


class LwfManager(DataVerbs):
    """An instance of lwfm, as a script sees it. Threads may share it.

    Args:
        home: the instance's directory; that of the environment (``$LWFM_HOME``, else ``~/.lwfm``) when None. Its agent
            is started by the first call when it does not run.
    """

    # -- sites

    def get_site(self, name: str = "local") -> Site:
        """The site of that name. It is looked up when it is first used.

        See :meth:`get_sites` for those there are.
        """
        return Site(name, self)

    def get_sites(self) -> list[Site]:
        """All configured sites."""
        return [Site(str(site["name"]), self) for site in self._client.get("/v1/sites")["sites"]]

    # -- workflows

    def put_workflow(
        self, workflow: str | Workflow, description: str = "", meta: Mapping[str, Any] | None = None
    ) -> Workflow:
        """Record a workflow: a new one of that name; or, for a workflow that has been recorded, its new form."""
        given = workflow if isinstance(workflow, Workflow) else Workflow(name=workflow)
        body = without_none(
            name=given.name,
            description=description or given.description,
            meta=properties_of(meta) if meta is not None else properties_of(given.meta),
            parent_job=given.parent_job or self.context().job_id,
            workflow_id=given.workflow_id or None,
        )
        if not given.workflow_id:
            body = marked(body, "workflow", given.name)
        return Workflow.from_json(self._client.post("/v1/workflows", body, repeatable=bool(given.workflow_id)))

    def get_workflow(self, workflow: WorkflowLike) -> Workflow:
        """The workflow of that id (or a unique prefix of it, or ``last``), as it stands now."""
        return Workflow.from_json(self._client.get(path_of("workflows", id_of(workflow, "a workflow"))))

    def find_workflows(
        self,
        name: str | None = None,
        match: Mapping[str, Any] | None = None,
        limit: int = 0,
        *,
        origin: str | None = None,
    ) -> list[Workflow]:
        """Workflows, newest first.

        Args:
            name: a name, or a glob of names. match: conditions on their properties; see :mod:`lwfm.matching`.
            origin: only those of this instance: its host, how its id begins, or ``here``.
        """
        query = {"name": name, "match": match_terms(match or {}), "origin": origin, "limit": limit}
        return [Workflow.from_json(body) for body in self._client.get("/v1/workflows", query)["workflows"]]

    def dump_workflow(self, workflow: WorkflowLike) -> JSON:
        """All that is recorded of a workflow: workflow, jobs, definitions, statuses, data, handlers, firings, logs."""
        dump: JSON = self._client.get(path_of("workflows", id_of(workflow, "a workflow"), "dump"))
        return dump

    # -- jobs

    def job(self, job: JobLike) -> JobStatus:
        """A job and how it stands now."""
        return JobStatus.from_json(self._client.get(path_of("jobs", id_of(job, "a job"))))

    status = job

    def statuses(self, job: JobLike) -> list[JSON]:
        """Every status the job has had, oldest first: ``state``, ``time``, ``reason``, ``attempt`` and its facts."""
        statuses: list[JSON] = self._client.get(path_of("jobs", id_of(job, "a job"), "statuses"))["statuses"]
        return statuses

    def jobs(
        self,
        workflow: WorkflowLike | None = None,
        state: str | JobState | Sequence[str | JobState] | None = None,
        site: str | None = None,
        match: Mapping[str, Any] | None = None,
        limit: int = 0,
        *,
        name: str | None = None,
        parent: JobLike | None = None,
        text: str | None = None,
        origin: str | None = None,
    ) -> list[JobStatus]:
        """Jobs, newest first.

        Args:
            state: one state or several. match: conditions on their properties. limit: at most so many; 0: all.
            name: a name, or a glob of names. text: words to be found in names and commands.
            origin: only those of this instance: its host, how its id begins, or ``here``.
        """
        states = [state] if isinstance(state, str) else list(state or ())
        query = {
            "workflow": optional_id(workflow, "a workflow"),
            "state": [parse_state(word).value for word in states],
            "site": site,
            "match": match_terms(match or {}),
            "limit": limit,
            "name": name,
            "parent": optional_id(parent, "a job"),
            "text": text,
            "origin": origin,
        }
        return [JobStatus.from_json(body) for body in self._client.get("/v1/jobs", query)["jobs"]]

    def wait(self, job: JobLike, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job has ended.

        Raises:
            WaitTimeout: it has not, after ``timeout_s`` seconds.
        """
        return self.wait_all([job], timeout_s)[0]

    def wait_all(self, jobs: Iterable[JobLike], timeout_s: float | None = None) -> list[JobStatus]:
        """Wait until all of ``jobs`` have ended; how they ended, in the same order.

        Raises:
            WaitTimeout: some have not, after ``timeout_s`` seconds.
        """
        return wait_until(self._client, [id_of(job, "a job") for job in jobs], "all", timeout_s)

    def cancel(self, job: JobLike, reason: str = "") -> JobStatus:
        """Ask for the end of a job, in any state; harmless when it has ended.

        Raises:
            Conflict: it is another instance's, and can only be cancelled there.
        """
        body = {"reason": reason} if reason else {}
        return JobStatus.from_json(
            self._client.post(path_of("jobs", id_of(job, "a job"), "cancel"), body, repeatable=True)
        )

    def output(self, job: JobLike, stream: str = "stdout") -> bytes:
        """What a job has printed up to now: ``stdout`` or ``stderr``."""
        path = path_of("jobs", id_of(job, "a job"), "output")
        pieces, offset = [], 0
        while True:
            answer = self._client.get_bytes(path, {"stream": stream, "offset": offset, "limit": OUTPUT_PIECE_BYTES})
            pieces.append(answer.body)
            offset = int(answer.headers.get("lwfm-offset", offset + len(answer.body)))
            if not answer.body or offset >= int(answer.headers.get("lwfm-size", 0)):
                return b"".join(pieces)

    def output_text(self, job: JobLike, stream: str = "stdout") -> str:
        """:meth:`output` as text; bytes that are not UTF-8 become ``\\ufffd``."""
        return self.output(job, stream).decode("utf-8", "replace")

    def emit_status(
        self,
        state: str | JobState,
        reason: str | None = None,
        *,
        job: JobLike | None = None,
        native_status: str | None = None,
        **facts: Any,
    ) -> JobStatus:
        """Record a status of a job: of this one by default. State INFO records a message and changes no state.

        Args:
            facts: what else is known, under the names of :class:`JobStatus`.

        Raises:
            Conflict: the job has ended, or is another instance's.
        """
        body = without_none(
            state=parse_state(state).value, reason=reason, native_status=native_status, **properties_of(facts)
        )
        return JobStatus.from_json(self._client.post(path_of("jobs", self.this_job(job), "emit"), body))

    # -- events

    def set_event(self, event: JobEvent | MetadataEvent, workflow: WorkflowLike | None = None) -> Handler:
        """When something happens, run or tell something. The id of the job to run is in the handler at once."""
        context = self.context()
        body = without_none(
            kind="job" if isinstance(event, JobEvent) else "data",
            event=event.to_json(),
            workflow=optional_id(workflow, "a workflow") or context.workflow_id,
            parent=context.job_id,
            context=capture_context(),
        )
        body = marked(body, "handler", body["event"])
        return Handler.from_json(self._client.post("/v1/handlers", body))

    def unset_event(self, handler: HandlerLike, reason: str | None = None) -> Handler:
        """Take back an event; its jobs that have not been triggered are cancelled.

        Raises:
            Conflict: it waits at another instance.
        """
        path = path_of("handlers", id_of(handler, "a handler"))
        return Handler.from_json(self._client.delete(path, {"reason": reason}))

    def events(
        self,
        workflow: WorkflowLike | None = None,
        state: str | None = None,
        limit: int = 0,
        *,
        origin: str | None = None,
    ) -> list[Handler]:
        """The events that have been set, newest first.

        Args:
            state: ``waiting``, ``done`` or ``unset``. origin: as in :meth:`jobs`.
        """
        query = {"workflow": optional_id(workflow, "a workflow"), "state": state, "origin": origin, "limit": limit}
        return [Handler.from_json(body) for body in self._client.get("/v1/handlers", query)["handlers"]]

    # -- log and search

    def log(
        self,
        message: str,
        level: str = "INFO",
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
    ) -> None:
        """Record a line of log. :func:`lwfm.logging_handler` does so for Python's own logging."""
        line = without_none(
            level=level.upper(),
            message=str(message),
            time=clock.utc_now(),
            job=optional_id(job, "a job"),
            workflow=optional_id(workflow, "a workflow"),
        )
        self.send_lines([line])

    def send_lines(self, lines: Sequence[JSON]) -> None:
        """Record lines of log, each ``{level, message, time, job, workflow}``."""
        context = self.context()
        tag = without_none(job=context.job_id, workflow=context.workflow_id)
        tagged = [line if "job" in line or "workflow" in line else {**tag, **line} for line in lines]
        self._client.post("/v1/logs", {"lines": tagged})

    def logs(
        self,
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
        level: str | None = None,
        text: str | None = None,
        limit: int = 0,
        *,
        origin: str | None = None,
    ) -> list[JSON]:
        """Lines of log, oldest first.

        Args:
            level: at least that. text: words to be found in them. origin: as in :meth:`jobs`.
        """
        query = {
            "job": optional_id(job, "a job"),
            "workflow": optional_id(workflow, "a workflow"),
            "level": level,
            "text": text,
            "origin": origin,
            "limit": limit,
        }
        lines: list[JSON] = self._client.get("/v1/logs", query)["logs"]
        return lines

    def search(self, words: str, limit: int = 50, *, origin: str | None = None) -> list[JSON]:
        """Full-text search over names, commands and logs: ``{kind, id, text, time, origin}`` of each hit.

        Args:
            origin: as in :meth:`jobs`.
        """
        results: list[JSON] = self._client.get("/v1/search", {"q": words, "origin": origin, "limit": limit})["results"]
        return results
