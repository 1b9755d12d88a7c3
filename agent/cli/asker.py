"""Asking the person at the terminal for what only a person knows: passphrases, passwords, one-time codes, yes or no.

Speaks to the terminal itself, so it works while standard input and output are pipes; keeps nothing.
"""

from __future__ import annotations

import getpass
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ..errors import LoginRequired
from .text import harmless

if TYPE_CHECKING:
    from ..sync.transport import Asker

TERMINAL = "/dev/tty"
MAX_PROMPT_LINES = 40
MAX_PROMPT_COLUMNS = 500


class TerminalAsker:
    """See :class:`lwfm.sync.transport.Asker`."""

    def ask(self, prompt: str, echo: bool) -> str:
        """What is typed, without its line end. Control characters in the prompt, which another host may have made, are shown."""
        *above, last = _shown(prompt)
        with _terminal() as terminal:
            for line in above:
                print(line, file=terminal)
            terminal.flush()
            return _read(terminal, last, hidden=not echo)

    def confirm(self, question: str) -> bool:
        """Whether ``yes`` is typed; asks again for anything but yes and no."""
        *above, last = _shown(question)
        with _terminal() as terminal:
            for line in above:
                print(line, file=terminal)
            answer = _read(terminal, f"{last} (yes/no) ")
            while answer.strip().lower() not in ("yes", "no"):
                answer = _read(terminal, "Please type yes or no: ")
        return answer.strip().lower() == "yes"


def terminal_asker() -> Asker | None:
    """The person at the terminal; None when there is no terminal, or this process is in its background."""
    try:
        descriptor = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return TerminalAsker() if os.tcgetpgrp(descriptor) == os.getpgrp() else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


@contextmanager
def _terminal() -> Iterator[TextIO]:
    try:
        descriptor = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise LoginRequired("there is no terminal to ask on") from None
    # Neither buffered nor opened as text by name: a terminal has no place to go back to between writing and reading.
    with io.TextIOWrapper(io.FileIO(descriptor, "w+"), errors="replace") as terminal:
        yield terminal


def _read(terminal: TextIO, prompt: str, *, hidden: bool = False) -> str:
    try:
        if hidden:
            return getpass.getpass(prompt, terminal)
        terminal.write(prompt)
        terminal.flush()
        line = terminal.readline()
        if not line:
            raise EOFError
    except (EOFError, KeyboardInterrupt) as end:
        print(file=terminal, flush=True)  # what is said next begins a line
        if isinstance(end, KeyboardInterrupt):
            raise
        raise LoginRequired("no answer was given") from None
    return line.rstrip("\n")


def _shown(text: str) -> list[str]:
    lines = text.splitlines() or [""]
    kept = [harmless(line)[:MAX_PROMPT_COLUMNS] for line in lines[-MAX_PROMPT_LINES:]]
    return [line.rstrip() for line in kept[:-1]] + kept[-1:]
