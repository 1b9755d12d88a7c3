"""The way to another host over fabric: one connection, through as many others as the ssh configuration says, and one program.

Of fabric this has the connection and its gateways; what it would do by itself is replaced: the keys of hosts are verified
(:class:`_HostKey`), logging in is :class:`~.fabric_login.Login`, the configuration is read by :mod:`.fabric_settings`. Errors of
fabric, of paramiko below it and of the sockets become ours here and nowhere else.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn, Optional

from fabric import Config, Connection
from paramiko import Transport
from paramiko.client import MissingHostKeyPolicy, SSHClient
from paramiko.config import SSHConfig
from paramiko.ssh_exception import ChannelException, IncompatiblePeer, NoValidConnectionsError, SSHException

from ..errors import ConfigError, InsecureState, LwfmError, SiteError
from .address import Address
from .fabric_login import Login
from .fabric_settings import Hop, way_to
from .known_hosts import described, fingerprint
from .tail import Tail
from .transport import BROKEN, END_TIMEOUT_S, Asker, SshStream

WINDOW_BYTES = 4 * 1024 * 1024
"""How much a host may send unread. The library moves all of what is unread with each read: more is slower."""
PACKET_BYTES = 64 * 1024
"""The most that is taken in one piece; hosts send less, as they like."""
WRITE_BYTES = 64 * 1024
SETTLE_S = 0.5
CLOSE_TIMEOUT_S = 3.0
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""Tried first: one pass for both secrecy and integrity, twice as fast here as the library's own first."""

_NOWHERE = logging.NullHandler()


def open_fabric(address: Address, command: str, ask: Optional[Asker], timeout_s: float) -> SshStream:
    """As :func:`~.opening.open_stream`."""
    logging.getLogger("paramiko").addHandler(_NOWHERE)  # else its errors go to standard error
    way = _Way()
    try:
        for hop in way_to(address):
            way.go_on(hop, ask, timeout_s)
        return way.run(command)
    except BaseException as error:
        way.close()
        if isinstance(error, LwfmError) or not isinstance(error, Exception):
            raise
        _raise_ours(error, way.hop)


class _Way:
    """The connections on the way, each through the one before."""

    def __init__(self) -> None:
        self.hop: Optional[Hop] = None
        self._last: Optional[Connection] = None
        self._all: list[Connection] = []
        self._proxy: Optional[subprocess.Popen[bytes]] = None

    def go_on(self, hop: Hop, ask: Optional[Asker], timeout_s: float) -> None:
        """Log in to the next host."""
        self.hop = hop
        timeout_s = hop.connect_timeout_s or timeout_s
        host_key = _HostKey(hop, None if hop.batch else ask)
        config = Config(
            lazy=True,  # files of fabric's and of invoke's are for their own users
            ssh_config=SSHConfig(),  # all that counts of it is in the hop
            overrides={
                "authentication": {"strategy_class": lambda **_: Login(hop, ask)},
                "load_ssh_configs": False,
            },
        )
        connect: dict[str, Any] = {
            "transport_factory": lambda sock, **options: _transport(sock, host_key, hop, timeout_s, options),
            "banner_timeout": timeout_s,
            "channel_timeout": timeout_s,
        }
        if hop.proxy_command:
            connect["sock"] = self._proxied(hop.proxy_command)
        connection = Connection(
            hop.host,
            user=hop.user,
            port=hop.port,
            config=config,
            gateway=self._last or False,
            forward_agent=False,
            connect_timeout=max(1, int(timeout_s)),
            connect_kwargs=connect,
            inline_ssh_env=False,
        )
        connection.client.set_missing_host_key_policy(host_key)  # it knows no host by itself
        self._all.append(connection)
        connection.open()
        connection.transport.set_keepalive(hop.alive_interval_s)
        self._last = connection

    def _proxied(self, command: str) -> socket.socket:
        """A socket whose other end is the command's. The library's own way reads what the command ends with for ever."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._proxy = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"], stdin=theirs.fileno(), stdout=theirs.fileno()
            )
        return ours

    def run(self, command: str, *, ends: bool = True) -> SshStream:
        """Start a program at the end of the way, with which the way ends, or not."""
        assert self._last is not None
        channel = self._last.create_session()
        channel.exec_command(command)
        return FabricStream(channel, self, ends=ends)

    def failure(self) -> Optional[LwfmError]:
        """Why the connections ended, where they broke."""
        for connection in self._all:
            transport = connection.transport
            if transport is not None:
                transport.join(SETTLE_S)  # it lets go of its channels a moment before it ends
            if transport is not None and not transport.is_active():
                error = transport.get_exception()
                return SiteError(
                    f"the connection to {self.hop} broke" + (f": {error}" if error else ""), transient=True
                )
        return None

    def close(self) -> None:
        """End all of it."""
        for connection in reversed(self._all):
            with suppress(Exception):
                connection.client.close()  # also where it was never quite open, which fabric's own would leave
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.terminate()
            try:
                proxy.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                proxy.kill()
                proxy.wait()


class FabricStream:
    """See :class:`~.transport.SshStream`.

    Args:
        way: by which it goes. ``ends``: whether that ends with it.
    """

    def __init__(self, channel: Any, way: _Way, *, ends: bool):
        self._channel = channel
        self._way = way
        self._ends = ends
        self._tail = Tail()
        self._drain = threading.Thread(target=self._drain_stderr, name="lwfm-ssh-stderr", daemon=True)
        self._drain.start()

    def read(self, most: int) -> bytes:
        """See :class:`~.frames.Stream`."""
        return bytes(self._channel.recv(most))

    def write(self, data: bytes) -> None:
        """See :class:`~.frames.Stream`."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), WRITE_BYTES):
                self._channel.sendall(bytes(view[start : start + WRITE_BYTES]))
        except (EOFError, SSHException) as error:  # it broke at this very moment
            raise BrokenPipeError(errno.EPIPE, str(error) or "the connection ended") from error

    def wait(self) -> int:
        """See :class:`~.transport.SshStream`."""
        deadline = time.monotonic() + END_TIMEOUT_S
        with suppress(OSError, EOFError, SSHException):
            self._channel.shutdown_write()
        self._channel.settimeout(END_TIMEOUT_S)
        with suppress(OSError):
            while time.monotonic() < deadline and self._channel.recv(WRITE_BYTES):
                pass
        self._channel.status_event.wait(max(0.0, deadline - time.monotonic()))
        status = int(self._channel.exit_status)
        return BROKEN if status < 0 else status

    def close(self) -> None:
        """See :class:`~.frames.Stream`."""
        with suppress(Exception):
            self._channel.close()
        if self._ends:
            self._way.close()

    def complaint(self) -> str:
        """See :class:`~.frames.Stream`."""
        if self._channel.closed or self._channel.eof_received:
            self._drain.join(1.0)
        return self._tail.text()

    def failure(self) -> Optional[LwfmError]:
        """See :class:`~.transport.SshStream`."""
        if self._channel.exit_status >= 0:
            return None
        return self._way.failure()

    def beside(self, command: str) -> SshStream:
        """See :class:`~.transport.SshStream`: on the same connection."""
        try:
            return self._way.run(command, ends=False)
        except (EOFError, SSHException) as error:
            raise SiteError(f"the connection takes no more: {error}", transient=True) from error

    def _drain_stderr(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                piece = self._channel.recv_stderr(WRITE_BYTES)
                if not piece:
                    return
                self._tail.add(bytes(piece))


# ---------------------------------------------------------------------------------------------- the keys of hosts


class _HostKey(MissingHostKeyPolicy):  # type: ignore[misc]  # the library has no types
    """Judges the key that a host shows, by the user's files of known hosts, as OpenSSH does.

    The library is given no known hosts, so that it comes here with every key: it knows neither patterns, nor revocations, nor the
    name that a host may be known by.
    """

    def __init__(self, hop: Hop, ask: Optional[Asker]):
        self._hop = hop
        self._ask = ask
        try:
            self._lines = hop.known.of(hop.known_as)
        except OSError as error:
            raise ConfigError(f"the known hosts cannot be read: {error.filename}: {error.strerror}") from None

    @property
    def _name(self) -> str:
        hop = self._hop
        return hop.alias if hop.alias == hop.known_as else f"{hop.alias} ({hop.known_as})"

    def kinds(self) -> set[str]:
        """The kinds of key that the host is known by: it must be asked for one of these."""
        return {known.kind for known in self._lines if not known.marker}

    def missing_host_key(self, client: SSHClient, hostname: str, key: Any) -> None:  # noqa: ARG002 (paramiko's)
        """What the library calls, before anything of the user's goes to the host.

        Raises:
            InsecureState: this is not the key of the host, or nobody says that it is.
        """
        hop, name, kind, blob = self._hop, self._name, key.get_name(), key.asbytes()
        shown = f"{_plain(kind)} key {fingerprint(blob)}"
        if any(known.blob == blob for known in self._lines if known.marker == "@revoked"):
            raise InsecureState(f"{name} shows the {shown}, which is marked as revoked in your known_hosts")
        held = [known for known in self._lines if not known.marker]
        if any(known.blob == blob for known in held):
            return
        if held:
            raise InsecureState(
                f"{name} shows another key than the one it is known by: the {shown}, not {described(held)}",
                hint="somebody may be in between; if its administrators say that the key has changed: "
                f"ssh-keygen -R '{hop.known_as}' -f {held[0].path}",
            )
        if hop.strict == "yes":
            raise InsecureState(
                f"{name} is not in your known_hosts; it shows the {shown}",
                hint="its key is to be there already, says StrictHostKeyChecking in your ssh configuration",
            )
        if hop.strict != "accept-new":
            self._confirm(shown)
        try:
            hop.known.add(hop.known_as, kind, blob)
        except OSError as error:
            raise SiteError(
                f"the key of {hop.known_as} cannot be written to {hop.known.new}: {error.strerror}"
            ) from None

    def _confirm(self, shown: str) -> None:
        name = self._name
        if self._ask is None:
            raise InsecureState(
                f"{name} is not in your known_hosts; it shows the {shown}",
                hint=f"log in once on a terminal and compare it with what its administrators say: ssh {self._hop}",
            )
        question = f"{name} is not known here yet. It shows the {shown}.\nIs that its key? Then it is remembered."
        if not self._ask.confirm(question):
            raise InsecureState(f"the key of {name} was not accepted")


def _plain(kind: str) -> str:
    words = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}
    return words.get(kind, "ECDSA" if kind.startswith("ecdsa-") else kind)


def _transport(sock: Any, host_key: _HostKey, hop: Hop, timeout_s: float, options: dict[str, Any]) -> Transport:
    """A transport of the library that asks the host for a key it is known by, and is fast."""
    if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        give_up = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux: the library misses no answer to its own probes
        if give_up is not None:
            sock.setsockopt(socket.IPPROTO_TCP, give_up, hop.alive_interval_s * hop.alive_count * 1000)
    transport = Transport(sock, WINDOW_BYTES, PACKET_BYTES, **options)
    transport.handshake_timeout = timeout_s
    offered = transport.get_security_options()
    offered.ciphers = [
        *(cipher for cipher in CIPHERS if cipher in offered.ciphers),
        *(cipher for cipher in offered.ciphers if cipher not in CIPHERS),
    ]
    kinds = host_key.kinds()
    offered.key_types = sorted(offered.key_types, key=lambda kind: _of_key(kind) not in kinds)
    return transport


def _of_key(algorithm: str) -> str:
    """The kind of key that a signature algorithm is for."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


# ---------------------------------------------------------------------------------------------- errors


def _raise_ours(error: Exception, hop: Optional[Hop]) -> NoReturn:
    """The one place where errors of fabric, paramiko and the sockets become ours."""
    where = f"{hop.host}, port {hop.port}" if hop is not None else "the host"
    hint = f"see whether `ssh {hop}` works" if hop is not None else None
    if isinstance(error, socket.gaierror):
        raise SiteError(f"no host is known as {hop.host if hop else where}", hint=hint, transient=True) from error
    if isinstance(error, NoValidConnectionsError):
        first = next(iter(error.errors.values()))
        raise SiteError(
            f"{where}: {os.strerror(first.errno) if first.errno else first}", hint=hint, transient=True
        ) from error
    if isinstance(error, (socket.timeout, TimeoutError)):
        raise SiteError(f"{where} does not answer", hint=hint, transient=True) from error
    if isinstance(error, ChannelException):
        raise SiteError(
            f"the host before {where} cannot reach it: {error.text or error}", hint=hint, transient=True
        ) from error
    if isinstance(error, IncompatiblePeer):
        raise SiteError(
            f"{where} speaks no ssh that this library knows: {error}", hint="try --transport openssh"
        ) from error
    if isinstance(error, (SSHException, EOFError)):
        ended = isinstance(error, EOFError) or not str(error)
        text = "it ended the connection" if ended else " ".join(str(error).split())
        raise SiteError(f"{where}: {text}", hint=hint, transient=True) from error
    if isinstance(error, OSError):
        lasting = error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT)
        raise SiteError(f"{where}: {error.strerror or error}", hint=hint, transient=not lasting) from error
    raise error
