"""A real sshd on a port of this machine, with keys, known hosts and an ssh configuration of its own.

It lets the user in who runs the tests. What needs PAM (passwords, one-time codes) needs root: a PAM configuration of the test's own
is bound over the system's, in a mount namespace of this sshd's alone.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from support.network import answers, free_port
from support.waiting import wait_until

SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
PidFile none
LogLevel VERBOSE
MaxStartups 200
Subsystem sftp internal-sftp
"""
CLIENT_CONFIG = """\
Host {name}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {identity}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
"""
PASSWORD = "not a secret, it's for tests"
SECRET = bytes.fromhex("00112233445566778899aabbccddeeff00112233")
OWN_PORT_S = 10.0


def sshd_program() -> str | None:
    """Where sshd is; None where there is none."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key pair; the private one."""
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(words, stdin=subprocess.DEVNULL, check=True)
    return path


def one_time_code(counter: int) -> str:
    """The code of that number of the user whom :func:`pam_lines` know. Source: RFC 4226."""
    digest = hmac.new(SECRET, struct.pack(">Q", counter), "sha1").digest()
    at = digest[-1] & 15
    return f"{(struct.unpack_from('>I', digest, at)[0] & 0x7FFFFFFF) % 10**6:06d}"


@dataclass
class Server:
    """One of them, running.

    Args:
        name: its ``Host`` in the client's configuration. ``directory``: of all its files.
    """

    name: str
    directory: Path
    port: int
    process: subprocess.Popen[bytes]
    user: str = field(default_factory=getpass.getuser)

    @property
    def client_config(self) -> Path:
        return self.directory / "config"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.directory / "user"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")

    @property
    def fingerprint(self) -> str:
        blob = base64.b64decode((self.directory / "host.pub").read_text().split()[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")

    def authorize(self, *keys: Path) -> None:
        """Let in whoever has one of these, and nobody else."""
        (self.directory / "authorized").write_text("".join(key.with_suffix(".pub").read_text() for key in keys))

    def sessions(self) -> list[psutil.Process]:
        """The processes of its connections."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def cut(self) -> None:
        """End all its connections, rudely."""
        for session in self.sessions():
            with suppress(psutil.NoSuchProcess):
                session.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """End it and its connections."""
        if self.process.poll() is None:
            sessions = self.sessions()
            self.process.terminate()
            self.process.wait(OWN_PORT_S)
            for session in sessions:
                with suppress(psutil.NoSuchProcess):
                    session.kill()


@contextmanager
def a_server(
    directory: Path, name: str = "far", *, lines: Sequence[str] = (), pam: Sequence[str] = (), known: bool = True
) -> Iterator[Server]:
    """Start one; it answers once this is entered.

    Args:
        lines: of its configuration, which go before its others. ``pam``: of its PAM configuration for ``auth``; needs root.
        known: whether its key is in the client's known hosts.
    """
    program = sshd_program()
    assert program, "there is no sshd"
    directory.mkdir()
    port = free_port()
    make_key(directory / "host")
    make_key(directory / "user")
    words = [program, "-D", "-e", "-f", str(directory / "sshd_config")]
    text = "".join(f"{line}\n" for line in [*lines, *(["UsePAM yes"] if pam else [])])
    (directory / "sshd_config").write_text(text + SSHD_CONFIG.format(port=port, directory=directory))
    if pam:
        (directory / "pam").mkdir()
        rest = ["account required pam_permit.so", "session required pam_permit.so"]
        (directory / "pam" / "sshd").write_text("".join(f"{line}\n" for line in [*pam, *rest]))
        bind = f'mount --bind "{directory}/pam" /etc/pam.d && exec "$@"'
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, "sh", *words]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
    server = Server(name, directory, port, process)
    try:
        server.authorize(server.identity)
        kind, key = (directory / "host.pub").read_text().split()[:2]
        server.known_hosts.write_text(f"[127.0.0.1]:{port} {kind} {key}\n" if known else "")
        server.client_config.write_text(
            CLIENT_CONFIG.format(
                name=name, port=port, user=server.user, identity=server.identity, known_hosts=server.known_hosts
            )
        )
        wait_until(lambda: answers("127.0.0.1", port), "sshd", timeout_s=OWN_PORT_S, on_timeout=lambda: server.log)
        yield server
    finally:
        server.stop()


def pam_lines(directory: Path, *, password: bool = False, code: bool = False) -> list[str]:
    """What asks for a password (:data:`PASSWORD`), for a one-time code, or for both, in this order."""
    lines = []
    if password:
        check = directory / "check-password"
        check.write_text(
            f"#!/bin/sh\nread -r given || true\ngiven=$(printf %s \"$given\" | tr -d '\\000')\n"
            f'[ "$given" = "{PASSWORD}" ]\n'
        )
        check.chmod(0o755)
        lines.append(f"auth required pam_exec.so quiet expose_authtok {check}")
    if code:
        users = directory / "users.oath"
        users.write_text(f"HOTP {getpass.getuser()} - {SECRET.hex()}\n")
        users.chmod(0o600)
        lines.append(f"auth required pam_oath.so usersfile={users} window=1 digits=6")
    return lines


class Answering:
    """Somebody to ask, who answers what is given here, in this order, and keeps what was asked.

    Args:
        answers: to what; a callable is called for its answer. ``confirms``: what is said to yes-or-no questions.
    """

    def __init__(self, *answers: str, confirms: bool = False):
        self._answers = list(answers)
        self._confirms = confirms
        self.asked: list[tuple[str, bool]] = []
        self.questions: list[str] = []

    def ask(self, prompt: str, echo: bool) -> str:
        self.asked.append((prompt, echo))
        assert self._answers, f"nobody knows what to answer to {prompt!r}"
        return self._answers.pop(0)

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self._confirms


def read_all(stream: object, *, timeout_s: float = 30.0) -> bytes:
    """All that comes until the end."""
    deadline = time.monotonic() + timeout_s
    pieces: list[bytes] = []
    while time.monotonic() < deadline:
        piece = stream.read(1 << 20)  # type: ignore[attr-defined]
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    raise AssertionError("it does not end")
