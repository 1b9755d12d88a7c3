"""The workers of an allocation's other nodes: a key and a place to dial for them, and the launcher that starts them.

Owns the launcher's processes and what is known of each node's start. Which command starts workers is told by
:mod:`.launchers`, who comes is seen by :mod:`.workers`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from . import hostlist, launchers, rendezvous
from .allocation import Allocation, NodeShare, discover, from_hostfile
from .capacity import Capacity
from .errors import ConfigError, LwfmError
from .keys import make_key
from .node import Node
from .paths import Home, private_directory, self_command
from .workers import WorkerServer

HOSTFILE_VARIABLE = "LWFM_HOSTFILE"
LAUNCHER_VARIABLE = "LWFM_LAUNCHER"
SGE_BINARIES_VARIABLE = "SGE_BINARY_PATH"
ASK_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0
"""How long a node may take from the launcher's start until its worker has come; the others work meanwhile."""
RECONNECT_S = 3.0
"""How long workers that an earlier agent has started get to come by themselves."""
LEAVE_S = 10.0
NO_LIMIT = 2**62
_logger = logging.getLogger(__name__)


def find_allocation() -> Optional[Allocation]:
    """The allocation this process is in: of ``$LWFM_HOSTFILE`` where set, else of the scheduler.

    Raises:
        ConfigError: what tells of it is malformed.
    """
    hostfile = os.environ.get(HOSTFILE_VARIABLE)
    if hostfile:
        try:
            return from_hostfile(Path(hostfile).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{HOSTFILE_VARIABLE}: cannot read {hostfile}: {error.strerror}") from error
    return discover(os.environ, lambda name: Path(name).read_text(encoding="utf-8"), _answer, time.time())


def own_name() -> str:
    """What this node is called in its allocation."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class AllocatedWorkers:
    """Brings workers up on the nodes of ``allocation`` other than this one.

    Args:
        home: the instance; what the other nodes have to read lies in it, so it must be on a file system they see.
        allocation: the nodes.
        workers: takes their connections.
    """

    def __init__(self, home: Home, allocation: Allocation, workers: WorkerServer):
        self.allocation = allocation
        self._home = home
        self._workers = workers
        self._own = allocation.share_of(own_name())
        self.name = _file_name(f"{allocation.scheduler}-{allocation.id}")
        self._directory = home.root / "allocations" / self.name
        self._processes: list[tuple[subprocess.Popen[bytes], launchers.Launch]] = []
        self._missing: set[str] = set()

    @property
    def rendezvous(self) -> Path:
        """The file that tells workers where the agent is."""
        return self._directory / rendezvous.FILE

    @property
    def others(self) -> list[NodeShare]:
        """The nodes that need a worker from us."""
        return [node for node in self.allocation.nodes if node is not self._own]

    async def open(self) -> None:
        """Make the key where there is none, listen, and tell where.

        Raises:
            ConfigError: there can be no key, or no address at which other nodes reach this one.
        """
        private_directory(self._directory.parent)
        private_directory(self._directory)
        key = self._directory / rendezvous.KEY
        if not key.exists():
            await asyncio.to_thread(make_key, key)
        rendezvous.check_private(key)
        hosts = await asyncio.to_thread(addresses_towards, [node.host for node in self.others])
        addresses = await self._workers.listen(hosts, rendezvous.server_context(key))
        rendezvous.write(self._directory, addresses)
        _logger.info("listening for the nodes of %s %s at %s", self.allocation.scheduler, self.allocation.id, addresses)

    async def bring_up(self) -> None:
        """Start workers where none comes by itself; say which have not come in time. Until cancelled, or all are there."""
        await asyncio.sleep(RECONNECT_S if any(self._directory.glob("started-*")) else 0)
        wanted = [node.host for node in self.others if not self.is_up(node.host)]
        if wanted:
            try:
                await asyncio.to_thread(self._launch, wanted)
            except LwfmError as error:
                _logger.error("no workers on the other nodes: %s", error)
                self._missing.update(wanted)
                return
        began = time.monotonic()
        while wanted:
            await asyncio.sleep(0.1)
            wanted = [host for host in wanted if not self.is_up(host)]
            late = time.monotonic() - began > START_TIMEOUT_S
            for host in [host for host in wanted if late or not self._is_starting(host)]:
                _logger.error("node %s did not come up (%.0f s) and is left out", host, time.monotonic() - began)
                self._missing.add(host)
                wanted.remove(host)

    def _is_starting(self, host: str) -> bool:
        """Whether a launcher for this node is still there: it stays for as long as what it has started."""
        return any(host in launch.hosts and process.poll() is None for process, launch in self._processes)

    def is_up(self, host: str) -> bool:
        """Whether a worker of that node is connected."""
        return any(hostlist.same_host(connection.host, host) for connection in self._workers.connections.values())

    def share(self, host: str) -> Optional[Capacity]:
        """What the scheduler gave us of a node; what it does not tell is without limit."""
        node = self.allocation.share_of(host)
        if node is None:
            return None
        told = (node.cores, node.memory_bytes, node.gpus)
        return Capacity(*(NO_LIMIT if value is None else value for value in told))

    def name_of(self, host: str) -> tuple[str, str]:
        """What the launchers call a host, and the name of the allocation if it is one of its nodes."""
        node = self.allocation.share_of(host)
        return (host, "") if node is None else (host if node.host == "localhost" else node.host, self.name)

    def coming(self) -> list[Node]:
        """The nodes whose workers are being started, with what the scheduler told of them."""
        states = self.states()
        return [
            Node("", node.host, 0, self.share(node.host) or Capacity(NO_LIMIT, NO_LIMIT, NO_LIMIT), None, "", self.name)
            for node in self.others
            if states[node.host] == "starting"
        ]

    def states(self) -> dict[str, str]:
        """Each other node, and whether it is ``up``, ``starting`` or ``missing``."""
        return {
            node.host: "up" if self.is_up(node.host) else "missing" if node.host in self._missing else "starting"
            for node in self.others
        }

    async def close(self, *, stop: bool) -> None:
        """Let the launchers end, after the workers were told to leave; or leave both for the next agent."""
        if not stop:
            return
        until = time.monotonic() + LEAVE_S
        while time.monotonic() < until and any(process.poll() is None for process, _ in self._processes):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for process, launch in self._processes:
            if process.poll() is None and not launch.ends_job:  # else the end of the job must see to what is left
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _launch(self, hosts: Sequence[str]) -> None:
        words = [*self_command(), "worker", "--rendezvous", str(self.rendezvous)]
        wanted = tuple(node for node in self.allocation.nodes if node is self._own or node.host in hosts)
        part = Allocation(self.allocation.scheduler, self.allocation.id, wanted, self.allocation.ends_at)
        launches = launchers.commands(
            part,
            words,
            own_host=own_name(),
            versions=_version,
            which=find_program,
            launcher=os.environ.get(LAUNCHER_VARIABLE),
        )
        for number, launch in enumerate(launches):
            paths = {}
            for name, text in launch.files.items():
                paths[name] = str(self._directory / f"{number}-{name}")
                Path(paths[name]).write_text(text, encoding="utf-8")
            environment = {name: value for name, value in os.environ.items() if name not in launch.environment}
            environment.update({name: value for name, value in launch.environment.items() if value is not None})
            with self._home.agent_log.open("ab") as log:
                process = subprocess.Popen(
                    launch.with_files(paths),
                    executable=find_program(launch.argv[0]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            self._processes.append((process, launch))
            _logger.info("starting workers on %s: %s", ", ".join(launch.hosts), launch.argv[0])
        (self._directory / f"started-{os.getpid()}").touch(mode=0o600)


def find_program(name: str) -> Optional[str]:
    """Where a program is: on PATH, or where the scheduler has its own. Jobs of Grid Engine are told, but do not get it on PATH."""
    return shutil.which(name) or shutil.which(name, path=os.environ.get(SGE_BINARIES_VARIABLE, ""))


def addresses_towards(hosts: Sequence[str]) -> list[str]:
    """The numeric addresses of this node from which it reaches ``hosts``: those at which they reach it.

    Raises:
        ConfigError: none of the hosts has a known address.
    """
    found: dict[str, None] = {}
    unknown = []
    for host in hosts:
        try:
            family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(target)  # sends nothing: it only looks up the way
                found[probe.getsockname()[0]] = None
        except OSError as error:
            unknown.append(f"{host}: {error.strerror}")
    if not found:
        raise ConfigError(f"no other node can be reached from here: {'; '.join(unknown[:3])}")
    return list(found)


def _answer(words: Sequence[str]) -> str:
    """What a command says on its standard output. Raises OSError, also when it fails or takes too long."""
    return _told(words, stderr=subprocess.PIPE, check=True)


def _version(words: Sequence[str]) -> str:
    """What a command says, on either stream and however it ends: some tell their version as an error."""
    return _told(words, stderr=subprocess.STDOUT, check=False)


def _told(words: Sequence[str], *, stderr: int, check: bool) -> str:
    try:
        done = subprocess.run(
            list(words),
            executable=find_program(words[0]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=ASK_TIMEOUT_S,
            check=check,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"{words[0]}: {error}") from error
    return done.stdout.decode("utf-8", "replace")


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)
