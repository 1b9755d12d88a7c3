"""The interface that a site's driver implements: four pillars, each a small class.

A driver knows nothing of the store, of events or of workflows: it is called, and it answers. It is called from any thread
and may block (use timeouts); a call that hangs holds up its own site alone. It may raise any :class:`~lwfm.errors.SiteError`;
everything else it raises is reported as one. :class:`~lwfm.errors.LoginRequired` says that nobody is logged in: the agent then asks
rarely, and at once after a login. A pillar that a site does not have is None.

The agent's calls for one site do not overlap, :meth:`Run.check` and ``close`` apart. But a :class:`Repo` whose class says that
it is ``thread_safe`` is called at any time, from several threads: moving much data then holds up nothing else.

A driver runs in the agent, or in a process of its own (:attr:`SiteDriver.own_process`, or ``process`` or ``venv`` in
``sites.toml``). There it is made when it is first needed, and made again when its process has died: what it must remember lies at
the site or in files. What it prints goes to ``sites/NAME.log`` in the instance's home.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

from ..errors import InvalidRecord, NotSupported
from ..models import JobDefn
from ..records import JSON
from ..states import JobState


@dataclass(frozen=True)
class JobRequest:
    """A job as a site is asked to run it.

    Args:
        job_id: lwfm's id; submission is idempotent by it.
        attempt: which attempt, from 1.
        defn: what to run; ``cwd`` is set, secrets are in their place.
        context_id: names ``environment``: requests with the same id have the same one.
        environment: the variables taken over from the submitter, and what is the same for all jobs of the instance.
        variables: what lwfm tells this job (``LWFM_*``).
        labels: what its site asks of the nodes it runs on, where those are the agent's own.
        submitted_from: the submitter's directory, which ``defn.cwd`` is where the job names none.
        site: of a site that leads to others the one that is meant: what follows the slash in the name; empty: its own choice.
    """

    job_id: str
    attempt: int
    defn: JobDefn
    context_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    submitted_from: Optional[str] = None
    site: str = ""

    def to_json(self) -> JSON:
        """The request without its environment, which many have in common."""
        return {
            "job_id": self.job_id,
            "attempt": self.attempt,
            "defn": self.defn.to_json(),
            "context_id": self.context_id,
            "variables": dict(self.variables),
            "labels": sorted(self.labels),
            "submitted_from": self.submitted_from,
            "site": self.site,
        }

    @classmethod
    def from_json(cls, body: JSON, environment: Mapping[str, str]) -> JobRequest:
        """The request that :meth:`to_json` tells, with its environment."""
        return cls(
            body["job_id"],
            body["attempt"],
            JobDefn.recorded(body["defn"]),
            body["context_id"],
            environment,
            body["variables"],
            frozenset(body["labels"]),
            body.get("submitted_from"),
            body.get("site", ""),
        )


@dataclass(frozen=True)
class Observation:
    """What a site says of a job.

    Args:
        state: the canonical state. UNKNOWN, with a reason, when it cannot be known; never a guess.
        native_status: the site's own word. ``native_id``: the site's own id of the job.
        reason: for a person.
        facts: what else is known, under the names of :class:`~lwfm.models.JobStatus` (``exit_code``, ``host``,
            ``started_at`` …). In the answer to a submission ``refused``, if true, says that the site has not taken the job and
            has nothing of it: it may then be handed to another site; else it has FAILED.
    """

    state: JobState
    native_status: Optional[str] = None
    native_id: Optional[str] = None
    reason: Optional[str] = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """As it travels: there may be many."""
        return [JobState(self.state).value, self.native_status, self.native_id, self.reason, dict(self.facts)]

    @classmethod
    def from_json(cls, body: Sequence[Any]) -> Observation:
        """What :meth:`to_json` tells."""
        state, *more = body
        return cls(JobState(state), *more)


@dataclass(frozen=True)
class StoredData:
    """A piece of data as a site holds it.

    Args:
        url: where, so that the site finds it again.
        path: the path on the site. ``host``: the host that sees it.
        size_bytes, sha256: of the content; None for a directory.
    """

    url: str
    path: str
    host: Optional[str] = None
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None

    def to_json(self) -> JSON:
        """As it travels."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: JSON) -> StoredData:
        """What :meth:`to_json` tells."""
        return cls(**body)


@dataclass(frozen=True)
class Resource:
    """Something a site computes on: a node, a partition, an allocation.

    Args:
        resource_id: the site's name for it. ``kind``: as ``node``, ``partition``, ``allocation``.
        state: as ``up``, ``down``, ``pending``. ``facts``: cores, memory_bytes, gpus, what is free …
    """

    resource_id: str
    kind: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> JSON:
        """As it travels, and as the API shows it."""
        facts = dict(self.facts)
        return {"resource_id": self.resource_id, "kind": self.kind, "state": self.state, "facts": facts}

    @classmethod
    def from_json(cls, body: JSON) -> Resource:
        """What :meth:`to_json` tells."""
        return cls(**body)


class Pillar(ABC):  # noqa: B024 (what is abstract is said by the four)
    """What the four have in common."""

    thread_safe = False
    """True when its calls may overlap each other and those of the other pillars; else each waits for the one before."""


def in_turn(method: Callable[..., Any]) -> AbstractContextManager[Any]:
    """What the caller of a pillar's method holds meanwhile: the pillar's turn, if it has only one call at a time."""
    pillar = getattr(method, "__self__", None)
    if not isinstance(pillar, Pillar) or pillar.thread_safe or method.__name__ == "check":
        return nullcontext()
    turn: AbstractContextManager[Any] = pillar.__dict__.setdefault("_turn", threading.RLock())
    return turn


class Auth(Pillar):
    """Getting in."""

    @abstractmethod
    def login(self, ask: Callable[[str, bool], str]) -> None:
        """Log in. ``ask(prompt, secret)`` puts a question to the person, where there is one.

        Raises:
            LoginRequired: the answers were not accepted, or nobody is there to answer.
        """

    @abstractmethod
    def is_auth_current(self) -> bool:
        """Whether the site would accept a call now, without asking the person anything."""


class Run(Pillar):
    """Jobs."""

    reports_itself = False
    """True when the site reports statuses by itself, which only one whose jobs run on the agent's own nodes can; else the agent
    asks with :meth:`status`."""
    records_come = False
    """True when what becomes of a job comes as records of another instance. Then ``status([])`` is called, while jobs are with the
    site, only so that it brings them: nothing is taken from its answer. Where it is not known whether a job was handed over, it is
    handed over again; :meth:`cancel` raises NotFound for a job that the site has not got."""
    labels: frozenset[str] = frozenset()
    """Of a site whose jobs run on the agent's own nodes: what those nodes must be labelled with."""

    def check(self, defn: JobDefn) -> None:
        """Accept or refuse a definition before anything is recorded; must be quick and ask nobody. May overlap other calls.

        Here: a site that does not say otherwise knows no options.

        Raises:
            ResourcesImpossible: it could never run here; the message has the numbers.
            InvalidRecord: it has an option that the site does not know, or that makes no sense.
        """
        if defn.options:
            raise InvalidRecord(
                f"this site knows no option {min(defn.options)!r}"[:200],
                hint="options are for sites that are batch schedulers: slurm, sge, pbs",
            )

    @abstractmethod
    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Hand jobs to the site; the answer has one observation per job id. Handing over the same attempt again is harmless.

        A later attempt of a job takes the place of the one before: from then on all that is asked by the job's id is about it.
        A job that is left out of the answer is one of which nothing is known.

        Jobs must outlive this process: one that runs here beside the driver needs a session of its own.

        Raises:
            ResourcesImpossible, NotSupported, UsageError: the site has taken none of them, and never will.
            SiteError: nothing is known of any of them; the agent asks :meth:`status` before it tries again.
        """

    @abstractmethod
    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What the site says of these jobs, in one question for all of them. A job it does not know is left out.

        Without jobs the question is only whether the site answers.

        Raises:
            SiteError: the question could not be asked; nothing is concluded from that.
        """

    @abstractmethod
    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Ask for the end of a job, in any state; asking again, or for one that has ended, is harmless."""

    @abstractmethod
    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """Up to ``limit`` bytes of ``stdout`` or ``stderr`` from ``offset``; empty when there is no more now."""

    def homes(self, job_id: str) -> Sequence[str]:
        """Where the instances of lwfm lie, as directories of this host, that a job which has ended had of its own: each was in
        ``LWFM_HOME`` of one of its attempts. Their threads are taken over by the agent."""
        del job_id
        return ()


class Repo(Pillar):
    """Data. Finding by metadata is the thread store's, which knows the data of all sites."""

    @abstractmethod
    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Store a local file or directory at ``site_path``; without one, record it where it is, if the site can see it.

        Raises:
            NotFound: there is no such file. SiteError: it could not be stored.
        """

    @abstractmethod
    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        """Fetch data to ``local_path``, checked against its checksum; nothing is left there when that fails.

        Returns:
            What has come: the path here, and of a file its size and checksum. The URL of a path here is known without it.

        Raises:
            NotFound: the data is gone. SiteError: it could not be fetched, or is not what it was.
        """

    def remove(self, stored: StoredData) -> None:
        """Remove data; that it is gone already is harmless.

        Raises:
            NotSupported: the site cannot.
        """
        raise NotSupported("this site cannot remove data")


class Spin(Pillar):
    """Resources."""

    @abstractmethod
    def list(self) -> Sequence[Resource]:
        """What there is."""

    def create(self, kind: str, spec: Mapping[str, Any]) -> Resource:
        """Make a resource.

        Raises:
            NotSupported: this site cannot.
        """
        raise NotSupported("this site cannot create resources")

    def destroy(self, resource_id: str) -> None:
        """Give a resource back.

        Raises:
            NotSupported: this site cannot.
        """
        raise NotSupported("this site cannot destroy resources")


class Nodes(Protocol):
    """The nodes that the agent has workers on, as a driver may use them."""

    def place(self, requests: Sequence[JobRequest]) -> None:
        """Run jobs on these nodes as room becomes free; statuses are reported to the agent. Does not block."""

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Stop a job. Does not block."""

    def check(self, defn: JobDefn, labels: frozenset[str] = frozenset()) -> None:
        """Raise ResourcesImpossible when no node with these labels could ever run it."""

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of a running job's output. Blocks; call it from a thread."""

    def describe(self) -> Sequence[Resource]:
        """The nodes: cores, memory, GPUs, what is in use."""


class Allocations(Protocol):
    """The allocations that the agent has asked a batch scheduler for, as a driver may use them. All of it blocks."""

    def list(self, ask: bool) -> Sequence[Resource]:
        """Those there are; ``ask``: let the scheduler be asked for news of them first."""

    def create(self, spec: Mapping[str, Any]) -> Resource:
        """Ask for one whose nodes will have workers of the agent."""

    def destroy(self, resource_id: str) -> None:
        """Give one back, with what runs there."""


@dataclass(frozen=True)
class SiteContext:
    """What a driver is given when it is made.

    Args:
        name: the site's name. ``options``: its keys in ``sites.toml``, without those that say which driver it is and where it runs.
        home: the instance's directory. ``repository``: where the local site keeps data under relative paths.
        nodes: the nodes the agent has workers on. ``allocations``: those that it has asked for. Both are None for a driver in a
            process of its own.
    """

    name: str
    options: Mapping[str, Any]
    home: Path
    repository: Path
    nodes: Optional[Nodes] = None
    allocations: Optional[Allocations] = None


class SiteDriver:
    """A site: its pillars, made from its context. Subclass it and set the pillars in ``__init__``."""

    own_process = False
    """True: run this driver in a process of its own. Its module is loaded in the agent all the same, to find this out; what is
    imported in ``__init__`` and later is not."""
    auth: Optional[Auth] = None
    run: Optional[Run] = None
    repo: Optional[Repo] = None
    spin: Optional[Spin] = None

    def __init__(self, context: SiteContext):
        self.context = context

    def close(self) -> None:
        """Let go of connections; called when the agent leaves."""
