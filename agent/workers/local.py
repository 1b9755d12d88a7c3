"""Starting the worker of this node. It is a process of its own that outlives the agent."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ..capacity import Capacity
from ..errors import ConfigError
from ..host.locks import is_locked
from ..host.logfiles import BYTES_VARIABLE, FILES_VARIABLE
from ..host.private import append_private
from ..paths import CACHE_VARIABLE, Home, self_command
from ..worker.node import node_capacity

MAX_PAUSE_S = 10.0
_KEPT = ("LWFM_GPUS", CACHE_VARIABLE, BYTES_VARIABLE, FILES_VARIABLE)
_OPTIONS = {"cores": "--cores", "gpus": "--gpus", "memory_bytes": "--memory"}
_logger = logging.getLogger(__name__)


class LocalWorker:
    """Starts the worker, and again when it is gone.

    Attributes:
        rendezvous: in an allocation, where the worker finds an agent that was started again on another node.

    Args:
        home: the instance.
        options: of the site ``local``: ``cores``, ``gpus`` and ``memory_bytes`` say what of this node may be used.
    """

    def __init__(self, home: Home, options: Mapping[str, Any]):
        self._home = home
        self.rendezvous: Optional[Path] = None
        self._limits: dict[str, int] = {}
        for name in _OPTIONS:
            value = options.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise ConfigError(f"{home.sites_file}: {name} of [local] must be a whole number, not {value!r}")
                self._limits[name] = value
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._started = 0.0
        self._pause_s = 0.5

    def use_allocated(self) -> None:
        """This node is one of our allocation: that none of its cores are to be used is meant for nodes to log in on."""
        if self._limits.get("cores") == 0:
            del self._limits["cores"]

    def capacity(self) -> Capacity:
        """What of this node may be used."""
        node = node_capacity()
        return Capacity(
            min(self._limits.get("cores", len(node.cores)), len(node.cores)),
            min(self._limits.get("memory_bytes", node.memory_bytes), node.memory_bytes),
            self._limits.get("gpus", len(node.gpus)),
        )

    def start(self) -> None:
        """Start a worker; one that has this spool already makes the new one leave at once."""
        command = [
            *self_command(),
            "worker",
            "--connect",
            str(self._home.worker_socket),
            "--spool",
            str(self._home.spool),
        ]
        if self.rendezvous is not None:
            command += ["--rendezvous", str(self.rendezvous)]
        for name, value in self._limits.items():
            command += [_OPTIONS[name], str(value)]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LWFM_") or name in _KEPT
        }
        with append_private(self._home.agent_log) as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd="/",
            )
        self._started = time.monotonic()

    def is_there(self) -> bool:
        """Whether some worker has the spool, whoever started it."""
        return is_locked(self._home.spool / "lock")

    def dismiss(self) -> None:
        """Ask a worker that has not connected yet to leave; it stays while it has jobs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def ensure(self) -> None:
        """Start a worker again if none is there, with growing pauses while that does not help."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._started < self._pause_s:
            return
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2) if time.monotonic() - self._started < MAX_PAUSE_S else 0.5
        _logger.warning("no worker is connected; starting one")
        self.start()
