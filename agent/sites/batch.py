"""How a batch scheduler is used: the words of its commands, and records out of its answers. Pure; runs nothing.

A scheduler is a :class:`Scheduler`: a handful of hooks. Times in answers become seconds since the epoch, sizes bytes, and states
one of a few words; the scheduler's own word is kept beside it. A state nobody knows here is ``unknown``, never a guess.
:mod:`.commands` runs the commands.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ..errors import InvalidRecord
from ..quantities import bytes_of, seconds_of

PENDING, RUNNING, ENDING, ENDED, UNKNOWN = "pending", "running", "ending", "ended", "unknown"
"""The phases of a batch job. ``ending``: it is over, but its nodes are still being cleaned up."""

FREE, MIXED, BUSY, RESERVED, DRAINING, DOWN, OFF = "free", "mixed", "busy", "reserved", "draining", "down", "off"
"""The states of a node, beside ``unknown``. ``mixed``: partly in use; ``reserved``: kept for others; ``off``: to save power, or
not there yet."""

SUCCEEDED, FAILED, CANCELLED, KILLED = "succeeded", "failed", "cancelled", "killed"
"""The outcomes of a batch job that has ended. ``killed``: from outside, and the scheduler does not tell who wanted it."""

UP, CLOSED = "up", "closed"
"""The states of a partition, beside ``unknown``. ``closed``: it takes no jobs, or starts none."""

DEFAULT_IDLE_S = 600.0
"""An allocation with nothing to do is given back after this long."""


@dataclass(frozen=True)
class Command:
    """What is to be run.

    Args:
        argv: the words, none of which passes a shell.
        stdin: what it reads.
        environment: changes to the environment: a value to set, or None to take the variable away.
    """

    argv: tuple[str, ...]
    stdin: str = ""
    environment: Mapping[str, Optional[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchNode:
    """A node, as its scheduler has it; None is what it does not tell.

    Args:
        name: the node's. ``state``, ``native_state``: what it is for us, and the scheduler's word for that.
        cores, cores_free: processors as the scheduler counts them, and those that a job could be given now.
        memory_bytes, gpus: what the node has. ``partitions``: where it belongs to.
        reason: why it is not usable, as somebody wrote it down.
    """

    name: str
    state: str
    native_state: str
    cores: Optional[int] = None
    cores_free: Optional[int] = None
    memory_bytes: Optional[int] = None
    gpus: Optional[int] = None
    partitions: tuple[str, ...] = ()
    reason: Optional[str] = None


@dataclass(frozen=True)
class Partition:
    """A partition or queue.

    Args:
        name: the partition's. ``state``, ``native_state``: as of a node.
        default: whether jobs go there that name none.
        time_limit_s: the longest time a job may ask for; None: without limit, or not told.
        nodes, nodes_free: how many it has, and how many of them are wholly free.
        cores, cores_free: of all its nodes. ``node_cores``, ``node_memory_bytes``, ``node_gpus``: of its largest node.
    """

    name: str
    state: str
    native_state: str
    default: bool = False
    time_limit_s: Optional[float] = None
    nodes: int = 0
    nodes_free: int = 0
    cores: Optional[int] = None
    cores_free: Optional[int] = None
    node_cores: Optional[int] = None
    node_memory_bytes: Optional[int] = None
    node_gpus: Optional[int] = None


@dataclass(frozen=True)
class BatchJob:
    """A job, as its scheduler has it.

    Args:
        job_id: the scheduler's id. ``phase``: one of ``pending`` … ``unknown``; ``native_state``: the scheduler's word.
        reason: why it waits, or how it ended, in the scheduler's words; None: not told.
        nodes: how many. ``hosts``: their names, once it has them.
        ends_at: seconds since the epoch; None: not told, or never. ``started_at``: the same of one that has begun.
        mark: what it was submitted with (:attr:`BatchRequest.mark`), where the scheduler tells that.
        outcome: of one that has ended, one of ``succeeded`` … ``killed``; None: the scheduler's word does not tell.
        told: what the scheduler's word means, for a person, where that is more than its outcome.
        exit_code: of its script, where the scheduler tells that.
    """

    job_id: str
    phase: str
    native_state: str
    reason: Optional[str] = None
    nodes: Optional[int] = None
    hosts: tuple[str, ...] = ()
    ends_at: Optional[float] = None
    mark: Optional[str] = None
    started_at: Optional[float] = None
    outcome: Optional[str] = None
    told: Optional[str] = None
    exit_code: Optional[int] = None


@dataclass(frozen=True)
class BatchRequest:
    """A batch job as it is asked for: an allocation, or a job of ours.

    Args:
        nodes: how many. ``time_s``: for how long; infinity: as the scheduler does with jobs that do not say.
        mark: identifies the request, so that a job whose submission was not answered is found again.
        partition, account, qos, name: as the scheduler knows them; None: its default.
        cores, gpus: of each node; cores None: whole nodes. ``memory_bytes``: of each node; None: what the scheduler gives.
        options: more words for the command that submits.
        tasks_per_node: how many of its programs the scheduler shall take it to start on each node; they share the cores.
        gres: further generic resources. ``environment``: the parallel environment. Each where the scheduler has such a thing.
        elements: 0: one job; else an array of so many, numbered from 1.
        survives: whether it lives on when one of its nodes fails.
    """

    nodes: int
    time_s: float
    mark: str = ""
    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    name: str = "lwfm"
    cores: Optional[int] = None
    gpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    options: tuple[str, ...] = ()
    tasks_per_node: int = 1
    gres: Optional[str] = None
    environment: Optional[str] = None
    elements: int = 0
    survives: bool = True


@dataclass(frozen=True)
class JobWords:
    """What a job's script says, in the words of the POSIX shell, to learn from its scheduler where it finds itself.

    Args:
        job_id: the scheduler's id of this job, of an element its own, as in :attr:`BatchJob.job_id`.
        element: the number of this element; empty or not a number outside an array.
        restart: how often it was started before.
        nodes: a command that prints the names of its nodes, one a line, each once.
        passed_on: signals that the scheduler may send to the script alone; others reach all processes of the job anyway.
    """

    job_id: str
    element: str
    restart: str
    nodes: str
    passed_on: tuple[str, ...] = ()


class Scheduler(ABC):
    """The hooks. All are pure: words out, text in, records out.

    Attributes:
        name: as in :attr:`lwfm.launch.allocation.Allocation.scheduler`. ``programs``: those that must be on PATH.
        keys: the fields of a request, as people may give them for one job, that it knows. ``option`` stands for words.
        words: for scripts.
        kept: a pattern of the variables that its commands need, beside those that every program does.
    """

    name: str
    programs: tuple[str, ...]
    keys: frozenset[str] = frozenset()
    words: JobWords
    kept: str = ""

    @abstractmethod
    def ask_resources(self) -> Sequence[Command]:
        """What tells of the partitions and nodes."""

    @abstractmethod
    def read_resources(self, answers: Sequence[str]) -> tuple[list[Partition], list[BatchNode]]:
        """The partitions and nodes; ``answers``: to each of :meth:`ask_resources`. Lines that make no sense are left out."""

    @abstractmethod
    def ask_jobs(self, user: str) -> Command:
        """What tells of all jobs of a user that the scheduler still knows, in one question."""

    @abstractmethod
    def read_jobs(self, answer: str, now: float) -> list[BatchJob]:
        """The jobs; ``now``: seconds since the epoch, for what is told as time left."""

    @abstractmethod
    def ask_ended(self, job_ids: Sequence[str]) -> Sequence[Command]:
        """What tells of jobs that :meth:`ask_jobs` no longer lists; none: nothing does. Each may fail, where nothing is kept."""

    @abstractmethod
    def read_ended(self, answer: str) -> list[BatchJob]:
        """Those of the jobs that are known, of one of the answers."""

    @abstractmethod
    def submit(self, request: BatchRequest, script: str, output: str, directory: str) -> Command:
        """What submits a batch script.

        Args:
            request: the nodes. ``script``: its text. ``output``: the file for what it prints. ``directory``: where it starts.

        Raises:
            InvalidRecord: an option of the request would make it something else than one batch job, or something that it
                asks for is not to be had.
        """

    @abstractmethod
    def read_submitted(self, answer: str) -> Optional[str]:
        """The id of the job that was submitted, of an array that of the whole; None: the answer does not tell."""

    def element(self, job_id: str, number: int) -> str:
        """The id of an element of the array ``job_id``."""
        return f"{job_id}_{number}"

    def whole(self, element: str) -> str:
        """The id of the array that ``element`` is of."""
        return element.rpartition("_")[0] or element

    def ask_limits(self) -> Optional[Command]:
        """What tells how large an array may be; None: nothing does."""
        return None

    def read_limits(self, answer: str) -> Optional[int]:
        """The most elements an array may have; None: the answer does not tell."""
        return None

    def is_refusal(self, complaint: str) -> bool:
        """Whether a submission that failed with this last line would fail again, however often."""
        return False

    @abstractmethod
    def is_doubtful(self, complaint: str) -> bool:
        """Whether a submission that failed with this last line may have been taken all the same."""

    def is_unknown_job(self, complaint: str) -> bool:
        """Whether ending jobs failed with this last line because there are none of these."""
        return False

    @abstractmethod
    def cancel(self, job_ids: Sequence[str]) -> Command:
        """What ends jobs, in whatever state."""


_ID = re.compile(r"\d[\w.,:%@+\[\]-]*", re.ASCII)


def is_id(word: str) -> bool:
    """Whether this can be the id of a job: commands are given ids as words of theirs, where nothing else must come to stand."""
    return _ID.fullmatch(word) is not None


def request_of(spec: Mapping[str, Any], mark: str) -> BatchRequest:
    """What a person asks for, checked; keys that are not ours are refused.

    Args:
        spec: ``nodes`` (default 1), ``time`` (needed), ``partition``, ``account``, ``qos``, ``name``, ``cores``, ``gpus``,
            ``memory``, ``option`` (a word, or a list of them). ``mark``: of the request.

    Raises:
        InvalidRecord: a key is unknown or a value malformed; the message names it.
    """
    unknown = sorted(set(spec) - _KEYS)
    if unknown:
        raise InvalidRecord(f"an allocation has no {unknown[0]}", hint=f"it has {', '.join(sorted(_KEYS))}")
    time_s = quantity(spec, "time", seconds_of, "1:00:00 or 90m")
    if time_s is None:
        raise InvalidRecord("time is missing: how long the allocation shall last", hint="such as time=1:00:00")
    memory = quantity(spec, "memory", bytes_of, "4G")
    return BatchRequest(
        nodes=_count(spec, "nodes", 1) or 1,
        time_s=time_s,
        mark=mark,
        partition=_word(spec, "partition"),
        account=_word(spec, "account"),
        qos=_word(spec, "qos"),
        name=_word(spec, "name") or "lwfm",
        cores=_count(spec, "cores", 1),
        gpus=_count(spec, "gpus", 0),
        memory_bytes=None if memory is None else math.ceil(memory),
        options=_options(spec.get("option")),
    )


_KEYS = frozenset(("nodes", "time", "partition", "account", "qos", "name", "cores", "gpus", "memory", "option"))


def quantity(spec: Mapping[str, Any], name: str, read: Any, example: str, *, zero: bool = False) -> Optional[float]:
    """A time or a size of ``spec``: a number, or text that ``read`` understands; None where it is not given.

    Raises:
        InvalidRecord: it is neither, or not more than 0 (with ``zero``: less than 0).
    """
    value = spec.get(name)
    if value is None:
        return None
    number = read(value) if isinstance(value, str) else value
    sensible = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not sensible or number < 0 or (number == 0 and not zero):
        raise InvalidRecord(f"{name} must be like {example}, not {value!r}"[:200])
    return float(number)


def job_request(keys: frozenset[str], given: Mapping[str, Any], request: BatchRequest) -> BatchRequest:
    """``request`` with what somebody gives for the scheduler alone, checked.

    Args:
        keys: those the scheduler knows, of ``partition``, ``account``, ``qos``, ``gres``, ``environment``, ``option``.
        given: the values. ``option``: a word, or a list of them, which go to the command that submits as they are.

    Raises:
        InvalidRecord: a key is unknown or a value malformed; the message names it.
    """
    unknown = sorted(set(given) - keys)
    if unknown:
        raise InvalidRecord(
            f"this site knows no option {unknown[0]!r}"[:200], hint=f"it knows {', '.join(sorted(keys))}"
        )
    words: dict[str, Any] = {name: _word(given, name) for name in keys - {"option"}}
    return replace(
        request,
        options=(*request.options, *_options(given.get("option"))),
        **{name: value for name, value in words.items() if value is not None},
    )


def check_options(options: Sequence[str], refused: frozenset[str]) -> list[str]:
    """Options such as ``-l gpu=1`` as the words of a command, an option and what it takes apart.

    Raises:
        InvalidRecord: one of them would make the command something else than the submission of one job.
    """
    words: list[str] = []
    for option in options:
        if option[:2] in refused or option.split()[0] in refused:
            raise InvalidRecord(f"option {option!r} is not possible here: lwfm sets it"[:200])
        words += option.split(None, 1)
    return words


def _count(spec: Mapping[str, Any], name: str, least: int) -> Optional[int]:
    value = spec.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**7:
        raise InvalidRecord(f"{name} must be a whole number from {least}, not {value!r}"[:200])
    return int(value)


def _word(spec: Mapping[str, Any], name: str) -> Optional[str]:
    value = spec.get(name)
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # an account may be a number
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or text.startswith("-"):
        raise InvalidRecord(f"{name} must be a name, not {value!r}"[:200])
    return text


def _options(given: Any) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given or ()
    if not isinstance(listed, (list, tuple)) or not all(isinstance(word, str) for word in listed):
        raise InvalidRecord(f"option must be words such as --reservation=mine, not {given!r}"[:200])
    for word in listed:
        if not word.startswith("-") or not word.isprintable():
            raise InvalidRecord(
                f"option {word!r} does not begin with a dash"[:200], hint="such as option=--reservation=mine"
            )
    return tuple(listed)
