"""Slurm, in the hooks of :mod:`.scheduler`. Pure.

Forms and words are those of sinfo(1), squeue(1), sbatch(1), scancel(1) and sacct(1), for Slurm 20.11 and later. Only formats
of single letters are used (``-o``): those with names were cut to 20 characters for long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from ... import hostlist
from ...errors import InvalidRecord
from ...quantities import count_of, seconds_of
from .request import BatchRequest
from .scheduler import (
    BUSY,
    CANCELLED,
    CLOSED,
    DOWN,
    DRAINING,
    ENDED,
    ENDING,
    FAILED,
    FREE,
    MIXED,
    OFF,
    PENDING,
    RESERVED,
    RUNNING,
    SUCCEEDED,
    UNKNOWN,
    UP,
    BatchJob,
    BatchNode,
    Command,
    JobWords,
    Partition,
    Scheduler,
    is_id,
)

MIB = 1024 * 1024
_IDS = 500
"""Jobs in one question to the accounting: a command line has an end."""

_ENVIRONMENT: dict[str, Optional[str]] = {
    **dict.fromkeys(
        (
            "SINFO_ALL", "SINFO_FEDERATION", "SINFO_FORMAT", "SINFO_LOCAL", "SINFO_PARTITION", "SINFO_SORT",
            "SQUEUE_ACCOUNT", "SQUEUE_ALL", "SQUEUE_ARRAY", "SQUEUE_ARRAY_UNIQUE", "SQUEUE_FEDERATION", "SQUEUE_FORMAT",
            "SQUEUE_FORMAT2", "SQUEUE_LICENSES", "SQUEUE_LOCAL", "SQUEUE_NAMES", "SQUEUE_PARTITION", "SQUEUE_PRIORITY",
            "SQUEUE_QOS", "SQUEUE_SIBLING", "SQUEUE_SORT", "SQUEUE_STATES", "SQUEUE_USERS", "SCANCEL_ACCOUNT",
            "SCANCEL_BATCH", "SCANCEL_FULL", "SCANCEL_INTERACTIVE", "SCANCEL_NAME", "SCANCEL_PARTITION", "SCANCEL_QOS",
            "SCANCEL_STATE", "SCANCEL_USER", "SCANCEL_WCKEY",
        )
    ),
    "SLURM_TIME_FORMAT": "%s",
    "LC_ALL": "C",
}  # fmt: skip
"""What users set to have these commands answer something else; times as seconds since the epoch."""

_REFUSALS = re.compile(
    r"invalid|unrecognized|not available|not permitted|specification|more processors requested|can not be satisfied"
    r"|unable to parse|access denied|permission denied",
    re.IGNORECASE,
)
"""Of slurm_errno.h and sbatch, the complaints about what was asked for."""

_INSIDE = re.compile(r"SLURM(D)?_(?!CONF$|CLUSTERS$).*|PMI\w*_.*|PALS_.*")
"""Of a job that we may be in ourselves, and none of the business of the next one."""

_PARTITIONS = "%P|%a|%l"
_NODES = "%P|%N|%T|%c|%C|%m|%G|%E"
_JOBS = "%i|%T|%D|%L|%e|%S|%N|%r|%k"  # the last may hold anything
_ENDED = "JobID,State,ExitCode"

JOB_PHASES = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
                     "SPECIAL_EXIT", "POWER_UP_NODE"), PENDING),
    **dict.fromkeys(("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "EXPEDITING"), RUNNING),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT", "UPDATE_DB"), ENDING),
    **dict.fromkeys(("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL",
                     "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"), ENDED),
}  # fmt: skip
"""squeue(1) and scontrol(1), "JOB STATE CODES", of 20.11 to 24.11."""

OUTCOMES = {
    "COMPLETED": (SUCCEEDED, None),
    "CANCELLED": (CANCELLED, "was cancelled"),
    "FAILED": (FAILED, None),
    "TIMEOUT": (FAILED, "reached its time limit"),
    "DEADLINE": (FAILED, "could not end before its deadline"),
    "OUT_OF_MEMORY": (FAILED, "needed more memory than it had asked for"),
    "PREEMPTED": (FAILED, "had to make way for another job"),
    "NODE_FAIL": (FAILED, "lost one of its nodes"),
    "BOOT_FAIL": (FAILED, "its nodes did not boot"),
    "LAUNCH_FAILED": (FAILED, "could not be started on its nodes"),
    "RECONFIG_FAIL": (FAILED, "its nodes could not be configured"),
}
"""What became of a job, by its state; one that was revoked lives on in another cluster of a federation."""

NODE_STATES = {
    **dict.fromkeys(("IDLE", "BLOCKED"), FREE),
    **dict.fromkeys(("MIXED",), MIXED),
    **dict.fromkeys(("ALLOCATED", "COMPLETING"), BUSY),
    **dict.fromkeys(("RESERVED", "MAINT", "PLANNED", "PERFCTRS", "NPC"), RESERVED),
    **dict.fromkeys(("DRAINED", "DRAINING", "DRAIN", "FAILING", "REBOOT", "REBOOT_ISSUED", "REBOOT_REQUESTED"), DRAINING),
    **dict.fromkeys(("DOWN", "FAIL", "ERROR", "INVAL", "NO_RESPOND"), DOWN),
    **dict.fromkeys(("FUTURE", "POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWERING_UP", "POWER_UP",
                     "POWERED_OFF", "CLOUD"), OFF),
}  # fmt: skip
"""sinfo(1), "NODE STATE CODES". A blocked node is one kept whole for a job with all cores of a topology; MIXED+ and the like are
compound, see :func:`node_state`."""

_FLAGS = {
    "*": DOWN,
    "~": FREE,
    "#": OFF,
    "!": FREE,
    "%": OFF,
    "$": RESERVED,
    "@": DRAINING,
    "^": DRAINING,
    "-": None,
    "+": None,
}
"""What is written behind a node's state: it does not respond; is switched off until it is needed, or on its way there or back; is
in a reservation for maintenance; waits for a reboot, or is in it; is planned for a job; has more states than one."""

PARTITION_STATES = {"up": UP, "down": CLOSED, "drain": CLOSED, "inact": CLOSED, "inactive": CLOSED}


class Slurm(Scheduler):
    """Slurm."""

    name = "slurm"
    programs = ("sinfo", "squeue", "sbatch", "scancel")
    keys = frozenset(("partition", "account", "qos", "gres", "option"))
    words = JobWords(
        job_id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
        element="${SLURM_ARRAY_TASK_ID-}",
        restart="${SLURM_RESTART_COUNT:-0}",
        nodes='scontrol show hostnames "$SLURM_JOB_NODELIST"',
        passed_on=("USR1", "USR2", "HUP"),
    )
    kept = r"SLURM_(CONF|CLUSTERS)|SBATCH_.*"

    def ask_resources(self) -> Sequence[Command]:
        """The partitions, and each node once for each partition it is in."""
        return [
            Command(("sinfo", "-h", "-o", _PARTITIONS), environment=_ENVIRONMENT),
            Command(("sinfo", "-h", "-N", "-o", _NODES), environment=_ENVIRONMENT),
        ]

    def read_resources(self, answers: Sequence[str]) -> tuple[list[Partition], list[BatchNode]]:
        """Partitions are made of their own line and of those of their nodes."""
        told, by_partition = answers
        nodes: dict[str, BatchNode] = {}
        members: dict[str, dict[str, None]] = {}
        for fields in _lines(by_partition, 8):
            partition, name = fields[0].rstrip("*"), fields[1]
            members.setdefault(partition, {})[name] = None
            nodes[name] = _node(fields, nodes[name].partitions if name in nodes else ())
        partitions = [
            _partition(fields, [nodes[name] for name in members.get(fields[0].rstrip("*"), ())])
            for fields in _lines(told, 3)
        ]
        return partitions, list(nodes.values())

    def ask_jobs(self, user: str) -> Command:
        """All of the user's, each element of an array by itself, those that have ended a short while ago included.

        Asking for an id that is gone would be an error.
        """
        return Command(("squeue", "-h", "-r", "-t", "all", "-u", user, "-o", _JOBS), environment=_ENVIRONMENT)

    def read_jobs(self, answer: str, now: float) -> list[BatchJob]:
        """When they end: as told; else by the time left, which an administrator's change of the end is not in."""
        jobs = []
        for job_id, native, nodes, left, end, start, hosts, reason, mark in _lines(answer, 9):
            if not is_id(job_id):
                continue
            phase = JOB_PHASES.get(native, UNKNOWN)
            left_s = seconds_of(left) if phase == RUNNING else None
            told_end = count_of(end)
            ends_at = now + left_s if told_end is None and left_s is not None else told_end
            outcome, meaning = OUTCOMES.get(native, (None, None))
            jobs.append(
                BatchJob(
                    job_id,
                    phase,
                    native,
                    _told(reason),
                    count_of(nodes),
                    _hosts(hosts),
                    ends_at,
                    _told(mark),
                    count_of(start) if phase in (RUNNING, ENDING) else None,
                    outcome,
                    meaning,
                )
            )
        return jobs

    def ask_ended(self, job_ids: Sequence[str]) -> Sequence[Command]:
        """The accounting, which not every site keeps."""
        environment = {**_ENVIRONMENT, "SACCT_FORMAT": None, "SACCT_FEDERATION": None}
        return [
            Command(("sacct", "-n", "-P", "-X", "-j", ",".join(part), "-o", _ENDED), environment=environment)
            for part in (job_ids[start : start + _IDS] for start in range(0, len(job_ids), _IDS))
        ]

    def read_ended(self, answer: str) -> list[BatchJob]:
        """``CANCELLED by 1000`` is what sacct writes of a job that somebody has cancelled."""
        jobs = []
        for job_id, state, code in _lines(answer, 3):
            native = (state.split() or [""])[0]
            outcome, meaning = OUTCOMES.get(native, (None, None))
            exit_code, _, number = code.partition(":")
            known = count_of(exit_code) if number == "0" else None
            if native and is_id(job_id):
                phase = JOB_PHASES.get(native, UNKNOWN)
                jobs.append(BatchJob(job_id, phase, native, outcome=outcome, told=meaning, exit_code=known))
        return jobs

    def submit(self, request: BatchRequest, script: str, output: str, directory: str) -> Command:
        """One batch job, or an array, which is not run again. Without ``cores``: whole nodes."""
        words = [
            "sbatch",
            "--parsable",
            "--no-requeue",
            *(["--no-kill"] if request.survives else []),
            f"--nodes={request.nodes}",
            *([] if math.isinf(request.time_s) else [f"--time={math.ceil(request.time_s / 60)}"]),
            f"--job-name={request.name}",
            f"--output={output.replace('%', '%%')}",
            "--open-mode=append",
            f"--chdir={directory}",
            f"--ntasks-per-node={request.tasks_per_node}",
        ]
        words += [f"--array=1-{request.elements}"] if request.elements else []
        words += [f"--comment={request.mark}"] if request.mark else []
        if request.cores is None:
            words.append("--exclusive")
        else:
            words.append(f"--cpus-per-task={max(1, math.ceil(request.cores / request.tasks_per_node))}")
        for option in ("partition", "account", "qos", "gres"):
            value = getattr(request, option)
            words += [f"--{option}={value}"] if value is not None else []
        words += [f"--gpus-per-node={request.gpus}"] if request.gpus else []
        if request.memory_bytes is not None:
            words.append(f"--mem={max(1, request.memory_bytes // MIB)}M")
        elif request.cores is None:
            words.append("--mem=0")  # all of it; else a site's default for each core counts, on whole nodes too
        for option in request.options:
            _check(option)
        return Command((*words, *request.options), stdin=script)

    def read_submitted(self, answer: str) -> Optional[str]:
        """``4711`` or ``4711;cluster``, in the last line: sites print greetings before it."""
        found = re.fullmatch(r"(\d+)(?:;.*)?", (answer.strip().splitlines() or [""])[-1].strip(), re.ASCII)
        return found.group(1) if found else None

    def is_doubtful(self, complaint: str) -> bool:
        """The controller has not answered: it may have taken the job before, or have it still in its queue of messages."""
        return re.search(r"timed out|zero bytes|communication|connection", complaint, re.IGNORECASE) is not None

    def ask_limits(self) -> Optional[Command]:
        """The configuration."""
        return Command(("scontrol", "show", "config"), environment=_ENVIRONMENT)

    def read_limits(self, answer: str) -> Optional[int]:
        """The numbers of elements begin at 0, and ``MaxArraySize`` is more than the largest: with it at 0 there are no arrays."""
        found = re.search(r"^MaxArraySize\s*=\s*(\d{1,18})\s*$", answer, re.MULTILINE | re.ASCII)
        return max(1, int(found.group(1)) - 1) if found else None

    def is_refusal(self, complaint: str) -> bool:
        """What Slurm says of what it can never give, or does not know; that a limit is reached now is not among it."""
        return _REFUSALS.search(complaint) is not None

    def cancel(self, job_ids: Sequence[str]) -> Command:
        """Jobs that have ended or are not known any more are no error: ``-Q``."""
        return Command(("scancel", "-Q", *job_ids), environment=_ENVIRONMENT)


def inside_variables(names: Iterable[str]) -> dict[str, None]:
    """The variables among ``names`` that tell of a job of Slurm that we are in: none of the business of another one."""
    return {name: None for name in names if _INSIDE.fullmatch(name)}


def node_state(native: str) -> str:
    """The state of a node for us, of sinfo's word for it: ``idle``, ``mixed-``, ``down*``, ``idle+drain``, ``idle~`` …

    Of several states the one counts that keeps us from the node. A free node that is switched off to save power is free.
    """
    base = native.rstrip("".join(_FLAGS))
    found = [NODE_STATES.get(word, UNKNOWN) for word in base.upper().split("+") if word]
    flags = [_FLAGS[mark] for mark in native[len(base) :]]
    if not found:
        return UNKNOWN
    states = found + [flag for flag in flags if flag is not None and flag != FREE]
    return min(states, key=_PRECEDENCE.index)


_PRECEDENCE = (UNKNOWN, DOWN, DRAINING, OFF, RESERVED, BUSY, MIXED, FREE)


def _node(fields: list[str], partitions: tuple[str, ...]) -> BatchNode:
    partition, name, native, cores, use, memory, gres, reason = fields
    counts = re.fullmatch(r"(\d+)/(\d+)/(\d+)/(\d+)", use, re.ASCII)  # allocated, idle, other, total
    return BatchNode(
        name,
        node_state(native),
        native,
        _number(cores),
        int(counts.group(2)) if counts else None,
        None if _number(memory) is None else (_number(memory) or 0) * MIB,
        gpus_of(gres),
        (*partitions, partition.rstrip("*")),
        _told(reason),
    )


def _partition(fields: list[str], nodes: list[BatchNode]) -> Partition:
    name, available, limit = fields
    cores = [node.cores for node in nodes if node.cores is not None]
    memory = [node.memory_bytes for node in nodes if node.memory_bytes is not None]
    return Partition(
        name.rstrip("*"),
        PARTITION_STATES.get(available, UNKNOWN),
        available,
        name.endswith("*"),
        seconds_of(limit),
        len(nodes),
        sum(node.state == FREE for node in nodes),
        sum(cores),
        sum(node.cores_free or 0 for node in nodes),
        max(cores, default=None),
        max(memory, default=None),
        max((node.gpus or 0 for node in nodes), default=None),
    )


def gpus_of(gres: str) -> int:
    """The GPUs in a list of generic resources: ``gpu:2``, ``gpu:a100:4(S:0-1),nvme:1``, ``gpu:a100:2,gpu:v100:1``."""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,()]+)*?:(\d{1,9})(?=[,(]|$)", gres, re.ASCII)
    bare = re.findall(r"(?:^|,)gpu(?=[,(]|$)", gres)
    return sum(map(int, counts)) + len(bare)


def _check(option: str) -> None:
    """Refuse what would make the command something else than the submission of one job."""
    name = option.split("=")[0]
    short = name[:2] if not name.startswith("--") else name
    if short in _REFUSED:
        raise InvalidRecord(
            f"option {option!r} is not possible here: lwfm sets it, or it would be another kind of job"[:200]
        )


_REFUSED = frozenset(
    (
        "--array", "-a", "--wrap", "--wait", "-W", "--test-only", "--clusters", "-M", "--cluster", "--parsable", "--help", "-h",
        "--usage", "--version", "-V", "--output", "-o", "--comment", "--nodes", "-N", "--time", "-t", "--chdir", "-D",
    )
)  # fmt: skip


def _lines(text: str, count: int) -> Iterator[list[str]]:
    """The fields of each line that has so many; the last may have bars in it."""
    for line in text.splitlines():
        fields = [part.strip() for part in line.split("|", count - 1)]
        if len(fields) == count and fields[0]:
            yield fields


def _told(text: str) -> Optional[str]:
    return None if text in ("", "none", "None", "(null)", "N/A", "n/a") else text


def _number(text: str) -> Optional[int]:
    return count_of(text[:-1] if text.endswith("+") else text)


def _hosts(text: str) -> tuple[str, ...]:
    try:
        return tuple(hostlist.expand(text)) if text else ()
    except InvalidRecord:
        return ()
