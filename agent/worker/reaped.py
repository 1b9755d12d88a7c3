"""How processes ended that lost their loop: written by the keeper, read by the next loop.

Owns the spool's files ``reaped.<generation>``. A keeper writes to the file of the generation of its present or last loop,
so a loop finds in the files before its own all that happened until it was started, and in its own what happens since.
There are two lines for a process: one before the kernel forgets it, with its status, and one after, with what it used.
Kept free of imports: the keeper shall stay small.
"""

from __future__ import annotations

import os

PREFIX = "reaped."


class Reaped:
    """One process that has ended.

    ``start_s`` tells which one of that pid, ``session`` whether it led one. ``cpu_seconds`` None: not known (yet).
    """

    __slots__ = ("cpu_seconds", "max_rss_bytes", "pid", "read_bytes", "session", "start_s", "status", "write_bytes")

    def __init__(self, pid: int, status: int) -> None:
        self.pid, self.status = pid, status
        self.start_s = 0.0
        self.session = 0
        self.cpu_seconds: float | None = None
        self.max_rss_bytes = self.read_bytes = self.write_bytes = 0

    def line(self) -> str:
        """The record as a line of text."""
        return (
            f"{self.pid} {self.status} {self.start_s!r} {self.session} {self.cpu_seconds!r} {self.max_rss_bytes}"
            f" {self.read_bytes} {self.write_bytes}\n"
        )


def parse(text: str) -> list[Reaped]:
    """The records in whole lines of ``text``, one for each process; what is no record is left out."""
    found: dict[tuple[int, float], Reaped] = {}
    for line in text.split("\n")[:-1]:
        try:
            pid, status, start, session, cpu, rss, read, written = line.split()
            reaped = Reaped(int(pid), int(status))
            reaped.start_s, reaped.session = float(start), int(session)
            reaped.cpu_seconds = None if cpu == "None" else float(cpu)
            reaped.max_rss_bytes, reaped.read_bytes, reaped.write_bytes = int(rss), int(read), int(written)
        except ValueError:
            continue
        found[reaped.pid, reaped.start_s] = reaped
    return list(found.values())


def file_of(directory: str, generation: int) -> str:
    """The file of one generation."""
    return os.path.join(directory, f"{PREFIX}{generation}")


def generations(directory: str) -> list[int]:
    """The generations that have a file, the oldest first."""
    numbers = [name[len(PREFIX) :] for name in os.listdir(directory) if name.startswith(PREFIX)]
    return sorted(int(number) for number in numbers if number.isdigit())
