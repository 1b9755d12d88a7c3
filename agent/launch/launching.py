"""The allocation that this process is in, and the processes of a launcher that start workers on its nodes.

Owns those processes. Which command starts workers is told by :mod:`.launchers`; where the nodes are, by :mod:`.allocation`. Used by
the agent for its own allocation, and by the batch job of one that an agent has asked for.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Optional

from ..errors import ConfigError
from . import launchers
from .allocation import Allocation, discover, from_hostfile
from .programs import answer_of, find_program, version_of

HOSTFILE_VARIABLE = "LWFM_HOSTFILE"
LAUNCHER_VARIABLE = "LWFM_LAUNCHER"
LEAVE_S = 10.0
"""How long a launcher gets to end after its workers were told to leave."""


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
    return discover(os.environ, lambda name: Path(name).read_text(encoding="utf-8"), answer_of, time.time())


def own_name() -> str:
    """What this node is called in its allocation."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Launched:
    """The launcher's processes.

    Args:
        directory: for the files that a launcher reads; the nodes may have to see it.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._processes: list[tuple[subprocess.Popen[bytes], launchers.Launch]] = []

    def start(
        self, allocation: Allocation, hosts: Sequence[str], words: Sequence[str], log: IO[bytes]
    ) -> list[launchers.Launch]:
        """Start ``words`` once on each of ``hosts``, none of which is this node. Call it from a thread: it asks for versions.

        Args:
            allocation: the nodes. ``log``: where what the launcher prints goes.

        Returns:
            What was started.

        Raises:
            ConfigError: there is no program that could do it. OSError: it cannot be run.
        """
        own = allocation.share_of(own_name())
        wanted = tuple(node for node in allocation.nodes if node is own or node.host in hosts)
        launches = launchers.commands(
            Allocation(allocation.scheduler, allocation.id, wanted, allocation.ends_at),
            words,
            own_host=own_name(),
            versions=version_of,
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
            process = subprocess.Popen(
                launch.with_files(paths), executable=find_program(launch.argv[0]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, cwd="/", start_new_session=True,
            )  # fmt: skip
            self._processes.append((process, launch))
        return launches

    def add(self, process: subprocess.Popen[bytes], host: str) -> None:
        """Count a process in that was started otherwise."""
        self._processes.append((process, launchers.Launch((), (host,))))

    def is_starting(self, host: str) -> bool:
        """Whether a launcher for this node is still there: it stays for as long as what it has started."""
        return any(host in launch.hosts and process.poll() is None for process, launch in self._processes)

    @property
    def running(self) -> bool:
        """Whether any is still there."""
        return any(process.poll() is None for process, _ in self._processes)

    @property
    def codes(self) -> list[int]:
        """How those ended that have."""
        return [process.returncode for process, _ in self._processes if process.poll() is not None]

    def signal(self, number: int) -> None:
        """Pass a signal on to those that are still there: to the launchers with what each has started here.

        Those whose end would be that of the whole job are left alone: the end of the job must see to what is left of them.
        """
        for process, launch in self._processes:
            if process.poll() is None and not launch.ends_job:
                with suppress(ProcessLookupError):
                    whole = os.getpgid(process.pid) == process.pid
                    (os.killpg if whole else os.kill)(process.pid, number)

    def terminate(self) -> None:
        """SIGTERM for those that are still there."""
        self.signal(signal.SIGTERM)
