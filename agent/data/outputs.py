"""What jobs printed: small pieces in the store by their content, large ones as files of the instance.

Of the jobs of other instances likewise, once it was brought here: large pieces then lie by their content too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ..errors import NotFound
from ..host.private import private_directory
from ..records import JSON
from ..store import Transaction
from .contents import ContentStore, is_file_of, is_sha256
from .files import checksum

BROUGHT_BYTES = 64 * 1024
"""Up to this size what a job has printed elsewhere is brought when it has ended; the rest stays there until it is asked for."""

_OWN_FILE = re.compile(r"[\w-]{2}/[\w-]+\.\d+\.std(?:out|err)", re.ASCII)
"""What ``take_over`` calls files. The records of other instances may say anything."""
BROUGHT_NAME = "out"
"""What any output of other instances' jobs is called: several jobs may have printed the same."""


class OutputStore:
    """Keeps output and gives it back.

    Args:
        directory: where large outputs lie; made when the first comes.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self.brought = brought_outputs(directory)

    def keep(self, transaction: Transaction, data: bytes) -> JSON:
        """Keep a small piece in the store; the answer finds it again."""
        digest = hashlib.sha256(data).hexdigest()
        known = transaction.execute("select 1 from local_blobs where sha256 = ?", (digest,)).fetchone()
        if known is None:
            transaction.execute("insert into local_blobs values (?, ?, ?)", (digest, len(data), zlib.compress(data, 1)))
        return {"size": len(data), "sha256": digest}

    def take_over(self, source: Path, job_id: str, attempt: int, stream: str) -> JSON:
        """Move a large output file into the instance. May take long; not for the event loop.

        Moving it again after an interruption gives the same answer.
        """
        target = self._directory / job_id[-2:] / f"{job_id}.{attempt}.{stream}"
        if not target.exists() or source.exists():
            private_directory(self._directory)
            private_directory(target.parent)
            try:
                os.replace(source, target)
            except FileNotFoundError:
                if not target.exists():  # else it was moved at this moment: the worker told of it twice
                    raise
            except OSError:
                part = target.with_name(target.name + ".part")
                shutil.copyfile(source, part)
                os.replace(part, target)
        kept = str(target.relative_to(self._directory))
        return {"size": target.stat().st_size, "file": kept, "sha256": checksum(target)}

    def incoming(self, job_id: str, attempt: int, stream: str) -> Path:
        """Where to write an output that comes from another node, before it is taken over."""
        private_directory(self._directory)
        return self._directory / f".incoming.{job_id}.{attempt}.{stream}"

    def read(self, connection: Any, output: Optional[Mapping[str, Any]], offset: int, limit: int) -> bytes:
        """A piece of what is kept.

        Raises:
            NotFound: it is not kept here (any more).
        """
        if not output or not output.get("size"):
            return b""
        path = self.path_of(output)
        if path is not None:
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return bytes(file.read(limit))
            except OSError as error:
                raise NotFound(f"the output file {path} cannot be read: {error.strerror}") from error
        whole = self.small(connection, str(output.get("sha256")))
        if whole is None:
            what = f"the output file {output['file']} cannot be read" if "file" in output else "this output is not kept"
            raise NotFound(f"{what} here", hint="it may still be at the instance that ran the job")
        return whole[offset : offset + limit]

    def small(self, connection: Any, sha256: str) -> Optional[bytes]:
        """A piece that is kept in the store."""
        row = connection.execute("select data from local_blobs where sha256 = ?", (sha256,)).fetchone()
        return zlib.decompress(row[0]) if row else None

    def path_of(self, output: Mapping[str, Any]) -> Optional[Path]:
        """The file that holds a large output: as its job left it, or as it was brought from elsewhere."""
        sha256, size = output.get("sha256"), output.get("size")
        name = output.get("file")
        if isinstance(name, str) and _OWN_FILE.fullmatch(name):
            path = self._directory / name
            if isinstance(size, int) and is_file_of(str(path), size):
                return path
        if isinstance(sha256, str) and is_sha256(sha256) and isinstance(size, int):
            return self.brought.find(sha256, size, BROUGHT_NAME)
        return None


def brought_outputs(directory: Path) -> ContentStore:
    """Where large outputs that come from other instances lie, of an instance that has its own in ``directory``."""
    return ContentStore(directory / "contents")
