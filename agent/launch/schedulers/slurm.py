"""The allocation of a job of Slurm, as sbatch(1), srun(1) and squeue(1) tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from ...errors import ConfigError
from .model import Allocation, Ask, NodeShare, Read
from .parts import check_unique, expand_hosts, expand_ids, first_set, malformed, whole_number

KIB = 1024
MIB = 1024 * KIB
_UNITS = {"K": KIB, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


def find(environment: Mapping[str, str], _read: Read, ask: Ask, now: float) -> Optional[Allocation]:
    """Slurm. Inside a step of srun the allocation is still the job's: ``SLURM_STEP_*`` are not looked at."""
    job = environment.get("SLURM_JOB_ID") or environment.get("SLURM_JOBID")
    if not job:
        return None
    if not re.fullmatch(r"\d{1,18}", job, re.ASCII):
        raise ConfigError(f"SLURM_JOB_ID is malformed: {job[:200]!r}")
    name = first_set(environment, "SLURM_JOB_NODELIST", "SLURM_NODELIST", told="SLURM_JOB_ID")
    hosts = check_unique(expand_hosts(environment[name], name), name)
    here = hosts[0] if len(hosts) == 1 else environment.get("SLURMD_NODENAME")
    cores = _cores(environment, len(hosts))
    gpus = _gpus(environment, [host == here for host in hosts])
    memory = _memory(environment, cores, gpus)
    nodes = tuple(NodeShare(*share) for share in zip(hosts, cores, gpus, memory))
    return Allocation("slurm", job, nodes, _end(environment, job, ask, now))


def _cores(environment: Mapping[str, str], count: int) -> list[Optional[int]]:
    name = "SLURM_JOB_CPUS_PER_NODE"
    if not environment.get(name):
        # What this one says is about the node that we are on.
        return [whole_number(environment, "SLURM_CPUS_ON_NODE")] if count == 1 else [None] * count
    cores: list[Optional[int]] = []
    for part in environment[name].split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part.strip(), re.ASCII)
        if found is None or len(cores) + int(found.group(2) or 1) > count:
            raise malformed(environment, name)
        cores.extend([int(found.group(1))] * int(found.group(2) or 1))
    if len(cores) != count:
        raise malformed(environment, name)
    return cores


def _gpus(environment: Mapping[str, str], here: list[bool]) -> list[Optional[int]]:
    """GPUs by node: what was asked for on every node, else what was given on the node that we are on."""
    name = "SLURM_GPUS_PER_NODE"
    if environment.get(name):  # 4, a100:4 or a100:2,v100:1
        parts = [re.fullmatch(r"(?:[^\s:,]+:)*(\d{1,6})", part) for part in environment[name].split(",")]
        if None in parts:
            raise malformed(environment, name)
        return [sum(int(part[1]) for part in parts if part)] * len(here)
    if environment.get("SLURM_JOB_GPUS"):  # the numbers of the devices: 0,1,2,3 or 0-3
        given: Optional[int] = len(expand_ids(environment["SLURM_JOB_GPUS"], "SLURM_JOB_GPUS"))
    else:
        given = whole_number(environment, "SLURM_GPUS_ON_NODE")
    return [given if own else None for own in here]


def _memory(
    environment: Mapping[str, str], cores: list[Optional[int]], gpus: list[Optional[int]]
) -> list[Optional[int]]:
    """Bytes by node. 0 in ``SLURM_MEM_PER_NODE`` is all the node has, of which Slurm does not say how much."""
    per_node = _megabytes(environment, "SLURM_MEM_PER_NODE")
    if per_node is not None:
        return [per_node or None] * len(cores)
    for name, counts in (("SLURM_MEM_PER_CPU", cores), ("SLURM_MEM_PER_GPU", gpus)):
        each = _megabytes(environment, name)
        if each is not None:
            return [each * count or None if count is not None else None for count in counts]
    return [None] * len(cores)


def _end(environment: Mapping[str, str], job: str, ask: Ask, now: float) -> Optional[float]:
    told = whole_number(environment, "SLURM_JOB_END_TIME")
    if told:
        return float(told)
    try:
        # With %A, since for the last job of an array, whose id is that of the array, squeue lists all of them.
        lines = ask(["squeue", "-h", "-j", job, "-o", "%A %L"]).splitlines()
    except OSError:
        return None
    left = [words[1] for words in map(str.split, lines) if len(words) == 2 and words[0] == job]
    seconds = _duration(left[0]) if len(left) == 1 else None
    return None if seconds is None else now + seconds


def _duration(text: str) -> Optional[int]:
    """Seconds in ``2-03:04:05``, ``03:04:05`` or ``4:05``; None for words such as UNLIMITED, NOT_SET and INVALID."""
    found = re.fullmatch(r"(?:(?:(\d{1,6})-)?(\d{1,6}):)?(\d{1,6}):(\d{1,2})", text, re.ASCII)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _megabytes(environment: Mapping[str, str], name: str) -> Optional[int]:
    """The bytes that a variable of Slurm tells in MiB, or with a unit behind the number; None where it is not set."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", text.upper(), re.ASCII)
    if found is None:
        raise malformed(environment, name)
    return int(found.group(1)) * _UNITS[found.group(2) or "M"]
