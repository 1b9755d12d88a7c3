"""Unpacking parts of lwfm.pyz: into a directory of this node, all or nothing, one process at a time.

An extension of shiv's bootstrap: the archive is as shiv makes it, but its ``site-packages`` hold *parts*, each a tar file
with what some interpreters have in common (``parts.json`` lists them); only those for this interpreter are unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import lwfm_start
from lwfm_filesystems import filesystem_type, is_shared  # agent/host/filesystems.py, put beside this by the build
from lwfm_start import BUILD, CACHE_VARIABLE, Refused, is_guarded, is_ours, is_whole, libc, places, root_of, target

PARTS = "site-packages/parts.json"
UNUSED_S = 24 * 3600.0
"""Another build that no process holds is removed when it was last used so long ago."""
FORGOTTEN_S = 30 * 24 * 3600.0
"""The same where it cannot be told whether a process holds it."""


class _Unfit(Exception):
    """A place will not do; the text says why."""


def unpack(group: str) -> str:
    """Unpack ``group`` into the first place that will do; the directory.

    Raises:
        Refused: there is no such place, or no part for this interpreter.
    """
    parts = parts_of(group)
    reasons = []
    for place in places():
        try:
            _check_place(place)
            return _unpack_in(root_of(place), group, parts)
        except _Unfit as error:
            reasons.append(f"{place} ({error})")
        except OSError as error:
            reasons.append(f"{place} ({error.strerror or error})")
    megabytes = sum(part["size_bytes"] for part in parts) / 1e6
    raise Refused(
        f"lwfm.pyz unpacks {megabytes:.0f} MB for this Python and found no place on this node for it: {', '.join(reasons)}; "
        f"set {CACHE_VARIABLE} to a directory of this node that programs may be run from"
    )


def parts_of(group: str) -> list[dict[str, Any]]:
    """The parts of ``group`` for this interpreter, as ``parts.json`` describes them.

    Raises:
        Refused: they do not fit the C library of this system.
    """
    with zipfile.ZipFile(lwfm_start.archive) as source:
        listed = json.loads(source.read(PARTS))
    parts = [part for part in listed["parts"] if part["group"] == group and target() in part["targets"]]
    needed = max((tuple(part["glibc"]) for part in parts if part["glibc"]), default=())
    name, version = libc()
    if needed and (name != "glibc" or version < needed):
        found = f"glibc {'.'.join(map(str, version))}" if name == "glibc" else "another C library (musl?)"
        raise Refused(
            f"this system has {found}; {_what(group)} need glibc {'.'.join(map(str, needed))} or newer: "
            "install lwfm from its source instead (README.md)"
        )
    return parts


def _what(group: str) -> str:
    return "the compiled parts for ssh" if group == "ssh" else "the compiled parts of lwfm.pyz"


def _check_place(place: str) -> None:
    """Make sure that ``place`` is of this node and that programs can be loaded from it, and make our directory there."""
    if not os.path.isdir(place):
        if CACHE_VARIABLE not in os.environ:
            raise _Unfit("not there")
        os.makedirs(place, mode=0o700, exist_ok=True)
    if CACHE_VARIABLE not in os.environ and is_shared(Path(place)):
        raise _Unfit(f"{filesystem_type(Path(place))}, which other nodes may have mounted too")
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        raise _Unfit("mounted noexec")
    if not is_guarded(place):
        raise _Unfit("somebody else could replace what is in it")
    root = root_of(place)
    with contextlib.suppress(FileExistsError):
        os.mkdir(root, 0o700)
    if not is_ours(root):
        raise _Unfit(f"{root} is there and is not a directory that is yours alone")


def _unpack_in(root: str, group: str, parts: list[dict[str, Any]]) -> str:
    directory = os.path.join(root, BUILD, target(), group)
    with _locked(os.path.join(root, ".lock")) as alone:
        if not is_whole(directory):  # or else somebody else did it while this process waited
            _clean_up(root, alone=alone)
            _make_private(os.path.dirname(directory))
            _fill(directory, parts)
    return directory


def _fill(directory: str, parts: list[dict[str, Any]]) -> None:
    """Unpack beside ``directory``, then put it in its place in one step; the list of its files is the last to come."""
    fresh = os.path.join(os.path.dirname(directory), f".{os.path.basename(directory)}.{os.getpid()}.{time.time_ns():x}")
    try:
        os.mkdir(fresh, 0o700)
        files: list[str] = []
        with zipfile.ZipFile(lwfm_start.archive) as source:
            for part in parts:
                files += _extract(source, part, fresh)
        with open(f"{fresh}.files", "w", encoding="utf-8") as stream:
            stream.write("\n".join(files) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        _replace(fresh, directory)
        os.replace(f"{fresh}.files", f"{directory}.files")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(f"{fresh}.files")
        raise


def _make_private(directory: str) -> None:
    """Make a directory and those above it, all for the owner alone, whatever the umask."""
    if not os.path.isdir(directory):
        _make_private(os.path.dirname(directory))
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def _replace(fresh: str, directory: str) -> None:
    """Put a directory in the place of one that is incomplete; of several who do so at once, any may win."""
    for _ in range(10):
        try:
            os.rename(fresh, directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}.files")
        aside = f"{fresh}.old"
        with contextlib.suppress(OSError):
            os.rename(directory, aside)
        shutil.rmtree(aside, ignore_errors=True)
    raise _Unfit(f"{directory} cannot be replaced")


def _extract(source: zipfile.ZipFile, part: dict[str, Any], directory: str) -> list[str]:
    """Unpack one part and check its content; the lines of its list: size, SHA-256, path."""
    digest = hashlib.sha256()
    lines = []
    made = set()
    with source.open(f"site-packages/{part['name']}.tar") as packed:
        stream = _Hashed(packed, digest)
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                content = tar.extractfile(member)
                if content is None or member.name.startswith("/") or ".." in member.name.split("/"):
                    raise Refused(f"{lwfm_start.archive} is damaged: copy it again")
                data = content.read()
                path = os.path.join(directory, member.name)
                parent = os.path.dirname(path)
                if parent not in made:
                    _make_private(parent)
                    made.add(parent)
                with open(path, "wb", opener=_private) as file:
                    file.write(data)
                lines.append(f"{len(data)} {hashlib.sha256(data).hexdigest()} {member.name}")
        while stream.read(65536):
            pass
    if digest.hexdigest() != part["sha256"]:
        raise Refused(f"{lwfm_start.archive} is damaged (part {part['name']}): copy it again")
    return lines


class _Hashed:
    """A stream that is hashed while it is read."""

    def __init__(self, stream: Any, digest: Any):
        self._stream = stream
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._stream.read(size)
        self._digest.update(data)
        return data


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Hold a lock; says whether it is held, which not every file system can."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _clean_up(root: str, *, alone: bool) -> None:
    """Remove what interrupted starts left, and builds that are no longer used."""
    for name in os.listdir(root):
        build = os.path.join(root, name)
        if name == BUILD:
            if alone:
                _remove_unfinished(build)
        elif not name.startswith(".") and _is_unused(build):
            shutil.rmtree(build, ignore_errors=True)


def _remove_unfinished(build: str) -> None:
    for directory, names, files in os.walk(build):
        if os.path.dirname(directory) == build or directory == build:
            for name in names:
                if name.startswith("."):
                    shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
            for name in files:
                if name.startswith("."):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(directory, name))
        names[:] = [] if os.path.dirname(directory) == build else names


def _is_unused(build: str) -> bool:
    try:
        age_s = time.time() - os.stat(build).st_mtime
        if age_s < UNUSED_S:
            return False
        descriptor = os.open(build, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return age_s > FORGOTTEN_S
    finally:
        os.close(descriptor)


def damage(directory: str) -> Optional[str]:
    """What is wrong with an unpacked group, its content looked at; None when nothing is."""
    try:
        with open(f"{directory}.files", encoding="utf-8") as stream:
            for line in stream:
                _, wanted, name = line.rstrip("\n").split(" ", 2)
                with open(os.path.join(directory, name), "rb") as file:
                    if hashlib.sha256(file.read()).hexdigest() != wanted:
                        return f"{name} was changed"
    except (OSError, ValueError) as error:
        return str(error)
    return None
