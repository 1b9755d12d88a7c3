"""What jobs printed: small pieces in the store by their content, large ones as files of the instance."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from .errors import NotFound
from .files import checksum
from .paths import private_directory
from .store import Transaction

JSON = dict[str, Any]


class OutputStore:
    """Keeps output and gives it back.

    Args:
        directory: where large outputs lie; made when the first comes.
    """

    def __init__(self, directory: Path):
        self._directory = directory

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
        if "file" in output:
            try:
                with (self._directory / output["file"]).open("rb") as file:
                    file.seek(offset)
                    return bytes(file.read(limit))
            except OSError as error:
                raise NotFound(f"the output file {output['file']} cannot be read: {error.strerror}") from error
        row = connection.execute("select data from local_blobs where sha256 = ?", (output.get("sha256"),)).fetchone()
        if row is None:
            raise NotFound("this output is not kept here", hint="it may still be at the instance that ran the job")
        whole: bytes = zlib.decompress(row[0])
        return whole[offset : offset + limit]
