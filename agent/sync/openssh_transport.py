"""The way to another host over the user's own ``ssh``: with all that is set up for it, and nothing of ours in between.

ssh asks on the terminal itself, so it stays in the terminal's foreground group; what it says when it fails is judged at its end.
A shared connection (``ControlMaster``) may be left behind by it, as its configuration says; nothing else is.

Sources: ssh(1), ssh_config(5); the messages are those of OpenSSH's source, which are never translated.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Optional

from ..errors import ConfigError, InsecureState, LoginRequired, LwfmError, NotSupported, SiteError
from .address import Address
from .process_stream import ProcessStream
from .transport import ALIVE_COUNT, ALIVE_INTERVAL_S, BROKEN, Asker, SshStream


def open_openssh(address: Address, command: str, ask: Optional[Asker], timeout_s: float) -> SshStream:
    """As :func:`~.opening.open_stream`. With ``ask``, ssh itself asks; without, it is told to ask nobody.

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


class OpenSSHStream(ProcessStream):
    """See :class:`~.transport.SshStream`.

    Args:
        words: the ssh. ``address``: for what is said of it. ``batch``: whether it asks nobody.
    """

    def __init__(self, words: list[str], address: Address, batch: bool):
        super().__init__(words)
        self._words = words
        self._address = address
        self._batch = batch

    def failure(self) -> Optional[LwfmError]:
        """See :class:`~.transport.SshStream`."""
        return judged(self._process.poll(), self.complaint(), self._address, batch=self._batch)

    def beside(self, command: str) -> SshStream:
        """See :class:`~.transport.SshStream`: by the same connection where the user's ssh has its own way to share it."""
        silent = [] if "BatchMode=yes" in self._words else ["-o", "BatchMode=yes"]
        return OpenSSHStream(["ssh", *silent, *self._words[1:-1], command], self._address, True)


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
