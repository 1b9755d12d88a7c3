"""A single file over a line, either way: whole, verified, and gone on with where it broke off.

=============  ==========  =================================================================================
``offer``      near → far  ``sha256``, ``size``, ``name``, ``path``: where it shall lie
``room``       far → near  ``from``: what is to come begins there; or ``path``: it is there already
``piece``      sender      the body is the next piece
``kept``       far → near  ``path``: where it lies now
``bring``      near → far  ``path``, ``from``: what is wanted of a file
``found``      far → near  ``size``, ``sha256``: of the whole file; its pieces follow. Or ``tree``: the files of a directory
``remove``     near → far  ``path``: of what is to be removed; answered by ``removed``
=============  ==========  =================================================================================

What goes wrong with a file is answered as an error that does not end the line (``failed``); what was announced is sent first.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..data.contents import ContentStore, harmless_name, is_sha256
from ..data.files import checksum, pieces
from ..errors import LwfmError, NotFound, SiteError, StoreFull, from_json
from ..paths import Home
from ..sites.base import StoredData
from ..sites.local import LocalRepo
from .frames import Frame, Line, Refused

MAX_FILE_BYTES = 1 << 50
MAX_TREE_FILES = 100_000
ASKED = ("offer", "bring", "remove")
"""The frames that :func:`answer` answers."""


class Offer(NamedTuple):
    """A file that is to be copied to the other side.

    Args:
        name: for a copy without a place. ``path``: where it shall lie, absolute or below the repository of the other instance.
    """

    sha256: str
    size: int
    name: str
    path: str


def send(line: Line, offer: Offer, source: Path) -> str:
    """As the near side: copy ``source`` there; its path there.

    Raises:
        LwfmError: it cannot be kept there. Cut: the line has ended; what has come is gone on with next time.
    """
    line.send({"t": "offer", **offer._asdict()})
    head = _answer(line, "room")
    if "path" in head:
        return str(head["path"])
    with source.open("rb") as file:
        file.seek(int(head["from"]))
        for piece in pieces(file, offer.size - int(head["from"])):
            line.send({"t": "piece"}, piece)
    return str(_answer(line, "kept")["path"])


def send_tree(line: Line, source: Path, place: str) -> str:
    """As the near side: copy the files of a directory to ``place`` there; its path there. Raises like :func:`send`."""
    inside = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    if not inside:
        raise NotFound(f"there is no file in {source}")
    for name in inside:
        path = source / name
        offer = Offer(checksum(path), path.stat().st_size, path.name, f"{place}/{name}")
        there = send(line, offer, path)
    return there[: -len(name) - 1]


def remove(line: Line, path: str) -> None:
    """As the near side: remove a file or directory there."""
    line.send({"t": "remove", "path": path})
    _answer(line, "removed")


def fetch(line: Line, path: str, sha256: Optional[str], target: Path) -> tuple[Optional[str], Optional[int]]:
    """As the near side: bring what is at ``path`` there to ``target``; of a file its checksum and size.

    Raises:
        NotFound: it is not there. SiteError: it is not what it was, or cannot be written here. Cut: the line has ended.
    """
    line.send({"t": "bring", "path": path})
    head = _answer(line, "found")
    target.parent.mkdir(parents=True, exist_ok=True)
    if "tree" in head:
        for name in _inside(head["tree"]):
            fetch(line, f"{path.rstrip('/')}/{name}", None, target / name)
        return None, None
    part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident():x}.part")
    size = head.get("size")
    if not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise Refused("the other side tells no size of a file")
    problem: Optional[OSError] = None
    try:
        try:
            file = part.open("xb")
        except OSError as error:
            file, problem = open(os.devnull, "wb"), error  # noqa: SIM115 - closed below
        with file:
            left = size
            while left:
                piece = line.receive("piece").body
                left -= len(piece)
                if not piece or left < 0:
                    raise Refused("the other side sent another length of a file than it told")
                try:
                    if problem is None:
                        file.write(piece)
                except OSError as error:
                    problem = error  # the rest is on its way all the same
            if problem is None:
                file.flush()
                os.fsync(file.fileno())
        if problem is not None:
            raise SiteError(f"cannot write {target}: {problem.strerror}")
        digest = checksum(part)
        if digest != (sha256 or head.get("sha256")) or digest != head.get("sha256"):
            raise SiteError(f"{path} is not what it was when it was recorded: its checksum differs")
        os.replace(part, target)
        return digest, size
    finally:
        part.unlink(missing_ok=True)


def answer(line: Line, frame: Frame, home: Home) -> None:
    """As the far side: do what a frame ``offer``, ``bring`` or ``remove`` asks for."""
    try:
        if frame.head["t"] == "offer":
            _take(line, frame.head, home)
        elif frame.head["t"] == "bring":
            _give(line, _path_in(frame.head))
        else:
            path = _path_in(frame.head)
            LocalRepo(home.repository).remove(StoredData("", path))
            line.send({"t": "removed"})
    except OSError as error:
        line.send({"t": "failed", "error": SiteError(f"{error.filename or 'the file'}: {error.strerror}").to_json()})
    except LwfmError as error:
        if isinstance(error, Refused) or error.transient:
            raise
        line.send({"t": "failed", "error": error.to_json()})


def _take(line: Line, head: dict[str, Any], home: Home) -> None:
    sha256, size, path = head.get("sha256"), head.get("size"), head.get("path")
    if not is_sha256(sha256) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise Refused("the other side offers a file without saying what it is")
    if not isinstance(path, str) or "\0" in path or not path.strip():
        raise Refused("the other side offers a file for no place")
    name = harmless_name(head.get("name"))
    store = ContentStore(home.contents)
    repo, place = LocalRepo(home.repository), os.path.expanduser(path)
    kept = store.find(str(sha256), size, name)
    if kept is not None:  # a copy that a sync has brought, which stays
        line.send({"t": "room", "path": repo.put(kept, place, {}).path})
    else:
        if store.room_bytes() < size:
            raise StoreFull(f"{store.directory} has no room for {size} bytes")
        incoming = store.begin(str(sha256), size, name)
        if incoming is None:
            raise SiteError(f"{name} is being sent there by another process")
        try:
            line.send({"t": "room", "from": incoming.offset})
            while incoming.offset < size:
                incoming.write(line.receive("piece").body)
            incoming.verify()
            incoming.sync()
            kept = incoming.finish()
        except BaseException:
            incoming.leave()
            raise
        placed = repo.put(kept, place, {}).path
        kept.unlink()
        line.send({"t": "kept", "path": placed})


def _path_in(head: dict[str, Any]) -> str:
    path = head.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise Refused("the other side asks for a file without saying which")
    return path


def _inside(told: Any) -> list[str]:
    """The names of a directory's files, none of which leads out of it."""
    if not isinstance(told, list) or len(told) > MAX_TREE_FILES:
        raise Refused("the other side tells no list of files")
    for name in told:
        parts = name.split("/") if isinstance(name, str) else [""]
        if not all(parts) or ".." in parts or "." in parts or "\0" in name:
            raise Refused("the other side tells of a file that is not in its directory")
    return told


def _give(line: Line, path: str) -> None:
    if os.path.isdir(path):
        tree = [item.relative_to(path).as_posix() for item in sorted(Path(path).rglob("*")) if item.is_file()]
        if len(tree) > MAX_TREE_FILES:
            raise SiteError(f"{path} has more than {MAX_TREE_FILES} files", hint="put them into an archive")
        line.send({"t": "found", "tree": tree})
        return
    if not os.path.isfile(path):
        raise NotFound(f"{path} is gone")
    digest = checksum(Path(path))
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        line.send({"t": "found", "size": size, "sha256": digest})
        for piece in pieces(file, size):
            line.send({"t": "piece"}, piece)


def _answer(line: Line, kind: str) -> dict[str, Any]:
    head = line.receive().head
    if head["t"] == "failed":
        error: LwfmError = from_json(head.get("error") or {})
        raise error
    if head["t"] != kind:
        raise Refused(f"the other side sent {str(head['t'])[:40]!r} where {kind!r} was to come")
    return head
