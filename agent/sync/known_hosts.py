"""The files that say which key a host shows: read as OpenSSH reads them, and added to.

The library that speaks ssh here reads such files too, but without their patterns and revocations. Keys of certificate authorities
(``@cert-authority``) are passed over: that library asks hosts for plain keys.

Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

SSH_PORT = 22
_HASHED = "|1|"


@dataclass(frozen=True)
class KnownKey:
    """A line of such a file.

    Args:
        marker: ``@revoked`` or empty. ``kind``: of the key, such as ``ssh-ed25519``. ``blob``: the key.
        path, line: where it stands, from 1.
    """

    marker: str
    kind: str
    blob: bytes
    path: Path
    line: int


@dataclass(frozen=True)
class KnownHosts:
    """What some files say.

    Args:
        files: in their order; those that are not there say nothing.
        new: where new keys go; None when they are not written down.
        hashed: whether the names in new lines are to be unreadable (``HashKnownHosts``).
    """

    files: tuple[Path, ...]
    new: Optional[Path]
    hashed: bool = False

    def of(self, name: str) -> list[KnownKey]:
        """The lines for a host, by its name in these files (:func:`name_of`).

        Raises:
            OSError: a file cannot be read.
        """
        return [known for path in self.files for known in _lines(path, name)]

    def add(self, name: str, kind: str, blob: bytes) -> None:
        """Write that this is the host's key.

        Raises:
            OSError: it cannot be written.
        """
        path = self.new
        if path is None:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shown = _hash(name, secrets.token_bytes(20)) if self.hashed else name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            ends = size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n"
            text = f"{shown} {kind} {base64.b64encode(blob).decode('ascii')}\n"
            file.write((text if ends else f"\n{text}").encode("utf-8"))


def name_of(host: str, port: int) -> str:
    """The name by which a host is known: with the port where it is not the usual one."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def fingerprint(blob: bytes) -> str:
    """A key as people compare it."""
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def _lines(path: Path, name: str) -> list[KnownKey]:
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return []
    found = (_line(words, path, number, name) for number, words in enumerate(text.split("\n"), 1))
    return [known for known in found if known is not None]


def _line(text: str, path: Path, number: int, name: str) -> Optional[KnownKey]:
    words = text.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0) if words[0].startswith("@") else ""
    if marker not in ("", "@revoked") or len(words) < 3 or not _is_meant(words[0], name):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return KnownKey(marker, words[1], blob, path, number)


def _is_meant(patterns: str, name: str) -> bool:
    if patterns.startswith(_HASHED):
        return _is_hash_of(patterns, name)
    meant = False
    for pattern in patterns.lower().split(","):
        if pattern.startswith("!"):
            if _fits(pattern[1:], name):
                return False
        elif _fits(pattern, name):
            meant = True
    return meant


def _fits(pattern: str, name: str) -> bool:
    """``*`` and ``?`` alone have a meaning; brackets are those around a host with a port."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), name) is not None


def _is_hash_of(text: str, name: str) -> bool:
    try:
        salt = base64.b64decode(text.split("|")[2], validate=True)
    except (IndexError, binascii.Error, ValueError):
        return False
    return hmac.compare_digest(_hash(name, salt).encode("ascii"), text.encode("utf-8"))


def _hash(name: str, salt: bytes) -> str:
    digest = hmac.new(salt, name.encode("utf-8"), "sha1").digest()  # sha1 is what the format has
    salted, hashed = (base64.b64encode(part).decode("ascii") for part in (salt, digest))
    return f"{_HASHED}{salted}|{hashed}"


def described(keys: Sequence[KnownKey]) -> str:
    """Some of these keys and where they stand, for people."""
    return ", ".join(f"{fingerprint(known.blob)} in {known.path}:{known.line}" for known in keys[:4])
