"""What shall happen upon what: events, whom they tell, and the handlers that they become when they are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union, cast

from ..errors import InvalidRecord
from ..matching import Match, parse_match
from ..records import JSON, Record, check_properties, check_text, check_words, set_field
from ..states import JobState, parse_state
from .definitions import JobDefn
from .jobs import JobStatus

MAX_REPEAT = 10_000
"""Jobs that a data handler with a known number of them may have; without limit they are made as they are needed."""


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
