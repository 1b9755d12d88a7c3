"""The way to workers whose nodes cannot reach the agent's: from here over ssh, which carries two sockets of the agent to them.

For each such node one ssh, with ``-R`` for the socket of the workers and for that of the API, and ``lwfm tunnel`` at the other
end (:mod:`lwfm.worker.tunnel`), which shows the worker there the way and starts it if it is not there. ssh never asks for anything
here. When the agent is gone its pipes to the ssh processes close, and with them the tunnels; the workers stay.

Sources: ssh(1), "-R"; sshd_config(5), "AllowStreamLocalForwarding", "StreamLocalBindMask" (the sockets are the user's alone).
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..paths import Home, self_command

CONNECT_TIMEOUT_S = 10
ALIVE_INTERVAL_S = 15
CLOSE_TIMEOUT_S = 5.0
FAR_DIRECTORY = "/tmp"  # noqa: S108 - sshd makes the sockets before anything of ours runs there; their names are random
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "ExitOnForwardFailure=yes",
    f"ServerAliveInterval={ALIVE_INTERVAL_S}",
    "ControlMaster=no",
    "ControlPath=none",
)


def tunnel_command(home: Home, host: str, rendezvous: Path) -> list[str]:
    """The ssh that carries the agent's sockets to ``host``.

    Args:
        home: whose sockets. ``rendezvous``: by which the worker's spool there is known, whether or not the file is there.
    """
    prefix = f"{FAR_DIRECTORY}/lwfm-{secrets.token_hex(8)}"
    words = ["ssh"]
    for option in _OPTIONS:
        words += ["-o", option]
    for name, path in (("worker", home.worker_socket), ("api", home.socket)):
        words += ["-R", f"{prefix}.{name}:{path}"]
    return [*words, host, shlex.join([*self_command(), "tunnel", str(rendezvous), prefix])]


class Tunnel:
    """One of them.

    Args:
        words: the ssh. ``host``: where to. ``log``: where what it prints goes.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, words: list[str], host: str, log: IO[bytes]):
        self.host = host
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/", start_new_session=True
        )

    @property
    def open(self) -> bool:
        """Whether it is there, or being made."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, after what has been sent through it has come there. Blocks for a moment."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
