"""A site whose driver runs in a process of its own: pillars that pass each call on to it.

The process is started by the first call, in the thread of that call, and again by the first call after it has died; when it dies at
once, again and again, it is left alone for a while between. Making one of these blocks nobody.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Protocol
from urllib.parse import quote

from ..config import PILLARS
from ..errors import ConfigError, LwfmError, SiteError
from ..models import JobDefn
from ..paths import self_command
from ..records import JSON
from .base import (
    Auth,
    JobRequest,
    Observation,
    Pillar,
    Repo,
    Resource,
    Run,
    SiteContext,
    SiteDriver,
    Spin,
    StoredData,
)
from .child import Ask, Child, Unsent
from .pipe import Message

START_LIMIT_S = 120.0
"""How long a driver may take to be imported and made: from a shared file system that many use, minutes."""
CALL_LIMIT_S = 600.0
"""How long a call may take, waiting for its turn included; moving data may take as long as it likes."""
AT_ONCE_S = 5.0
"""A process that lives no longer has died at once."""
MAX_PAUSE_S = 60.0
MAX_ENVIRONMENTS = 64
"""How many environments of jobs the process is told to remember."""


class Sandbox(Protocol):
    """A virtual environment, where a driver's packages are."""

    def make(self, stopping: threading.Event) -> list[str]:
        """The words that start the process of a driver in it; it is made if need be. Blocks, until ``stopping`` is set."""


def log_of(context: SiteContext) -> Path:
    """Where the driver of a site prints to."""
    return context.home / "sites" / f"{quote(context.name, safe=' ')}.log"


class ProcessSite(SiteDriver):
    """A site in another process.

    Args:
        driver: the name of its driver; the class is not loaded here.
        sandbox: where to run it; None: with this very Python.
        limit_s: how long calls may take.

    A pillar is there until the driver has said that it does not have it.
    """

    def __init__(
        self,
        context: SiteContext,
        driver: str,
        sandbox: Optional[Sandbox] = None,
        limit_s: float = CALL_LIMIT_S,
    ):
        super().__init__(context)
        self.state, self.trouble = "not started", ""
        self.limit_s = limit_s
        self._driver = driver
        self._sandbox = sandbox
        self._run = ProcessRun(self)
        self._pillars: dict[str, _Passed] = {
            "auth": ProcessAuth(self), "run": self._run, "repo": ProcessRepo(self), "spin": ProcessSpin(self)
        }  # fmt: skip
        self._show(PILLARS)
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._child: Optional[Child] = None
        self._newest: Optional[Child] = None
        self._deaths = 0
        self._not_before = 0.0
        self._failure: Optional[LwfmError] = None

    def start(self, *, at_once: bool = False) -> Child:
        """The process, started if need be. Blocks.

        Args:
            at_once: a person asks: try now, however often that was in vain.

        Raises:
            ConfigError: the driver cannot be made. SiteError, transient: its process cannot be started, or not yet again.
        """
        child = self._child
        if child is not None and child.alive and self.state == "ready":
            return child
        with self._starting:
            return self._started(at_once)

    def call(
        self,
        pillar: str,
        method: str,
        *args: Any,
        limit_s: Optional[float] = None,
        ask: Optional[Ask] = None,
        **more: Any,
    ) -> Message:
        """Call a method there. ``limit_s``: at most so long; None: without limit."""
        head = {"t": "call", "pillar": pillar, "method": method, "args": args, **more}
        try:
            return self.start().call(head, limit_s=limit_s, ask=ask)
        except Unsent:  # it died since the last call
            return self.start().call(head, limit_s=limit_s, ask=ask)

    def close(self) -> None:
        """End the process. Blocks for some seconds at most."""
        self._stopping.set()
        newest = self._newest
        if newest is not None:
            newest.close()
        with self._starting:  # one that was being started meanwhile
            if self._newest is not None and self._newest is not newest:
                self._newest.close()
            self.state = "closed"

    def _started(self, at_once: bool) -> Child:
        if self._child is not None:
            if self._child.alive:
                return self._child
            if self._child.ended - self._child.started > AT_ONCE_S:
                self._deaths = 0
            self._child = None
            self._note_death()
        if self._stopping.is_set():
            raise SiteError(f"site {self.context.name!r} is being closed", transient=True)
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0 and not at_once:
            raise self._again(wait_s)
        self.state, self.trouble = "starting", ""
        try:
            self._child = self._new()
        except BaseException as error:
            self._failure = error if isinstance(error, LwfmError) else None
            self.state, self.trouble = "failed", getattr(error, "message", "") or str(error)
            self._note_death()
            raise
        self.state, self._failure = "ready", None
        return self._child

    def _new(self) -> Child:
        command = [*self_command(), "site-host"] if self._sandbox is None else self._sandbox.make(self._stopping)
        context = self.context
        child = Child(context.name, command, _environment(command, self._sandbox is not None), log_of(context))
        self._newest = child
        head = {
            "t": "start", "name": context.name, "driver": self._driver, "options": dict(context.options),
            "home": str(context.home), "repository": str(context.repository),
            "log": str(log_of(context)),
        }  # fmt: skip
        try:
            ready = child.call(head, limit_s=START_LIMIT_S).head
            if ready["reports_itself"] or ready["labels"]:
                raise ConfigError(
                    f"the driver of site {context.name!r} reports by itself, which one in a process of its own cannot",
                    hint="take process and venv out of its section of sites.toml, and own_process out of its class",
                )
        except BaseException:
            child.kill()
            raise
        self._show(ready["pillars"])
        self._run.records_come = bool(ready["records_come"])
        for name, pillar in self._pillars.items():
            pillar.thread_safe = name in ready["thread_safe"]
        return child

    def _show(self, offered: Sequence[str]) -> None:
        for name in PILLARS:
            setattr(self, name, self._pillars[name] if name in offered else None)

    def _note_death(self) -> None:
        """The first time it is started again at once, then after a second, two, four …"""
        self._deaths += 1
        if self._deaths > 1:
            self._not_before = time.monotonic() + min(MAX_PAUSE_S, 2.0 ** (self._deaths - 2))

    def _again(self, wait_s: float) -> LwfmError:
        failure = self._failure
        if failure is not None and not failure.transient:
            return type(failure)(failure.message, hint=failure.hint)
        said = failure.message if failure is not None else f"the driver of site {self.context.name!r} has died"
        return SiteError(f"{said}; it is started again in {wait_s:.0f} s", transient=True)


def _environment(command: Sequence[str], sandboxed: bool) -> dict[str, str]:
    """The variables of the process: the agent's, and in a virtual environment those that make it active."""
    variables = dict(os.environ)
    if sandboxed:
        programs = Path(command[0]).parent
        for name in ("PYTHONHOME", "PYTHONPATH"):
            variables.pop(name, None)
        variables["VIRTUAL_ENV"] = str(programs.parent)
        variables["PATH"] = os.pathsep.join([str(programs), variables.get("PATH") or os.defpath])
    return variables


class _Passed(Pillar):
    """What the four have in common: calls go to the process."""

    def __init__(self, site: ProcessSite):
        self._site = site


class ProcessAuth(_Passed, Auth):
    """Getting in."""

    def login(self, ask: Callable[[str, bool], str]) -> None:
        """Log in there; its questions come back here."""
        self._site.call("auth", "login", limit_s=self._site.limit_s, ask=ask)

    def is_auth_current(self) -> bool:
        """Whether the site would accept a call now."""
        return bool(self._site.call("auth", "is_auth_current", limit_s=self._site.limit_s).head["value"])


class ProcessRun(_Passed, Run):
    """Jobs. An environment that many have in common is sent once."""

    def __init__(self, site: ProcessSite):
        super().__init__(site)
        self._submitting = threading.Lock()
        self._told: Optional[Child] = None
        self._environments: dict[str, tuple[Mapping[str, str], str]] = {}
        self._count = 0

    def check(self, defn: JobDefn) -> None:
        """Accept or refuse a definition."""
        self._site.call("run", "check", defn.to_json(), limit_s=self._site.limit_s)

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Hand jobs over."""
        try:
            return self._submit(requests)
        except Unsent:
            return self._submit(requests)

    def _submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        child = self._site.start()
        with self._submitting:
            bodies, more = self._packed(requests, anew=child is not self._told)
            self._told = None  # until it has come there
            head = {"t": "call", "pillar": "run", "method": "submit", "args": [bodies], **more}
            answer = child.call(head, limit_s=self._site.limit_s)
            self._told = child
        return _observed(answer)

    def _packed(self, requests: Sequence[JobRequest], *, anew: bool) -> tuple[list[JSON], JSON]:
        """The requests, and the environments that the process has not been told yet; ``anew``: it remembers none."""
        if anew or self._count > MAX_ENVIRONMENTS:
            anew, self._count, self._environments = True, 0, {}
        fresh: dict[str, JSON] = {}
        bodies = []
        for request in requests:
            environment = request.environment
            known = self._environments.get(request.context_id)
            if known is None or (known[0] is not environment and known[0] != environment):
                self._count += 1
                known = self._environments[request.context_id] = (environment, str(self._count))
                fresh[known[1]] = dict(environment)
            bodies.append({**request.to_json(), "environment": known[1]})
        return bodies, {"environments": fresh, "forget": anew} if fresh or anew else {}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What the site says of these jobs."""
        return _observed(self._site.call("run", "status", list(job_ids), limit_s=self._site.limit_s))

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Ask for the end of a job."""
        self._site.call("run", "cancel", job_id, attempt, reason, limit_s=self._site.limit_s)

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of what a job printed."""
        return self._site.call("run", "output", job_id, stream, offset, limit, limit_s=self._site.limit_s).body

    def homes(self, job_id: str) -> Sequence[str]:
        """The instances that a job had of its own."""
        found = self._site.call("run", "homes", job_id, limit_s=self._site.limit_s).head["value"]
        return [str(home) for home in found]


class ProcessRepo(_Passed, Repo):
    """Data."""

    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Store a local file or directory."""
        return StoredData.from_json(
            self._site.call("repo", "put", str(local_path), site_path, dict(properties)).head["value"]
        )

    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        """Fetch data."""
        return StoredData.from_json(self._site.call("repo", "get", stored.to_json(), str(local_path)).head["value"])

    def remove(self, stored: StoredData) -> None:
        """Remove data."""
        self._site.call("repo", "remove", stored.to_json(), limit_s=self._site.limit_s)


class ProcessSpin(_Passed, Spin):
    """Resources."""

    def list(self) -> Sequence[Resource]:
        """What there is."""
        found = self._site.call("spin", "list", limit_s=self._site.limit_s).head["value"]
        return [Resource.from_json(item) for item in found]

    def create(self, kind: str, spec: Mapping[str, Any]) -> Resource:
        """Make a resource."""
        made = self._site.call("spin", "create", kind, dict(spec), limit_s=self._site.limit_s)
        return Resource.from_json(made.head["value"])

    def destroy(self, resource_id: str) -> None:
        """Give a resource back."""
        self._site.call("spin", "destroy", resource_id, limit_s=self._site.limit_s)


def _observed(message: Message) -> dict[str, Observation]:
    return {job_id: Observation.from_json(said) for job_id, said in message.head["value"].items()}
