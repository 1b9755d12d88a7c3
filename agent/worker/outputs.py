"""What jobs print: files in the spool, used again and again, so that a job makes no file of its own.

Owns ``out/`` of the spool. A *slot* is a pair of files ``<slot>.out`` and ``<slot>.err`` lent to one job at a time. When
the job has ended, little output goes into the event that tells the agent and the files are emptied for the next job;
much output keeps its file under the job's name until the agent has taken it over.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from typing import Optional

from ..jsontext import compact_ascii
from .disk import unlink
from .jobs import Job

INLINE_BYTES = 64 * 1024
EXCERPT_BYTES = 4096
MAX_READ_BYTES = 1024 * 1024
STREAMS = ("stdout", "stderr")
NOTHING = '{"size":0}'


class Outputs:
    """The output files of one spool."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._free: list[int] = []
        self._count = 0
        self._to_empty: list[tuple[int, list[str], bool]] = []

    def slot_files(self, slot: int) -> tuple[str, str]:
        """The paths of a slot's files, standard output first. They may not exist yet."""
        return f"{self.directory}/{slot}.out", f"{self.directory}/{slot}.err"

    def acquire(self) -> int:
        """A slot whose files are empty or do not exist."""
        if self._free:
            return self._free.pop()
        self._count += 1
        return self._count - 1

    def release(self, slot: int) -> None:
        """Take back a slot nobody has written to."""
        self._free.append(slot)

    def restore(self, jobs: Iterable[Job]) -> None:
        """Take over a directory as an earlier process left it, with what belongs to ``jobs``; all else goes."""
        wanted: set[str] = set()
        in_use: set[int] = set()
        for job in jobs:
            wanted.update(os.path.basename(path) for path in job.output_paths.values())
            if job.slot is not None:
                in_use.add(job.slot)
                wanted.update(os.path.basename(path) for path in self.slot_files(job.slot))
                wanted.update(os.path.basename(self._own_file(job, stream)) for stream in STREAMS)
        self._count = max(in_use, default=-1) + 1
        self._free = [slot for slot in range(self._count - 1, -1, -1) if slot not in in_use]
        for name in os.listdir(self.directory):
            if name not in wanted:
                unlink(f"{self.directory}/{name}")

    def collect(self, job: Job, *, shared: bool) -> list[str]:
        """What an ended job printed, standard output first, as JSON for the ``ended`` event.

        The slot is free again after the next :meth:`empty_collected`, so that nothing is emptied before the journal has
        it. Large output stays in a file of the job's, whose path is entered in ``job.output_paths``.

        Args:
            shared: something may still hold the files open: they are not used again.
        """
        assert job.slot is not None
        slot, job.slot = job.slot, None
        described: list[str] = []
        filled: list[str] = []
        for stream, path in zip(STREAMS, self.slot_files(slot)):
            own = self._own_file(job, stream)
            size = self.size(path)
            if size == 0 and job.adopted and os.path.exists(own):
                # Renamed by a loop that did not live to tell.
                described.append(self._describe_large(job, stream, own))
                continue
            data = self._beginning(path) if 0 < size <= INLINE_BYTES else None
            if size and data is None and _renamed(path, own):
                described.append(self._describe_large(job, stream, own))
            elif size:
                data = self._beginning(path) or b"" if data is None else data
                described.append(f'{{"size":{len(data)},"data":"{base64.b64encode(data).decode("ascii")}"}}')
                filled.append(path)
            else:
                described.append(NOTHING)
                if shared:
                    unlink(path)
        if filled:
            self._to_empty.append((slot, filled, shared))
        else:
            self._free.append(slot)
        return described

    @staticmethod
    def _beginning(path: str) -> Optional[bytes]:
        """So much of an output as is told at once; None when it cannot be read now, as for want of descriptors."""
        try:
            with open(path, "rb", buffering=0) as source:
                return source.read(INLINE_BYTES) or b""
        except OSError:
            return None

    def is_full(self) -> bool:
        """Whether the disk under them takes nothing more."""
        try:
            found = os.statvfs(self.directory)
        except OSError:
            return False
        return found.f_bavail == 0

    def empty_collected(self) -> None:
        """Empty what has been collected: the journal has it now."""
        for slot, paths, shared in self._to_empty:
            for path in paths:
                if shared:
                    unlink(path)
                    continue
                try:
                    os.truncate(path, 0)
                except OSError:
                    unlink(path)
            self._free.append(slot)
        self._to_empty.clear()

    def forget(self, paths: Iterable[str]) -> None:
        """Remove large outputs that have been taken over."""
        for path in paths:
            unlink(path)

    def size(self, path: str) -> int:
        """Bytes in an output file now."""
        try:
            return os.stat(path).st_size
        except OSError:
            return 0

    def read(self, path: str, offset: int, limit: int) -> bytes:
        """A piece of an output file; empty beyond its end."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, max(0, min(limit, MAX_READ_BYTES)), offset)
        finally:
            os.close(fd)

    def path_of(self, job: Job, stream: str) -> Optional[str]:
        """The file that holds a job's stream now; None when there is none (any more)."""
        if job.slot is not None:
            return self.slot_files(job.slot)[STREAMS.index(stream)]
        return job.output_paths.get(stream)

    def _own_file(self, job: Job, stream: str) -> str:
        return f"{self.directory}/{job.key[0]}.{job.key[1]}.{stream}"

    def _describe_large(self, job: Job, stream: str, path: str) -> str:
        job.output_paths[stream] = path
        size = self.size(path)
        head = self.read(path, 0, EXCERPT_BYTES)
        tail = self.read(path, max(0, size - EXCERPT_BYTES), EXCERPT_BYTES)
        return compact_ascii(
            {
                "size": size,
                "path": path,
                "head": base64.b64encode(head).decode("ascii"),
                "tail": base64.b64encode(tail).decode("ascii"),
            }
        )


def _renamed(path: str, new: str) -> bool:
    try:
        os.rename(path, new)
    except OSError:
        return False  # then its beginning is told, like that of a small one
    return True
