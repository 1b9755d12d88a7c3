"""What has come, kept account of: counted, and recorded by the agent of this side while more comes."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from ..records import JSON
from .contents import Asked, Moved
from .missing import Wanted

RECORD_FILES = 200
RECORD_INTERVAL_S = 2.0


class Arrivals:
    """The files that have come from one sender.

    Args:
        agent: records them; told in a thread of its own.
    """

    def __init__(self, agent: Asked):
        self._agent = agent
        self.moved = Moved()
        """What became of all that was wanted."""
        self._recorder = ThreadPoolExecutor(1, "lwfm-record")
        self._recording: Optional[Future[None]] = None
        self._copies: list[JSON] = []
        self._blobs: list[str] = []
        self._recorded_at = time.monotonic()

    def came(self, file: Wanted, path: Path) -> None:
        """A file has come, and is at ``path``."""
        self._count(file)
        self._note(file, path)

    def came_small(self, file: Wanted, data: bytes) -> None:
        """An output has come that goes into the store."""
        self._blobs.append(base64.b64encode(data).decode("ascii"))
        self._count(file)

    def was_here(self, file: Wanted, path: Path) -> None:
        """A file has turned out to be at ``path`` already."""
        self.moved.found += 1
        self._note(file, path)

    def record_if_time(self) -> None:
        """Have what has come recorded, if that is much, or has waited for long, and the last has been."""
        waiting = len(self._copies) + len(self._blobs)
        if waiting >= RECORD_FILES or time.monotonic() - self._recorded_at > RECORD_INTERVAL_S:
            if self._recording is not None and not self._recording.done():
                return
            self._await_record()
            self._recorded_at = time.monotonic()
            self._recording = self._recorder.submit(self._tell_agent, *self._taken())

    def record(self) -> None:
        """Have all that has come recorded. Waits for it."""
        self._await_record()
        self._tell_agent(*self._taken())

    def close(self) -> None:
        """End the thread."""
        self._recorder.shutdown()

    def _count(self, file: Wanted) -> None:
        self.moved.files += 1
        self.moved.bytes += file.size

    def _note(self, file: Wanted, path: Path) -> None:
        if not file.output:
            self._copies.append({"sha256": file.sha256, "size": file.size, "path": str(path), "of": file.record})

    def _taken(self) -> tuple[list[JSON], list[str]]:
        copies, self._copies = self._copies, []
        blobs, self._blobs = self._blobs, []
        return copies, blobs

    def _await_record(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.result()

    def _tell_agent(self, copies: Sequence[JSON], blobs: Sequence[str]) -> None:
        """While the next files come. What is not told because this fails is found to be here the next time."""
        for start in range(0, len(copies), RECORD_FILES):
            told = {"copies": copies[start : start + RECORD_FILES]}
            self._agent.post("/v1/contents/arrived", told, repeatable=True)
        for start in range(0, len(blobs), RECORD_FILES):
            outputs = {"outputs": blobs[start : start + RECORD_FILES]}
            self._agent.post("/v1/contents/outputs", outputs, repeatable=True)
