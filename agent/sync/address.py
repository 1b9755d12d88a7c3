"""Where another instance is, and by which ssh it is reached. Says nothing of what is done there; reads no file.

What a person writes is ``[user@]host[:port]`` or ``ssh://[user@]host[:port]``, the host as ssh knows it: a name, an address, or a
``Host`` of ``~/.ssh/config``. A host or user that ssh, or a shell that a ``ProxyCommand`` is given to, could take for something
else is refused, as OpenSSH 9.6 does (``valid_hostname`` and ``valid_ruser`` of its ``ssh.c``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Optional

from ..errors import InvalidRecord

FABRIC = "fabric"
OPENSSH = "openssh"
TRANSPORTS = (FABRIC, OPENSSH)
_SCHEME = "ssh://"
_NOT_IN_HOSTS = frozenset("'`\"$\\;&<>|(){},@/")
_NOT_IN_USERS = frozenset("'`\";&<>|(){},")
MAX_PORT = 65535


@dataclass(frozen=True)
class Address:
    """The way to a host, and to lwfm there.

    Args:
        host: as ssh knows it. ``user``, ``port``: where the ssh configuration is not to say it.
        identity: a file with a private key, to be tried first.
        transport: ``fabric``, the library that comes with lwfm, or ``openssh``, the user's own ``ssh``.
        remote_path: of lwfm there, when it is in none of the usual places. ``remote_python``: what runs it.
        remote_home: the directory of the instance there, when it is not the one its own environment says.
        ssh_config: read instead of ``~/.ssh/config`` and the system's.

    Raises:
        InvalidRecord: one of them cannot be.
    """

    host: str
    user: Optional[str] = None
    port: Optional[int] = None
    identity: Optional[str] = None
    transport: str = FABRIC
    remote_path: Optional[str] = None
    remote_python: Optional[str] = None
    remote_home: Optional[str] = None
    ssh_config: Optional[str] = None

    def __post_init__(self) -> None:
        _check_word("host", self.host, _NOT_IN_HOSTS)
        if self.user is not None:
            _check_word("user", self.user, _NOT_IN_USERS)
            if self.user.endswith("\\"):
                raise InvalidRecord(f"{self.user!r} is no user that ssh could log in as")
        port: object = self.port
        if port is not None and (type(port) is not int or not 1 <= port <= MAX_PORT):
            raise InvalidRecord(f"{self.port!r} is no port: it is a number from 1 to {MAX_PORT}"[:200])
        if self.transport not in TRANSPORTS:
            raise InvalidRecord(f"{self.transport!r} is no transport: it is one of {', '.join(TRANSPORTS)}"[:200])
        for name in ("identity", "remote_path", "remote_python", "remote_home", "ssh_config"):
            _check_path(name, getattr(self, name))

    def __str__(self) -> str:
        """As a person writes it."""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    def to_json(self) -> dict[str, Any]:
        """What of it is not the default."""
        return {
            field.name: value
            for field, value in zip(fields(self), asdict(self).values())
            if field.name == "host" or value != field.default
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Address:
        """What :meth:`to_json` made; what a newer release has more is passed over.

        Raises:
            InvalidRecord: it is no address.
        """
        known = {field.name for field in fields(cls)}
        if "host" not in body:
            raise InvalidRecord("this is no address: it has no host")
        return cls(**{name: value for name, value in body.items() if name in known})


def parse(text: str, **options: Any) -> Address:
    """The address that a person wrote.

    Args:
        text: ``[user@]host[:port]``, ``ssh://[user@]host[:port]``; an IPv6 address with a port is written ``[::1]:22``.
        options: the other fields of :class:`Address`; what is not None here goes before what ``text`` says.

    Raises:
        InvalidRecord: it is none.
    """
    rest = text
    if rest[: len(_SCHEME)].lower() == _SCHEME:
        rest = rest[len(_SCHEME) :].rstrip("/")
    elif "://" in rest:
        raise InvalidRecord(f"{text!r} is not reached by ssh"[:200], hint=_FORM)
    user, at, rest = rest.rpartition("@")
    host, port = _host_and_port(rest, text)
    if at and not user:
        raise InvalidRecord(f"{text!r} has no user before the @"[:200], hint=_FORM)
    found: dict[str, Any] = {"user": user or None, "port": port}
    found.update({name: value for name, value in options.items() if value is not None})
    return Address(host, **found)


_FORM = "write HOST, USER@HOST, USER@HOST:PORT or ssh://USER@HOST:PORT"


def _host_and_port(rest: str, text: str) -> tuple[str, Optional[int]]:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise InvalidRecord(f"{text!r} is no host"[:200], hint=_FORM)
        port = tail[1:]
        given = bool(tail)
    elif rest.count(":") > 1:  # an IPv6 address alone
        return rest, None
    else:
        host, colon, port = rest.partition(":")
        given = bool(colon)
    if not given:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT))):
        raise InvalidRecord(f"{text!r} has no number as its port"[:200], hint=_FORM)
    return host, int(port)


def _check_word(name: str, value: object, forbidden: frozenset[str]) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidRecord(f"the {name} of an address is a word, not {value!r}"[:200], hint=_FORM)
    bad = value.startswith("-") or any(
        letter in forbidden or letter.isspace() or not letter.isprintable() for letter in value
    )
    if bad:
        raise InvalidRecord(f"{value!r} is no {name} that ssh could use"[:200], hint=_FORM)


def _check_path(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidRecord(f"{name.replace('_', ' ')} is a path, not {value!r}"[:200])
