"""The terminal's last line, which shows how far something is, and all other output, which goes above it."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable


class Screen:
    """The terminal's last line, and everything that is written above it. Threads may share it."""

    def __init__(self) -> None:
        self.colours = not os.environ.get("NO_COLOR")
        self._lock = threading.RLock()
        self._footer = ""
        self._shown = False
        self._at_line_start = True

    def set_footer(self, facts: str, bar: str, bar_width: int) -> None:
        """Show ``bar`` and ``facts``, cut to the terminal's width; nothing when both are empty."""
        import shutil

        columns = shutil.get_terminal_size().columns - 1
        room = columns - bar_width - 1
        footer = f"{bar} {facts[:room]}" if bar and room >= len(facts) else facts[:columns]
        with self._lock:
            if footer != self._footer or not self._shown:
                self._hide()
                self._footer = footer
                self._draw()

    def write(self, write: Callable[[], Any], ends_line: bool) -> None:
        """Let ``write`` write above the footer; ``ends_line``: whether the cursor is at a line's start after it."""
        with self._lock:
            self._hide()
            write()
            self._at_line_start = ends_line
            self._draw()

    def _hide(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def _draw(self) -> None:
        if self._footer and self._at_line_start:
            sys.stderr.write(self._footer)
            sys.stderr.flush()
            self._shown = True
