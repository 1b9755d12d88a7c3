"""Where a soak takes place: two instances and a cluster, and all that can go wrong with them.

*Here* is an instance on this machine, its home on a small disk; it has the cluster's queue as one site, and as another the
instance *over there*, in an allocation of three nodes of the cluster, which it reaches by the sshd of the first of them. The
fourth node is for what goes through the queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable

from support.agents import LINK, Agent
from support.allocations import InAllocation, an_allocation
from support.faulty import Disk, a_disk
from support.peers import Place
from support.rooms import name_of
from support.slurm import Cluster
from support.waiting import wait_until

DISK_MB = 768
HERE_SITES = """\
[queue]
driver = "slurm"
process = true
poll_s = 1.0

[there]
driver = "ssh"
host = "{host}"
ssh_config = "{config}"
remote_path = "{script}"
remote_home = "{home}"
poll_s = 1.0
"""
THERE_SITES = '[local]\ndriver = "local"\nnode_lost_s = 30\n'
SCRIPT = """\
#!/bin/sh
unset LWFM_SOCKET
{variables}
exec {python} -m lwfm "$@"
"""
MENDED_WITHIN_S = 90.0


class World:
    """The two instances, their cluster, and what happens to them."""

    def __init__(
        self,
        cluster: Cluster,
        here: Place,
        disk: Disk,
        inside: InAllocation,
        script: Path,
        controllers: list[subprocess.Popen[bytes]],
    ) -> None:
        self.cluster, self.here, self.disk, self.inside, self.script = cluster, here, disk, inside, script
        self.there = Agent(inside.home)
        self.controllers = controllers
        self.faults: Mapping[str, Callable[[float], None]] = {
            "kill the agent": lambda _: self._restart_here(),
            "kill the worker": lambda _: kill(self.loops_here()),
            "kill the keeper": lambda _: kill(self.keepers_here()),
            "stop the agent": lambda size: paused(here.agent_pids(), 0.5 + 5 * size),
            "stop the worker": lambda size: paused([*self.loops_here(), *self.keepers_here()], 0.5 + 3 * size),
            "fill the disk": self._fill,
            "kill the driver": lambda _: kill(self._drivers()),
            "kill the ssh connection": lambda _: kill(self._sessions()),
            "restart slurmctld": self._restart_controller,
            "cut a sync": lambda size: self._sync(0.3 + 2 * size),
            "sync": lambda _: self._sync(None),
            "over there: kill the agent": lambda _: self._restart_there(),
            "over there: kill a worker": lambda size: kill(self.loops_there(self._node(size))),
            "over there: cut a node": self._cut,
            "over there: stop the agent": lambda size: paused(self.agent_there(), 0.5 + 5 * size),
            "over there: stop a worker": lambda size: paused(self.workers_there(self._node(size)), 0.5 + 4 * size),
        }

    # ------------------------------------------------------------------------------------------ processes

    def loops_here(self) -> list[int]:
        workers = self._workers_here()
        return [pid for pid in workers if parent_of(pid) in workers]

    def keepers_here(self) -> list[int]:
        workers = self._workers_here()
        return [pid for pid in workers if parent_of(pid) not in workers]

    def _workers_here(self) -> list[int]:
        return [pid for pid, words in self.here.processes().items() if " worker --connect" in words]

    def agent_there(self) -> list[int]:
        return self.inside.pids(self.inside.hosts[0], "agent serve")

    def workers_there(self, host: str) -> list[int]:
        return self.inside.pids(host, "worker --rendezvous")

    def loops_there(self, host: str) -> list[int]:
        pids = self.workers_there(host)  # the keeper's child; a child of that is a job whose program has not begun
        return [pid for pid in pids if parent_of(pid) in pids and parent_of(parent_of(pid)) not in pids]

    def measured(self) -> dict[str, Sequence[int]]:
        """What is measured, by the names of the report."""
        found: dict[str, Sequence[int]] = {
            "agent here": self.here.agent_pids(),
            "worker here": self._workers_here(),
            "agent there": self.agent_there(),
        }
        for host in self.inside.hosts[1:]:
            found[f"worker {host}"] = self.loops_there(host)
        return found

    def _drivers(self) -> list[int]:
        return [pid for pid, words in self.here.processes().items() if "site-host" in words]

    def _sessions(self) -> list[int]:
        """What sshd has started for connections, of the first node over there."""
        found = self.cluster.processes(self.inside.hosts[0], daemons=False)
        return [pid for pid, words in found.items() if name_of(pid).startswith("sshd") and "sshd -D" not in words]

    def _node(self, size: float) -> str:
        others = self.inside.hosts[1:]
        return others[min(len(others) - 1, int(size * len(others)))]

    # ------------------------------------------------------------------------------------------ faults

    def _restart_here(self) -> None:
        kill(self.here.agent_pids())
        if self.here.process is not None:
            self.here.process.wait(30)
        self.start_here()

    def start_here(self) -> None:
        """See that there is an agent here. It may have been started by a command already."""
        self.here.lwfm("agent", "start")

    def _restart_there(self) -> None:
        kill(self.agent_there())
        self.inside.run("agent", "start")

    def _fill(self, size: float) -> None:
        self.disk.fill()
        time.sleep(0.5 + 4 * size)
        self.disk.make_room()

    def _cut(self, size: float) -> None:
        host = self._node(size)
        self.cluster.cut(host)
        time.sleep(0.5 + 4 * size)
        self.cluster.join(host)

    def _restart_controller(self, size: float) -> None:
        self.cluster.run("scontrol", "shutdown", "slurmctld", check=False)
        gone = lambda: self.cluster.run("scontrol", "ping", check=False).returncode != 0  # noqa: E731
        wait_until(gone, "the controller to be gone", timeout_s=MENDED_WITHIN_S)
        time.sleep(size)
        wait_until(
            self._controller_is_back,
            "the controller to be back",
            timeout_s=MENDED_WITHIN_S,
            on_timeout=self.cluster.log,
        )

    def _controller_is_back(self) -> bool:
        """Start it, again where it found its port taken by the one before; whether it answers."""
        if not self.controllers or self.controllers[-1].poll() is not None:
            words = self.cluster.command("slurmctld", "-D")
            null = subprocess.DEVNULL
            self.controllers.append(
                subprocess.Popen(words, env=self.cluster.environment, stdin=null, stdout=null, stderr=null)
            )
        return self.cluster.run("scontrol", "ping", check=False).returncode == 0

    def _sync(self, cut_after_s: float | None) -> None:
        """Sync both ways; if it is cut, by the death of what the far side has started for it."""
        with self.here.running(*self.sync_words()) as process:
            if cut_after_s is None:
                process.communicate(timeout=120)
                return
            try:
                process.communicate(timeout=cut_after_s)
            except subprocess.TimeoutExpired:
                kill(self._sessions())
                process.communicate(timeout=120)

    def sync_words(self) -> list[str]:
        host = self.inside.hosts[0]
        options = ["-F", str(self.cluster.ssh_config), "--remote-path", str(self.script)]
        return ["sync", "both", host, "--batch", "--json", *options, "--remote-home", str(self.inside.home)]

    # ------------------------------------------------------------------------------------------ the end

    def mend(self) -> None:
        """Nothing is wrong any more, but for what lwfm has to mend itself."""
        self.disk.make_room()
        for host in self.inside.hosts:
            self.cluster.join(host)
        self.start_here()
        self.inside.run("agent", "start")

    def left(self) -> list[str]:
        """Processes that should not be there when both agents have been told to leave."""
        found = [f"here: {pid} {words}" for pid, words in self.here.processes().items()]
        for host in self.cluster.hosts:
            for pid, words in self.cluster.processes(host, daemons=False).items():
                if not _is_scaffold(pid, words):
                    found.append(f"{host}: {pid} {words[:150]}")
        return found

    def log(self) -> str:
        return f"=== here\n{self.here.log()}\n=== there\n{self.there.log()}"


def _is_scaffold(pid: int, words: str) -> bool:
    """Whether it belongs to the bed: the batch script that holds the allocation, what Slurm and sshd have for it."""
    name = name_of(pid)
    return name.startswith(("slurm", "sshd", "sleep")) or "slurm_script" in words or "environment; sleep" in words


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def paused(pids: Sequence[int], seconds: float) -> None:
    """Stop processes for so long."""
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        if number == signal.SIGSTOP:
            time.sleep(seconds)


@contextmanager
def a_world(minutes: float, scratch: Path) -> Iterator[World]:
    """One, with both agents up. All of it is gone at the end, whatever happens."""
    allocation_minutes = int(minutes * 2) + 15
    with ExitStack() as held:
        disk = held.enter_context(a_disk(DISK_MB))  # the nodes see only what was mounted before they were there
        cluster = held.enter_context(Cluster(nodes=4, cores=2))
        controllers: list[subprocess.Popen[bytes]] = []
        held.callback(_end_all, controllers)
        inside = held.enter_context(an_allocation(cluster, 3, THERE_SITES, minutes=allocation_minutes))
        script = scratch / "there-lwfm"
        first = {**inside.environment, "SLURMD_NODENAME": inside.hosts[0]}
        del first["LWFM_HOME"]
        variables = "\n".join(f"export {name}={_quoted(value)}" for name, value in first.items())
        script.write_text(SCRIPT.format(variables=variables, python=sys.executable))
        script.chmod(0o755)
        here = Place(disk.root, "here", env={**cluster.environment, "PYTHONPATH": str(LINK)})
        host, config = inside.hosts[0], cluster.ssh_config
        here.configure(HERE_SITES.format(host=host, config=config, script=script, home=inside.home))
        held.callback(here.client.close)
        held.callback(here.kill_everything)
        world = World(cluster, here, disk, inside, script, controllers)
        world.start_here()
        inside.run("agent", "start")
        inside.wait_nodes()
        yield world


def _end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
        process.wait(30)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
