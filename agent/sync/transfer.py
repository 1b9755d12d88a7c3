"""Contents of files brought here, or there, over a line: the beginning of the exchange on either side.

What is said is told by :mod:`.contents`; :mod:`.receiver` and :mod:`.sender` say it.
"""

from __future__ import annotations

from ..errors import InvalidRecord
from ..paths import Home
from .contents import Asked, Moved, Tell, silent
from .frames import Frame, Line, Refused
from .receiver import Receiver
from .sender import Sender
from .wanted import DataRequest


def pull(line: Line, agent: Asked, home: Home, request: DataRequest, tell: Tell = silent) -> Moved:
    """As the near side: bring here what a request means and the far side has.

    Raises:
        Cut: the connection ended; what had come whole is kept and recorded, the rest goes on next time.
        Refused: the other side does not keep to the exchange. StoreFull: there is no room here; nothing has moved.
    """
    line.send({"t": "contents", "way": "pull", "request": request.to_json()})
    return Receiver(line, agent, home, request, tell).run()


def push(line: Line, agent: Asked, request: DataRequest, tell: Tell = silent) -> Moved:
    """As the near side: bring there what a request means and the near side has; raises like :func:`pull`."""
    line.send({"t": "contents", "way": "push", "request": request.to_json()})
    return Sender(line, agent, request, tell).run()


def answer(line: Line, frame: Frame, agent: Asked, home: Home) -> Moved:
    """As the far side: do what a frame ``contents`` asks for; raises like :func:`pull`."""
    try:
        request = DataRequest.from_json(frame.head.get("request"))
    except InvalidRecord as error:
        raise Refused(f"the other side asks for what makes no sense: {error.message}") from None
    if frame.head.get("way") == "pull":
        return Sender(line, agent, request, silent).run()
    if frame.head.get("way") == "push":
        return Receiver(line, agent, home, request, silent).run()
    raise Refused("the other side wants contents moved in no direction")
