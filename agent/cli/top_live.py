"""``top`` on a terminal: drawn anew every few seconds until a key or a signal ends it; the terminal is left as it was.

A live view never starts an agent that has left while it looked on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from ..errors import AgentUnreachable
from .signals import ending_signals
from .snapshot import Snapshot, Watcher

if TYPE_CHECKING:
    from rich.console import Console

LOOK_S = 0.25
"""How often to look whether the terminal has another size."""


class _Left(Exception):
    """The process was told to end, by this signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Signals:
    """Signals that end us: they raise only where we wait, so that the terminal is never left half drawn."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting = False

    def _take(self, number: int, _: Any) -> None:
        self._number = number
        if self._waiting:
            raise _Left(number)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """While this lasts, the signals are ours."""
        with ending_signals(self._take):
            yield

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While this lasts a signal raises, one that came before it as well."""
        self._waiting = True
        try:
            if self._number:
                raise _Left(self._number)
            yield
        finally:
            self._waiting = False


def follow(watcher: Watcher, snapshot: Snapshot, interval_s: float, workflow: str | None) -> None:
    """Draw what ``watcher`` sees on the alternate screen, until q or Ctrl-C; leave the terminal as it was."""
    from rich.console import Console
    from rich.live import Live

    from .top_view import draw

    console = Console()
    signals = _Signals()
    trouble = ""

    def drawn() -> Any:
        return draw(snapshot, console.width, console.height, interval_s, workflow, trouble)

    try:
        with (
            signals.taken(),
            _keys() as pressed,
            Live(drawn(), console=console, screen=True, auto_refresh=False) as live,
        ):
            until = time.monotonic() + interval_s
            while True:
                with signals.raised():
                    if _wait(pressed, console, until):
                        return
                    if time.monotonic() >= until:
                        try:
                            snapshot, trouble = watcher.look(console.height), ""
                        except AgentUnreachable as error:
                            trouble = error.message
                        until = time.monotonic() + interval_s
                live.update(drawn(), refresh=True)
    except _Left as told:
        if told.number != signal.SIGINT:
            raise SystemExit(128 + told.number) from None


def _wait(pressed: Callable[[float], str], console: Console, until: float) -> bool:
    """Wait until then, or until the terminal has another size; whether ``q`` was pressed."""
    size_before = console.size
    while console.size == size_before:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        if pressed(min(left_s, LOOK_S)) in ("q", "Q"):
            return True
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and gives it, or nothing; keys are not shown meanwhile."""
    if not sys.stdin.isatty():

        def nothing(timeout_s: float) -> str:
            time.sleep(timeout_s)
            return ""

        yield nothing
        return
    import termios

    stream = sys.stdin.fileno()
    before = termios.tcgetattr(stream)
    mode = termios.tcgetattr(stream)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with the alternate screen

    def pressed(timeout_s: float) -> str:
        if not select.select([stream], [], [], timeout_s)[0]:
            return ""
        found = os.read(stream, 1)
        return found.decode("latin-1") if found else "q"  # the terminal has gone

    termios.tcsetattr(stream, termios.TCSADRAIN, mode)
    try:
        yield pressed
    finally:
        termios.tcsetattr(stream, termios.TCSAFLUSH, before)
