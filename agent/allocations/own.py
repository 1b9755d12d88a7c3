"""The workers of the other nodes of the allocation that the agent is in: a place to dial for them, and their start.

Owns what is known of each node's start. The launcher's processes are those of :mod:`lwfm.launch.launching`, who comes is seen by
:mod:`lwfm.workers.protocol`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from .. import hostlist, rendezvous
from ..capacity import Capacity
from ..clock import utc_text
from ..errors import LwfmError
from ..host.private import append_private, private_directory
from ..launch.allocation import Allocation, NodeShare
from ..launch.launching import LEAVE_S, Launched, own_name
from ..paths import Home, self_command
from ..placing.node import Node
from ..workers.connections import Gate
from ..workers.listening import listen_for
from ..workers.protocol import WorkerServer
from ..workers.tunnels import Tunnel, tunnel_command
from .expected import START_TIMEOUT_S, capacity_of, capacity_told

RECONNECT_S = 3.0
"""How long workers that an earlier agent has started get to come by themselves."""
TUNNEL_AFTER_S = 20.0
"""A node whose worker has not come by then is tried through ssh."""
SUBMIT_HOST_VARIABLES = ("SLURM_SUBMIT_HOST", "PBS_O_HOST", "SGE_O_HOST", "LSB_SUB_HOST")
"""In a batch job, the host on which it was submitted: sbatch(1), qsub(1) of PBS and of Grid Engine, bsub(1)."""
CHANNELS = ("auto", "tcp", "ssh")
_logger = logging.getLogger(__name__)


class AllocatedWorkers(Gate):
    """Brings workers up on the nodes of ``allocation`` other than this one, and is the gate for those of all its nodes.

    Args:
        home: the instance; what the other nodes have to read lies in it, so it must be on a file system they see.
        allocation: the nodes.
        workers: takes their connections.
        channel: how their nodes reach this one: by themselves (``tcp``), by a way that is made for them over ssh (``ssh``), or
            the latter where the former does not do (``auto``).
    """

    def __init__(self, home: Home, allocation: Allocation, workers: WorkerServer, channel: str):
        self.allocation = allocation
        self._channel = channel
        self._tunnels: dict[str, Tunnel] = {}
        self._home = home
        self._workers = workers
        self._own = allocation.share_of(own_name())
        self._directory = home.allocations / allocation.name
        self._launched = Launched(self._directory)
        self._missing: set[str] = set()

    @property
    def rendezvous(self) -> Path:
        """The file that tells workers where the agent is."""
        return self._directory / rendezvous.FILE

    @property
    def listened_for(self) -> list[str]:
        """The hosts that shall reach this one: the other nodes, and the one the allocation was asked for on, where people look."""
        asked_on = next((os.environ[name] for name in SUBMIT_HOST_VARIABLES if os.environ.get(name)), None)
        return [*(node.host for node in self.others), *([asked_on] if asked_on else [])]

    @property
    def others(self) -> list[NodeShare]:
        """The nodes that need a worker from us."""
        return [node for node in self.allocation.nodes if node is not self._own]

    async def open(self) -> None:
        """Make the key where there is none, listen, and tell where; nothing of that where they are reached over ssh.

        Raises:
            ConfigError: there can be no key, or no address at which other nodes reach this one.
        """
        private_directory(self._directory.parent)
        private_directory(self._directory)
        if self._channel == "ssh":
            return
        await listen_for(self._workers, self._directory, self.listened_for, self)

    async def bring_up(self) -> None:
        """Start workers where none comes by itself; say which have not come in time. Until cancelled, or all are there."""
        await asyncio.sleep(RECONNECT_S if any(self._directory.glob("started-*")) else 0)
        wanted = [node.host for node in self.others if not self._is_up(node.host)]
        if wanted and self._channel != "ssh":
            try:
                await asyncio.to_thread(self._launch, wanted)
            except (LwfmError, OSError) as error:
                _logger.error("no workers on the other nodes: %s", error)
        began = time.monotonic()
        while wanted:
            wanted = [host for host in wanted if not self._is_up(host)]
            now = time.monotonic()
            for host in list(wanted):
                tunnel = self._tunnels.get(host)
                if tunnel is None and self._channel != "tcp" and not self._comes_by_itself(host, now - began):
                    self._tunnel_to(host)
                elif now - began > START_TIMEOUT_S or not (tunnel.open if tunnel else self._launched.is_starting(host)):
                    _logger.error("node %s did not come up (%.0f s) and is left out", host, now - began)
                    self._missing.add(host)
                    wanted.remove(host)
            await asyncio.sleep(0.1)

    def _comes_by_itself(self, host: str, since_s: float) -> bool:
        """Whether there is hope that its worker will reach us, so many seconds after it was started."""
        return self._channel != "ssh" and since_s < TUNNEL_AFTER_S and self._launched.is_starting(host)

    def _tunnel_to(self, host: str) -> None:
        if self._channel == "auto":
            _logger.warning("no worker of node %s has reached this node: trying through ssh", host)
        with append_private(self._home.agent_log) as log:
            try:
                self._tunnels[host] = Tunnel(tunnel_command(self._home, host, self.rendezvous), host, log)
            except OSError as error:
                _logger.error("there is no ssh here: %s", error)
                self._channel = "tcp"

    def _is_up(self, host: str) -> bool:
        """Whether a worker of that node is connected."""
        return any(hostlist.same_host(connection.host, host) for connection in self._workers.of(self))

    async def share(self, host: str) -> Optional[Capacity]:
        """What the scheduler gave us of a node."""
        return capacity_of(self.allocation, host)

    def name_of(self, host: str) -> tuple[str, str]:
        """What the launchers call a host, and the name of the allocation if it is one of its nodes."""
        node = self.allocation.share_of(host)
        return (host, "") if node is None else (host if node.host == "localhost" else node.host, self.allocation.name)

    def coming(self) -> list[Node]:
        """The nodes whose workers are being started, with what the scheduler told of them."""
        states = self._states()
        return [
            Node(
                "",
                node.host,
                0,
                capacity_told(node.cores, node.memory_bytes, node.gpus),
                None,
                "",
                self.allocation.name,
            )
            for node in self.others
            if states[node.host] == "starting"
        ]

    def describe(self) -> dict[str, Any]:
        """The allocation, as ``GET /v1/agent`` shows it."""
        allocation = self.allocation
        return {
            "scheduler": allocation.scheduler,
            "id": allocation.id,
            "name": allocation.name,
            "nodes": len(allocation.nodes),
            "ends_at": None if allocation.ends_at is None else utc_text(allocation.ends_at),
            "other_nodes": self._states(),
        }

    def _states(self) -> dict[str, str]:
        """Each other node, and whether it is ``up``, ``starting`` or ``missing``."""
        return {
            node.host: "up" if self._is_up(node.host) else "missing" if node.host in self._missing else "starting"
            for node in self.others
        }

    async def close(self, *, stop: bool) -> None:
        """Let the launchers end, after the workers were told to leave; or leave both for the next agent."""
        await asyncio.gather(*(asyncio.to_thread(tunnel.close) for tunnel in self._tunnels.values()))
        if not stop:
            return
        until = time.monotonic() + LEAVE_S
        while time.monotonic() < until and self._launched.running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._launched.terminate()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _launch(self, hosts: Sequence[str]) -> None:
        words = [*self_command(), "worker", "--rendezvous", str(self.rendezvous)]
        with append_private(self._home.agent_log) as log:
            for launch in self._launched.start(self.allocation, hosts, words, log):
                _logger.info("starting workers on %s: %s", ", ".join(launch.hosts), launch.argv[0])
        (self._directory / f"started-{os.getpid()}").touch(mode=0o600)
