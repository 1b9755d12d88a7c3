"""A real Slurm on the nodes: slurmctld and munged on this machine, a slurmd on each node.

::

    with Cluster(nodes=4, cores=2) as cluster:
        job = cluster.batch("srun hostname", nodes=2)
        assert job.wait() == "COMPLETED"
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Optional

from support.machines import LOG_TAIL_BYTES, READY_TIMEOUT_S, Machines
from support.network import free_port
from support.rooms import COMMAND_TIMEOUT_S
from support.waiting import wait_until

ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
)

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={machine}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
TreeWidth=100
ReturnToService=2
SlurmdTimeout={node_timeout}
KillWait=5
MinJobAge=86400
JobRequeue=0
GresTypes=gpu
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

START_ON_MACHINE = """\
munged --socket="$root/munge/socket" --key-file="$root/munge/key" --pid-file="$root/munge/pid" \\
    --seed-file="$root/munge/seed" --log-file="$root/log/munged.log" 2>>"$root/log/munged.log"
slurmctld -D </dev/null >>"$root/log/slurmctld.out" 2>&1 &
"""
START_ON_NODE = """\
slurmd -D -N "$host" </dev/null >>"$root/log/slurmd-$host.out" 2>&1 &
"""


class Cluster(Machines):
    """A Slurm cluster that is there until the block ends.

    Args:
        nodes, private: as of ``Machines``.
        cores: what Slurm takes each node to have, whatever this machine has. ``gpus``: the same.
        node_timeout_s: Slurm gives up a node, and its jobs, that has not answered for this long.
    """

    programs = ("slurmctld", "slurmd", "munged", *Machines.programs)
    daemons = ("slurmd", *Machines.daemons)
    start_on_machine = START_ON_MACHINE
    start_on_node = START_ON_NODE

    def __init__(
        self,
        nodes: int = 4,
        cores: int = 2,
        gpus: int = 0,
        node_timeout_s: int = 300,
        private: Sequence[str] = (),
    ) -> None:
        super().__init__(nodes, private)
        self.cores, self.gpus, self.node_timeout_s = cores, gpus, node_timeout_s

    def variables(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def restore(self) -> None:
        """Make all as it was when new, for the next test: no jobs, nothing left on the nodes, all of them connected."""
        jobs = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if jobs:
            self.run("scancel", *jobs, check=False)
        for host in self.hosts:
            if len(self.daemons_on(host)) == len(self.daemons):
                self.join(host)
            else:
                self.restart_node(host)
        wait_until(lambda: not self.run("squeue", "-h").stdout.strip(), "the jobs to be gone", on_timeout=self.log)
        for host in self.hosts:
            if self.processes(host, daemons=False):
                self.restart_node(host)
        self.wait_ready()

    def wait_ready(self, hosts: Optional[Sequence[str]] = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        waiting = set(self.hosts if hosts is None else hosts)

        def ready() -> bool:
            states = self.states()
            return all(
                states.get(host, "").rstrip("+") in ("idle", "mixed", "allocated", "completing") for host in waiting
            )

        wait_until(ready, f"{sorted(waiting)} to be ready", timeout_s=timeout_s, on_timeout=self.log)
        for host in sorted(waiting):
            self.wait_for_sshd(host)

    def batch(
        self,
        script: str,
        *,
        nodes: int = 1,
        time: str = "5:00",
        exclusive: bool = True,
        options: Sequence[str] = (),
        env: Optional[Mapping[str, str]] = None,
        cwd: str = "/",
    ) -> BatchJob:
        """Submit a batch job.

        Args:
            script: a shell script, with or without its ``#!`` line.
            time: the limit, in Slurm's notation. ``exclusive``: whole nodes.
            options: more for sbatch. ``env``: more variables for the job.
        """
        text = script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
        words = ["sbatch", "--parsable", f"--nodes={nodes}", f"--time={time}", f"--output={self.root}/jobs/%j.out"]
        words += [*(["--exclusive"] if exclusive else []), *options]
        job = self.run(*words, stdin=text, env=env, cwd=cwd).stdout.strip()
        return BatchJob(self, job)

    def states(self) -> dict[str, str]:
        """What Slurm takes each node for: ``idle``, ``down*`` and so on; ``*``: it does not answer."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).stdout.splitlines()
        return dict(line.split() for line in lines)

    def join(self, host: str) -> None:
        """Put it in again and wait until the node can be reached and Slurm has noticed; harmless where it is in."""
        self.plug_in(host)
        if self.states().get(host, "").endswith("*"):
            self.run("scontrol", "reconfigure", check=False)  # or Slurm would ask it only after a third of the timeout
        self.wait_ready([host])

    def restart_node(self, host: str) -> None:
        """Switch it on again and wait until it is ready. What was in its ``/run`` and ``/dev/shm`` is gone, its jobs get
        ``NODE_FAIL`` unless they were submitted with ``--no-kill``."""
        if self.is_on(host):
            self.kill_node(host)
        # Slurm knows by the time since the boot that a node's jobs cannot be there any more; that has not changed here.
        self.run("scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=restart")
        before = self._started(host)
        wait_until(lambda: time.time() >= before + 1, "the next second: Slurm tells no less apart")
        self.switch_on(host)
        wait_until(lambda: self._started(host) > before, f"slurmd of {host} to report", on_timeout=self.log)
        self.wait_ready([host])

    def _started(self, host: str) -> int:
        """Since when the node's slurmd runs, as it last told slurmctld, in seconds."""
        text = self.run("scontrol", "show", "node", host, env={"SLURM_TIME_FORMAT": "%s"}).stdout
        found = re.search(r"SlurmdStartTime=(\d+)", text)
        return int(found.group(1)) if found else 0

    def write_scheduler(self) -> None:
        root = self.root
        for name in ("state", "munge", *(f"spool-{host}" for host in self.hosts)):
            (root / name).mkdir(mode=0o755)
        key = root / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

        gpus = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        hardware = f"Sockets=1 CoresPerSocket={self.cores} ThreadsPerCore=1 RealMemory=4000{gpus}"
        lines = [f"NodeName={host} NodeAddr={self.addresses[host]} {hardware}" for host in self.hosts]
        fields = {"root": root, "machine": self.machine, "address": self.address, "port": free_port()}
        text = SLURM_CONF.format(**fields, node_timeout=self.node_timeout_s, nodes="\n".join(lines))
        (root / "slurm.conf").write_text(text)
        (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # none is used; looking for one can fail
        if self.gpus:
            for number in range(self.gpus):  # Slurm wants devices: these are as /dev/null
                os.mknod(root / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu[0-{self.gpus - 1}]\n")


class BatchJob:
    """A batch job of a cluster."""

    def __init__(self, cluster: Cluster, job_id: str) -> None:
        self.cluster = cluster
        self.job_id = job_id

    def __repr__(self) -> str:
        return f"<BatchJob {self.job_id}>"

    def facts(self) -> dict[str, str]:
        """What ``scontrol show job`` says, by its names."""
        text = self.cluster.run("scontrol", "show", "job", "-o", self.job_id).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def state(self) -> str:
        """Slurm's name of its state: ``PENDING``, ``RUNNING``, ``COMPLETED`` and so on."""
        return self.facts()["JobState"]

    def wait(self, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Wait until it has ended; the state."""
        return self.wait_state(*ENDED, timeout_s=timeout_s)

    def wait_state(self, *states: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Wait until it is in one of these states; the state."""

        def reached() -> Optional[str]:
            state = self.state()
            return state if state in states else None

        what = f"job {self.job_id} to be {' or '.join(states)}"
        return wait_until(reached, what, timeout_s=timeout_s, on_timeout=self._tell)

    def hosts(self) -> list[str]:
        """The nodes that it has, or had."""
        return self.cluster.run("scontrol", "show", "hostnames", self.facts()["NodeList"]).stdout.split()

    def exit_code(self) -> int:
        """The script's exit code; 128 and more when a signal ended it."""
        code, _, number = self.facts()["ExitCode"].partition(":")
        return 128 + int(number) if int(number) else int(code)

    def output(self) -> str:
        """What it printed so far."""
        path = self.cluster.root / "jobs" / f"{self.job_id}.out"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def cancel(self) -> None:
        """Ask Slurm to end it."""
        self.cluster.run("scancel", self.job_id)

    def _tell(self) -> str:
        return f"{self.facts()}\n{self.output()[-LOG_TAIL_BYTES:]}\n{self.cluster.log()}"
