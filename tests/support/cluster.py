"""A real cluster for tests: Slurm with several nodes and an sshd on each, on this one machine, as root.

::

    with Cluster(nodes=4, cores=2) as cluster:
        job = cluster.batch("srun hostname", nodes=2)
        assert job.wait() == "COMPLETED"

Each node is a set of Linux namespaces with a first process of its own: it has a host name, an address, processes, ``/run``
and ``/dev/shm`` of its own, and the machine's file system otherwise, as if everything were on a shared one. The network is a
bridge in a further namespace, with a cable to each node and one to this machine, so that no firewall rule of this machine
lies between the nodes. slurmctld and munged run on this machine in a process namespace of theirs; all that they and the nodes
write is in one directory. Nothing outside of it is changed: a hosts file with the nodes' names lies over ``/etc/hosts`` only
for the nodes and for what ``run`` starts.

What cleans up: each first process ends when its standard input ends, which this process holds open; when it ends, the kernel
kills the rest of its namespace and removes the network interfaces. So also after ``kill -9`` of the tests only the directory
is left, which the next cluster removes: the pid in its name tells whose it was.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

import pytest

from support.waiting import wait_until

PREFIX = "lwfm-cluster-"
PROGRAMS = (
    "slurmctld",
    "slurmd",
    "munged",
    "sshd",
    "ssh",
    "ssh-keygen",
    "ip",
    "nsenter",
    "unshare",
    "mount",
    "hostname",
)
SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
COMMAND_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 60.0
MACHINE = 254
"""The last number of this machine's address in the cluster's network."""
LOG_TAIL_BYTES = 3000
DAEMONS = ("slurmd", "sshd")
"""What runs on each node, by the names of the processes."""
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

SSHD_CONFIG = """\
HostKey {root}/ssh/host-{host}
AuthorizedKeysFile {root}/ssh/user.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 200
MaxSessions 200
SetEnv SLURM_CONF={root}/slurm.conf PATH={path}
Subsystem sftp internal-sftp
"""

SSH_CONFIG = """\
Host {host}
    HostName {address}
    HostKeyAlias {host}
"""
SSH_CONFIG_OF_ALL = """\
Host {hosts}
    User root
    IdentityFile {root}/ssh/user
    IdentitiesOnly yes
    UserKnownHostsFile {root}/ssh/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
"""

# The first process of each set of namespaces. It says `ready`, waits for a line that tells it to go on, and ends when its
# standard input does. Meanwhile the shell waits for `cat` and for every orphan; the last line keeps it from becoming `cat`.
SWITCH = """\
set -e
ip link add switch type bridge
ip link set switch up
echo ready
cat >/dev/null
exit
"""
CONTROLLER = """\
set -e
mount --bind "$root/hosts-machine" /etc/hosts
[ ! -e /etc/ssh/ssh_config ] || mount --bind "$root/ssh/config" /etc/ssh/ssh_config
echo ready
read -r go
munged --socket="$root/munge/socket" --key-file="$root/munge/key" --pid-file="$root/munge/pid" \\
    --seed-file="$root/munge/seed" --log-file="$root/log/munged.log" 2>>"$root/log/munged.log"
slurmctld -D </dev/null >>"$root/log/slurmctld.out" 2>&1 &
cat >/dev/null
exit
"""
NODE = """\
set -e
hostname "$host"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount --bind "$root/hosts" /etc/hosts
[ ! -e /etc/ssh/ssh_config ] || mount --bind "$root/ssh/config" /etc/ssh/ssh_config
for place in $private; do
    mkdir -p "$root/private/$host$place"
    mount --bind "$root/private/$host$place" "$place"
done
ip link set lo up
echo ready
read -r go
ip address add "$address/24" dev eth0
ip link set eth0 up
sshd=$(command -v sshd)
"$sshd" -D -e -f "$root/ssh/sshd-$host" </dev/null >>"$root/log/sshd-$host.log" 2>&1 &
slurmd -D -N "$host" </dev/null >>"$root/log/slurmd-$host.out" 2>&1 &
cat >/dev/null
exit
"""

_numbers = itertools.count()


class Cluster:
    """A Slurm cluster that is there until the block ends.

    Args:
        nodes: how many; they are called ``n1``, ``n2`` and so on.
        cores: what Slurm takes each node to have, whatever this machine has. ``gpus``: the same.
        node_timeout_s: Slurm gives up a node, and its jobs, that has not answered for this long.
        private: directories of which each node gets one of its own, empty at first; to be seen from
            here with ``private(host, directory)``. They must exist on this machine.

    Attributes:
        hosts: the nodes' names. ``addresses``: their addresses, by name.
        machine: the name by which the nodes know this machine. ``address``: its address there.
        environment: variables for Slurm's commands on this machine.
        ssh_config: for ``ssh -F``; knows the nodes by name and checks their host keys.
        root: the directory of everything that the cluster writes.
    """

    def __init__(
        self,
        nodes: int = 4,
        cores: int = 2,
        gpus: int = 0,
        node_timeout_s: int = 300,
        private: Sequence[str] = (),
    ) -> None:
        self.hosts = [f"n{number}" for number in range(1, nodes + 1)]
        self.addresses: dict[str, str] = {}
        self.address = ""
        self.machine = socket.gethostname().partition(".")[0]
        self.cores, self.gpus, self.node_timeout_s = cores, gpus, node_timeout_s
        self._private = tuple(private)
        self.root = Path()
        self.environment: dict[str, str] = {}
        self._interface = f"lwfm{os.getpid()}x{next(_numbers)}"
        self._rooms: dict[str, Room] = {}
        self._switch: Optional[Room] = None
        self._controller: Optional[Room] = None

    @classmethod
    def why_not(cls) -> Optional[str]:
        """Why there can be no cluster on this machine; None: there can."""
        if os.geteuid() != 0:
            return "a cluster needs to be root"
        missing = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
        if missing:
            return f"a cluster needs programs that are not installed: {', '.join(missing)}"
        done = subprocess.run(
            [*UNSHARE, *NODE_KINDS, "true"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        if done.returncode:
            return f"a cluster needs namespaces, which cannot be made here: {done.stderr.strip()}"
        return None

    # ------------------------------------------------------------------------------------------ up and down

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            sys.stderr.write(self.log() + "\n")
            self.close()
            raise
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None and self._controller is not None:
            sys.stderr.write(self.log() + "\n")
        self.close()

    def start(self) -> None:
        """Bring it up and wait until all nodes are ready."""
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.environment = _environment(self.root)
        network = _free_network()
        self.address = f"{network}.{MACHINE}"
        self.addresses = {host: f"{network}.{number}" for number, host in enumerate(self.hosts, 1)}
        self._write_files()

        self._switch = Room("switch", SWITCH, ("--net",), self.root, self.environment)
        self._controller = Room("controller", CONTROLLER, ("--mount", *SLAVE), self.root, self.environment)
        self._make_nodes(self.hosts)
        self._switch.wait_ready()
        self._ip(f"link add {self._interface} type veth peer name machine netns {self._switch.pid}")
        self._ip(f"address add {self.address}/24 dev {self._interface}", f"link set {self._interface} up")
        self._ip("link set machine master switch", "link set machine up", room=self._switch)
        self._controller.wait_ready()
        self._controller.go()
        self._connect(self.hosts)
        self.wait_ready()

    def close(self) -> None:
        """Take it down with everything that runs in it. May be called again."""
        if self._interface in os.listdir("/sys/class/net"):
            subprocess.run(["ip", "link", "del", self._interface], env=self.environment, stderr=subprocess.DEVNULL)
        rooms = [*self._rooms.values(), *(room for room in (self._controller, self._switch) if room is not None)]
        self._rooms, self._controller, self._switch = {}, None, None
        try:
            for room in rooms:
                room.end()
            for room in rooms:
                room.wait_gone()
        finally:
            if self.root.name.startswith(PREFIX):
                shutil.rmtree(self.root, ignore_errors=True)

    def restore(self) -> None:
        """Make it as it was when new, for the next test: no jobs, nothing left on the nodes, all of them connected."""
        jobs = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if jobs:
            self.run("scancel", *jobs, check=False)
        for host in self.hosts:
            if len(self._daemons(host)) == len(DAEMONS):
                self.join(host)
            else:
                self.restart_node(host)
        wait_until(lambda: not self.run("squeue", "-h").stdout.strip(), "the jobs to be gone", on_timeout=self.log)
        for host in self.hosts:
            if self.processes(host, daemons=False):
                self.restart_node(host)
        self.wait_ready()

    def wait_ready(self, hosts: Optional[Sequence[str]] = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until Slurm takes these nodes (None: all) for usable and their sshd answers."""
        waiting = set(self.hosts if hosts is None else hosts)

        def ready() -> bool:
            states = self.states()
            return all(
                states.get(host, "").rstrip("+") in ("idle", "mixed", "allocated", "completing") for host in waiting
            )

        wait_until(ready, f"{sorted(waiting)} to be ready", timeout_s=timeout_s, on_timeout=self.log)
        for host in sorted(waiting):
            self._wait_for_sshd(host)

    def log(self) -> str:
        """The ends of the logs."""
        if not self.root.name.startswith(PREFIX):
            return "the cluster was not set up"
        parts = []
        for path in sorted((self.root / "log").glob("*")):
            text = path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
            repeats = path.suffix == ".out" and path.with_suffix(".log").exists()
            parts += [f"--- {path.name}\n{text}"] if text and not repeats else []
        return "\n".join(parts)

    # ------------------------------------------------------------------------------------------ running things

    def command(self, *argv: str, host: Optional[str] = None) -> list[str]:
        """The words with which a command runs on a node; None: on this machine, where the nodes' names are known."""
        room = self._controller if host is None else self._rooms[host]
        assert room is not None, "the cluster is not up"
        kinds = ("--mount",) if host is None else NODE_KINDS_TO_ENTER
        return ["nsenter", "--target", str(room.pid), *kinds, "--", *argv]

    def run(
        self,
        *argv: str,
        timeout_s: float = COMMAND_TIMEOUT_S,
        check: bool = True,
        stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
        cwd: str = "/",
        host: Optional[str] = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine, where Slurm's commands and the nodes' names are known, and wait for it.

        Args:
            timeout_s: after this the command is killed with all that it started.
            check: an exit code other than 0 is a failure. ``stdin``: what it reads. ``env``: more variables.
            host: run it on this node, as ``on`` does.

        Raises:
            AssertionError: it failed or took too long.
        """
        words = self.command("env", "-C", cwd, *argv, host=host)
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **(env or {})},
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = _rest(process)
                raise AssertionError(f"{argv} took more than {timeout_s} s\n{out}{err}\n{self.log()}") from None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert not check or process.returncode == 0, (
            f"{argv} on {host or 'this machine'}: {process.returncode}\n{out}{err}"
        )
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def on(
        self,
        host: str,
        *argv: str,
        timeout_s: float = COMMAND_TIMEOUT_S,
        check: bool = True,
        stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node without ssh or Slurm, as if sitting in front of it; otherwise as ``run``."""
        return self.run(*argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env, cwd=cwd, host=host)

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

    # ------------------------------------------------------------------------------------------ mishaps

    def cut(self, host: str) -> None:
        """Pull the node's network cable; all goes on running on it."""
        assert self._switch is not None
        self._ip(f"link set {host} down", room=self._switch)

    def join(self, host: str) -> None:
        """Put it in again and wait until the node can be reached and Slurm has noticed; harmless where it is in."""
        assert self._switch is not None
        self._ip(f"link set {host} up", room=self._switch)
        self._wait_for_sshd(host)
        if self.states().get(host, "").endswith("*"):
            self.run("scontrol", "reconfigure", check=False)  # or Slurm would ask it only after a third of the timeout
        self.wait_ready([host])

    def kill_node(self, host: str) -> None:
        """Switch the node off: SIGKILL for all that runs on it, and its interface gone. It returns when that is done."""
        room = self._rooms[host]
        inside = room.network
        room.kill()
        room.wait_gone()

        def empty() -> bool:
            left = _processes_in(inside)  # those that entered from outside and are not in its process namespace
            for pid in left:
                _kill(pid)
            return not left

        wait_until(empty, f"the processes of {host} to be gone")
        self._ip(f"link del {host}", room=self._switch, check=False)

    def restart_node(self, host: str) -> None:
        """Switch it on again and wait until it is ready. What was in its ``/run`` and ``/dev/shm`` is gone, its jobs get
        ``NODE_FAIL`` unless they were submitted with ``--no-kill``."""
        if self._rooms[host].alive:
            self.kill_node(host)
        # Slurm knows by the time since the boot that a node's jobs cannot be there any more; that has not changed here.
        self.run("scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=restart")
        before = self._started(host)
        wait_until(lambda: time.time() >= before + 1, "the next second: Slurm tells no less apart")
        self._make_nodes([host])
        self._connect([host])
        wait_until(lambda: self._started(host) > before, f"slurmd of {host} to report", on_timeout=self.log)
        self.wait_ready([host])

    def processes(self, host: str, *, daemons: bool = True) -> dict[int, str]:
        """What runs on a node: command lines by pid.

        The pids are those that the processes have on this machine, not those that they see themselves.

        Args:
            daemons: the node's slurmd and sshd, too; what is never told is what holds the node up.
        """
        room = self._rooms[host]
        if not room.alive:
            return {}
        untold = room.own() | (set() if daemons else self._daemons(host))
        return {pid: words for pid, words in _processes_in(room.network).items() if pid not in untold}

    def private(self, host: str, directory: str) -> Path:
        """Where a node's own copy of one of the ``private`` directories is on this machine."""
        assert directory in self._private, f"{directory} is not private to the nodes: {self._private}"
        return self.root / "private" / host / directory.lstrip("/")

    def _daemons(self, host: str) -> set[int]:
        """The node's slurmd and sshd, but not the latter's sessions."""
        return {pid for pid in _children_of(self._rooms[host].pid) if _name_of(pid) in DAEMONS}

    def _started(self, host: str) -> int:
        """Since when the node's slurmd runs, as it last told slurmctld, in seconds."""
        text = self.run("scontrol", "show", "node", host, env={"SLURM_TIME_FORMAT": "%s"}).stdout
        found = re.search(r"SlurmdStartTime=(\d+)", text)
        return int(found.group(1)) if found else 0

    def _wait_for_sshd(self, host: str) -> None:
        wait_until(lambda: _answers(self.addresses[host], 22), f"sshd of {host} to answer", on_timeout=self.log)

    # ------------------------------------------------------------------------------------------ making it

    def _write_files(self) -> None:
        root = self.root
        root.chmod(0o755)
        for name in ("state", "log", "jobs", "munge", "ssh", "private", *(f"spool-{host}" for host in self.hosts)):
            (root / name).mkdir(mode=0o755)
        key = root / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

        names = "".join(f"{address} {host}\n" for host, address in self.addresses.items())
        (root / "hosts").write_text(f"127.0.0.1 localhost\n{names}{self.address} {self.machine}\n")
        (root / "hosts-machine").write_text(names + Path("/etc/hosts").read_text())

        ssh = root / "ssh"
        keys = {host: ssh / f"host-{host}" for host in self.hosts}
        making = [_key_maker(path) for path in (ssh / "user", *keys.values())]
        assert not [process.args for process in making if process.wait(COMMAND_TIMEOUT_S)], "ssh-keygen failed"
        (ssh / "known_hosts").write_text(
            "".join(f"{host},{self.addresses[host]} {_public(path)}\n" for host, path in keys.items())
        )
        self.ssh_config = ssh / "config"
        per_host = "".join(SSH_CONFIG.format(host=host, address=address) for host, address in self.addresses.items())
        both = [*self.hosts, *self.addresses.values()]
        self.ssh_config.write_text(per_host + SSH_CONFIG_OF_ALL.format(hosts=" ".join(both), root=root))
        for host in self.hosts:
            text = SSHD_CONFIG.format(root=root, host=host, path=self.environment["PATH"])
            (ssh / f"sshd-{host}").write_text(text)

        gpus = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        hardware = f"Sockets=1 CoresPerSocket={self.cores} ThreadsPerCore=1 RealMemory=4000{gpus}"
        lines = [f"NodeName={host} NodeAddr={self.addresses[host]} {hardware}" for host in self.hosts]
        fields = {"root": root, "machine": self.machine, "address": self.address, "port": _free_port()}
        text = SLURM_CONF.format(**fields, node_timeout=self.node_timeout_s, nodes="\n".join(lines))
        (root / "slurm.conf").write_text(text)
        (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # none is used; looking for one can fail
        if self.gpus:
            for number in range(self.gpus):  # Slurm wants devices: these are as /dev/null
                os.mknod(root / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu[0-{self.gpus - 1}]\n")

    def _make_nodes(self, hosts: Sequence[str]) -> None:
        for host in hosts:
            words = {"host": host, "address": self.addresses[host], "private": " ".join(self._private)}
            self._rooms[host] = Room(host, NODE, NODE_KINDS, self.root, {**self.environment, **words})

    def _connect(self, hosts: Sequence[str]) -> None:
        """Give new nodes their cables, and let them go on."""
        assert self._switch is not None
        for host in hosts:
            self._rooms[host].wait_ready()
        pids = {host: self._rooms[host].pid for host in hosts}
        switch = self._switch.pid
        self._ip(
            *(f"link add eth0 netns {pid} type veth peer name {host} netns {switch}" for host, pid in pids.items())
        )
        lines = [(f"link set {host} master switch", f"link set {host} up") for host in hosts]
        self._ip(*itertools.chain(*lines), room=self._switch)
        for host in hosts:
            self._rooms[host].go()

    def _ip(self, *lines: str, room: Optional[Room] = None, check: bool = True) -> None:
        """Change the network, of this machine or of a room."""
        enter = ["nsenter", "--target", str(room.pid), "--net", "--"] if room is not None else []
        done = subprocess.run(
            [*enter, "ip", "-batch", "-"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert not check or done.returncode == 0, f"ip: {lines}: {done.stderr}"


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


# ---------------------------------------------------------------------------------------------- namespaces

UNSHARE = ("unshare", "--fork", "--kill-child")
SLAVE = ("--propagation", "slave")
NODE_KINDS = ("--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc", *SLAVE)
NODE_KINDS_TO_ENTER = ("--net", "--uts", "--ipc", "--mount", "--pid")


class Room:
    """A set of namespaces and its first process; when that ends, all that runs in it ends.

    Args:
        kinds: options of ``unshare``; a process namespace is always made.
    """

    def __init__(self, name: str, script: str, kinds: Sequence[str], root: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = root / "log" / f"room-{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*UNSHARE, "--pid", *kinds, "sh", "-c", script, str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**env, "root": str(root)},
                cwd="/",
                start_new_session=True,
            )
        self.pid = 0
        self.network = 0

    def wait_ready(self) -> None:
        """Wait until it is set up as far as it gets by itself."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"ready\n", f"{self.name} was not set up: {self._log.read_text()}"
        (self.pid,) = _children_of(self._process.pid)
        self.network = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def go(self) -> None:
        """Let it start what is to run in it."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def own(self) -> set[int]:
        """The processes that hold it open: ``unshare``, the first one inside, and its ``cat``."""
        return {self._process.pid, self.pid, *(pid for pid in _children_of(self.pid) if _words_of(pid) == ["cat"])}

    def kill(self) -> None:
        """Kill the first process, and with it all others."""
        if self.alive:
            _kill(self.pid or self._process.pid)

    def end(self) -> None:
        """Let the first process end, and with it all others."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass

    def wait_gone(self) -> None:
        """Wait until it has ended: not before all processes in it have."""
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(COMMAND_TIMEOUT_S)
        self.end()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _processes_in(network: int) -> dict[int, str]:
    """The processes in a network namespace, without those that ended and were not waited for: command lines by pid."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/net").st_ino == network:
                found[int(name)] = " ".join(_words_of(int(name)))
        except OSError:
            continue
    return found


def _children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove_leftovers() -> None:
    """Remove what clusters left whose tests are dead."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = place.name[len(PREFIX) :].partition("-")[0]
        if not owner.isdigit() or Path("/proc", owner).exists():
            continue
        wait_until(functools.partial(_without_holders, place), f"what holds {place} to be gone")
        shutil.rmtree(place, ignore_errors=True)


def _without_holders(place: Path) -> bool:
    """There are none, unless something that outlived the tests keeps their pipes open; they are killed."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    words = {pid: _words_of(pid) for pid in pids}
    holders = [pid for pid in pids if words[pid][:1] == ["unshare"] and words[pid][-1] == str(place)]
    for pid in holders:
        _kill(pid)
    return not holders


# ---------------------------------------------------------------------------------------------- the rest


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PATHS])


def _environment(root: Path) -> dict[str, str]:
    """This process's environment without another instance's or job's, with the cluster's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LWFM_", "SLURM", "SBATCH_"))}
    return {**kept, "PATH": _search_path(), "SLURM_CONF": str(root / "slurm.conf")}


def _free_network() -> str:
    """The first three numbers of addresses that no route of this machine has; one process takes them from one place on,
    another from another, so that two at the same time do not meet."""
    told = subprocess.run(["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True)
    texts = re.findall(r"\b\d+\.\d+\.\d+\.\d+(?:/\d+)?", told.stdout)
    taken = [ipaddress.ip_network(text, strict=False) for text in texts if not text.startswith("0.")]
    for wide in map(ipaddress.ip_network, ("10.128.0.0/9", "198.18.0.0/15")):  # the latter is for benchmarks
        count = wide.num_addresses // 256
        for offset in range(count):
            network = ipaddress.ip_network((int(wide[0]) + (os.getpid() + offset) % count * 256, 24))
            if not any(network.overlaps(other) for other in taken):
                return str(network[0]).rpartition(".")[0]
    raise AssertionError("no network is free for a cluster")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])


def _rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a killed process had printed; nothing when something that it started has left it and holds its output."""
    try:
        return process.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        return "", ""


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=0.3):
            return True
    except OSError:
        return False


def _key_maker(path: Path) -> subprocess.Popen[bytes]:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _public(path: Path) -> str:
    kind, key = path.with_suffix(".pub").read_text().split()[:2]
    return f"{kind} {key}"


# ---------------------------------------------------------------------------------------------- for pytest

_shared: list[Cluster] = []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes of two cores, the same in all modules that import this, until the tests end.

    A test that harms it calls ``cluster.restore()`` when it is done.
    """
    reason = Cluster.why_not()
    if reason:
        pytest.skip(reason)
    if not _shared:
        _shared.append(Cluster(nodes=4, cores=2).__enter__())
    yield _shared[0]
    _shared[0].close()
