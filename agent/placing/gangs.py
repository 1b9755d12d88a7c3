"""What a job is told of the nodes it was given, and how the message that hands it to a worker says so. Pure.

A job over several nodes runs once, on the first of them, unless it asks for tasks: then what runs there is ``lwfm tasks``
(:mod:`lwfm.tasks`), which starts them with the MPI that the job finds. Either way it finds its nodes in a host file, and, inside an
allocation of Slurm, in the variables in which ``srun`` and the MPIs look for them, narrowed to the nodes of this job.

Sources: srun(1), "INPUT ENVIRONMENT VARIABLES" and "--distribution=arbitrary"; the ras and plm components "slurm" of Open MPI read
``SLURM_NODELIST`` and ``SLURM_TASKS_PER_NODE``; what of it works together was tried on Slurm 22.05 with Open MPI 4.1 and MPICH 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from .. import hostlist
from ..capacity import Shape
from ..jsontext import compact_ascii
from ..paths import self_command
from ..sites.base import JobRequest
from ..wire import Message

HOSTFILE_VARIABLE = "LWFM_NODEFILE"
TASKS_VARIABLE = "LWFM_TASKS_PER_NODE"
PARTS_VARIABLE = "LWFM_PARTS"
EXPORT_VARIABLE = "LWFM_EXPORT"
STARTER_VARIABLE = "LWFM_TASK_STARTER"
_NOT_FOR_A_GANG = (
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_MEM_PER_CPU",
    "SRUN_CPUS_PER_TASK",
)
"""What a batch script was given for all its nodes, and srun would take for this job's."""


class Part(NamedTuple):
    """What a job has of a node other than its first.

    Args:
        host: what the node calls itself. ``name``: what the launchers call it.
        cores: indices of its processors. ``gpus``: names of its devices, as their variables take them.
        way: the variables by which what runs there finds the agent.
    """

    host: str
    name: str
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    way: Mapping[str, str] = MappingProxyType({})


def run_message(
    request: JobRequest, shape: Shape, node_name: str, allocation: str = "", parts: Sequence[Part] = ()
) -> Message:
    """The message that hands a job to a worker.

    Args:
        request: the job. ``shape``: what it asks for.
        node_name: what the launchers call the worker's node. ``allocation``: the allocation of all its nodes.
        parts: what it has of its other nodes.
    """
    defn = request.defn
    resources = defn.resources
    message: Message = {
        "t": "run",
        "job": request.job_id,
        "attempt": request.attempt,
        "cwd": defn.cwd,
        "context": request.context_id,
    }
    if isinstance(defn.command, str):
        message["shell"] = defn.command
    else:
        message["argv"] = list(defn.command)
    message["env"] = {**defn.env, **request.variables}
    message["grace_s"] = defn.grace_s
    if defn.outputs:
        message["outputs"] = list(defn.outputs)
    for name in ("cores", "memory_bytes", "time_limit_s"):
        value = getattr(resources, name)
        if value is not None:
            message[name] = value
    if resources.gpus:
        message["gpus"] = resources.gpus
    if resources.nodes is not None or resources.tasks_per_node is not None:
        message["cores"] = shape.needs.cores
        _tell_nodes(message, request, shape, [node_name, *(part.name for part in parts)], allocation, parts)
    return message


def _tell_nodes(
    message: Message, request: JobRequest, shape: Shape, names: list[str], allocation: str, parts: Sequence[Part]
) -> None:
    resources = request.defn.resources
    slots = resources.tasks_per_node or max(1, shape.needs.cores)
    environment = message["env"]
    environment.update({"LWFM_NODES": str(len(names)), "LWFM_NODELIST": hostlist.fold(names)})
    files = {HOSTFILE_VARIABLE: "".join(f"{name} slots={slots}\n" for name in names)}
    if allocation.startswith("slurm-"):
        environment.update(_slurm_variables(names, slots))
        files["SLURM_HOSTFILE"] = "".join(f"{name}\n" * slots for name in names)
        message["unset"] = list(_NOT_FOR_A_GANG)
    message["files"] = files
    if resources.tasks_per_node is not None:
        environment[TASKS_VARIABLE] = str(resources.tasks_per_node)
        environment[PARTS_VARIABLE] = compact_ascii(
            {part.host: [part.cores, part.gpus, dict(part.way)] for part in parts}
        )
        environment[EXPORT_VARIABLE] = " ".join(sorted({*request.environment, *request.defn.env}))
        if resources.starter is not None:
            environment[STARTER_VARIABLE] = resources.starter
        words = ["/bin/sh", "-c", message.pop("shell")] if "shell" in message else message["argv"]
        message["argv"] = [*self_command(), "tasks", "--", *words]


def _slurm_variables(names: list[str], slots: int) -> dict[str, str]:
    """The allocation as if it had only these nodes; steps in it share them with the workers' step."""
    nodes, count = hostlist.fold(names), len(names)
    per_node = f"{slots}(x{count})" if count > 1 else str(slots)
    return {
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": str(count),
        "SLURM_NNODES": str(count),
        "SLURM_TASKS_PER_NODE": per_node,
        "SLURM_JOB_CPUS_PER_NODE": per_node,
        "SLURM_NTASKS": str(slots * count),
        "SLURM_NPROCS": str(slots * count),
        "SLURM_DISTRIBUTION": "arbitrary",
        "SLURM_OVERLAP": "1",
        "SLURM_CPU_BIND": "none",
        "SLURM_MEM_PER_NODE": "0",
    }
