"""The way to another host over the user's own ``ssh``: with all that is set up for it, and nothing of ours in between.

ssh asks on the terminal itself, so it stays in the terminal's foreground group; what it says when it fails is judged at its end.
A shared connection (``ControlMaster``) may be left behind by it, as its configuration says; nothing else is.

Sources: ssh(1), ssh_config(5); the messages are those of OpenSSH's source, which are never translated.
"""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Optional

from ..errors import ConfigError, InsecureState, LoginRequired, LwfmError, NotSupported, SiteError
from .address import Address
from .tail import Tail
from .transport import BROKEN, END_TIMEOUT_S, Asker, SshStream

ALIVE_INTERVAL_S = 15
ALIVE_COUNT = 4
PIPE_BYTES = 1024 * 1024
CLOSE_TIMEOUT_S = 3.0
POLL_S = 0.1
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # of Linux, in fcntl since Python 3.10


def open_openssh(address: Address, command: str, ask: Optional[Asker], timeout_s: float) -> SshStream:
    """As :func:`~.transport.open_stream`. With ``ask``, ssh itself asks; without, it is told to ask nobody.

    Raises:
        NotSupported: there is no ssh here.
    """
    if shutil.which("ssh") is None:
        raise NotSupported("there is no ssh on your PATH", hint="do without --transport openssh")
    return OpenSSHStream(ssh_words(address, command, batch=ask is None, timeout_s=timeout_s), address, ask is None)


def ssh_words(address: Address, command: str, *, batch: bool, timeout_s: float) -> list[str]:
    """The command line of ssh."""
    words = ["ssh", "-T", "-a", "-x", "-e", "none"]
    options = [
        "ClearAllForwardings=yes",
        f"ConnectTimeout={max(1, int(timeout_s))}",
        f"ServerAliveInterval={ALIVE_INTERVAL_S}",
        f"ServerAliveCountMax={ALIVE_COUNT}",
    ]
    if batch:
        options.append("BatchMode=yes")
    for option in options:
        words += ["-o", option]
    if address.ssh_config is not None:
        words += ["-F", os.path.expanduser(address.ssh_config)]
    if address.identity is not None:
        words += ["-i", os.path.expanduser(address.identity)]
    if address.port is not None:
        words += ["-p", str(address.port)]
    if address.user is not None:
        words += ["-l", address.user]
    return [*words, "--", address.host, command]


class OpenSSHStream:
    """See :class:`~.transport.SshStream`.

    Args:
        words: the ssh. ``address``: for what is said of it. ``batch``: whether it asks nobody.
    """

    def __init__(self, words: list[str], address: Address, batch: bool):
        self._address = address
        self._batch = batch
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            with suppress(OSError):  # only for speed
                fcntl.fcntl(pipe, _SET_PIPE_SIZE, PIPE_BYTES)
        self._tail = Tail()
        self._drain = threading.Thread(target=self._drain_stderr, name="lwfm-ssh-stderr", daemon=True)
        self._drain.start()

    def read(self, most: int) -> bytes:
        """See :class:`~.frames.Stream`."""
        return os.read(self._output.fileno(), most)

    def write(self, data: bytes) -> None:
        """See :class:`~.frames.Stream`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._input.fileno(), view) :]

    def wait(self) -> int:
        """See :class:`~.transport.SshStream`."""
        self._end_input()
        deadline = time.monotonic() + END_TIMEOUT_S
        self._pass_over(deadline)
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return BROKEN
        return BROKEN if code < 0 else code

    def close(self) -> None:
        """See :class:`~.frames.Stream`. Gives ssh a moment to end, so that it leaves the terminal as it was."""
        self._end_input()
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None and self._process.poll() is None:
                self._process.send_signal(step)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT_S)
                break
        self._drain.join(CLOSE_TIMEOUT_S)
        self._output.close()

    def complaint(self) -> str:
        """See :class:`~.frames.Stream`."""
        if self._process.poll() is not None:
            self._drain.join(1.0)  # a shared connection's process may hold the pipe
        return self._tail.text()

    def failure(self) -> Optional[LwfmError]:
        """See :class:`~.transport.SshStream`."""
        return judged(self._process.poll(), self.complaint(), self._address, batch=self._batch)

    def _end_input(self) -> None:
        with suppress(OSError):
            self._input.close()

    def _pass_over(self, deadline: float) -> None:
        """Read to the end of the output, or of ssh: a shared connection's process may hold the pipe."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(POLL_S):
                    if not os.read(self._output.fileno(), 64 * 1024):
                        return
                elif self._process.poll() is not None:
                    return

    def _drain_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while True:
                piece = pipe.read(64 * 1024)
                if not piece:
                    return
                self._tail.add(piece)


_UNREACHED = (
    "Could not resolve hostname|Connection refused|Connection timed out|Operation timed out|No route to host|"
    "Network is unreachable|Connection reset|Connection closed|closed by remote host|kex_exchange_identification|"
    "Broken pipe|stdio forwarding failed|open failed|Timeout, server|banner exchange|Host is down"
)


def judged(code: Optional[int], complaint: str, address: Address, *, batch: bool) -> Optional[LwfmError]:
    """What it means that ssh ended so; None where it was not ssh that failed, or has not ended.

    Args:
        code: its exit code. ``complaint``: its standard error.
    """
    if code is None or code != BROKEN:
        return None
    lines = [" ".join(line.split()) for line in complaint.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if not line.startswith("@")), "it ended without a word")[:500]
    if "Host key verification failed" in complaint or "REMOTE HOST IDENTIFICATION HAS CHANGED" in complaint:
        print_ = re.search(r"SHA256:[\w+/]+", complaint)
        shown = f" ({print_[0]})" if print_ else ""
        offending = re.search(r"Offending .* key in (\S+)", complaint)
        if offending or "HAS CHANGED" in complaint:
            at = f", {offending[1]}" if offending else ""
            return InsecureState(
                f"{address} shows another key{shown} than the one it is known by{at}",
                hint="somebody may be in between; ask its administrators, then ssh-keygen -R",
            )
        return InsecureState(
            f"the key of {address} is not known here, or was not accepted",
            hint=f"log in once on a terminal and compare it: ssh {address}",
        )
    if "Permission denied" in complaint or "Too many authentication failures" in complaint:
        hint = f"see whether `ssh {address}` lets you in"
        if batch:
            hint = "ssh was to ask nobody here: run it on a terminal, or have an ssh-agent or a ControlMaster do it"
        return LoginRequired(f"{address} does not let you in: {said}", hint=hint)
    if "Bad configuration option" in complaint or "Bad owner or permissions" in complaint:
        return ConfigError(f"ssh does not take its configuration: {said}")
    hint = f"see whether `ssh {address}` works"
    return SiteError(f"ssh to {address}: {said}", hint=hint, transient=bool(re.search(_UNREACHED, complaint)))
