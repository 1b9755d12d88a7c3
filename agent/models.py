"""The records people handle: what a job is, what became of it, what data was put, what shall happen upon what.

Frozen dataclasses that turn to and from JSON objects. A key that this version does not know is kept in ``extra`` and
written back, so that records made by a newer version pass through an older one unharmed. Pure: no store, no process.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Optional, Union, cast

from .errors import InvalidRecord
from .matching import Match, parse_match
from .records import (
    JSON,
    Record,
    check_integer,
    check_number,
    check_properties,
    check_text,
    check_words,
    set_field,
)
from .states import JobState, parse_state

DEFAULT_GRACE_S = 5.0
"""Seconds between TERM and KILL when a job is stopped."""
MAX_PRIORITY = 1_000_000
MAX_REPEAT = 10_000
"""Jobs that a data handler with a known number of them may have; without limit they are made as they are needed."""


@dataclass(frozen=True)
class Resources(Record):
    """What a job needs. Cores, memory and GPUs are those of each of its nodes.

    Args:
        cores: processor cores. None asks for one and leaves the process free to roam; a number pins it to that many.
            0 asks for none: for a process that only waits, such as a workflow script.
        memory_bytes: memory of the whole process tree; the job is stopped when it takes more. None: no limit.
        gpus: how many GPUs; the job sees their indices in ``CUDA_VISIBLE_DEVICES`` and its likes.
        time_limit_s: seconds of wall time, after which the job is stopped. None: no limit.
        nodes: how many nodes it needs at the same time. None: one. The command runs on the first of them, and finds them all in
            the file ``$LWFM_NODEFILE``.
        tasks_per_node: start the command so many times on each node, as the tasks of an MPI program. None: once, on the first.
        starter: what starts the tasks, as ``srun --mpi=pmix``. None: the job's ``mpiexec``, else ``srun``.
        labels: run only on nodes that have all these labels; the name of a node is one of its labels.
    """

    _terse: ClassVar[bool] = True

    cores: Optional[int] = None
    memory_bytes: Optional[int] = None
    gpus: int = 0
    time_limit_s: Optional[float] = None
    nodes: Optional[int] = None
    tasks_per_node: Optional[int] = None
    starter: Optional[str] = None
    labels: Sequence[str] = ()
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_integer(self, "cores", minimum=0, optional=True)
        check_integer(self, "memory_bytes", minimum=1, optional=True)
        if isinstance(self.gpus, float):
            raise InvalidRecord(
                f"gpus must be a whole number, not {self.gpus}: a GPU is given to one job at a time",
                hint="ask for 1; jobs that are to share one can be started by one job",
            )
        check_integer(self, "gpus", minimum=0)
        check_integer(self, "nodes", minimum=1, optional=True)
        check_integer(self, "tasks_per_node", minimum=1, optional=True)
        if self.starter is not None and not check_text(self, "starter").strip():
            raise InvalidRecord("starter is empty")
        check_words(self, "labels")
        if self.time_limit_s is not None:
            limit = check_number(self, "time_limit_s")
            if limit <= 0:
                raise InvalidRecord(f"time_limit_s must be more than 0 seconds, not {limit}")


_NO_RESOURCES = Resources()


@dataclass(frozen=True)
class JobDefn(Record):
    """What to run.

    Args:
        command: a list of words (the program and its arguments, run as they are) or one string (a line for ``/bin/sh``).
        name: for people; the program's name when empty.
        cwd: the directory to run in, absolute; the submitter's when None.
        env: variables to set beside those taken over from the submitter. Values that look like secrets reach the job
            but never the store.
        resources: see :class:`Resources`.
        inputs: files the job reads; recorded with their checksums when it ends. Relative to ``cwd``.
        outputs: files the job must have written when it ends; recorded likewise. A missing one fails the job.
        meta: properties by which the job can be found.
        retries: how many new attempts to make when an attempt fails.
        priority: of jobs that wait, those with a higher number are served first.
        grace_s: seconds between TERM and KILL when the job is stopped.
        options: for its site alone, which says what it knows: of a batch scheduler ``partition``, ``account``, ``qos``, ``gres``,
            and ``option``, words for the command that submits, as they are.
    """

    _terse: ClassVar[bool] = True

    command: Union[str, Sequence[str]]
    name: str = ""
    cwd: Optional[str] = None
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = _NO_RESOURCES
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    priority: int = 0
    grace_s: float = DEFAULT_GRACE_S
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_command()
        if self.cwd is not None:
            check_text(self, "cwd")
            if not self.cwd.startswith("/"):
                raise InvalidRecord(f"cwd must be an absolute path, not {self.cwd!r}")
        env: Any = self.env
        if not isinstance(env, Mapping):
            raise InvalidRecord(f"env must be an object of names and values, not {type(env).__name__}")
        for key, value in env.items():
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise InvalidRecord(f"env: {key!r} is not the name of a variable")
            if not isinstance(value, str) or "\0" in value:
                raise InvalidRecord(f"env: {key} must have text as its value, not {value!r}")
        set_field(self, "env", dict(env))
        set_field(self, "resources", Resources.from_json(self.resources))
        check_words(self, "inputs")
        check_words(self, "outputs")
        set_field(self, "meta", check_properties(self.meta, "meta"))
        check_integer(self, "retries", minimum=0)
        check_integer(self, "priority", minimum=-MAX_PRIORITY)
        if check_number(self, "grace_s") < 0:
            raise InvalidRecord("grace_s cannot be negative")
        set_field(self, "options", check_properties(self.options, "options"))

    def _check_command(self) -> None:
        if isinstance(self.command, str):
            if not self.command.strip():
                raise InvalidRecord("the command is empty")
            if "\0" in self.command:
                raise InvalidRecord("the command holds a NUL character, which no program can be given")
        else:
            words = check_words(self, "command")
            if not words or not words[0]:
                raise InvalidRecord("the command is empty")
        check_text(self, "name")
        if not self.name:
            set_field(self, "name", _default_name(self.command))

    @classmethod
    def recorded(cls, body: JSON) -> JobDefn:
        """The definition that a record holds, which was checked before it was recorded.

        Raises:
            InvalidRecord: something about what is looked at all the same is wrong.
        """
        if not body.get("name") or "command" not in body:
            return cls.from_json(body)
        made = object.__new__(cls)
        values = made.__dict__
        values.update(_RECORDED, env={}, meta={}, options={}, extra={})
        for key, value in body.items():
            if key not in values or key == "extra":
                values["extra"][key] = value
            elif key == "resources":
                values[key] = Resources.from_json(value)
            else:
                values[key] = tuple(value) if isinstance(value, list) else value
        return made

    def with_command(self, command: Any, name: Any, extra: JSON) -> JobDefn:
        """The same definition with another command, name and ``extra``: only these are looked at.

        Raises:
            InvalidRecord: something about them is wrong.
        """
        other = object.__new__(JobDefn)
        other.__dict__.update(self.__dict__)
        other.__dict__.update(command=command, name=name, extra=extra)
        other._check_command()
        return other

    @property
    def size(self) -> int:
        """How many characters its command, its environment and its outputs have together."""
        words = len(self.command) if isinstance(self.command, str) else sum(map(len, self.command))
        return words + (
            sum(map(len, (*self.env, *self.env.values(), *self.outputs))) if self.env or self.outputs else 0
        )

    @property
    def command_line(self) -> str:
        """The command as one line, quoted for a shell where it is a list of words."""
        return self.command if isinstance(self.command, str) else " ".join(shlex.quote(word) for word in self.command)


_RECORDED = {item.name: item.default for item in fields(JobDefn)}
"""What the fields of a definition hold of which its record says nothing."""


@dataclass(frozen=True)
class JobStatus(Record):
    """Where a job stands, and all that is known of how it went. The same for every site.

    Times are UTC ISO-8601 text with microseconds; None where the thing has not happened or cannot be known.

    Args:
        job_id: the job.
        state: its canonical state.
        attempt: which attempt this is about, from 1.
        reason: why it is in this state, for a person to read.
        native_status: the site's own word for the state.
        native_id: the site's own id of the job; on a node ``pid``.
        name, command, site, workflow_id, parent_id: as it was submitted.
        origin: the instance that recorded the job; ``origin_host`` the host of it. ``elsewhere``: how people call that instance;
            None when it is the one that was asked.
        submitted_at, started_at, ended_at: of the current attempt, except the first.
        time: when this state was recorded.
        host: the node it runs on, of several the first. ``allocation``: the batch allocation of that node.
        hosts: all its nodes where it has several, folded as ``n[1-4]``.
        exit_code: of the process; None when it was ended by a signal. ``signal``: that signal's name, as ``SIGKILL``.
        cpu_seconds: user and system time of the process and its descendants.
        peak_rss_bytes: largest resident memory seen of the process tree.
        read_bytes, write_bytes: moved to and from storage.
        stdout_bytes, stderr_bytes: how much it printed.
        cores: how many it asked for of each node; None: one, free to roam.
        meta: the job's properties.
    """

    job_id: str
    state: JobState
    attempt: int = 1
    reason: Optional[str] = None
    native_status: Optional[str] = None
    native_id: Optional[str] = None
    name: str = ""
    command: str = ""
    site: str = "local"
    workflow_id: Optional[str] = None
    parent_id: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    submitted_at: Optional[str] = None
    started_at: Optional[str] = None
    ended_at: Optional[str] = None
    time: Optional[str] = None
    host: Optional[str] = None
    hosts: Optional[str] = None
    allocation: Optional[str] = None
    exit_code: Optional[int] = None
    signal: Optional[str] = None
    cpu_seconds: Optional[float] = None
    peak_rss_bytes: Optional[int] = None
    read_bytes: Optional[int] = None
    write_bytes: Optional[int] = None
    stdout_bytes: Optional[int] = None
    stderr_bytes: Optional[int] = None
    cores: Optional[int] = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field(self, "state", parse_state(self.state))

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state.terminal


@dataclass(frozen=True)
class JobContext(Record):
    """Where a process finds itself: the job and the workflow it is part of, as its environment tells.

    Args:
        job_id: the job this process belongs to; None outside any job.
        workflow_id: the workflow of that job.
        attempt: which attempt of the job.
        trigger_job: the job whose state fired this job. ``trigger_data``: the metasheet that fired it.
        trigger_path: the path of that data. ``trigger_properties``: its properties.
    """

    job_id: Optional[str] = None
    workflow_id: Optional[str] = None
    attempt: int = 1
    trigger_job: Optional[str] = None
    trigger_data: Optional[str] = None
    trigger_path: Optional[str] = None
    trigger_properties: Mapping[str, Any] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class Workflow(Record):
    """A named undertaking that jobs and data belong to.

    Args:
        name: for people; need not be unique.
        workflow_id: given by the store.
        description: for people.
        meta: properties by which it can be found.
        parent_job: the job that created it, if one did.
        created_at: UTC time.
        origin: the instance that recorded it. ``elsewhere``: how people call that, when it is not the one that was asked.
        job_counts: how many jobs it has in each state; filled in when it is read. ``jobs_elsewhere``: those of other instances.
    """

    name: str
    workflow_id: str = ""
    description: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    parent_job: Optional[str] = None
    created_at: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    job_counts: Mapping[str, int] = field(default_factory=dict)
    jobs_elsewhere: Mapping[str, int] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text(self, "name")
        if not self.name.strip():
            raise InvalidRecord("a workflow needs a name")
        set_field(self, "meta", check_properties(self.meta, "meta"))


@dataclass(frozen=True)
class Metasheet(Record):
    """What is known of a piece of data: where it is, what it is, who put it, under which properties.

    Args:
        data_id: given by the store.
        op: ``put`` (made or stored), ``get`` (read or fetched) or ``event`` (properties without a file).
        site: the site that holds the data. ``url``: where, as ``file://HOST/PATH`` for a file.
        path: the path on that site. ``host``: the host that sees it.
        size_bytes, sha256: of the content when it was recorded; None for a directory or an event.
        source_url: where a stored or fetched copy came from.
        job_id, workflow_id: who put it.
        properties: the metadata: JSON values under text keys.
        time: when it was recorded, UTC.
        origin, origin_host, elsewhere: as in :class:`JobStatus`.
    """

    data_id: str = ""
    op: str = "put"
    site: str = "local"
    url: Optional[str] = None
    path: Optional[str] = None
    host: Optional[str] = None
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None
    source_url: Optional[str] = None
    job_id: Optional[str] = None
    workflow_id: Optional[str] = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    time: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in ("put", "get", "event"):
            raise InvalidRecord(f"op must be put, get or event, not {self.op!r}")
        for name in ("site", "url", "path", "host", "sha256", "source_url", "job_id", "workflow_id"):
            if getattr(self, name) is not None:
                check_text(self, name)
        set_field(self, "properties", check_properties(self.properties, "properties"))


@dataclass(frozen=True)
class Notification(Record):
    """Tell somebody: run a command, or post to a URL.

    Args:
        command: words of a program, or a line for the shell; what happened is in its ``LWFM_TRIGGER_*`` variables.
        url: an http or https address that gets the event as a JSON object in a POST.
    """

    command: Union[str, Sequence[str], None] = None
    url: Optional[str] = None
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise InvalidRecord("a notification needs either a command or a url")
        if self.url is not None and not str(self.url).startswith(("http://", "https://")):
            raise InvalidRecord(f"a notification's url must begin with http:// or https://, not {self.url!r}")
        if self.command is not None and not isinstance(self.command, str):
            check_words(self, "command")


@dataclass(frozen=True)
class JobEvent(Record):
    """When jobs reach a state, then run or tell.

    Args:
        jobs: the jobs to watch: their ids, or their :class:`JobStatus`.
        states: the states that count; one word or several.
        defn: the job to run; its id is known as soon as the event is set.
        notify: or whom to tell.
        site: where to run it; of several, as ``a,b``, on the first that accepts it.
        mode: ``all`` of the jobs must have reached one of the states, or ``any`` of them.
        keep: what becomes of the job to run when the states can no longer be reached: it is cancelled with that
            reason, unless this is true.
        name: for people.
    """

    jobs: Union[str, JobStatus, Sequence[Union[str, JobStatus]]]
    states: Union[str, JobState, Sequence[Union[str, JobState]]] = (JobState.COMPLETE,)
    defn: Optional[JobDefn] = None
    notify: Optional[Notification] = None
    site: str = "local"
    mode: str = "all"
    keep: bool = False
    name: str = ""
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        jobs: Any = [self.jobs] if isinstance(self.jobs, (str, JobStatus)) else self.jobs
        listed = tuple(job.job_id if isinstance(job, JobStatus) else job for job in jobs)
        if not listed or not all(isinstance(job, str) and job for job in listed):
            raise InvalidRecord("a job event needs at least one job")
        set_field(self, "jobs", listed)
        states = (self.states,) if isinstance(self.states, str) else tuple(self.states)
        if not states:
            raise InvalidRecord("a job event needs at least one state")
        set_field(self, "states", tuple(parse_state(state) for state in states))
        if self.mode not in ("all", "any"):
            raise InvalidRecord(f"mode must be all or any, not {self.mode!r}")
        _check_action(self)

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The ids of the jobs to watch."""
        return cast("tuple[str, ...]", self.jobs)

    @property
    def awaited(self) -> tuple[JobState, ...]:
        """The states that count."""
        return cast("tuple[JobState, ...]", self.states)


@dataclass(frozen=True)
class MetadataEvent(Record):
    """When data is put whose properties match, then run or tell.

    Args:
        match: property names and what their values must be; see :mod:`lwfm.matching`.
        defn: the job to run. ``notify``: or whom to tell. ``site``: where to run it.
        repeat: how often it may fire: 1 (once), a number (the ids of all its jobs are known when it is set),
            or True (without limit).
        workflow: only data of this workflow counts, by default that of the handler; ``any`` for all data.
        name: for people.
    """

    match: Mapping[str, Any]
    defn: Optional[JobDefn] = None
    notify: Optional[Notification] = None
    site: str = "local"
    repeat: Union[bool, int] = 1
    workflow: Optional[str] = None
    name: str = ""
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        match = check_properties(self.match, "match")
        if not match:
            raise InvalidRecord("a metadata event needs at least one property to match")
        parse_match(match)
        set_field(self, "match", match)
        repeat: Any = self.repeat
        if repeat is False or (repeat is not True and (not isinstance(repeat, int) or not 1 <= repeat <= MAX_REPEAT)):
            raise InvalidRecord(
                f"repeat must be true or a number from 1 to {MAX_REPEAT}, not {repeat!r}",
                hint="true: as often as there is data",
            )
        _check_action(self)

    def matcher(self) -> Match:
        """The parsed form of ``match``."""
        return parse_match(self.match)


@dataclass(frozen=True)
class Handler(Record):
    """An event that has been set.

    Args:
        handler_id: given by the store.
        kind: ``job`` or ``data``.
        event: the :class:`JobEvent` or :class:`MetadataEvent` as JSON.
        job_ids: the ids of the jobs it will run, known beforehand; those of an unlimited data handler as they fire.
        workflow_id: the workflow its jobs belong to.
        state: ``waiting``, ``done`` (fired as often as it may) or ``unset``; ``reason`` says why it was unset.
        fired: how often it has fired.
        origin, origin_host, elsewhere: as in :class:`JobStatus`; it fires only at that instance.
    """

    handler_id: str
    kind: str
    event: Mapping[str, Any] = field(default_factory=dict)
    job_ids: Sequence[str] = ()
    workflow_id: Optional[str] = None
    state: str = "waiting"
    reason: Optional[str] = None
    fired: int = 0
    created_at: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    extra: JSON = field(default_factory=dict)

    @property
    def job_id(self) -> Optional[str]:
        """The id of the first job it will run."""
        return self.job_ids[0] if self.job_ids else None


def _check_action(event: Union[JobEvent, MetadataEvent]) -> None:
    check_text(event, "site")
    check_text(event, "name")
    if (event.defn is None) == (event.notify is None):
        raise InvalidRecord("an event needs either a job to run (defn) or somebody to tell (notify)")
    if event.defn is not None:
        set_field(event, "defn", JobDefn.from_json(event.defn))
    if event.notify is not None:
        set_field(event, "notify", Notification.from_json(event.notify))


def _default_name(command: Union[str, Sequence[str]]) -> str:
    word = command.split()[0] if isinstance(command, str) else command[0]
    return word.rstrip("/").rpartition("/")[2] or word
