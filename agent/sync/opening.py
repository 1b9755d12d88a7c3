"""A stream to a program on another host: the way to it is chosen, opened, and explained when it fails."""

from __future__ import annotations

from typing import Optional

from .. import archive
from ..errors import LwfmError
from . import far
from .address import OPENSSH, Address
from .frames import Cut
from .transport import Asker, SshStream

CONNECT_TIMEOUT_S = 30.0


def open_stream(
    address: Address, command: str, ask: Optional[Asker], timeout_s: float = CONNECT_TIMEOUT_S
) -> SshStream:
    """Start ``command`` on another host.

    With the user's own ssh, what is wrong with the way shows only at the stream's end: see :func:`explained`.

    Args:
        command: for the login shell there; see :func:`.far.command_line`.
        ask: whom to ask for passwords and the like; None to ask nobody.
        timeout_s: for the network to answer; what a person takes to type does not count.

    Raises:
        LoginRequired: the host does not let this user in, or wants to know what nobody can be asked for.
        InsecureState: the host does not show the key it is known by.
        SiteError: it cannot be reached; ``transient`` where it may be later. ConfigError: the ssh configuration is wrong.
    """
    if address.transport == OPENSSH:
        from .openssh_transport import open_openssh

        return open_openssh(address, command, ask, timeout_s)
    archive.provide("ssh")
    from .fabric_transport import open_fabric  # fabric takes a while to load, and not everybody has it unpacked

    return open_fabric(address, command, ask, timeout_s)


def explained(stream: SshStream, address: Address, problem: LwfmError) -> LwfmError:
    """What to tell a person when ``problem`` was met on the stream: that the far side has no lwfm, say, rather than that it ended.

    Ends the stream.
    """
    try:
        if not isinstance(problem, Cut):
            return problem
        return far.explain(stream.wait(), stream.complaint(), address) or stream.failure() or problem
    finally:
        stream.close()
