"""How a batch scheduler is used: the words of its commands, and records out of its answers. Pure; runs nothing.

A scheduler is a :class:`Scheduler`: a handful of hooks. Times in answers become seconds since the epoch, sizes bytes, and states
one of a few words; the scheduler's own word is kept beside it. A state nobody knows here is ``unknown``, never a guess.
:mod:`.commands` runs the commands.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from .request import BatchRequest

PENDING, RUNNING, ENDING, ENDED, UNKNOWN = "pending", "running", "ending", "ended", "unknown"
"""The phases of a batch job. ``ending``: it is over, but its nodes are still being cleaned up."""

FREE, MIXED, BUSY, RESERVED, DRAINING, DOWN, OFF = "free", "mixed", "busy", "reserved", "draining", "down", "off"
"""The states of a node, beside ``unknown``. ``mixed``: partly in use; ``reserved``: kept for others; ``off``: to save power, or
not there yet."""

SUCCEEDED, FAILED, CANCELLED, KILLED = "succeeded", "failed", "cancelled", "killed"
"""The outcomes of a batch job that has ended. ``killed``: from outside, and the scheduler does not tell who wanted it."""

UP, CLOSED = "up", "closed"
"""The states of a partition, beside ``unknown``. ``closed``: it takes no jobs, or starts none."""


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
