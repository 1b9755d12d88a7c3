"""Private keys for fabric: those that an ssh-agent holds, and those in files, locked or not. Logs in nowhere."""

from __future__ import annotations

import base64
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from paramiko import PKey
from paramiko.agent import Agent
from paramiko.ssh_exception import SSHException

_OPENSSH_KEY = b"openssh-key-v1\0"


class Locked(Exception):
    """The key needs a passphrase, or another one."""


class Unusable(Exception):
    """The file holds no key that can be used; the message says why, after its name."""


class AgentKeys:
    """The keys of the agent, for as long as they are tried: signing goes through the connection to it."""

    def __init__(self, socket: Optional[str]):
        self._socket = socket

    def __enter__(self) -> list[Any]:
        self._agent: Optional[Agent] = None
        if self._socket == "":
            return []
        before = os.environ.get("SSH_AUTH_SOCK")
        try:
            if self._socket is not None:
                os.environ["SSH_AUTH_SOCK"] = self._socket  # the library looks nowhere else
            self._agent = Agent()
            return list(self._agent.get_keys())
        except (SSHException, OSError):
            return []
        finally:
            if self._socket is not None:
                if before is None:
                    os.environ.pop("SSH_AUTH_SOCK", None)
                else:
                    os.environ["SSH_AUTH_SOCK"] = before

    def __exit__(self, *_exc: object) -> None:
        if self._agent is not None:
            self._agent.close()


def load(path: Path, passphrase: Optional[str]) -> PKey:
    """The private key of a file.

    Raises:
        Locked: it needs a passphrase, and not this one. Unusable: it is none that can be used.
    """
    try:
        return PKey.from_path(str(path), None if passphrase is None else passphrase.encode("utf-8"))
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    except Exception as error:  # half a dozen kinds, by format, version and what is wrong
        if passphrase is not None or _is_encrypted(path):
            raise Locked from None
        raise Unusable(f"holds no private key that can be used here: {' '.join(str(error).split())[:200]}") from None


def _is_encrypted(path: Path) -> bool:
    with suppress(OSError):
        if b"ENCRYPTED" in path.read_bytes():
            return True
        fields = _openssh_fields(path)
        return bool(fields) and fields[0] != b"none"
    return False


def public_blob(path: Path) -> Optional[bytes]:
    """The public key of a private one, where it stands unlocked, in the file beside it or in its own; None elsewhere."""
    try:
        return base64.b64decode(Path(f"{path}.pub").read_text("utf-8", "replace").split()[1])
    except (OSError, ValueError, IndexError):
        pass
    with suppress(OSError):
        fields = _openssh_fields(path)
        return fields[3] if fields else None
    return None


def _openssh_fields(path: Path) -> list[bytes]:
    """Cipher, key derivation, its options and the public key of a private key in OpenSSH's own format; else empty.

    Source: PROTOCOL.key of OpenSSH.
    """
    body = b"".join(line for line in path.read_bytes().splitlines() if not line.startswith(b"-----"))
    try:
        data = base64.b64decode(body)
        if not data.startswith(_OPENSSH_KEY):
            return []
        data, fields = data[len(_OPENSSH_KEY) :], []
        for index in range(4):
            at = 4 if index == 3 else 0  # before it the number of keys, which is one
            (length,) = struct.unpack_from(">I", data, at)
            fields.append(data[at + 4 : at + 4 + length])
            data = data[at + 4 + length :]
    except (ValueError, struct.error):
        return []
    return fields
