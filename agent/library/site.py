"""``Site`` with its four pillars as a script sees them: ``auth``, ``run``, ``repo``, ``spin``.

A site here is only a name and a way to ask the agent; the drivers are the agent's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Union

from ..client.calls import NO_TIMEOUT, path_of
from ..data.contents import name_of
from ..errors import InvalidRecord, LoginRequired
from ..ids import new_id
from ..models import JobStatus, Metasheet
from ..records import JSON
from .bodies import absolute, without_none
from .resuming import earlier_runs, occurrence
from .submission import capture_context
from .values import (
    CommandLike,
    DataLike,
    JobLike,
    PathLike,
    WorkflowLike,
    definition_of,
    id_of,
    optional_id,
    properties_of,
)

if TYPE_CHECKING:
    from .manager import LwfManager

SiteNames = Union[str, Sequence[str]]
"""A site, or several of which the first that accepts a job gets it."""
FIRST_CHUNK = 100
"""Jobs in the first call of many: small, so that the site has work while the rest is made."""
CHUNK = 250


class Site:
    """A place that offers the four pillars.

    Args:
        name: as in ``sites.toml``; ``local`` is always there.
    """

    def __init__(self, name: str, manager: LwfManager):
        self.name = name
        self.auth = AuthPillar(name, manager)
        self.run = RunPillar(name, manager)
        self.repo = RepoPillar(name, manager)
        self.spin = SpinPillar(name, manager)

    def __repr__(self) -> str:
        return f"Site({self.name!r})"

    def describe(self) -> JSON:
        """The site's driver, pillars, state and options.

        Raises:
            UnknownSite: there is none of that name.
        """
        answer: JSON = self.auth.ask_agent("GET")
        return answer


class Pillar:
    """What the four have in common."""

    def __init__(self, site: str, manager: LwfManager):
        self._site = site
        self._manager = manager

    def ask_agent(self, method: str, *parts: str, body: Any = None) -> Any:
        """A call below ``/v1/sites/NAME``."""
        path = path_of("sites", self._site, *parts)
        if method == "GET":
            return self._manager.client.get(path)
        if method == "DELETE":
            return self._manager.client.delete(path)
        return self._manager.client.post(path, body or {}, timeout_s=NO_TIMEOUT)


class AuthPillar(Pillar):
    """Getting in."""

    def login(self, ask: Callable[[str, bool], str] | None = None) -> None:
        """Log in.

        Args:
            ask: ``ask(prompt, secret)`` answers what the site asks of the person.

        Raises:
            LoginRequired: the site asks something and nobody is there to answer, or the answers were not accepted.
        """
        answers: list[str] = []
        while True:
            reply = self.ask_agent("POST", "login", body={"answers": answers})
            if reply.get("current"):
                return
            questions = reply.get("questions") or []
            if not questions or ask is None:
                raise LoginRequired(f"site {self._site} asks for a login", hint=f"run: lwfm site login {self._site}")
            answers += [ask(str(question["prompt"]), bool(question.get("secret"))) for question in questions]

    def is_auth_current(self) -> bool:
        """Whether the site would accept a call now."""
        checks = self.ask_agent("POST", "check", body={"pillars": ["auth"]})["checks"]
        return all(check["ok"] for check in checks if check["pillar"] == "auth")


class RunPillar(Pillar):
    """Jobs."""

    def submit(
        self,
        command: CommandLike,
        workflow: WorkflowLike | None = None,
        parent: JobLike | None = None,
        *,
        site: SiteNames | None = None,
    ) -> JobStatus:
        """Submit one job; it is recorded when this returns.

        Args:
            command: a :class:`JobDefn`, a list of words, or a line for the shell.
            workflow: what it belongs to; the workflow this process is part of when None. parent: likewise.
            site: instead of this site the first that accepts it of several: ``"a,b"``, or a list.

        Raises:
            ResourcesImpossible: the site could never run it. InvalidRecord, UnknownSite, …
        """
        return self.submit_many([command], workflow, parent, site=site)[0]

    def submit_many(
        self,
        commands: Iterable[CommandLike],
        workflow: WorkflowLike | None = None,
        parent: JobLike | None = None,
        *,
        site: SiteNames | None = None,
    ) -> list[JobStatus]:
        """Submit many jobs, some hundred per call to the agent; each call is recorded whole or not at all."""
        chosen = self._context(workflow, parent)
        if site is not None:
            chosen["site"] = site if isinstance(site, str) else ",".join(site)
        bodies = self._bodies(commands, chosen)
        recorded: list[JobStatus] = []
        for answer in self._manager.client.post_each("/v1/jobs", bodies):
            recorded += [JobStatus.from_json(job) for job in answer["jobs"]]
        return recorded

    def status(self, job: JobLike) -> JobStatus:
        """How a job stands now."""
        return self._manager.job(job)

    def cancel(self, job: JobLike, reason: str = "") -> JobStatus:
        """Ask for the end of a job, in any state; harmless when it has ended."""
        return self._manager.cancel(job, reason)

    def _context(self, workflow: WorkflowLike | None, parent: JobLike | None) -> JSON:
        here = self._manager.context()
        return without_none(
            context=capture_context(),
            site=self._site,
            workflow=optional_id(workflow, "a workflow") or here.workflow_id,
            parent=optional_id(parent, "a job") or here.job_id,
        )

    @staticmethod
    def _bodies(commands: Iterable[CommandLike], common: JSON) -> Iterator[JSON]:
        runs = earlier_runs()
        if runs:
            common = {**common, "earlier": runs}
        chunk: list[JSON] = []
        limit = FIRST_CHUNK
        for command in commands:
            definition = definition_of(command).to_json()
            if runs and "job_id" not in definition:
                definition["occurrence"] = occurrence("job", common.get("site"), definition)
            definition.setdefault("job_id", new_id())
            chunk.append(definition)
            if len(chunk) >= limit:
                yield {**common, "jobs": chunk}
                chunk, limit = [], CHUNK
        if chunk:
            yield {**common, "jobs": chunk}


class RepoPillar(Pillar):
    """Data."""

    def put(
        self,
        local_path: PathLike,
        site_path: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
    ) -> Metasheet:
        """Store a file or directory on the site and record its metadata.

        Args:
            site_path: where to; without one it is recorded where it is, if the site can see it.
            job, workflow: who puts it; this process's when None.

        Raises:
            NotFound: there is no such file. SiteError: it could not be stored.
        """
        return self._manager.record_data(
            "put", local_path, metadata, site=self._site, site_path=site_path, job=job, workflow=workflow
        )

    def get(self, data: DataLike, local_path: PathLike, job: JobLike | None = None) -> str:
        """Fetch data (its record, id or URL) to ``local_path``, checked against its checksum.

        Returns:
            Where it is now: ``local_path``, or the file below it when that is a directory.
        """
        name = id_of(data, "data")
        path = absolute(local_path)
        if os.path.isdir(path):
            path = os.path.join(path, self._file_name(data, name))
        body = without_none(data=name, path=path, job=optional_id(job, "a job") or self._manager.context().job_id)
        fetched = self._manager.client.post("/v1/data/fetch", body, timeout_s=NO_TIMEOUT)
        return str(fetched.get("path") or path)

    def find(self, match: Mapping[str, Any] | None = None, **properties: Any) -> list[Metasheet]:
        """Data on this site whose properties match, newest first."""
        return self._manager.data(match={**(match or {}), **properties}, site=self._site)

    def _file_name(self, data: DataLike, name: str) -> str:
        if "://" not in name:
            sheet = data if isinstance(data, Metasheet) else self._manager.get_data(name)
            name = sheet.path or sheet.url or ""
        found = name_of(name)
        if not found:
            raise InvalidRecord("this data has no file name", hint="give the name of the file to write")
        return found


class SpinPillar(Pillar):
    """Resources: nodes, partitions, allocations."""

    def list(self) -> Sequence[JSON]:
        """What there is: ``{resource_id, kind, state, facts}`` of each."""
        resources: Sequence[JSON] = self.ask_agent("GET", "resources")["resources"]
        return resources

    def create(self, kind: str, **spec: Any) -> JSON:
        """Make a resource.

        Raises:
            NotSupported: the site cannot.
        """
        resource: JSON = self.ask_agent("POST", "resources", body={"kind": kind, "spec": properties_of(spec)})
        return resource

    def destroy(self, resource_id: str) -> None:
        """Give a resource back.

        Raises:
            NotSupported: the site cannot.
        """
        self.ask_agent("DELETE", "resources", resource_id)
