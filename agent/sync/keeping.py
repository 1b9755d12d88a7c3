"""Where contents that come are kept: the two places for them, the room there is, and the threads that wait for the disk."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from ..data.contents import ContentStore
from ..data.outputs import brought_outputs
from ..errors import SiteError, StoreFull
from ..paths import Home
from .arrivals import Arrivals
from .missing import Wanted

DISK_THREADS = 8
"""The disk is waited for in so many threads, each with up to KEPT_TOGETHER small files."""
KEPT_TOGETHER = 50
LOOK_FOR_ROOM_BYTES = 64 * 1024 * 1024
RESERVE = 0.05
"""This share of what is to come must be free beyond it."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Places:
    """Where the copies of an instance lie: those of data, and those of what jobs printed.

    Args:
        home: of the instance.
    """

    def __init__(self, home: Home):
        self.data = ContentStore(home.contents)
        self.outputs = brought_outputs(home.outputs)
        self._unlooked_bytes = 0

    def of(self, file: Wanted) -> ContentStore:
        """Where a file goes."""
        return self.outputs if file.output else self.data

    def part_bytes(self, file: Wanted) -> int:
        """How much of a file is there as a part."""
        return 0 if file.blob else min(file.size, self.of(file).part_bytes(file.sha256))

    def check_room(self, files: int, count: int, largest: Wanted) -> None:
        """Make sure that there is room for ``count`` bytes in so many files. Raises StoreFull."""
        needed, room = int(count * (1 + RESERVE)), self.data.room_bytes()
        if files and needed > room:
            raise StoreFull(
                f"{files} files need {needed} bytes with a reserve, {self.data.directory} has {room} left;"
                f" the largest is {largest.name} with {largest.size} bytes",
                hint="free some space, or ask for less, for instance with --max-size",
            )

    def look_for_room(self, file: Wanted, left: int, count: int) -> None:
        """Look now and then, as ``count`` more bytes have come, whether the ``left`` ones of a file still fit. Raises StoreFull."""
        self._unlooked_bytes += count
        if self._unlooked_bytes < LOOK_FOR_ROOM_BYTES:
            return
        self._unlooked_bytes = 0
        room = self.data.room_bytes()
        if room < left:
            raise StoreFull(f"{left} bytes of {file.name} are still to come, {self.data.directory} has {room} left")

    @contextmanager
    def errors_of(self, file: Wanted) -> Iterator[None]:
        """What the disk says against a file as ours: StoreFull, SiteError."""
        try:
            yield
        except OSError as error:
            directory = self.data.directory
            if error.errno in _NO_ROOM:
                raise StoreFull(
                    f"no space left in {directory} for {file.name}", hint="free some space; what came whole is kept"
                ) from error
            raise SiteError(f"cannot write {file.name} to {directory}: {error.strerror}") from error


class SmallFiles:
    """Small files on their way to the disk, written in threads, which mostly wait for it.

    Args:
        places: where they go. arrivals: told of those that are there.
    """

    def __init__(self, places: Places, arrivals: Arrivals):
        self._places = places
        self._arrivals = arrivals
        self._kept: deque[tuple[list[Wanted], Future[list[Optional[Path]]]]] = deque()
        self._threads = ThreadPoolExecutor(DISK_THREADS, "lwfm-disk")

    def keep(self, whole: Sequence[tuple[Wanted, bytes]]) -> None:
        """Have files written that have come whole and are what they should be."""
        for store in (self._places.data, self._places.outputs):
            own = [(file, data) for file, data in whole if self._places.of(file) is store]
            for start in range(0, len(own), KEPT_TOGETHER):
                part = own[start : start + KEPT_TOGETHER]
                contents = [(file.sha256, file.copy_name, data) for file, data in part]
                self._kept.append(([file for file, _ in part], self._threads.submit(store.keep, contents)))

    def collect(self, waiting: int = 0) -> None:
        """Take account of those that are on the disk; up to ``waiting`` files may still be waited for."""
        groups = waiting // KEPT_TOGETHER
        failed: Optional[tuple[Wanted, Future[Any]]] = None
        while self._kept and (failed or len(self._kept) > groups or self._kept[0][1].done()):
            files, kept = self._kept.popleft()
            if kept.exception() is not None:  # those that are well count all the same
                failed = failed or (files[0], kept)
                continue
            for file, path in zip(files, kept.result()):
                if path is None:
                    self._arrivals.moved.busy += 1
                else:
                    self._arrivals.came(file, path)
        if failed is not None:
            with self._places.errors_of(failed[0]):
                failed[1].result()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
