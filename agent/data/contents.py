"""Copies of files by their content: ``DIRECTORY/ab/SHA256-NAME``, each whole and verified, or a part that is gone on with.

The part is called ``SHA256.part``; one process at a time writes it, the kernel's lock on it tells. The names of copies come
from whoever recorded the file: nothing of them reaches a path before :func:`harmless_name`. No copy has a directory of its
own: making one takes longer than writing a small file. Knows neither store nor peers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..errors import InsecureState, SiteError
from ..host import locks
from ..host.private import private_directory

MAX_NAME_BYTES = 180
"""With the checksum in front it must fit into the 255 bytes that file systems give a name."""
MAX_SUFFIX_BYTES = 20
CHUNK_BYTES = 1 << 20
FLUSH_BYTES = 32 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CONTENT = re.compile(r"\A[0-9a-f]{64}-", re.ASCII)
_UNFIT = re.compile(r"[\x00-\x1f/\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_OPEN_PART = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class WrongContent(SiteError):
    """What came is not what its checksum says."""


def is_sha256(text: object) -> bool:
    """Whether it is a checksum as records have it."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def name_of(path: str) -> str:
    """The name of the file at ``path``; of a copy in a store of copies, the name that it had before."""
    return _CONTENT.sub("", path.rstrip("/").rpartition("/")[2], count=1)


def harmless_name(path: object) -> str:
    """A name for a copy of the file that somebody recorded under ``path``: one that can do nothing but name it.

    No directories, no control or direction characters, no dot, dash or blank in front, at most ``MAX_NAME_BYTES``, its
    suffix kept; ``data`` where nothing is left. Of a copy that another store of copies has, the name that it had before.
    """
    name = name_of(path) if isinstance(path, str) else ""
    name = _UNFIT.sub("_", name if len(name) < 1000 else name[:500] + name[-100:]).lstrip(" .-~").rstrip()
    if len(name.encode()) > MAX_NAME_BYTES:
        stem, dot, suffix = name.rpartition(".")
        ending = (dot + suffix).encode()
        if not stem or len(ending) > MAX_SUFFIX_BYTES:
            stem, ending = name, b""
        name = (stem.encode()[: MAX_NAME_BYTES - len(ending)]).decode("utf-8", "ignore") + ending.decode()
    return name or "data"


class ContentStore:
    """A directory of copies. Processes may share it.

    Args:
        directory: made, for the owner alone, when the first copy comes.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._made: set[str] = set()
        """Directories that are known to be ours."""

    def find(self, sha256: str, size: int, name: str) -> Optional[Path]:
        """The copy of a content that is called ``name``, as far as its size tells."""
        path = f"{self._place(sha256)}-{name}"
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return Path(path) if stat.S_ISREG(found.st_mode) and found.st_size == size else None

    def part_bytes(self, sha256: str) -> int:
        """How much of a content is here as a part."""
        try:
            return os.lstat(_part_of(self._place(sha256))).st_size
        except OSError:
            return 0

    def begin(self, sha256: str, size: int, name: str, *, resume: bool = True) -> Optional[Incoming]:
        """Receive a content, or what is missing of it; None: another process does.

        Args:
            sha256, size: what will have to be true of it. name: what the copy shall be called, harmless.
            resume: go on with a part that is there.

        Raises:
            OSError: it cannot be written. InsecureState: something of somebody else's is in the way.
        """
        place = self._place(sha256)
        part = _part_of(place)
        self._make(os.path.dirname(place))
        while True:
            descriptor = os.open(part, _OPEN_PART, 0o600)
            try:
                if not locks.take(descriptor):
                    os.close(descriptor)
                    return None
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                    raise InsecureState(f"{part} is not a file of ours", hint="remove it")
                if stat.S_IMODE(found.st_mode) != 0o600:
                    os.fchmod(descriptor, 0o600)
                if not _is_still(part, found):
                    os.close(descriptor)  # whoever held the lock has just finished
                    continue
                return Incoming(descriptor, place, size, sha256, name, found.st_size, resume)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
                raise

    def keep(self, whole: Sequence[tuple[str, str, bytes]]) -> list[Optional[Path]]:
        """Keep small contents that have come whole and were verified: their copies; None: another process receives that one.

        All are written before the first is waited for: a file system with a journal brings them to the disk together.

        Args:
            whole: of each its sha256, what the copy shall be called, and its bytes.

        Raises:
            OSError: one cannot be written; none of those that have not got their names stays. InsecureState: as ``begin``.
        """
        with contextlib.ExitStack() as held:
            coming: list[Optional[Incoming]] = []
            for sha256, name, data in whole:
                incoming = self.begin(sha256, len(data), name, resume=False)
                if incoming is not None:
                    held.callback(incoming.discard)
                    incoming.write(data)
                    incoming.flush()
                coming.append(incoming)
            for incoming in coming:
                if incoming is not None:
                    incoming.sync()
            return [incoming.finish() if incoming is not None else None for incoming in coming]

    def _make(self, directory: str) -> None:
        """Make the directory of some contents, or see that it is ours and no link."""
        if directory in self._made:
            return
        if not self._made:
            private_directory(self.directory)
        _own_directory(directory)
        self._made.add(directory)

    def room_bytes(self) -> int:
        """How much more the file system takes, for a user who is not root."""
        place = self.directory
        while not place.exists() and place != place.parent:
            place = place.parent
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize

    def _place(self, sha256: str) -> str:
        """How the paths of a content begin."""
        if not is_sha256(sha256):
            raise ValueError(f"{sha256!r} is not a checksum")
        return f"{self.directory}/{sha256[:2]}/{sha256}"


class Incoming:
    """A content on its way in; made by :meth:`ContentStore.begin`, ended by one of ``finish``, after ``verify`` and
    ``sync``, ``leave`` and ``discard``.

    What of it is there already is read once, for the checksum. ``offset``: where to go on.
    """

    def __init__(self, descriptor: int, place: str, size: int, sha256: str, name: str, length: int, resume: bool):
        self._descriptor = descriptor
        self._place = place
        self._size = size
        self._sha256 = sha256
        self._name = name
        self._digest = hashlib.sha256()
        self._failed = 0
        self.offset = 0
        there = length if resume and length <= size else 0
        while self.offset < there:
            piece = os.pread(descriptor, min(CHUNK_BYTES, there - self.offset), self.offset)
            if not piece:
                break
            self._digest.update(piece)
            self.offset += len(piece)
        self._flushed = self.offset
        if length != self.offset:
            os.ftruncate(descriptor, self.offset)
        if self.offset:
            os.lseek(descriptor, self.offset, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Append to it.

        Raises:
            WrongContent: that is more than there should be. OSError: it cannot be written.
        """
        if self.offset + len(data) > self._size:
            raise WrongContent(f"more came than the {self._size} bytes that were announced")
        if self._failed:
            raise OSError(self._failed, os.strerror(self._failed))
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:  # what comes after must not close the gap
                self._failed = error.errno or errno.EIO
                raise
            self._digest.update(view[:written])
            self.offset += written
            view = view[written:]
        if self.offset - self._flushed >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Have what was written go to the disk already, so that little is left for :meth:`sync` to wait for."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, self._flushed, self.offset - self._flushed, os.POSIX_FADV_DONTNEED)
        self._flushed = self.offset

    def verify(self) -> None:
        """See that all of it has come and is what it should be; else it is gone.

        Raises:
            WrongContent: its size or its checksum is another.
        """
        if self.offset != self._size or self._digest.hexdigest() != self._sha256:
            self.discard()
            raise WrongContent(f"what came is not what was recorded: its checksum is {self._digest.hexdigest()[:12]}…")

    def sync(self) -> None:
        """Wait until it is on the disk. Several threads may, each for another one: that takes hardly longer than for one alone."""
        os.fsync(self._descriptor)

    def finish(self) -> Path:
        """Make it a copy, under its name, once it is verified and on the disk."""
        target = f"{self._place}-{self._name}"
        try:
            os.rename(_part_of(self._place), target)
        finally:
            self.leave()
        return Path(target)

    def leave(self) -> None:
        """Let it be, to be gone on with."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Remove it."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(_part_of(self._place))
            self.leave()


def open_file(path: str, size: int) -> Optional[int]:
    """A descriptor on the regular file of that size at ``path``; None: there is none that can be read. Waits for nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size == size:
        return descriptor
    os.close(descriptor)
    return None


def is_file_of(path: str, size: int) -> bool:
    """Whether there is a regular file of that size at ``path`` that we may read."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size and os.access(path, os.R_OK)


def has_content(descriptor: int, sha256: str) -> bool:
    """Whether an open file has this content; its position does not matter, and stays. Raises OSError."""
    digest, offset = hashlib.sha256(), 0
    while True:
        piece = os.pread(descriptor, CHUNK_BYTES, offset)
        if not piece:
            return digest.hexdigest() == sha256
        digest.update(piece)
        offset += len(piece)


def _part_of(place: str) -> str:
    return f"{place}.part"


def _own_directory(path: str) -> None:
    """Make a directory, or see that there is one that is ours and no link.

    Raises:
        InsecureState: what is there is not ours.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise InsecureState(f"{path} is not a directory of ours", hint="remove it") from None


def _is_still(path: str, seen: os.stat_result) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (seen.st_dev, seen.st_ino)
