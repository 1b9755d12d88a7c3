"""The allocation we run in: which nodes, what of each is ours, and when it ends. Reads what schedulers leave behind. Pure.

Everything comes from outside through what is handed in: variables, the text of a file, the output of a command. Nothing
is guessed: what a scheduler does not tell is None, and what it tells in a form we do not know is an error.

How each scheduler says it is taken from: sbatch(1), srun(1) and squeue(1) of Slurm; the pbsdsh(1B) of OpenPBS and the
exported variables of TORQUE; the LSF 10.1 reference; sge_submit(1) and sge_pe(5) of Grid Engine; flux-environment(7),
flux-resource(1) and the RFCs 20, 22 and 29 of Flux; the guide to Cobalt of the ALCF.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from . import hostlist
from .errors import ConfigError, InvalidRecord

Read = Callable[[str], str]
"""The text of a file by its name; raises OSError."""
Ask = Callable[[Sequence[str]], str]
"""The output of a command; raises OSError, also when the command failed or took too long."""

KIB = 1024
MIB = 1024 * KIB
_UNITS = {"K": KIB, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


@dataclass(frozen=True)
class NodeShare:
    """What of one node is ours; None is what the scheduler does not tell.

    Args:
        host: the node's name as the scheduler writes it.
        cores: processors as the scheduler counts them: cores, hardware threads or slots, as its site set it up.
        gpus: devices.
        memory_bytes: memory in bytes.
        index: the number under which the scheduler's own starter of tasks knows the node: with PBS the node's first
            line in the node file, counted from 0; with Flux the rank of its broker.
    """

    host: str
    cores: Optional[int] = None
    gpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    index: Optional[int] = None


@dataclass(frozen=True)
class Allocation:
    """Nodes that a scheduler, or a host file, gave us.

    Args:
        scheduler: ``slurm``, ``pbs``, ``lsf``, ``sge``, ``flux``, ``cobalt`` or ``hostfile``.
        id: the scheduler's name for the job, with the index of a job array where that is a name of its own.
        nodes: the nodes in the scheduler's order, each once.
        ends_at: seconds since the epoch; None if unknown or never.
    """

    scheduler: str
    id: str
    nodes: tuple[NodeShare, ...]
    ends_at: Optional[float] = None

    def share_of(self, host: str) -> Optional[NodeShare]:
        """The share of the node that calls itself ``host``; None where that is not one of the nodes.

        A short name fits a full one. ``localhost`` among the nodes, as in a host file, is the host that asks.
        """
        for fits in (str.__eq__, hostlist.same_host):
            for node in self.nodes:
                if fits(node.host, host):
                    return node
        return next((node for node in self.nodes if node.host == "localhost"), None)


def discover(environment: Mapping[str, str], read: Read, ask: Ask, now: float) -> Optional[Allocation]:
    """The allocation that ``environment`` tells of; None where none of the schedulers left anything.

    Args:
        environment: the variables of this process.
        read: gives the text of a file; raises OSError.
        ask: gives the output of a command; raises OSError. It has a time limit of its own.
        now: seconds since the epoch.

    Raises:
        ConfigError: a variable, or the file it names, is missing or malformed; the message names the variable.
    """
    # Flux first: it runs inside allocations of the others, and then what it manages is what is ours.
    for find in (_flux, _slurm, _pbs, _lsf, _sge, _cobalt):
        found = find(environment, read, ask, now)
        if found is not None:
            return found
    return None


def from_hostfile(text: str) -> Allocation:
    """The allocation that a host file of the user's describes; its id is made from the nodes.

    One host in a line, or a bracketed list of them: ``host``, ``host slots=4`` or ``host:4``. ``#`` begins a comment. A
    host that is listed several times has that many slots; one that is listed once and plainly has unknown ones.

    Raises:
        ConfigError: a line is malformed, or there is no host; the message names the line.
    """
    slots: dict[str, list[Optional[int]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, colon, count = words[0].partition(":")
        rest = words[1:] + ([f"slots={count}"] if colon else [])
        known = [re.fullmatch(r"slots=([1-9]\d{0,8})", word, re.ASCII) for word in rest]
        if len(known) > 1 or None in known:
            raise ConfigError(
                f"line {number} of the host file is malformed: {line.strip()[:200]!r}",
                hint="one host in a line: host, host slots=4 or host:4",
            )
        for host in _hosts(name, f"line {number} of the host file"):
            slots.setdefault(host, []).append(int(known[0][1]) if known and known[0] else None)
    if not slots:
        raise ConfigError("the host file names no host", hint="write one host in each line")
    nodes = tuple(
        NodeShare(host, cores=None if counts == [None] else sum(count or 1 for count in counts))
        for host, counts in slots.items()
    )
    digest = hashlib.sha256(repr([(node.host, node.cores) for node in nodes]).encode()).hexdigest()
    return Allocation("hostfile", f"hostfile-{digest[:12]}", nodes)


# ----------------------------------------------------------------------------------------------------- Slurm


def _slurm(environment: Mapping[str, str], _read: Read, ask: Ask, now: float) -> Optional[Allocation]:
    """Slurm. Inside a step of srun the allocation is still the job's: ``SLURM_STEP_*`` are not looked at."""
    job = environment.get("SLURM_JOB_ID") or environment.get("SLURM_JOBID")
    if not job:
        return None
    if not re.fullmatch(r"\d{1,18}", job, re.ASCII):
        raise ConfigError(f"SLURM_JOB_ID is malformed: {job[:200]!r}")
    name = _first(environment, "SLURM_JOB_NODELIST", "SLURM_NODELIST", told="SLURM_JOB_ID")
    hosts = _unique(_hosts(environment[name], name), name)
    here = hosts[0] if len(hosts) == 1 else environment.get("SLURMD_NODENAME")
    cores = _slurm_cores(environment, len(hosts))
    gpus = _slurm_gpus(environment, [host == here for host in hosts])
    memory = _slurm_memory(environment, cores, gpus)
    nodes = tuple(NodeShare(*share) for share in zip(hosts, cores, gpus, memory))
    return Allocation("slurm", job, nodes, _slurm_end(environment, job, ask, now))


def _slurm_cores(environment: Mapping[str, str], count: int) -> list[Optional[int]]:
    name = "SLURM_JOB_CPUS_PER_NODE"
    if not environment.get(name):
        # What this one says is about the node that we are on.
        return [_whole(environment, "SLURM_CPUS_ON_NODE")] if count == 1 else [None] * count
    cores: list[Optional[int]] = []
    for part in environment[name].split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part.strip(), re.ASCII)
        if found is None or len(cores) + int(found.group(2) or 1) > count:
            raise _malformed(environment, name)
        cores.extend([int(found.group(1))] * int(found.group(2) or 1))
    if len(cores) != count:
        raise _malformed(environment, name)
    return cores


def _slurm_gpus(environment: Mapping[str, str], here: list[bool]) -> list[Optional[int]]:
    """GPUs by node: what was asked for on every node, else what was given on the node that we are on."""
    name = "SLURM_GPUS_PER_NODE"
    if environment.get(name):  # 4, a100:4 or a100:2,v100:1
        parts = [re.fullmatch(r"(?:[^\s:,]+:)*(\d{1,6})", part) for part in environment[name].split(",")]
        if None in parts:
            raise _malformed(environment, name)
        return [sum(int(part[1]) for part in parts if part)] * len(here)
    if environment.get("SLURM_JOB_GPUS"):  # the numbers of the devices: 0,1,2,3 or 0-3
        given: Optional[int] = len(_idset(environment["SLURM_JOB_GPUS"], "SLURM_JOB_GPUS"))
    else:
        given = _whole(environment, "SLURM_GPUS_ON_NODE")
    return [given if own else None for own in here]


def _slurm_memory(
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


def _slurm_end(environment: Mapping[str, str], job: str, ask: Ask, now: float) -> Optional[float]:
    told = _whole(environment, "SLURM_JOB_END_TIME")
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


# ----------------------------------------------------------------------------------------------------- PBS


def _pbs(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """OpenPBS, PBS Professional and TORQUE.

    The node file has a line for each slot (TORQUE) or each MPI rank (the others). Where ``NCPUS``, which is about the
    first node, says more than the lines do, the lines are ranks that have several cores: the first node then has NCPUS,
    and of the others nothing is known. When the job ends is not told in a form that all of them share.
    """
    job = environment.get("PBS_JOBID")
    if not job:
        return None
    hosts = _file_of_hosts(environment, "PBS_NODEFILE", read, told="PBS_JOBID")
    lines: dict[str, list[int]] = {}
    for index, host in enumerate(hosts):
        lines.setdefault(host, []).append(index)
    processors = _whole(environment, "NCPUS")
    ranks = processors is not None and processors > len(lines[hosts[0]])
    nodes = []
    for host, found in lines.items():
        cores = (processors if host == hosts[0] else None) if ranks else len(found)
        nodes.append(NodeShare(host, cores=cores, index=found[0]))
    return Allocation("pbs", job, tuple(nodes))


# ----------------------------------------------------------------------------------------------------- LSF


def _lsf(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """LSF. All jobs of an array share ``LSB_JOBID``, so the index belongs to the name.

    Some sites give a batch host with one slot, a launch node that is no place for work, before the nodes themselves.
    Nothing in the environment tells it from a node with one slot, so it is kept.
    """
    job = environment.get("LSB_JOBID")
    if not job:
        return None
    index = environment.get("LSB_JOBINDEX") or "0"
    name = "LSB_MCPU_HOSTS"
    counts: dict[str, int] = {}
    if environment.get(name):  # host slots host slots ...
        words = environment[name].split()
        for host, slots in zip(words[::2], words[1::2]):
            if not re.fullmatch(r"\d{1,9}", slots, re.ASCII):
                raise _malformed(environment, name)
            counts[_host(host, name)] = counts.get(host, 0) + int(slots)
        if len(words) % 2 or not counts:
            raise _malformed(environment, name)
    else:
        for host in _file_of_hosts(environment, "LSB_DJOB_HOSTFILE", read, told="LSB_JOBID"):
            counts[host] = counts.get(host, 0) + 1
    nodes = tuple(NodeShare(host, cores=slots) for host, slots in counts.items())
    return Allocation("lsf", job if index == "0" else f"{job}[{index}]", nodes)


# ----------------------------------------------------------------------------------------------------- Grid Engine


def _sge(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """Grid Engine. ``JOB_ID`` is too common a name to count alone: ``SGE_TASK_ID`` is in every job, array or not."""
    job, task = environment.get("JOB_ID"), environment.get("SGE_TASK_ID")
    if not job or not (task or environment.get("PE_HOSTFILE")):
        return None
    identity = job if task in (None, "", "undefined") else f"{job}.{task}"
    name = "PE_HOSTFILE"
    if not environment.get(name):  # no parallel environment: one host
        if (_whole(environment, "NHOSTS") or 1) > 1:
            raise ConfigError(f"NHOSTS is {environment['NHOSTS']}, but {name} is not set")
        host = _host(environment[_first(environment, "HOSTNAME", told="JOB_ID")], "HOSTNAME")
        return Allocation("sge", identity, (NodeShare(host, cores=_whole(environment, "NSLOTS")),))
    slots: dict[str, int] = {}
    for line in _text(environment, name, read).splitlines():
        words = line.split()  # host slots queue binding; a host has a line for each queue
        if not words:
            continue
        if len(words) < 2 or not re.fullmatch(r"\d{1,9}", words[1], re.ASCII):
            raise ConfigError(
                f"{name}: the file has the line {line.strip()[:200]!r}, where a host and its slots must be"
            )
        host = _host(words[0], name)
        slots[host] = slots.get(host, 0) + int(words[1])
    if not slots:
        raise ConfigError(f"{name}: the file {environment[name]} names no host")
    return Allocation("sge", identity, tuple(NodeShare(host, cores=count) for host, count in slots.items()))


# ----------------------------------------------------------------------------------------------------- Flux


def _flux(environment: Mapping[str, str], _read: Read, ask: Ask, _now: float) -> Optional[Allocation]:
    """Flux: the resource set (RFC 20) of the job that we are a task of, else of the instance that we run in.

    Flux takes away the SLURM variables in the instances it starts, so Flux itself must be asked. With
    ``FLUX_PROXY_REMOTE`` the instance is on another machine, and none of our business.
    """
    uri = environment.get("FLUX_URI")
    if not uri or environment.get("FLUX_PROXY_REMOTE"):
        return None
    job = environment.get("FLUX_JOB_ID")
    words = ["flux", "job", "info", job, "R"] if job else ["flux", "resource", "R"]
    try:
        told = ask(words)
    except OSError as error:
        raise ConfigError(
            f"FLUX_URI is set, but `{' '.join(words)}` does not answer: {error}",
            hint="unset FLUX_URI if this is no job of Flux",
        ) from None
    try:
        nodes, ends_at = _resource_set(json.loads(told))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"FLUX_URI: `{' '.join(words)}` answers with what is no resource set: {told[:200]!r}"
        ) from None
    if not job:
        try:
            job = ask(["flux", "getattr", "jobid"]).strip()
        except OSError:  # an instance that is no job of another one has none
            job = None
    return Allocation("flux", job or uri, nodes, ends_at)


def _resource_set(body: Any) -> tuple[tuple[NodeShare, ...], Optional[float]]:
    """Nodes and end of a Flux resource set. A node on which several brokers run counts once, with the first rank."""
    execution = body["execution"]
    told = "FLUX_URI: the resource set"
    parts = {
        rank: [_idset(entry["children"].get(kind, ""), told) for kind in ("core", "gpu")]
        for entry in execution["R_lite"]
        for rank in _idset(entry["rank"], told)
    }
    hosts = [host for part in execution["nodelist"] for host in _hosts(part, told)]
    if not parts or len(hosts) != len(parts):
        raise ConfigError(f"{told} has {len(parts)} ranks and {len(hosts)} hosts")
    found: dict[str, tuple[int, set[int], set[int]]] = {}
    for rank, host in zip(sorted(parts), hosts):
        _, cores, gpus = found.setdefault(host, (rank, set(), set()))
        cores.update(parts[rank][0])
        gpus.update(parts[rank][1])
    nodes = tuple(
        NodeShare(host, cores=len(cores), gpus=len(gpus), index=rank) for host, (rank, cores, gpus) in found.items()
    )
    return nodes, float(execution.get("expiration") or 0) or None


# ----------------------------------------------------------------------------------------------------- Cobalt


def _cobalt(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """Cobalt: its node file has each host once, and it tells no more."""
    job = environment.get("COBALT_JOBID")
    if not job:
        return None
    hosts = _file_of_hosts(environment, "COBALT_NODEFILE", read, told="COBALT_JOBID")
    return Allocation("cobalt", job, tuple(NodeShare(host) for host in dict.fromkeys(hosts)))


# ----------------------------------------------------------------------------------------------------- parts


def _first(environment: Mapping[str, str], *names: str, told: str) -> str:
    """The first of ``names`` that is set."""
    for name in names:
        if environment.get(name):
            return name
    raise ConfigError(
        f"{told} is set, but {names[0]} is not",
        hint=f"unset {told} if this is no job, or pass the scheduler's other variables on too",
    )


def _hosts(text: str, name: str) -> list[str]:
    try:
        return hostlist.expand(text)
    except InvalidRecord as error:
        raise ConfigError(f"{name}: {error.message}", hint=error.hint) from None


def _host(text: str, name: str) -> str:
    try:
        return hostlist.check_name(text)
    except InvalidRecord as error:
        raise ConfigError(f"{name}: {error.message}") from None


def _unique(hosts: list[str], name: str) -> list[str]:
    if len(set(hosts)) != len(hosts):
        raise ConfigError(f"{name} has a host twice")
    return hosts


def _text(environment: Mapping[str, str], name: str, read: Read) -> str:
    try:
        return read(environment[name])
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {environment[name]}: {error}") from None


def _file_of_hosts(environment: Mapping[str, str], name: str, read: Read, *, told: str) -> list[str]:
    """The hosts in the file that the variable names, one in a line, with repeats."""
    _first(environment, name, told=told)
    hosts = [_host(line.strip(), name) for line in _text(environment, name, read).splitlines() if line.strip()]
    if not hosts:
        raise ConfigError(f"{name}: the file {environment[name]} names no host")
    return hosts


def _whole(environment: Mapping[str, str], name: str) -> Optional[int]:
    """The whole number that a variable holds; None where it is not set."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise _malformed(environment, name)
    return int(text)


def _megabytes(environment: Mapping[str, str], name: str) -> Optional[int]:
    """The bytes that a variable of Slurm tells in MiB, or with a unit behind the number; None where it is not set."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", text.upper(), re.ASCII)
    if found is None:
        raise _malformed(environment, name)
    return int(found.group(1)) * _UNITS[found.group(2) or "M"]


def _idset(text: str, name: str) -> list[int]:
    """The numbers in ``0,2-5`` or ``[0,2-5]`` (RFC 22 of Flux; Slurm writes sets of devices alike)."""
    if not text:
        return []
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return list(dict.fromkeys(map(int, _hosts(f"[{bare}]", name))))


def _malformed(environment: Mapping[str, str], name: str) -> ConfigError:
    return ConfigError(f"{name} is malformed: {environment[name][:200]!r}")
