"""The site ``ssh``: another instance, through a line to it. See ``docs/decisions/0010-jobs-of-other-instances.md``.

A job that is handed over keeps its id: the other instance adopts it, runs it at one of its own sites and records what becomes of
it, and this instance takes those records over like any others (:mod:`.exchange`), in one question for all jobs. So nothing is lost
when either side sleeps or the line breaks, and whatever else happens there to the same workflow comes along.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from ..client import Client, find_endpoint
from ..client.calls import path_of
from ..data.files import checksum, file_url
from ..errors import ConfigError, InvalidRecord, LoginRequired, LwfmError, NotFound, SiteError
from ..models import JobDefn
from ..records import JSON
from ..redaction import taken_along
from ..sites.base import Auth, JobRequest, Observation, Repo, Resource, Run, SiteContext, SiteDriver, Spin, StoredData
from ..states import JobState
from . import exchange, files
from .address import parse
from .agent_replica import AgentReplica
from .calls import RemoteApi
from .frames import Cut, Line
from .link import Link, There
from .remote import RemoteReplica

T = TypeVar("T")
JOBS_AT_ONCE = 1000
OWN_LINE_BYTES = 1024 * 1024
"""From this size on a file goes on a line of its own."""
_PLACE = "lwfm put FILE PATH --site NAME; a relative PATH lies in the repository there"
_SSH_OPTIONS = (
    "user", "port", "identity", "transport", "remote_path", "remote_python", "remote_home", "ssh_config",
)  # fmt: skip
_ANOTHER = "another instance answers there than when the line was opened"
_OPTIONS = frozenset(("host", "site", "directory", *_SSH_OPTIONS))


class SshSite(SiteDriver):
    """Another instance. Options: ``host`` and how ssh reaches it (see ``docs/ssh.md``), ``site``: which of its sites runs jobs (its
    ``local`` one), ``directory``: where there, unless a job says so (the user's home)."""

    own_process = True

    def __init__(self, context: SiteContext):
        super().__init__(context)
        unknown = sorted(set(context.options) - _OPTIONS)
        if unknown:
            raise ConfigError(
                f"site {context.name!r} has an option that the driver ssh does not know: {unknown[0]}",
                hint=f"it knows {', '.join(sorted(_OPTIONS))}",
            )
        try:
            ssh = {name: context.options.get(name) for name in _SSH_OPTIONS}
            address = parse(str(context.options.get("host") or context.name), **ssh)
        except (InvalidRecord, TypeError) as error:
            raise ConfigError(f"site {context.name!r}: {error}") from None
        self._link = Link(address, context.name)
        client = Client(replace(find_endpoint(context.home), may_start=False), None)  # its agent's end is its own
        site = str(context.options.get("site") or "local")
        directory = context.options.get("directory")
        self.auth = SshAuth(self._link)
        self.run = SshRun(context.name, self._link, client, site, None if directory is None else str(directory))
        self.repo = SshRepo(self._link)
        self.spin = SshSpin(self._link, site)

    def close(self) -> None:
        """Hang up."""
        self._link.close()


class SshAuth(Auth):
    """Logging in to the host."""

    def __init__(self, link: Link):
        self._link = link

    def login(self, ask: Callable[[str, bool], str]) -> None:
        """Open the line; what ssh has to know is asked of the person."""
        self._link.close()
        self._link.open(_Asker(ask))

    def is_auth_current(self) -> bool:
        """Whether the line is there, or can be opened without a question."""
        try:
            self._link.ask(lambda line, _: RemoteReplica(line).hello(None))
        except LoginRequired:
            return False
        return True


class _Asker:
    """See :class:`~.transport.Asker`."""

    def __init__(self, ask: Callable[[str, bool], str]):
        self._ask = ask

    def ask(self, prompt: str, echo: bool) -> str:
        return self._ask(prompt, not echo)

    def confirm(self, question: str) -> bool:
        return self._ask(f"{question} (yes or no)", False).strip().lower() in ("yes", "y")


class SshRun(Run):
    """Jobs, run by the other instance.

    Args:
        name: of this site. ``client``: of the agent here.
        site: of the other instance. ``directory``: there; None: the user's home.
    """

    records_come = True

    def __init__(self, name: str, link: Link, client: Client, site: str, directory: Optional[str]):
        self._name = name
        self._met = ""
        """The instance that the agent here knows to be there."""
        self._link = link
        self._client = client
        self._site = site
        self._directory = directory

    def check(self, defn: JobDefn) -> None:
        """Let the other instance judge a definition, where that takes no time; else it does when the job comes there."""
        body = {"site": self._site, "definition": defn.to_json()}
        self._link.ask_at_once(lambda line: RemoteApi(line).post("/v1/jobs/check", body))

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Have the other instance adopt jobs. It is recorded here before that it is that instance which runs them."""
        said: dict[str, Observation] = {}
        for start in range(0, len(requests), JOBS_AT_ONCE):
            part = requests[start : start + JOBS_AT_ONCE]
            said.update(self._link.ask(lambda line, there, part=part: self._hand_over(line, there, part)))  # type: ignore[misc]
        return said

    def _hand_over(self, line: Line, there: There, requests: Sequence[JobRequest]) -> dict[str, Observation]:
        origin = self._client.get("/v1/agent")["origin"]
        if origin == there.origin:
            raise SiteError(
                "what answers there is this very instance", hint="another home there: remote_home in sites.toml"
            )
        if there.origin != self._met:
            self._follow(line, there)  # some of these may have been handed to the one before
        body = {
            "jobs": [[request.job_id, request.attempt] for request in requests],
            "runner": there.origin,
            "host": there.host,
        }
        answer = self._client.post("/v1/jobs/hand-over", body, repeatable=True)
        withheld, workflows = set(answer["withheld"]), answer["workflows"]
        going = [request for request in requests if request.job_id not in withheld]
        api = RemoteApi(line)
        said: dict[str, Observation] = {}
        jobs = []
        for request in going:
            try:
                variables = self._taken_along(line, there, origin, request)
            except LwfmError as error:
                if error.transient:
                    raise
                why = f"what triggered it cannot be taken along: {error.message}"
                said[request.job_id] = Observation(JobState.FAILED, reason=why, facts={"refused": True})
                continue
            jobs.append(self._asked(request, workflows, variables))
        asked = {"origin": origin, "runner": there.origin, "jobs": jobs}
        adopted = api.post("/v1/jobs/adopt", asked) if jobs else {"jobs": []}
        if adopted.get("runner", there.origin) != there.origin:
            raise Cut(_ANOTHER)
        for told in adopted["jobs"]:
            refused = told.get("refused")
            state = JobState.FAILED if refused else JobState.PENDING
            reason = f"the instance on {there.host} did not take it: {refused}" if refused else None
            said[str(told["job_id"])] = Observation(state, reason=reason, facts={"refused": True} if refused else {})
        return said

    def _taken_along(self, line: Line, there: There, origin: str, request: JobRequest) -> dict[str, str]:
        """What the job is told of what triggered it; a file that did so is copied there, for the job to find.

        Raises:
            LwfmError: it is not here, and cannot be brought.
        """
        variables = {name: value for name, value in request.variables.items() if name.startswith("LWFM_TRIGGER_")}
        path, data = variables.get("LWFM_TRIGGER_PATH"), variables.get("LWFM_TRIGGER_DATA")
        if path is None or data is None:
            return variables
        sheet = self._client.get(path_of("data", data))
        if sheet["origin"] == there.origin or sheet.get("sha256") is None:
            return variables  # it lies there; or it is a directory, or only told of
        place = f"triggers/{data}/{Path(path).name}"
        with tempfile.TemporaryDirectory(prefix="lwfm-trigger-") as directory:
            source = Path(path)
            if sheet["origin"] != origin or not source.is_file():
                source = Path(directory) / Path(path).name
                body = {"data": data, "path": str(source), "record": False}
                self._client.post("/v1/data/fetch", body, repeatable=True)
            offer = files.Offer(sheet["sha256"], source.stat().st_size, source.name, place)
            variables["LWFM_TRIGGER_PATH"] = files.send(line, offer, source)
        return variables

    def _asked(self, request: JobRequest, workflows: Mapping[str, str], variables: Mapping[str, str]) -> JSON:
        """A job as the other instance is asked to run it: the submitter's own directory and environment are not taken along."""
        definition = request.defn.to_json()
        if definition.get("cwd") == request.submitted_from:
            definition.pop("cwd", None)
        if self._directory is not None:
            definition.setdefault("cwd", self._directory)
        for key in ("job_id", "site", "sites", "occurrence"):
            definition.pop(key, None)
        workflow = request.variables.get("LWFM_WORKFLOW_ID")
        asked = {
            "job_id": request.job_id, "site": request.site or self._site, "definition": definition, "variables": variables,
            "workflow_id": workflow, "workflow_name": workflows.get(workflow or ""), "attempt": request.attempt,
            "environment": taken_along(request.environment),
        }  # fmt: skip
        return {key: value for key, value in asked.items() if value is not None}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """Bring what is recorded there and not here; statuses come with that."""
        del job_ids
        try:
            self._link.ask(self._follow)
        except BaseException:  # as of the agent here, while records were on their way
            self._link.close()
            raise
        return {}

    def _follow(self, line: Line, there: There) -> None:
        """Bring what is recorded there; and when another instance is there than before, have the agent here know it.

        Raises:
            Cut: it has become another one on this line.
        """
        far = exchange.exchange(AgentReplica(self._client), RemoteReplica(line), pull=True, push=False).far
        if far.origin != there.origin:
            raise Cut(_ANOTHER)
        if far.origin != self._met:
            path, body = f"{path_of('sites', self._name)}/instance", {"origin": far.origin, "host": far.host}
            self._client.post(path, body, repeatable=True)
            self._met = far.origin

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Ask for the end of a job."""
        del attempt
        path = f"{path_of('jobs', job_id)}/cancel"
        self._link.ask(lambda line, _: RemoteApi(line).post(path, {"reason": reason}))

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of what a job has printed there."""
        query = {"stream": stream, "offset": offset, "limit": limit}
        path = f"{path_of('jobs', job_id)}/output"
        try:
            return self._link.ask(lambda line, _: RemoteApi(line).get_bytes(path, query).body)
        except NotFound:
            return b""  # it has not come there yet


class SshRepo(Repo):
    """Files of the other host; large ones have a line of their own."""

    thread_safe = True

    def __init__(self, link: Link):
        self._link = link

    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Copy a file or directory to a place there."""
        del properties
        if site_path is None:
            raise SiteError("a file of this host cannot be put at the other one without a place there", hint=_PLACE)
        if local_path.is_dir():
            path = self._move(None, lambda line, _: files.send_tree(line, local_path, site_path))
            host = self._link.open(None).host
            return StoredData(file_url(host, path), path, host)
        if not local_path.is_file():
            raise NotFound(f"there is no file {local_path}")
        sha256, size = checksum(local_path), local_path.stat().st_size
        offer = files.Offer(sha256, size, local_path.name, site_path)
        path = self._move(size, lambda line, _: files.send(line, offer, local_path))
        host = self._link.open(None).host
        return StoredData(file_url(host, path), path, host, size, sha256)

    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        """Bring a file or directory from there."""
        target = local_path / Path(stored.path).name if local_path.is_dir() else local_path
        given = stored.path, stored.sha256, target
        sha256, size = self._move(stored.size_bytes, lambda line, _: files.fetch(line, *given))
        here = str(target.absolute())
        return StoredData(file_url(socket.gethostname(), here), here, socket.gethostname(), size, sha256)

    def _move(self, size: Optional[int], work: Callable[[Line, There], T]) -> T:
        """Move so many bytes; what takes but a moment is not worth the time to open a line for it."""
        small = size is not None and size < OWN_LINE_BYTES
        return self._link.ask(work) if small else self._link.ask_apart(work)

    def remove(self, stored: StoredData) -> None:
        """Remove a file or directory there."""
        self._link.ask(lambda line, _: files.remove(line, stored.path))


class SshSpin(Spin):
    """The sites of the other instance, and what they compute on."""

    def __init__(self, link: Link, site: str):
        self._link = link
        self._site = site

    def list(self) -> Sequence[Resource]:
        """All of all its sites; a site that does not answer is listed with its reason."""

        def work(line: Line, _: There) -> Sequence[Resource]:
            api = RemoteApi(line)
            found: list[Resource] = []
            for site in api.get("/v1/sites")["sites"]:
                name = str(site["name"])
                found.append(Resource(name, "site", str(site.get("state")), {"driver": site.get("driver")}))
                if "spin" in site.get("pillars", ()):
                    try:
                        listed = api.get(f"{path_of('sites', name)}/resources")["resources"]
                    except LwfmError as error:
                        if isinstance(error, Cut):
                            raise
                        found[-1] = Resource(name, "site", "failed", {"reason": error.message})
                        continue
                    found += [_resource(name, item) for item in listed]
            return found

        return self._link.ask(work)

    def create(self, kind: str, spec: Mapping[str, Any]) -> Resource:
        """Make a resource of a site there: that of the key ``site`` in ``spec``."""
        given = dict(spec)
        site = str(given.pop("site", self._site))
        path, body = f"{path_of('sites', site)}/resources", {"kind": kind, "spec": given}
        return _resource(site, self._link.ask(lambda line, _: RemoteApi(line).post(path, body)))

    def destroy(self, resource_id: str) -> None:
        """Give a resource back."""
        site, _, name = resource_id.partition("/") if "/" in resource_id else (self._site, "", resource_id)
        self._link.ask(lambda line, _: RemoteApi(line).delete(path_of("sites", site, "resources", name)))


def _resource(site: str, item: JSON) -> Resource:
    there = Resource.from_json(item)
    return replace(there, resource_id=f"{site}/{there.resource_id}")
