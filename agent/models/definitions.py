"""What a job is to run, and what it needs for it: what a submission says of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Optional, Union

from ..errors import InvalidRecord
from ..records import (
    JSON,
    Record,
    check_integer,
    check_number,
    check_properties,
    check_text,
    check_words,
    set_field,
)

DEFAULT_GRACE_S = 5.0
"""Seconds between TERM and KILL when a job is stopped."""
LEAST_PRIORITY = -1_000_000


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
        check_integer(self, "priority", minimum=LEAST_PRIORITY)
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


def _default_name(command: Union[str, Sequence[str]]) -> str:
    word = command.split()[0] if isinstance(command, str) else command[0]
    return word.rstrip("/").rpartition("/")[2] or word
