"""A stream to a program on another host, over ssh: what both ways of having one promise.

The ways are :mod:`.fabric_transport` (the library) and :mod:`.openssh_transport` (the user's own ``ssh``); :mod:`.opening` chooses.
Neither keeps what a person answers, and neither begins anew what has broken: who uses the stream knows what may be repeated.
"""

from __future__ import annotations

from typing import Optional, Protocol

from ..errors import LwfmError
from .frames import Stream

ALIVE_INTERVAL_S = 15
ALIVE_COUNT = 4
"""A way is given up when so many questions, so many seconds apart, went unanswered, unless the configuration says otherwise."""
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

    def beside(self, command: str) -> SshStream:
        """A stream to another program on the same host, by the same way as far as that is possible. Nobody is asked anything.

        Raises:
            OSError, LwfmError: the host takes no more of them, or is not reached any more.
        """
