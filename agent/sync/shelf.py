"""The files of a bundle, given to a receiver of contents as another instance would give them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..client import Client
from ..errors import LwfmError
from ..paths import Home
from .contents import SMALL_BYTES, Moved, Tell
from .frames import Cut, Line
from .receiver import Receiver
from .sender import asked_for
from .streams import FileStream, SocketStream
from .wanted import DataRequest

Places = Mapping[str, "tuple[int, int]"]


def fetch_from_bundle(
    source: Path, places: Places, client: Client, home: Home, request: DataRequest, tell: Tell
) -> Moved:
    """Fetch the files of a bundle that are wanted and not here.

    Args:
        places: by checksum, where in ``source`` the pieces of a file begin, and its size.
    """
    near, far = socket.socketpair()
    giver = threading.Thread(target=_give, args=(far, source, places), name="lwfm-bundle", daemon=True)
    giver.start()
    try:
        return Receiver(Line(SocketStream(near)), client, home, request, tell, places).run()
    finally:
        near.close()
        giver.join()


def _give(end: socket.socket, source: Path, places: Places) -> None:
    line = Line(SocketStream(end))
    try:
        with source.open("rb") as file:
            while True:
                head = line.receive().head
                if head["t"] == "enough":
                    return
                if head["t"] == "fetch":
                    for item in asked_for(head):
                        _give_file(line, file, places, item)
                    line.send({"t": "served"})
    except (Cut, OSError):
        return
    except LwfmError as error:
        try:
            line.send({"t": "error", "error": error.to_json()})
        except Cut:
            return
    finally:
        end.close()


def _give_file(line: Line, file: Any, places: Places, item: Mapping[str, Any]) -> None:
    sha256, size, offset = item["sha256"], item["size"], item["offset"]
    place = places.get(sha256)
    if place is None or place[1] != size:
        line.send({"t": "absent", "files": [[sha256, "is not in the bundle"]]})
        return
    file.seek(place[0])
    pieces = Line(FileStream(file))
    if size <= SMALL_BYTES and not offset:
        content = b""
        while len(content) < size:
            content += pieces.receive("piece").body
        line.send({"t": "small", "files": [[sha256, size]]}, content)
        return
    line.send({"t": "large", "sha256": sha256, "size": size, "from": offset})
    passed = 0
    while passed < size:
        piece = pieces.receive("piece").body
        wanted = piece[max(0, offset - passed) :]
        if wanted:
            line.send({"t": "piece"}, wanted)
        passed += len(piece)
