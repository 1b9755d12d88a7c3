"""``lwfm tasks``: starts the tasks of a job on its nodes. It is what runs in a job that asks for tasks; not for use by hand.

Finds how MPI programs are started where the job runs, and becomes that: ``mpiexec``, in the options of the family it is of, else
``srun`` in an allocation of Slurm. ``mpiexec`` comes first, since the one on PATH belongs to the MPI the job has loaded; a ``srun``
that was built for another one would start so many programs that each believe to be alone.

Each task finds its job's variables, sees the GPUs the job has on that node, and runs on the job's cores there.

Sources: mpiexec(1) of Open MPI 4 and MPICH 4 (Hydra); the Intel MPI developer reference; mpiexec of HPE PALS; srun(1).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from .errors import ConfigError, LwfmError
from .launch.mpi import HYDRA, INTEL, OPEN_MPI, PALS, family_of
from .launch.programs import version_of
from .placing.gangs import EXPORT_VARIABLE, HOSTFILE_VARIABLE, PARTS_VARIABLE, STARTER_VARIABLE, TASKS_VARIABLE
from .variables import GPU_VARIABLES, RENDEZVOUS_VARIABLE, SOCKET_VARIABLE

ASK_TIMEOUT_S = 30.0
NOT_STARTED = 127
_OF_THIS_COMMAND = (PARTS_VARIABLE, EXPORT_VARIABLE, STARTER_VARIABLE)
_OF_THE_NODE = re.compile(r"(SLURM|OMPI|PMI|PMIX|PRTE|PALS|SSH|XDG)_.*|HOSTNAME|DISPLAY|SHLVL|PWD|OLDPWD|_|TMPDIR")


class Grant(NamedTuple):
    """What the job has of a node: indices of cores, names of GPUs, and the variables by which tasks there find the agent."""

    cores: Sequence[int]
    gpus: Sequence[str]
    way: Mapping[str, str] = MappingProxyType({})


Grants = Mapping[str, Grant]
"""By what a node calls itself."""


class Layout(NamedTuple):
    """Where tasks are to be started.

    Args:
        nodes: the nodes' names. ``tasks_per_node``: how many on each. ``hostfile``: a file that lists them with their slots.
    """

    nodes: Sequence[str]
    tasks_per_node: int
    hostfile: str

    @property
    def tasks(self) -> int:
        """How many in all."""
        return len(self.nodes) * self.tasks_per_node


def main(argv: Sequence[str]) -> int:
    """Start ``argv``, which follows ``--``, as this job's tasks: becomes the program that starts them.

    Returns:
        127: there is none, or it cannot be used.
    """
    words = list(argv[1:] if argv[:1] == ["--"] else argv)
    try:
        layout = _layout(os.environ)
        grants = _grants(os.environ)
        exported = [name for name in os.environ.get(EXPORT_VARIABLE, "").split() if name in os.environ]
        starter = _starter(os.environ)
        environment = {name: value for name, value in os.environ.items() if name not in _OF_THIS_COMMAND}
        task = wrapped(words, environment, grants)
        command = start_command(starter, layout, task, exported)
    except LwfmError as error:
        sys.stderr.write(f"lwfm: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
        return NOT_STARTED
    sys.stderr.flush()
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell, and this is what is asked for
    except OSError as error:
        sys.stderr.write(f"lwfm: cannot start {command[0]}: {error.strerror}\n")
        return NOT_STARTED


def start_command(starter: Sequence[str], layout: Layout, task: Sequence[str], exported: Sequence[str]) -> list[str]:
    """The words that start ``task`` on the nodes.

    Args:
        starter: the program that does it and options the user gave it.
        layout: where. ``task``: what each task is.
        exported: the variables it must find everywhere, where the starter does not pass on all.

    Raises:
        ConfigError: it is of a kind that is not known here.
    """
    name = os.path.basename(starter[0])
    count, per_node = str(layout.tasks), str(layout.tasks_per_node)
    if name == "srun":
        nodes = ",".join(layout.nodes)
        where = ["--overlap", f"--nodes={len(layout.nodes)}", f"--ntasks={count}", f"--ntasks-per-node={per_node}"]
        where += [f"--nodelist={nodes}", "--distribution=block", "--cpu-bind=none", "--mem=0", "--kill-on-bad-exit=1"]
        return [*starter, *where, *task]
    try:
        told = version_of([starter[0], "--version"], ASK_TIMEOUT_S)
    except OSError as error:
        raise ConfigError(f"{starter[0]} does not tell its version: {error}") from error
    family = family_of(told)
    if family == OPEN_MPI:
        options = ["--bind-to", "none", "--map-by", f"ppr:{per_node}:node", "--hostfile", layout.hostfile, "-n", count]
        for variable in exported:
            if not _OF_THE_NODE.fullmatch(variable):
                options += ["-x", variable]
        return [*starter, *options, *task]
    if family == INTEL:
        options = ["-genv", "I_MPI_PIN", "off", "-ppn", per_node, "-n", count, "-hosts", ",".join(layout.nodes)]
        return [*starter, *options, *task]
    if family == HYDRA:
        hosts = ",".join(f"{node}:{per_node}" for node in layout.nodes)
        return [*starter, "-bind-to", "none", "-n", count, "-hosts", hosts, *task]
    if family == PALS:
        options = ["--cpu-bind", "none", "--ppn", per_node, "-n", count, "--hosts", ",".join(layout.nodes)]
        return [*starter, *options, *task]
    raise ConfigError(
        f"{starter[0]} is of an MPI that is not known here: {told.strip()[:200]!r}",
        hint="start the tasks yourself: ask for nodes without tasks per node, and use $LWFM_NODEFILE",
    )


def wrapped(words: Sequence[str], environment: Mapping[str, str], grants: Grants) -> list[str]:
    """The command of one task: with the job's variables, on the job's cores and GPUs of the node it finds itself on."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(environment.items())
        if name.startswith("LWFM_") and name not in (HOSTFILE_VARIABLE, SOCKET_VARIABLE, RENDEZVOUS_VARIABLE)
    ]
    has_gpus = any(grant.gpus for grant in grants.values())
    usual = Counter(map(_grant_key, grants.values())).most_common(1)[0][0] if grants else ""
    cases = [
        f"{shlex.quote(host)}) {_grant_text(grant, has_gpus)};;"
        for host, grant in sorted(grants.items())
        if _grant_key(grant) != usual
    ]
    default = next((grant for grant in grants.values() if _grant_key(grant) == usual), None)
    if default is not None:
        lines.append(f"case $(uname -n) in {' '.join(cases)} *) {_grant_text(default, has_gpus)};; esac")
        lines.append('[ -z "$c" ] || ! taskset -c "$c" true 2>/dev/null || exec taskset -c "$c" "$@"')
    lines.append('exec "$@"')
    return ["/bin/sh", "-c", "\n".join(lines), "lwfm-task", *words]


def _grant_key(grant: Grant) -> str:
    return f"{list(grant.cores)} {list(grant.gpus)} {sorted(grant.way.items())}"


def _grant_text(grant: Grant, has_gpus: bool) -> str:
    exported = dict(grant.way)
    if has_gpus:
        exported.update(dict.fromkeys(GPU_VARIABLES, ",".join(grant.gpus)))
    texts = [f"c={','.join(map(str, grant.cores))}"]
    texts += [f"export {name}={shlex.quote(value)}" for name, value in sorted(exported.items())]
    return "; ".join(texts)


def _layout(environment: Mapping[str, str]) -> Layout:
    hostfile = environment.get(HOSTFILE_VARIABLE, "")
    try:
        with open(hostfile, encoding="utf-8") as source:
            nodes = [line.split()[0] for line in source if line.strip()]
        return Layout(nodes, int(environment[TASKS_VARIABLE]), hostfile)
    except (OSError, KeyError, ValueError):
        raise ConfigError(
            "lwfm tasks runs only inside a job that asks for tasks", hint="lwfm submit --tasks-per-node 4 -- PROGRAM"
        ) from None


def _grants(environment: Mapping[str, str]) -> dict[str, Grant]:
    """What the job has of each of its nodes, the one this runs on included."""
    found = json.loads(environment.get(PARTS_VARIABLE) or "{}")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = [name for name in environment.get(GPU_VARIABLES[0], "").split(",") if name]
    way = {name: environment.get(name, "") for name in (SOCKET_VARIABLE, RENDEZVOUS_VARIABLE)}
    return {os.uname().nodename: Grant(cores, gpus, way), **{host: Grant(*part) for host, part in found.items()}}


def _starter(environment: Mapping[str, str]) -> list[str]:
    """The program that starts tasks: the one asked for, else mpiexec, else that of the allocation."""
    given = environment.get(STARTER_VARIABLE)
    path = environment.get("PATH")
    if given:
        words = shlex.split(given)
        if not words or shutil.which(words[0], path=path) is None:
            raise ConfigError(f"{given.split()[0] if given.split() else given!r} is not on the job's PATH")
        return words
    for name in ("mpiexec", "mpirun", *(["srun"] if "SLURM_JOB_ID" in environment else [])):
        if shutil.which(name, path=path) is not None:
            return [name]
    raise ConfigError(
        "nothing on the job's PATH starts tasks: neither mpiexec nor mpirun nor srun",
        hint="load the module of an MPI before you submit, or name one with --starter",
    )
