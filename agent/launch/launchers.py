"""The commands that start one worker on each node of an allocation but the own one. Makes them; runs nothing. Pure.

The agent starts the worker of its own node itself. Of the other nodes, one that is lost must never take the workers of
the rest with it, and a worker must see the whole share of its node: hence what looks like too many options below.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from .. import hostlist
from ..errors import ConfigError
from . import mpi
from .allocation import Allocation, NodeShare

Versions = Callable[[Sequence[str]], str]
"""What a launcher answers when asked for its version, both streams together; raises OSError."""

CONNECT_TIMEOUT_S = 10
OVERLAP_SINCE = (20, 11)
"""The Slurm in which steps became exclusive, and ``--overlap`` came."""

_HOSTS_FILE = "hosts"
_OUTLIVING = ("/bin/sh", "-c", 'trap : HUP INT TERM USR1 USR2 XCPU; "$@"; exit 0', "sh")
"""Stands before the words of a worker whose launcher ends everything when a signal has ended it. Signals that announce an end
(``-notify`` and soft limits of Grid Engine) may go to all its processes; what has a trap here has none in the worker."""


@dataclass(frozen=True)
class Launch:
    """One command that starts one worker on each of ``hosts``.

    Args:
        argv: the program, as found on PATH, and its arguments; ``{file:NAME}`` stands for the name of a file of ``files``.
        hosts: where workers come from it.
        environment: changes to the environment of the command: a value to set, or None to take the variable away.
        files: texts that the command reads from files, by NAME.
        ends_job: when this command is ended before its workers have left, the scheduler ends the whole job.
    """

    argv: tuple[str, ...]
    hosts: tuple[str, ...]
    environment: Mapping[str, Optional[str]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    ends_job: bool = False

    def with_files(self, paths: Mapping[str, str]) -> tuple[str, ...]:
        """``argv`` with the names of the files in place.

        Args:
            paths: for each name in ``files``, where its text was written.

        Raises:
            KeyError: a file has no path.
        """
        words = {f"{{file:{name}}}": paths[name] for name in self.files}
        return tuple(words.get(word, word) for word in self.argv)


def commands(
    allocation: Allocation,
    words: Sequence[str],
    *,
    own_host: str,
    versions: Versions,
    which: Callable[[str], Optional[str]],
    launcher: Optional[str] = None,
) -> list[Launch]:
    """What starts ``words`` once on each node of ``allocation`` but ``own_host``; nothing where there is no other node.

    The scheduler's own starter comes first, if its program is there. Without it, inside a scheduler's job comes mpiexec,
    which often knows how to reach the nodes without ssh; then ssh. For a host file ssh comes before mpiexec: mpiexec needs
    ssh there as well, and ends all workers with the first node that is lost.

    Args:
        allocation: the nodes.
        words: the program that is a worker and its arguments; they arrive there exactly so, whatever they contain.
        own_host: how the node of the agent calls itself, with Slurm best the ``SLURMD_NODENAME``. Where it is none of the
            nodes (a launch node), all of them get a worker.
        versions: gives the output of a command that asks for a version; raises OSError.
        which: where a program is on PATH, or None.
        launcher: the name of the one to use: ``srun``, ``pbsdsh``, ``blaunch``, ``qrsh``, ``flux``, ``mpiexec`` or ``ssh``.

    Raises:
        ConfigError: there is no program that could do it, or the one asked for is unknown, missing or does not fit.
    """
    own = allocation.share_of(own_host)
    others = [node for node in allocation.nodes if node is not own]
    if launcher is not None and launcher not in _MAKERS:
        raise ConfigError(f"there is no launcher {launcher!r}", hint=f"one of {', '.join(_MAKERS)}")
    if launcher in _OF_SCHEDULER.values() and launcher != _OF_SCHEDULER.get(allocation.scheduler):
        raise ConfigError(
            f"the launcher {launcher} does not fit an allocation of {allocation.scheduler}",
            hint="ask for mpiexec or ssh, or leave the choice to lwfm",
        )
    if not words or any("\0" in word for word in words):
        raise ConfigError("the command of a worker is empty or holds a NUL character")
    if not others:
        return []
    name = launcher or _choice(allocation, which)
    if which(name) is None:
        raise ConfigError(f"the launcher {name} is not on PATH", hint="load its module, or ask for another launcher")
    return _MAKERS[name](allocation, others, tuple(words), versions)


def _choice(allocation: Allocation, which: Callable[[str], Optional[str]]) -> str:
    own = _OF_SCHEDULER.get(allocation.scheduler)
    general = ("ssh", "mpiexec") if allocation.scheduler == "hostfile" else ("mpiexec", "ssh")
    candidates = (own, *general) if own else general
    for name in candidates:
        if which(name) is not None:
            return name
    raise ConfigError(
        f"nothing is on PATH that starts workers on the other nodes: none of {', '.join(candidates)}",
        hint="load the module that has one of them",
    )


def _srun(allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], versions: Versions) -> list[Launch]:
    """Slurm: one step for all nodes, since each srun costs the controller; srun(1) says what each option does.

    Nodes and tasks are both pinned, because sites set defaults for either. The step shares everything with the steps that
    users' jobs start (``--overlap``, ``--mem=0``), binds to no core, and sets no variables of MPI (``--mpi=none``). It
    outlives a worker that ends (``--wait``, ``--kill-on-bad-exit``) and a node that is lost (``--no-kill``).
    """
    count = len(nodes)
    options = ["--overlap"] if _has_overlap(versions) else []
    options += [
        f"--jobid={allocation.id}",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        f"--nodelist={hostlist.fold(_names(nodes))}",
        "--cpu-bind=none",
        "--mem=0",
        "--mpi=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--no-kill",
        "--input=none",
        "--export=ALL",
    ]
    return [Launch(("srun", *options, *words), _names(nodes), dict.fromkeys(_SRUN_READS))]


_SRUN_READS = (
    "SLURM_CORE_SPEC",
    "SLURM_CPUS_PER_GPU",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_EXACT",
    "SLURM_EXCLUSIVE",
    "SLURM_GPUS",
    "SLURM_GPUS_PER_TASK",
    "SLURM_GPU_BIND",
    "SLURM_HINT",
    "SLURM_HOSTFILE",
    "SLURM_MEM_BIND",
    "SLURM_MEM_PER_CPU",
    "SLURM_MEM_PER_GPU",
    "SLURM_MEM_PER_NODE",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_NTASKS_PER_GPU",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_STEP_GRES",
    "SLURM_THREADS_PER_CORE",
    "SLURM_TRES_PER_TASK",
    "SRUN_CPUS_PER_TASK",
)
"""What a job script was given and srun would take for options of the step: it would get less than the node's share, or
ask, on fewer nodes, for the GPUs of all (srun(1), INPUT ENVIRONMENT VARIABLES)."""


def _has_overlap(versions: Versions) -> bool:
    """Whether srun knows ``--overlap``. One that does not answer is taken for a newer one: all that are supported know it."""
    try:
        found = re.search(r"(\d+)\.(\d+)", versions(["srun", "--version"]))
    except OSError:
        found = None
    return found is None or (int(found.group(1)), int(found.group(2))) >= OVERLAP_SINCE


def _pbsdsh(
    _allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], _versions: Versions
) -> list[Launch]:
    """PBS: one pbsdsh for each node, by the node's first line in the node file.

    Without ``-n`` it starts a task for every line, so several on one node, and one on ours; ``-u`` and ``-h`` would do
    better but are TORQUE's alone, and ``-o`` means different things in the two. The task has the environment that PBS
    makes for a job, without what the job script changed; the login shell gives it PATH and modules.
    """
    script = "exec " + shlex.join(words)
    return [Launch(("pbsdsh", "-n", str(node.index), "--", "bash", "-l", "-c", script), (node.host,)) for node in nodes]


def _blaunch(
    _allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], _versions: Versions
) -> list[Launch]:
    """LSF: one blaunch for all nodes, which takes the hosts in one argument with spaces between them.

    ``-n`` takes standard input from nowhere, ``-no-shell`` passes the words on as they are.
    """
    return [Launch(("blaunch", "-n", "-no-shell", "-z", " ".join(_names(nodes)), *words), _names(nodes))]


def _qrsh(_allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], _versions: Versions) -> list[Launch]:
    """Grid Engine: one qrsh for each node, as a task of the job whose JOB_ID is in the environment.

    It needs a parallel environment with ``control_slaves TRUE``. The words pass through the user's shell there:
    ``-noshell`` is not among the options that count with ``-inherit`` (sge_submit(1)). ``-V`` gives them our environment.
    Grid Engine kills the whole job when a signal has ended a task, so the task is a shell that outlives the worker; and it
    ends a task with a signal when its qrsh is gone.
    """
    quoted = tuple(map(shlex.quote, (*_OUTLIVING, *words)))
    begins = ("qrsh", "-inherit", "-nostdin", "-V")
    return [Launch((*begins, node.host, *quoted), (node.host,), ends_job=True) for node in nodes]


def _flux(_allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], _versions: Versions) -> list[Launch]:
    """Flux: one ``flux exec`` for all nodes, by the ranks of their brokers.

    Not ``flux run``: that is a job, which would hold the cores that the users' own ``flux run`` are meant to get, or wait
    for them. ``flux exec`` starts children of the brokers, next to all jobs. It is for the owner of the instance.
    """
    ranks = hostlist.fold([str(node.index) for node in nodes]).strip("[]")
    return [Launch(("flux", "exec", "--noinput", f"--rank={ranks}", *words), _names(nodes))]


def _mpiexec(
    _allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], versions: Versions
) -> list[Launch]:
    """Any MPI: one mpiexec for all nodes, in the options of the family that it is of.

    All families end every process when one of them is ended by a signal or a node is lost. For the former a shell that
    outlives the worker stands in for it; the latter is why this is not the first choice.
    """
    try:
        told = versions(["mpiexec", "--version"])
    except OSError as error:
        told = str(error)
    family = mpi.family_of(told)
    if family is None:
        raise ConfigError(
            f"mpiexec is of an MPI that is not known here: {told.strip()[:200]!r}",
            hint="ask for another launcher, such as ssh",
        )
    options, hosts_option = _MPIEXEC[family]
    argv = ("mpiexec", *options, "-n", str(len(nodes)), hosts_option, f"{{file:{_HOSTS_FILE}}}")
    hosts = "".join(f"{node.host}\n" for node in nodes)
    return [Launch((*argv, *_OUTLIVING, *words), _names(nodes), {}, {_HOSTS_FILE: hosts})]


# One process on each node, whatever slots the host file or the scheduler gives it: for some, a host without slots has all
# its cores as slots, which would put all workers on the first.
_MPIEXEC = {
    mpi.INTEL: (("-genv", "I_MPI_PIN", "off", "-ppn", "1"), "-f"),
    mpi.HYDRA: (("-bind-to", "none", "-ppn", "1"), "-f"),
    mpi.OPEN_MPI: (("--bind-to", "none", "--map-by", "ppr:1:node"), "--hostfile"),
    mpi.PALS: (("--cpu-bind", "none", "--ppn", "1"), "--hostfile"),
}
"""The options of each family, and the one for the file of hosts."""


def _ssh(_allocation: Allocation, nodes: list[NodeShare], words: tuple[str, ...], _versions: Versions) -> list[Launch]:
    """One ssh for each node, which never asks for anything; the words pass through the user's shell there."""
    options = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}", "-n")
    return [Launch(("ssh", *options, node.host, shlex.join(words)), (node.host,)) for node in nodes]


def _names(nodes: Sequence[NodeShare]) -> tuple[str, ...]:
    return tuple(node.host for node in nodes)


_MAKERS: Mapping[str, Callable[[Allocation, list[NodeShare], tuple[str, ...], Versions], list[Launch]]] = {
    "srun": _srun,
    "pbsdsh": _pbsdsh,
    "blaunch": _blaunch,
    "qrsh": _qrsh,
    "flux": _flux,
    "mpiexec": _mpiexec,
    "ssh": _ssh,
}
_OF_SCHEDULER = {"slurm": "srun", "pbs": "pbsdsh", "lsf": "blaunch", "sge": "qrsh", "flux": "flux"}
