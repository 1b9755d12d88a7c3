"""Contents of files between two instances: what both sides of the exchange share. :mod:`.transfer` begins it.

The receiver drives, since once the records are equal it knows best what it lacks. It tells how much that is, then asks for
portions of files by their checksum; the sender answers each portion, and sends only what the request means. Frames
(those of the records, :mod:`.exchange`, come before, on the same line):

=============  ==========  =================================================================================
``contents``   near → far  ``way`` (``pull``: the far side sends, ``push``: it receives), ``request``
``wanted``     receiver    ``files``, ``bytes``: how much it lacks
``fetch``      receiver    ``files``: a list of [sha256, size, offset], of an output of a job also that job's id
``small``      sender      ``files``: a list of [sha256, size]; the body is these files, whole, one after the other
``large``      sender      ``sha256``, ``size``, ``from``: what follows are its pieces from that offset on
``piece``      sender      the body is the next piece of it
``absent``     sender      ``files``: a list of [sha256, why it does not come]; instead of a piece, the file is given up
``served``     sender      a portion is complete
``enough``     receiver    nothing more is wanted; what became of it, as :meth:`Moved.to_json`
=============  ==========  =================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

from ..records import JSON
from .frames import Refused

PORTION_FILES = 200
"""So many files are asked for at once: two such requests on their way fit into the buffers of any pipe (64 KiB), so that both
sides can never wait for each other."""
PORTION_BYTES = 16 * 1024 * 1024
SMALL_BYTES = 128 * 1024
"""Up to this size a file goes with others in one frame."""
MAX_TOLD = 100
"""So many files that did not come are named; the others are counted."""
MAX_REASON_CHARACTERS = 300


class Asked(Protocol):
    """The agent of one side, as :class:`~lwfm.client.Client` speaks to it."""

    def post(self, path: str, body: Any, *, repeatable: bool = False, timeout_s: float = ...) -> Any:
        """POST; the JSON of the answer."""


@dataclass(frozen=True)
class Pace:
    """How far it is: of ``total_files`` so many ``files``, of ``total_bytes`` so many ``bytes``; ``name``: the file it is at."""

    files: int = 0
    bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0
    name: str = ""


Tell = Callable[[Pace], None]


def silent(pace: Pace) -> None:
    """Tells nobody."""


class Pacer:
    """Counts how far it is, and tells.

    Args:
        tell: is told each step.
    """

    def __init__(self, tell: Tell):
        self._tell = tell
        self.pace = Pace()

    def begin(self, files: int, count: int) -> None:
        """So many files, with so many bytes in all, are to be moved."""
        self.pace = Pace(0, 0, files, count)
        self._tell(self.pace)

    def advance(self, files: int, count: int, name: str) -> None:
        """So many more files, and bytes, are done with; ``name``: the file it is at."""
        pace = self.pace
        self.pace = Pace(pace.files + files, pace.bytes + count, pace.total_files, pace.total_bytes, name)
        self._tell(self.pace)


@dataclass
class Moved:
    """What became of what was asked for.

    Args:
        files, bytes: that have come. found: files that another had recorded and that turned out to be here.
        absent: [name or checksum, why] of files that the sender does not have; refused: of files whose content was wrong.
        absent_files, refused_files: how many; only the first are named. busy: files that another process is fetching now.
    """

    files: int = 0
    bytes: int = 0
    found: int = 0
    busy: int = 0
    absent_files: int = 0
    refused_files: int = 0
    absent: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def miss(self, name: str, reason: str) -> None:
        """A file that the sender does not have."""
        self.absent_files += 1
        if len(self.absent) < MAX_TOLD:
            self.absent.append((name, reason))

    def refuse(self, name: str, reason: str) -> None:
        """A file that was not what it should have been."""
        self.refused_files += 1
        if len(self.refused) < MAX_TOLD:
            self.refused.append((name, reason))

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is at the receiver now."""
        return not (self.absent_files or self.refused_files or self.busy)

    def to_json(self) -> JSON:
        """As it travels, and for programs."""
        pairs = {name: [list(pair) for pair in getattr(self, name)] for name in ("absent", "refused")}
        return {**self.__dict__, **pairs}

    @classmethod
    def from_json(cls, body: JSON) -> Moved:
        """As the other side tells.

        Raises:
            Refused: it is nothing of the kind.
        """
        told = cls()
        for name in ("files", "bytes", "found", "busy", "absent_files", "refused_files"):
            setattr(told, name, whole_number(body.get(name, 0)))
        for name in ("absent", "refused"):
            setattr(told, name, reasons(body.get(name, []), MAX_TOLD))
        return told


def whole_number(value: Any) -> int:
    """A number of files or bytes that the other side tells. Raises Refused: it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused(f"the other side sent {str(value)[:40]!r} where a number of files or bytes was to come")
    return int(value)


def reasons(value: Any, most: int) -> list[tuple[str, str]]:
    """A list of [file, reason] that the other side tells. Raises Refused: it is none, or longer than ``most``."""
    if not isinstance(value, list) or len(value) > most:
        raise Refused("the other side sent something where a list of files was to come")
    found = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(word, str) for word in item):
            raise Refused("the other side named a file without telling what is with it")
        found.append((item[0][:MAX_REASON_CHARACTERS], item[1][:MAX_REASON_CHARACTERS]))
    return found
