"""The end of what a program wrote beside its stream, kept within bounds."""

from __future__ import annotations

import threading

MAX_BYTES = 16 * 1024


class Tail:
    """The last bytes that were added. For threads."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most = most
        self._kept = bytearray()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        """Keep the end of what there is with ``data``."""
        with self._lock:
            self._kept += data
            del self._kept[: -self._most]

    def text(self) -> str:
        """What is kept."""
        with self._lock:
            return self._kept.decode("utf-8", "replace")
