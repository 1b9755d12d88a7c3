"""Contents of files between two instances: what both sides of the exchange share, and its beginning on either side.

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

from ..errors import InvalidRecord
from ..paths import Home
from .frames import Frame, Line, Refused
from .wanted import DataRequest

JSON = dict[str, Any]

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
        return {**self.__dict__, "absent": [list(pair) for pair in self.absent], "refused": self._pairs()}

    def _pairs(self) -> list[list[str]]:
        return [list(pair) for pair in self.refused]

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


def pull(line: Line, agent: Asked, home: Home, request: DataRequest, tell: Tell = silent) -> Moved:
    """As the near side: bring here what a request means and the far side has.

    Raises:
        Cut: the connection ended; what had come whole is kept and recorded, the rest goes on next time.
        Refused: the other side does not keep to the exchange. StoreFull: there is no room here; nothing has moved.
    """
    from .receiver import Receiver

    line.send({"t": "contents", "way": "pull", "request": request.to_json()})
    return Receiver(line, agent, home, request, tell).run()


def push(line: Line, agent: Asked, request: DataRequest, tell: Tell = silent) -> Moved:
    """As the near side: bring there what a request means and the near side has; raises like :func:`pull`."""
    from .sender import Sender

    line.send({"t": "contents", "way": "push", "request": request.to_json()})
    return Sender(line, agent, request, tell).run()


def answer(line: Line, frame: Frame, agent: Asked, home: Home) -> Moved:
    """As the far side: do what a frame ``contents`` asks for; raises like :func:`pull`."""
    try:
        request = DataRequest.from_json(frame.head.get("request"))
    except InvalidRecord as error:
        raise Refused(f"the other side asks for what makes no sense: {error.message}") from None
    if frame.head.get("way") == "pull":
        from .sender import Sender

        return Sender(line, agent, request, silent).run()
    if frame.head.get("way") == "push":
        from .receiver import Receiver

        return Receiver(line, agent, home, request, silent).run()
    raise Refused("the other side wants contents moved in no direction")
