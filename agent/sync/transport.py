"""A stream to a program on another host, over ssh: what both ways of having one promise, and the choice between them.

The ways are :mod:`.fabric_transport` (the library) and :mod:`.openssh_transport` (the user's own ``ssh``). Neither keeps what a
person answers, and neither begins anew what has broken: who uses the stream knows what may be repeated.
"""

from __future__ import annotations

from typing import Optional, Protocol

from ..errors import LwfmError
from . import far
from .address import OPENSSH, Address
from .frames import Cut, Stream

CONNECT_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
"""How long a program may take to end after the end of its input."""
BROKEN = 255
"""The exit code of a program whose end was not heard of, as with ssh."""


class Asker(Protocol):
    """Whom to ask what only a person knows. Answers are never stored, and never in a log."""

    def ask(self, prompt: str, echo: bool) -> str:
        """What the person answers to ``prompt``, which may be several lines and may come from the other host.

        Args:
            echo: whether the answer may be seen while it is typed.

        Raises:
            KeyboardInterrupt, LoginRequired: there will be no answer.
        """

    def confirm(self, question: str) -> bool:
        """Whether the person says yes."""


class SshStream(Stream, Protocol):
    """A stream to a program on another host."""

    def wait(self) -> int:
        """Let the program know that nothing more comes, pass over what it still writes, and return its exit code; 255 where
        it is not known, or the program does not end within seconds. To be called before :meth:`close`."""

    def failure(self) -> Optional[LwfmError]:
        """After the end: what was wrong with the way there; None where nothing is known to have been."""


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
    from .. import archive

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
