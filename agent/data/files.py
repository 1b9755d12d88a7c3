"""Files as data: their checksums, and the records that say where they are. Reads files; may take long."""

from __future__ import annotations

import glob
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

from ..config import LOCAL_SITE
from ..models import JobDefn, Metasheet

CHUNK_BYTES = 1 << 20
MAX_REMEMBERED = 4096
SETTLED_S = 2.0
"""A file changed more recently than this may change again without its times telling; its checksum is not remembered."""
_Seen = tuple[int, int, int, int]


class FileRecorder:
    """Describes files of this host, as data of the local site. Remembers the checksums of files that have not changed since."""

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._checksums: dict[str, tuple[_Seen, str]] = {}

    def describe(self, path: Path, op: str) -> Metasheet:
        """What is known of a file or directory; ``sha256`` of regular files only.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        absolute = os.path.abspath(path)
        found = os.stat(absolute)
        regular = os.path.isfile(absolute)
        return Metasheet(
            op=op,
            site=LOCAL_SITE,
            url=file_url(self._host, absolute),
            path=absolute,
            host=self._host,
            size_bytes=found.st_size if regular else None,
            sha256=self.checksum(absolute) if regular else None,
        )

    def declared(self, defn: JobDefn, job_id: str) -> list[Metasheet]:
        """The inputs and outputs that a definition declares, as far as they are there now."""
        sheets = []
        for op, path in declared_paths(defn):
            try:
                sheet = self.describe(Path(path), op)
            except OSError:
                continue
            sheets.append(Metasheet.from_json({**sheet.to_json(), "properties": {"declared": True}, "job_id": job_id}))
        return sheets

    def checksum(self, path: str) -> str:
        """SHA-256 of a file's content, in hexadecimal."""
        found = os.stat(path)
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        remembered = self._checksums.get(path)
        if remembered is not None and remembered[0] == seen:
            return remembered[1]
        digest = checksum(Path(path))
        if time.time() - found.st_mtime > SETTLED_S:
            if len(self._checksums) >= MAX_REMEMBERED:
                self._checksums.clear()
            self._checksums[path] = (seen, digest)
        return digest


def declared_paths(defn: JobDefn) -> Iterator[tuple[str, str]]:
    """``get`` or ``put``, and the path, of each input and output that a definition declares and this host sees now."""
    for op, names in (("get", defn.inputs), ("put", defn.outputs)):
        for name in names:
            pattern = os.path.join(defn.cwd or "/", name)
            for path in [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern)):
                yield op, path


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            piece = file.read(CHUNK_BYTES)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file; zeros for what it has no more, as when it was made shorter at this moment.

    Whoever gets them compares the checksum.
    """
    left = size
    while left:
        piece = file.read(min(CHUNK_BYTES, left)) or b"\0" * min(CHUNK_BYTES, left)
        left -= len(piece)
        yield piece


def file_url(host: str, path: str) -> str:
    """``file://HOST/PATH``, percent-encoded from the path's bytes (RFC 8089)."""
    return f"file://{host}{quote(os.fsencode(path))}"
