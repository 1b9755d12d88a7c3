"""What the user's ssh configuration says of a host, for the way there over fabric: read anew each time, changed never.

The files are read by paramiko, with what an :class:`~.address.Address` says before them (the first value found counts), and with
what is included, for paramiko knows no ``Include``, put in its place: ``Host`` lines in there count whatever the outer one is.

Source: ssh_config(5).
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from paramiko.config import SSHConfig, SSHConfigDict
from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

from ..errors import ConfigError, NotFound
from .address import Address, parse
from .known_hosts import SSH_PORT, KnownHosts, name_of
from .transport import ALIVE_COUNT, ALIVE_INTERVAL_S

USER_FILE = "~/.ssh/config"
SYSTEM_FILE = "/etc/ssh/ssh_config"
USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
USUAL_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
MAX_INCLUDES = 16
MAX_HOPS = 8


@dataclass(frozen=True)
class Hop:
    """A host that is logged in to, on the way or at its end.

    Args:
        alias: as it was named; ``host``, ``port``, ``user``: where that is, and as whom.
        known_as: its name in the files of known hosts. ``known``: these files.
        strict: what to do with a host that is in none: ``yes`` (refuse), ``ask``, ``accept-new``.
        identities: files with private keys, to be tried in this order; ``given``: how many of them somebody named.
        only_identities: whether keys of the agent are tried that are not in these files.
        agent: the agent's socket when it is not what the environment says; empty when none is to be asked.
        methods: of authentication, those that are wanted, best first.
        batch: whether nobody is to be asked.
        connect_timeout_s: None when it is not for the configuration to say.
        alive_interval_s, alive_count: after how long a silence of the network it is given up.
        proxy_command: what makes the connection, instead of a socket.
    """

    alias: str
    host: str
    port: int
    user: str
    known_as: str
    known: KnownHosts
    strict: str
    identities: tuple[Path, ...]
    given: int
    only_identities: bool
    agent: Optional[str]
    methods: tuple[str, ...]
    batch: bool
    connect_timeout_s: Optional[float]
    alive_interval_s: int
    alive_count: int
    proxy_command: Optional[str]

    def __str__(self) -> str:
        return self.alias


METHODS = ("publickey", "keyboard-interactive", "password")
_SWITCHES = {
    "publickey": ("pubkeyauthentication",),
    "keyboard-interactive": ("kbdinteractiveauthentication", "challengeresponseauthentication"),
    "password": ("passwordauthentication",),
}


def way_to(address: Address) -> list[Hop]:
    """The hosts to log in to, in this order; the last is the one that is meant.

    Raises:
        ConfigError: the configuration cannot be read, or makes no sense.
    """
    try:
        return _way(address, 0)
    except (ConfigParseError, UnicodeError, CouldNotCanonicalize) as error:
        raise ConfigError(f"the ssh configuration cannot be used: {error}") from None
    except OSError as error:
        raise ConfigError(f"the ssh configuration cannot be read: {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the ssh configuration makes no sense: {error}") from None


def _way(address: Address, depth: int) -> list[Hop]:
    if depth > MAX_HOPS:
        raise ConfigError(f"the ssh configuration goes by more than {MAX_HOPS} hosts to reach {address.host}")
    found = _lookup(address)
    jumps = found.get("proxyjump") or "none"
    proxy = found.get("proxycommand")
    hops: list[Hop] = []
    if jumps.lower() != "none":
        proxy = None
        for jump in jumps.split(","):
            via = parse(jump.strip(), ssh_config=address.ssh_config)
            if via.host in (address.host, found["hostname"]) and via.port in (None, address.port):
                continue  # a ProxyJump for all hosts means the others
            # The first says itself by what it is reached; the others are reached by the one before.
            hops += _way(via, depth + 1) if not hops else [_hop(via, _lookup(via), None)]
    return [*hops, _hop(address, found, proxy)]


def _lookup(address: Address) -> SSHConfigDict:
    lines = ["Host *"]
    if address.port:
        lines.append(f"Port {address.port}")
    if address.user:
        lines.append(f"User {address.user}")
    if address.ssh_config:
        path = Path(address.ssh_config).expanduser()
        lines += ["Host *", *_with_includes(path, path.parent, 0, needed=True)]
    else:
        user, system = Path(USER_FILE).expanduser(), Path(SYSTEM_FILE)
        lines += ["Host *", *_with_includes(user, user.parent, 0)]
        lines += ["Host *", *_with_includes(system, system.parent, 0)]
    return SSHConfig.from_text("\n".join(lines)).lookup(address.host)


def _with_includes(path: Path, base: Path, depth: int, *, needed: bool = False) -> Iterator[str]:
    """The lines of a file, with those it includes; ``Host`` is as before after each of these."""
    if depth > MAX_INCLUDES:
        raise ValueError(f"{path} is included more than {MAX_INCLUDES} deep")
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if needed:
            raise
        return
    section = ""
    for line in text.splitlines():
        found = re.match(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)", line)
        word = found[1].lower() if found else ""
        if word in ("host", "match"):
            section = line
        if found and word == "include":
            for pattern in shlex.split(found[2], comments=True):
                for included in sorted(glob.glob(os.path.join(base, os.path.expanduser(pattern)))):
                    yield from _with_includes(Path(included), base, depth + 1)
                    yield section or "Host *"
        else:
            yield line


def _hop(address: Address, found: SSHConfigDict, proxy: Optional[str]) -> Hop:
    host, port = found["hostname"], int(found.get("port", SSH_PORT))
    user = found.get("user") or getpass.getuser()
    alias = found.get("hostkeyalias")
    words = shlex.split(found.get("userknownhostsfile", USER_KNOWN_HOSTS))
    files = [_path(word, found, user) for word in words if word.lower() != "none"]
    system = [Path(word) for word in shlex.split(found.get("globalknownhostsfile", SYSTEM_KNOWN_HOSTS))]
    strict = found.get("stricthostkeychecking", "ask").lower()
    identities = tuple(_identities(address, found, user))
    timeout = found.get("connecttimeout", "none")
    return Hop(
        alias=address.host,
        host=host,
        port=port,
        user=user,
        known_as=alias.lower() if alias else name_of(host, port),
        known=KnownHosts((*files, *system), files[0] if files else None, _yes(found, "hashknownhosts", False)),
        strict={"true": "yes", "off": "accept-new", "false": "accept-new", "no": "accept-new"}.get(strict, strict),
        identities=identities or tuple(Path("~/.ssh").expanduser() / name for name in USUAL_KEYS),
        given=len(identities),
        only_identities=_yes(found, "identitiesonly", False),
        agent=_agent(found.get("identityagent"), found, user),
        methods=_methods(found),
        batch=_yes(found, "batchmode", False),
        connect_timeout_s=None if timeout.lower() == "none" else float(_seconds(timeout)),
        alive_interval_s=_seconds(found.get("serveraliveinterval", "0")) or ALIVE_INTERVAL_S,
        alive_count=int(found.get("serveralivecountmax", ALIVE_COUNT)) or ALIVE_COUNT,
        proxy_command=proxy,
    )


def _identities(address: Address, found: SSHConfigDict, user: str) -> Iterator[Path]:
    if address.identity:
        path = Path(address.identity).expanduser()
        if not path.is_file():
            raise NotFound(f"there is no private key at {path}")
        yield path
    for word in found.get("identityfile", ()):
        if word.strip('"').lower() != "none":
            yield _path(word.strip('"'), found, user)


def _methods(found: SSHConfigDict) -> tuple[str, ...]:
    wanted = [word.strip() for word in found.get("preferredauthentications", ",".join(METHODS)).lower().split(",")]
    return tuple(
        method
        for method in wanted
        if method in METHODS and all(_yes(found, switch, True) for switch in _SWITCHES[method])
    )


def _agent(text: Optional[str], found: SSHConfigDict, user: str) -> Optional[str]:
    if text is None or text == "SSH_AUTH_SOCK":
        return None
    if text.lower() == "none":
        return ""
    if text.startswith("$"):
        return os.environ.get(text[1:].strip("{}"), "")
    return str(_path(text, found, user))


def _path(text: str, found: SSHConfigDict, user: str) -> Path:
    tokens = {"%%": "%", "%h": found["hostname"], "%d": os.path.expanduser("~"), "%r": user, "%u": getpass.getuser()}

    def expand(token: re.Match[str]) -> str:
        return str(tokens[token[0]])

    return Path(re.sub("%[%hdru]", expand, os.path.expanduser(text)))


def _yes(found: SSHConfigDict, key: str, default: bool) -> bool:
    value: Any = found.get(key)
    return default if value is None else str(value).lower() in ("yes", "true")


def _seconds(text: str) -> int:
    """A time of ssh_config: ``90``, ``2m``, ``1h30m``."""
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    parts = re.findall(r"(\d+)([smhdw]?)", text.lower())
    if "".join(number + unit for number, unit in parts) != text.lower():
        raise ValueError(f"{text!r} is not a time")
    return sum(int(number) * units[unit] for number, unit in parts)
