"""Nodes for tests, on this one machine, as root: host names, a network and an sshd each; a subclass adds a scheduler.

Each node is a set of Linux namespaces with a first process of its own: it has a host name, an address, processes, ``/run``
and ``/dev/shm`` of its own, and the machine's file system otherwise, as if everything were on a shared one. The network is a
bridge in a further namespace, with a cable to each node and one to this machine, so that no firewall rule of this machine
lies between the nodes. The scheduler's controller runs on this machine in a process namespace of its own; all that it and the
nodes write is in one directory. Nothing outside of it is changed: a hosts file with the nodes' names lies over
``/etc/hosts`` only for the nodes and for what ``run`` starts.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Optional, TypeVar

from support.network import answers, free_network
from support.rooms import (
    COMMAND_TIMEOUT_S,
    CONTROLLER,
    NODE,
    NODE_KINDS,
    NODE_KINDS_TO_ENTER,
    PREFIX,
    SLAVE,
    SWITCH,
    UNSHARE,
    Room,
    children_of,
    kill,
    name_of,
    processes_in,
    remove_leftovers,
)
from support.sshd import write_ssh
from support.waiting import wait_until

SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
READY_TIMEOUT_S = 60.0
MACHINE = 254
"""The last number of this machine's address in the nodes' network."""
LOG_TAIL_BYTES = 3000
FOREIGN = ("LWFM_", "SLURM", "SBATCH_", "SGE_")
"""How variables begin that would tell of another instance, job or cluster."""

_numbers = itertools.count()
Self = TypeVar("Self", bound="Machines")


class Machines(ABC):
    """Nodes that are there until the block ends.

    Args:
        nodes: how many; they are called ``n1``, ``n2`` and so on.
        private: directories of which each node gets one of its own, empty at first; to be seen from
            here with ``private(host, directory)``. They must exist on this machine.

    Attributes:
        hosts: the nodes' names. ``addresses``: their addresses, by name.
        machine: the name by which the nodes know this machine. ``address``: its address there.
        environment: variables for the scheduler's commands on this machine.
        ssh_config: for ``ssh -F``; knows the nodes by name and checks their host keys.
        root: the directory of everything that is written.
    """

    programs: ClassVar[tuple[str, ...]] = ("sshd", "ssh", "ssh-keygen", "ip", "nsenter", "unshare", "mount", "hostname")
    """What must be installed."""
    daemons: ClassVar[tuple[str, ...]] = ("sshd",)
    """What runs on each node, by the names of the processes; a subclass adds its own."""
    start_on_node: ClassVar[str]
    """Lines of shell that start the scheduler's daemon of a node, with ``$root`` and ``$host``."""
    start_on_machine: ClassVar[str]
    """Lines of shell that start the scheduler's daemons of this machine, with ``$root``."""

    def __init__(self, nodes: int, private: Sequence[str] = ()) -> None:
        self.hosts = [f"n{number}" for number in range(1, nodes + 1)]
        self.addresses: dict[str, str] = {}
        self.address = ""
        self.machine = socket.gethostname().partition(".")[0]
        self._private = tuple(private)
        self.root = Path()
        self.ssh_config = Path()
        self.environment: dict[str, str] = {}
        self._interface = f"lwfm{os.getpid()}x{next(_numbers)}"
        self._rooms: dict[str, Room] = {}
        self._switch: Optional[Room] = None
        self._controller: Optional[Room] = None

    @classmethod
    def why_not(cls) -> Optional[str]:
        """Why there can be none on this machine; None: there can."""
        if os.geteuid() != 0:
            return "a cluster needs to be root"
        missing = [name for name in cls.programs if shutil.which(name, path=search_path()) is None]
        if missing:
            return f"a cluster needs programs that are not installed: {', '.join(missing)}"
        done = subprocess.run(
            [*UNSHARE, *NODE_KINDS, "true"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        if done.returncode:
            return f"a cluster needs namespaces, which cannot be made here: {done.stderr.strip()}"
        return None

    # ------------------------------------------------------------------------------------------ of the scheduler

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """What its commands and daemons need in their environment."""

    @abstractmethod
    def write_scheduler(self) -> None:
        """Write its files below ``root``; the names, addresses and ssh are there."""

    @abstractmethod
    def wait_ready(self, hosts: Optional[Sequence[str]] = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it takes these nodes (None: all) for usable and their sshd answers."""

    @abstractmethod
    def restore(self) -> None:
        """Make all as it was when new, for the next test: no jobs, and nothing left on the nodes."""

    # ------------------------------------------------------------------------------------------ up and down

    def __enter__(self: Self) -> Self:
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
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environment = {**kept, "PATH": search_path(), **self.variables()}
        network = free_network()
        self.address = f"{network}.{MACHINE}"
        self.addresses = {host: f"{network}.{number}" for number, host in enumerate(self.hosts, 1)}
        self._write_files()

        self._switch = Room("switch", SWITCH, ("--net",), self.root, self.environment)
        controller = CONTROLLER.format(daemons=self.start_on_machine)
        self._controller = Room("controller", controller, ("--mount", *SLAVE), self.root, self.environment)
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
        """Run a command on this machine, where the scheduler's commands and the nodes' names are known, and wait for it.

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
        """Run a command on a node without ssh or scheduler, as if sitting in front of it; otherwise as ``run``."""
        return self.run(*argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env, cwd=cwd, host=host)

    def processes(self, host: str, *, daemons: bool = True) -> dict[int, str]:
        """What runs on a node: command lines by pid.

        The pids are those that the processes have on this machine, not those that they see themselves.

        Args:
            daemons: the node's own daemons, too; what is never told is what holds the node up.
        """
        room = self._rooms[host]
        if not room.alive:
            return {}
        untold = room.own() | (set() if daemons else self.daemons_on(host))
        return {pid: words for pid, words in processes_in(room.network).items() if pid not in untold}

    def daemons_on(self, host: str) -> set[int]:
        """The pids of the node's daemons, but not of what they started for jobs and sessions."""
        return {pid for pid in children_of(self._rooms[host].pid) if name_of(pid) in self.daemons}

    def private(self, host: str, directory: str) -> Path:
        """Where a node's own copy of one of the ``private`` directories is on this machine."""
        assert directory in self._private, f"{directory} is not private to the nodes: {self._private}"
        return self.root / "private" / host / directory.lstrip("/")

    # ------------------------------------------------------------------------------------------ mishaps

    def cut(self, host: str) -> None:
        """Pull the node's network cable; all goes on running on it."""
        assert self._switch is not None
        self._ip(f"link set {host} down", room=self._switch)

    def plug_in(self, host: str) -> None:
        """Put it in again and wait until the node can be reached; harmless where it is in."""
        assert self._switch is not None
        self._ip(f"link set {host} up", room=self._switch)
        self.wait_for_sshd(host)

    def join(self, host: str) -> None:
        """Put it in again and wait until the node is ready; harmless where it is in."""
        self.plug_in(host)
        self.wait_ready([host])

    def kill_node(self, host: str) -> None:
        """Switch the node off: SIGKILL for all that runs on it, and its interface gone. It returns when that is done."""
        room = self._rooms[host]
        inside = room.network
        room.kill()
        room.wait_gone()

        def empty() -> bool:
            left = processes_in(inside)  # those that entered from outside and are not in its process namespace
            for pid in left:
                kill(pid)
            return not left

        wait_until(empty, f"the processes of {host} to be gone")
        self._ip(f"link del {host}", room=self._switch, check=False)

    def restart_node(self, host: str) -> None:
        """Switch it on again and wait until it is ready. What was in its ``/run`` and ``/dev/shm`` is gone."""
        if self.is_on(host):
            self.kill_node(host)
        self.switch_on(host)
        self.wait_ready([host])

    def is_on(self, host: str) -> bool:
        """Whether the node runs."""
        return self._rooms[host].alive

    def switch_on(self, host: str) -> None:
        """Make a node anew that was switched off."""
        self._make_nodes([host])
        self._connect([host])

    def wait_for_sshd(self, host: str) -> None:
        """Wait until the node takes connections of ssh."""
        wait_until(lambda: answers(self.addresses[host], 22), f"sshd of {host} to answer", on_timeout=self.log)

    # ------------------------------------------------------------------------------------------ making it

    def _write_files(self) -> None:
        root = self.root
        root.chmod(0o755)
        for name in ("log", "jobs", "ssh", "private"):
            (root / name).mkdir(mode=0o755)
        names = "".join(f"{address} {host}\n" for host, address in self.addresses.items())
        (root / "hosts").write_text(f"127.0.0.1 localhost\n{names}{self.address} {self.machine}\n")
        (root / "hosts-machine").write_text(names + Path("/etc/hosts").read_text())
        self.ssh_config = write_ssh(root, self.addresses, {**self.variables(), "PATH": self.environment["PATH"]})
        self.write_scheduler()

    def _make_nodes(self, hosts: Sequence[str]) -> None:
        script = NODE.format(daemons=self.start_on_node)
        for host in hosts:
            words = {"host": host, "address": self.addresses[host], "private": " ".join(self._private)}
            self._rooms[host] = Room(host, script, NODE_KINDS, self.root, {**self.environment, **words})

    def _connect(self, hosts: Sequence[str]) -> None:
        """Give new nodes their cables, and let them go on."""
        assert self._switch is not None
        for host in hosts:
            self._rooms[host].wait_ready()
        pids = {host: self._rooms[host].pid for host in hosts}
        switch = self._switch.pid
        self._ip(
            *(
                f"link add eth0 address {self._hardware_address(host)} netns {pid} type veth peer name {host} netns {switch}"
                for host, pid in pids.items()
            )
        )
        lines = [(f"link set {host} master switch", f"link set {host} up") for host in hosts]
        self._ip(*itertools.chain(*lines), room=self._switch)
        for host in hosts:
            self._rooms[host].go()

    def _hardware_address(self, host: str) -> str:
        """The same each time the node is started: others remember it for a while."""
        return f"02:00:00:00:00:{self.hosts.index(host) + 1:02x}"

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


def search_path() -> str:
    """Where programs are found, those of the system's administrator too."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PATHS])


def _rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a killed process had printed; nothing when something that it started has left it and holds its output."""
    try:
        return process.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        return "", ""
