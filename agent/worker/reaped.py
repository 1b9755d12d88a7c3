"""How processes ended that lost their loop: written by the keeper, read by the next loop.

Owns the spool's files ``reaped.<generation>``. A keeper writes to the file of the generation of its present or last loop,
so a loop finds in the files before its own all that happened until it was started, and in its own what happens since.
Kept free of imports: the keeper shall stay small.
"""

from __future__ import annotations

import os

PREFIX = "reaped."


class Reaped:
    """One process that has ended: ``start_s`` tells which one of that pid, ``session`` whether it led one."""

    __slots__ = ("cpu_seconds", "max_rss_bytes", "pid", "read_bytes", "session", "start_s", "status", "write_bytes")

    def __init__(
        self,
        pid: int,
        status: int,
        start_s: float,
        session: int,
        cpu_seconds: float,
        max_rss_bytes: int,
        read_bytes: int,
        write_bytes: int,
    ) -> None:
        self.pid, self.status, self.start_s, self.session = pid, status, start_s, session
        self.cpu_seconds, self.max_rss_bytes = cpu_seconds, max_rss_bytes
        self.read_bytes, self.write_bytes = read_bytes, write_bytes

    def line(self) -> str:
        """The record as a line of text."""
        return (
            f"{self.pid} {self.status} {self.start_s!r} {self.session} {self.cpu_seconds!r} {self.max_rss_bytes}"
            f" {self.read_bytes} {self.write_bytes}\n"
        )


def parse(text: str) -> list[Reaped]:
    """The records in whole lines of ``text``; what is no record is left out."""
    found = []
    for line in text.split("\n")[:-1]:
        words = line.split()
        try:
            pid, status, start, session, cpu, rss, read, written = words
            found.append(
                Reaped(int(pid), int(status), float(start), int(session), float(cpu), int(rss), int(read), int(written))
            )
        except ValueError:
            continue
    return found


def file_of(directory: str, generation: int) -> str:
    """The file of one generation."""
    return os.path.join(directory, f"{PREFIX}{generation}")


def generations(directory: str) -> list[int]:
    """The generations that have a file, the oldest first."""
    numbers = [name[len(PREFIX) :] for name in os.listdir(directory) if name.startswith(PREFIX)]
    return sorted(int(number) for number in numbers if number.isdigit())
