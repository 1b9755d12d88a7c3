"""What jobs, syncs and logs leave on the disk beside the history: outputs, copies of data, log files; and taking the old away.

Choosing reads, and may take long; what was chosen is looked at again where it is removed. Nothing that an open job needs is
removed, and no copy that is not recorded to be at another host too.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..clock import parse_utc
from ..host.locks import is_locked
from ..paths import Home
from ..store import Connection, Transaction, copies, log, needed

JSON = dict[str, Any]
BLOBS_AT_ONCE = 500
CONTENTS_AT_ONCE = 200
_OUTPUT_FILE = re.compile(r"(?P<job>[\w-]+)\.\d+\.std(?:out|err)(?:\.part)?", re.ASCII)
_COPY = re.compile(r"(?P<sha256>[0-9a-f]{64})(?:-.+|\.part)", re.ASCII | re.DOTALL)
_CHECKSUM = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ROTATED = re.compile(r".+\.log\.\d+", re.ASCII)


@dataclass(frozen=True)
class Limit:
    """What is to go.

    Args:
        before: only what is older, a time as the store has it. min_bytes: only what is as large.
    """

    before: str
    min_bytes: int = 0

    def fits(self, found: os.stat_result) -> bool:
        """Whether a file is as old and as large."""
        return found.st_mtime < parse_utc(self.before) and found.st_size >= self.min_bytes


class Old(NamedTuple):
    """A file that can go, as it was when it was looked at."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass
class Found:
    """What can go.

    Args:
        files: such. blobs: checksums of outputs in the store. blob_bytes: what these take.
        kept: by reason, how many files or outputs are as old and as large and stay all the same.
        needed: of outputs, the beginnings of the checksums of all that stay. heads: how far each log went then.
    """

    files: list[Old] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    blob_bytes: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    needed: set[int] = field(default_factory=set)
    heads: dict[str, int] = field(default_factory=dict)

    @property
    def things(self) -> int:
        """How many files and outputs these are."""
        return len(self.files) + len(self.blobs)

    @property
    def bytes(self) -> int:
        """What they take."""
        return self.blob_bytes + sum(old.bytes for old in self.files)

    def keep(self, why: str) -> None:
        """Count one that stays."""
        self.kept[why] = self.kept.get(why, 0) + 1


def old_outputs(connection: Connection, home: Home, limit: Limit) -> Found:
    """What jobs printed that ended before: in the store, of which only what no other job printed too, and in files.

    Args:
        connection: in one state of the store throughout.
    """
    found = Found(heads={origin: head.seq for origin, head in log.heads(connection).items()})
    for old, outputs in needed.printed(connection, limit.before):
        for output in outputs:
            if not old or int(output.get("size") or 0) < limit.min_bytes:
                _need(found, output)
    for blob in needed.blobs(connection):
        if blob.size >= limit.min_bytes and _short(blob.sha256) not in found.needed:
            found.blobs.append(blob.sha256)
            found.blob_bytes += blob.bytes
    for path, status in files(home.outputs):
        if limit.fits(status):
            name = os.path.basename(path)
            own, brought = _OUTPUT_FILE.fullmatch(name.replace(".incoming.", "", 1)), _COPY.fullmatch(name)
            if (own is not None and needed.has_ended(connection, own["job"], limit.before) is False) or (
                own is None and (brought is None or _short(brought["sha256"]) in found.needed)
            ):
                found.keep("of open or younger jobs")
            else:
                found.files.append(_old(path, status))
    return found


def old_copies(connection: Connection, home: Home, host: str, limit: Limit) -> Found:
    """Copies of data that other hosts have recorded to have too, and parts of such that nobody goes on with.

    Args:
        host: this one.
    """
    found = Found()
    used = needed.used_by_open_jobs(connection)
    old = [(path, status) for path, status in files(home.contents) if limit.fits(status)]
    for start in range(0, len(old), CONTENTS_AT_ONCE):
        part = [
            (path, status, _COPY.fullmatch(os.path.basename(path)))
            for path, status in old[start : start + CONTENTS_AT_ONCE]
        ]
        known = copies.known(connection, list({match["sha256"]: None for _, _, match in part if match}))
        for path, status, match in part:
            if match is None:
                found.keep("not put there by lwfm")
            elif path.endswith(".part") and is_locked(path):
                found.keep("being fetched")
            elif match["sha256"] in used:
                found.keep("used by open jobs")
            elif not path.endswith(".part") and not _is_elsewhere(known[match["sha256"]], host):
                found.keep("recorded at no other host")
            else:
                found.files.append(_old(path, status))
    return found


def old_log_files(home: Home, limit: Limit) -> Found:
    """Log files that have made way for newer ones."""
    found = Found()
    for directory in log_directories(home):
        for path, status in files(directory, deep=False):
            if _ROTATED.fullmatch(os.path.basename(path)) and limit.fits(status):
                found.files.append(_old(path, status))
    return found


def log_directories(home: Home) -> list[Path]:
    """Where an instance has logs."""
    return list(dict.fromkeys((home.root, home.root / "sites", home.spool)))


def remove_files(old: Sequence[Old]) -> tuple[int, int]:
    """Remove files, unless they have changed; how many, and how many bytes they had."""
    count = taken = 0
    for path, size, mtime_ns in old:
        try:
            if os.lstat(path).st_mtime_ns == mtime_ns:
                os.unlink(path)
                count, taken = count + 1, taken + size
        except FileNotFoundError:
            continue
    return count, taken


def remove_blobs(transaction: Transaction, found: Found, blobs: Sequence[str]) -> int:
    """Remove outputs from the store, unless another job has printed the same meanwhile; how many."""
    for output in needed.printed_since(transaction.connection, found.heads):
        _need(found, output)
    going = [sha256 for sha256 in blobs if _short(sha256) not in found.needed]
    needed.remove_blobs(transaction.connection, going)
    return len(going)


def files(directory: Path, *, deep: bool = True) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files below a directory; links are not followed."""
    try:
        with os.scandir(directory) as entries:
            listed = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in listed:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield entry.path, status
        elif deep and stat.S_ISDIR(status.st_mode):
            yield from files(Path(entry.path))


def _old(path: str, status: os.stat_result) -> Old:
    return Old(path, status.st_blocks * 512, status.st_mtime_ns)


def _need(found: Found, output: Mapping[str, Any]) -> None:
    sha256 = output.get("sha256")
    if isinstance(sha256, str) and _CHECKSUM.fullmatch(sha256):
        found.needed.add(_short(sha256))


def _short(sha256: str) -> int:
    """What stands for a checksum where there are many: two that begin alike are both kept."""
    return int(sha256[:16], 16)


def _is_elsewhere(known: copies.Known, host: str) -> bool:
    """Whether another host has recorded to have a content."""
    return any(row[8] not in (None, host) and copies.file_path(row[6], row[7]) is not None for row in known.rows)
