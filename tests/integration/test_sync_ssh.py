"""The way to other hosts over ssh, on real sshds: both transports, and what people and hosts ask of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from lwfm.errors import ConfigError, InsecureState, LoginRequired, NotFound, SiteError
from lwfm.sync import far
from lwfm.sync.address import TRANSPORTS, Address, parse
from lwfm.sync.frames import GREETING, Cut, Line
from lwfm.sync.opening import explained, open_stream
from lwfm.sync.transport import Asker, SshStream

from support.ssh_server import (
    PASSWORD,
    Answering,
    Server,
    a_server,
    make_key,
    one_time_code,
    pam_lines,
    read_all,
    sshd_program,
)
from support.terminal import OnTerminal
from support.waiting import wait_until

LWFM = [sys.executable, "-I", "-m", "lwfm"]
both = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("ssh", "ssh-keygen", "ssh-agent"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    if sshd_program() is None:
        pytest.skip("there is no sshd")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path / "far") as started:
        yield started


@pytest.fixture
def pam(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Makes a server that asks for what PAM asks for."""
    if os.geteuid() != 0:
        pytest.skip("PAM of one's own needs root")
    if not list(Path("/usr/lib").glob("**/security/pam_oath.so")) + list(Path("/lib").glob("**/security/pam_oath.so")):
        pytest.skip("there is no pam_oath (libpam-oath)")

    def make(*lines: str, **asked: bool) -> contextlib.AbstractContextManager[Server]:
        return a_server(tmp_path / "far", lines=lines, pam=pam_lines(tmp_path, **asked))

    return make


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Gives a key to an ssh-agent."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the agent's socket")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))

    def add(key: Path) -> None:
        subprocess.run(["ssh-add", "-q", str(key)], check=True)

    yield add
    process.terminate()
    process.wait()


def to(server: Server, transport: str = "fabric", **fields: str) -> Address:
    return parse(server.name, transport=transport, ssh_config=str(server.client_config), **fields)


@contextlib.contextmanager
def opened(address: Address, command: str, ask: Asker | None = None, timeout_s: float = 20.0) -> Iterator[SshStream]:
    stream = open_stream(address, command, ask, timeout_s)
    try:
        yield stream
    finally:
        stream.close()


def said(address: Address, command: str = "echo well", ask: Asker | None = None, timeout_s: float = 20.0) -> str:
    """What a program there writes; what is wrong with the way is raised, whenever it shows."""
    with opened(address, command, ask, timeout_s) as stream:
        text = read_all(stream).decode()
        if not text:
            problem = explained(stream, address, Cut("nothing came"))
            raise problem
        return text.strip()


def rewrite(server: Server, *lines: str) -> None:
    """Put lines before the client's configuration."""
    server.client_config.write_text("".join(f"{line}\n" for line in lines) + server.client_config.read_text())


# ---------------------------------------------------------------------------------------------- streams


@both
def test_a_stream(server: Server, transport: str) -> None:
    with opened(to(server, transport), "cat; echo trouble >&2; exit 7") as stream:
        for piece in (b"hello", bytes(range(256)) * 4096):
            stream.write(piece)
            got = b""
            while len(got) < len(piece):
                got += stream.read(100_000)
            assert got == piece
        assert stream.wait() == 7
        assert stream.complaint() == "trouble\n"
        assert stream.failure() is None
    wait_until(lambda: not server.sessions(), "the end of the session there")
    assert not [thread for thread in threading.enumerate() if "aramiko" in type(thread).__module__]


@both
def test_user_host_and_port(server: Server, transport: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host *\n  UserKnownHostsFile {server.known_hosts}\n  GlobalKnownHostsFile /dev/null\n  IdentitiesOnly yes\n"
    )
    address = parse(
        f"{server.user}@127.0.0.1:{server.port}",
        transport=transport,
        ssh_config=str(config),
        identity=str(server.identity),
    )
    assert said(address) == "well"
    with pytest.raises(LoginRequired):
        said(parse("no-such-user@127.0.0.1", **{**address.to_json(), "host": None, "user": None}))


@both
def test_both_streams_are_read_at_once(server: Server, transport: str) -> None:
    """More is written to either than fits on the way; neither waits for the other to be read."""
    with opened(
        to(server, transport), "head -c 20000000 /dev/zero >&2; head -c 20000000 /dev/zero; cat >/dev/null; exit 3"
    ) as stream:
        assert len(read_all_of(stream, 20_000_000)) == 20_000_000
        assert stream.wait() == 3
        assert 0 < len(stream.complaint()) < 100_000


@both
def test_both_directions_at_once(transport: str, tmp_path: Path) -> None:
    """With new session keys all the time."""
    data = os.urandom(1 << 20) * 40
    with a_server(tmp_path / "far", lines=["RekeyLimit 5M"]) as server, opened(to(server, transport), "cat") as stream:
        writing = threading.Thread(target=stream.write, args=(data,))
        writing.start()
        got = read_all_of(stream, len(data))
        writing.join()
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def read_all_of(stream: SshStream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = stream.read(1 << 18)
        assert piece, "it ended"
        got += piece
    return bytes(got)


@both
def test_what_a_login_shell_prints_is_passed_over(transport: str, tmp_path: Path) -> None:
    noise = 'ForceCommand head -c 50000 /dev/zero | tr "\\\\0" x; echo; eval "$SSH_ORIGINAL_COMMAND"'
    with a_server(tmp_path / "far", lines=[noise]) as server:
        script = far.shell_line(
            f'printf "{GREETING.decode().strip()}" | sed "s/^/_/" >&2; echo; echo "lwfm sync 1"; cat', []
        )
        with opened(to(server, transport), script) as stream:
            line = Line(stream)
            assert len(line.await_greeting()) >= 50_000
            line.send({"t": "hello"}, b"x" * 100_000)
            assert line.receive("hello").body == b"x" * 100_000


@both
def test_nothing_of_lwfm_there(transport: str, tmp_path: Path) -> None:
    with a_server(tmp_path / "far", lines=[f"SetEnv HOME={tmp_path} PATH=/usr/bin:/bin"]) as server:
        address = to(server, transport)
        with opened(address, far.command_line(address, ["sync", "serve", "--stdio"])) as stream:
            with pytest.raises(Cut) as cut:
                Line(stream).await_greeting()
            error = explained(stream, address, cut.value)
        assert isinstance(error, NotFound)
        assert "lwfm self copy far" in str(error.hint)


@both
def test_the_connection_is_cut(server: Server, transport: str) -> None:
    with opened(to(server, transport), "printf '\\nlwfm sync 1\\n'; cat") as stream:
        line = Line(stream)
        line.await_greeting()
        line.send({"t": "one"})
        assert line.receive("one").body == b""
        server.cut()
        with pytest.raises(Cut):
            line.receive()
        with pytest.raises(Cut):
            line.send({"t": "more"}, b"x" * 10_000_000)
        assert stream.wait() == 255
        error = stream.failure()
        assert isinstance(error, SiteError)
        assert error.transient


# ---------------------------------------------------------------------------------------------- reaching it


@both
def test_nobody_answers(transport: str, server: Server) -> None:
    server.stop()
    with pytest.raises(SiteError, match="refused") as raised:
        said(to(server, transport))
    assert raised.value.transient


@both
def test_no_such_host(transport: str, server: Server) -> None:
    with pytest.raises(SiteError) as raised:
        said(parse("no-such-host.invalid", transport=transport, ssh_config=str(server.client_config)))
    assert raised.value.transient


@both
def test_something_that_never_speaks(transport: str, server: Server) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(SiteError) as raised:
            said(to(server, transport, port=silent.getsockname()[1]), timeout_s=1.0)
        assert raised.value.transient
        assert time.monotonic() - started < 10


@both
def test_something_else_speaks(transport: str, server: Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            with other.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SiteError):
            said(to(server, transport, port=other.getsockname()[1]), timeout_s=5.0)
        thread.join()


@both
def test_a_configuration_that_makes_no_sense(server: Server, transport: str) -> None:
    rewrite(server, "Port many")
    with pytest.raises((ConfigError, SiteError)):
        said(to(server, transport))


@both
def test_no_such_configuration(server: Server, transport: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, SiteError)):
        said(Address("far", transport=transport, ssh_config=str(tmp_path / "none")))


@both
def test_through_others(transport: str, tmp_path: Path) -> None:
    """Each lets connections go on to the next one only, so that the order matters; the first is itself behind another."""
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(a_server(tmp_path / "last", "last"))
        third = stack.enter_context(a_server(tmp_path / "third", "third", lines=[f"PermitOpen 127.0.0.1:{last.port}"]))
        second = stack.enter_context(
            a_server(tmp_path / "second", "second", lines=[f"PermitOpen 127.0.0.1:{third.port}"])
        )
        first = stack.enter_context(
            a_server(tmp_path / "first", "first", lines=[f"PermitOpen 127.0.0.1:{second.port}"])
        )
        servers = (first, second, third, last)
        config = tmp_path / "config"
        config.write_text(
            "Host last\n  ProxyJump second,third\nHost second\n  ProxyJump first\n"
            f"Host *\n  StrictHostKeyChecking yes\nInclude {tmp_path}/*/config\n"
        )
        address = Address("last", transport=transport, ssh_config=str(config))
        assert said(address, "echo $SSH_CONNECTION").split()[3] == str(last.port)
        assert all("Accepted publickey" in server.log for server in servers)
        second.known_hosts.write_text(third.known_hosts.read_text().replace(str(third.port), str(second.port)))
        with pytest.raises((InsecureState, SiteError)) as raised:
            said(address)
        assert transport == "openssh" or (
            type(raised.value) is InsecureState and str(second.port) in raised.value.message
        )
        second.known_hosts.unlink()
        third.stop()
        with pytest.raises((InsecureState, SiteError)):
            said(address)


@both
def test_through_a_command(server: Server, transport: str, tmp_path: Path) -> None:
    relay = tmp_path / "relay"
    relay.write_text(
        "import socket, sys, threading, os\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    rewrite(server, f"ProxyCommand {sys.executable} {relay} %h %p")
    assert said(to(server, transport)) == "well"
    rewrite(server, "ProxyCommand false")
    with pytest.raises(SiteError):
        said(to(server, transport), timeout_s=5.0)


# ---------------------------------------------------------------------------------------------- the keys of hosts


@both
def test_another_key_than_before(server: Server, transport: str, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    kind, key = other.with_suffix(".pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    for ask in (None, Answering(confirms=True)) if transport == "fabric" else (None,):
        with pytest.raises(InsecureState) as raised:
            said(to(server, transport), ask=ask)
    assert server.fingerprint in raised.value.message
    assert f"{server.known_hosts}:1" in raised.value.message
    assert "Accepted" not in server.log
    if transport == "fabric":
        shown = subprocess.run(["ssh-keygen", "-l", "-f", str(other)], capture_output=True, text=True, check=True)
        assert shown.stdout.split()[1] in raised.value.message


@both
def test_an_unknown_host_with_nobody_to_ask(transport: str, tmp_path: Path) -> None:
    with a_server(tmp_path / "far", known=False) as server:
        with pytest.raises(InsecureState):
            said(to(server, transport))
        assert server.known_hosts.read_text() == ""
        rewrite(server, "StrictHostKeyChecking accept-new")
        assert said(to(server, transport)) == "well"
        assert f"[127.0.0.1]:{server.port} ssh-ed25519 " in server.known_hosts.read_text()
        rewrite(server, "StrictHostKeyChecking yes")
        assert said(to(server, transport)) == "well"


def test_an_unknown_host_is_asked_for(tmp_path: Path) -> None:
    with a_server(tmp_path / "far", known=False) as server:
        refusing = Answering(confirms=False)
        with pytest.raises(InsecureState):
            said(to(server), ask=refusing)
        assert server.fingerprint in refusing.questions[0]
        assert server.known_hosts.read_text() == ""
        agreeing = Answering(confirms=True)
        assert said(to(server), ask=agreeing) == "well"
        assert said(to(server), ask=agreeing) == "well"
        assert len(agreeing.questions) == 1
        assert said(to(server, "openssh")) == "well"  # it reads what we have written


def test_an_unknown_host_where_the_configuration_is_strict(tmp_path: Path) -> None:
    with a_server(tmp_path / "far", known=False) as server:
        rewrite(server, "StrictHostKeyChecking yes")
        asked = Answering(confirms=True)
        with pytest.raises(InsecureState):
            said(to(server), ask=asked)
        assert not asked.questions


@both
def test_a_revoked_key(server: Server, transport: str) -> None:
    kind, key = (server.directory / "host.pub").read_text().split()[:2]
    with server.known_hosts.open("a") as file:
        file.write(f"@revoked * {kind} {key}\n")
    with pytest.raises(InsecureState):
        said(to(server, transport))


@both
def test_the_kind_of_key_that_is_known_is_asked_for(transport: str, tmp_path: Path) -> None:
    rsa = make_key(tmp_path / "rsa", kind="rsa")
    with a_server(tmp_path / "far", lines=[f"HostKey {rsa}"]) as server:
        kind, key = rsa.with_suffix(".pub").read_text().split()[:2]
        server.known_hosts.write_text(f"name {kind} {key}\n")
        rewrite(server, "HostKeyAlias name", "StrictHostKeyChecking yes")
        assert said(to(server, transport)) == "well"


# ---------------------------------------------------------------------------------------------- logging in


@both
def test_a_key_that_is_not_let_in(server: Server, transport: str, tmp_path: Path) -> None:
    server.authorize(make_key(tmp_path / "other"))
    with pytest.raises(LoginRequired) as raised:
        said(to(server, transport))
    assert not raised.value.transient
    assert said(to(server, transport, identity=str(tmp_path / "other"))) == "well"


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_kinds_of_keys(server: Server, tmp_path: Path, kind: str) -> None:
    server.authorize(make_key(tmp_path / "one", kind=kind))
    assert said(to(server, identity=str(tmp_path / "one"))) == "well"
    server.authorize(make_key(tmp_path / "locked", kind=kind, passphrase="open"))
    assert said(to(server, identity=str(tmp_path / "locked")), ask=Answering("open")) == "well"


@pytest.mark.parametrize("pem", [False, True])
def test_a_passphrase(server: Server, tmp_path: Path, pem: bool) -> None:
    if pem:
        key = tmp_path / "locked"
        words = ["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "open it", "-f", str(key)]
        subprocess.run(words, check=True)
        server.authorize(key)
    else:
        key = make_key(tmp_path / "locked", passphrase="open it")
        server.authorize(key)
        key.with_suffix(".pub").unlink()
    address = to(server, identity=str(key))
    asked = Answering("wrong", "open it")
    assert said(address, ask=asked) == "well"
    assert [echo for _, echo in asked.asked] == [False, False]
    assert str(key) in asked.asked[0][0]
    with pytest.raises(LoginRequired, match="passphrase"):
        said(address)
    with pytest.raises(LoginRequired):
        said(address, ask=Answering("wrong", "wrong", "wrong"))
    with pytest.raises(LoginRequired):
        said(address, ask=Answering(""))


@both
def test_an_agent(server: Server, transport: str, tmp_path: Path, agent: Callable[[Path], None]) -> None:
    held, other = make_key(tmp_path / "held"), make_key(tmp_path / "other")
    server.authorize(held)
    with pytest.raises(LoginRequired):
        said(to(server, transport))
    agent(other)
    agent(held)
    with pytest.raises(LoginRequired):
        said(to(server, transport))  # IdentitiesOnly, says the configuration
    rewrite(server, "IdentitiesOnly no")
    assert said(to(server, transport)) == "well"
    rewrite(server, "IdentityAgent none")
    with pytest.raises(LoginRequired):
        said(to(server, transport))
    rewrite(server, f"IdentityAgent {tmp_path}/agent")
    assert said(to(server, transport)) == "well"


def test_an_agent_with_many_keys(server: Server, tmp_path: Path, agent: Callable[[Path], None]) -> None:
    for number in range(8):
        agent(make_key(tmp_path / f"key{number}"))
    server.authorize(make_key(tmp_path / "right"))
    rewrite(server, "IdentitiesOnly no")
    with pytest.raises(LoginRequired) as raised:
        said(to(server))
    assert "--identity" in str(raised.value.hint)
    assert said(to(server, identity=str(tmp_path / "right"))) == "well"


def test_the_agent_holds_the_key_of_a_locked_file(
    server: Server, tmp_path: Path, agent: Callable[[Path], None]
) -> None:
    key = make_key(tmp_path / "key")
    agent(key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open it", "-f", str(key)], check=True, stdout=subprocess.DEVNULL)
    server.authorize(key)
    assert said(to(server, identity=str(key))) == "well"


@both
def test_a_certificate(server: Server, transport: str, tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", server.user, f"{key}.pub"]
    subprocess.run(words, check=True)
    text = authority.with_suffix(".pub").read_text()
    (server.directory / "authorized").write_text(f"cert-authority {text}")
    assert said(to(server, transport, identity=str(key))) == "well"


@pytest.mark.root
def test_a_password(pam: Callable[..., contextlib.AbstractContextManager[Server]]) -> None:
    with pam("PasswordAuthentication yes", "AuthenticationMethods password", password=True) as server:
        asked = Answering("wrong", PASSWORD)
        assert said(to(server), ask=asked) == "well"
        assert [echo for _, echo in asked.asked] == [False, False]
        with pytest.raises(LoginRequired, match="password"):
            said(to(server))
        with pytest.raises(LoginRequired):
            said(to(server, "openssh"))
        with pytest.raises(LoginRequired):
            said(to(server), ask=Answering("wrong", "wrong", "wrong"))
        rewrite(server, "BatchMode yes")
        with pytest.raises(LoginRequired):
            said(to(server), ask=Answering())
        assert PASSWORD not in server.log


@pytest.mark.root
def test_a_one_time_code(pam: Callable[..., contextlib.AbstractContextManager[Server]]) -> None:
    lines = "KbdInteractiveAuthentication yes", "AuthenticationMethods keyboard-interactive"
    with pam(*lines, code=True) as server:
        asked = Answering(one_time_code(0))
        assert said(to(server), ask=asked) == "well"
        assert "One-time password" in asked.asked[0][0]
        again = Answering(one_time_code(0), one_time_code(1))  # a code is good for one login
        assert said(to(server), ask=again) == "well"
        assert len(again.asked) == 2
        with pytest.raises(LoginRequired, match="One-time password"):
            said(to(server))


@pytest.mark.root
def test_a_key_and_then_a_password_and_a_code(pam: Callable[..., contextlib.AbstractContextManager[Server]]) -> None:
    lines = "KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive"
    with pam(*lines, password=True, code=True) as server:
        asked = Answering(PASSWORD, one_time_code(0))
        assert said(to(server), ask=asked) == "well"
        assert len(asked.asked) == 2
        assert asked.asked[0][1] is False
        assert "Partial publickey" in server.log
        with pytest.raises(LoginRequired):
            said(to(server))
        with pytest.raises(LoginRequired):
            said(to(server, "openssh"))


@pytest.mark.root
def test_a_code_on_the_terminal(
    pam: Callable[..., contextlib.AbstractContextManager[Server]], tmp_path: Path, archive: Path
) -> None:
    """With either transport a person types it, and it is not on the screen but where the host lets it be."""
    home = tmp_path / "there"
    home.mkdir()
    lines = (
        "KbdInteractiveAuthentication yes",
        "AuthenticationMethods publickey,keyboard-interactive",
        f"SetEnv HOME={home}",
    )
    with pam(*lines, password=True, code=True) as server:
        for count, transport in enumerate(TRANSPORTS):
            words = [*LWFM, "self", "copy", "far", "-F", str(server.client_config), "--transport", transport]
            terminal = OnTerminal([*words, "--file", str(archive)])
            terminal.expect("Password: ")
            terminal.type(f"{PASSWORD}\n")
            terminal.expect("One-time password.*: ")
            terminal.type(f"{one_time_code(count)}\n")
            terminal.expect("It runs there: lwfm 1.2.3")
            assert terminal.end() == 0
            assert PASSWORD not in terminal.screen
            assert len(server.log.split("Accepted keyboard-interactive")) == count + 2, "one login each"
        for transport in TRANSPORTS:
            words = [*LWFM, "self", "copy", "far", "-F", str(server.client_config), "--transport", transport]
            terminal = OnTerminal([*words, "--file", str(archive)])
            terminal.expect("Password: ")
            terminal.type("\x03")
            assert terminal.end() == 130, terminal.screen
            assert terminal.screen.endswith("\nlwfm: interrupted\r\n")
        wait_until(lambda: not server.sessions(), "the end of the sessions")


def test_a_shared_connection(server: Server, tmp_path: Path) -> None:
    """What is set up for ssh is used: one login for all, and what stays behind holds nothing up."""
    rewrite(server, "ControlMaster auto", f"ControlPath {tmp_path}/shared", "ControlPersist 60")
    address = to(server, "openssh")
    try:
        started = time.monotonic()
        for _ in range(3):
            assert said(address) == "well"
            with opened(address, "echo trouble >&2; exit 3") as stream:
                assert stream.wait() == 3
                assert "trouble" in stream.complaint()
        assert time.monotonic() - started < 10
        assert server.log.count("Accepted publickey") == 1
    finally:
        words = ["ssh", "-F", str(server.client_config), "-O", "exit", "far"]
        subprocess.run(words, check=True, capture_output=True)


# ---------------------------------------------------------------------------------------------- copying


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small file that answers as lwfm.pyz does."""
    path = tmp_path / "other name.pyz"
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text("import sys; print('lwfm 1.2.3' if sys.argv[1:] == ['--version'] else '?')\n")
    (source / "filling").write_bytes(os.urandom(3_000_000))
    subprocess.run(
        [sys.executable, "-m", "zipapp", str(source), "-p", "/usr/bin/env python3", "-o", str(path)], check=True
    )
    return path


@pytest.fixture
def copying(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server with a home of its own."""
    home = tmp_path / "there"
    home.mkdir()
    with a_server(tmp_path / "far", lines=[f"SetEnv HOME={home}"]) as server:
        yield server, home


def self_copy(server: Server, archive: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [*LWFM, "self", "copy", "far", "-F", str(server.client_config), "--file", str(archive), *more]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@both
def test_self_copy(copying: tuple[Server, Path], archive: Path, transport: str) -> None:
    server, home = copying
    done = self_copy(server, archive, "--transport", transport)
    assert done.returncode == 0, done.stderr
    assert "It runs there: lwfm 1.2.3" in done.stdout
    assert (home / "lwfm.pyz").read_bytes() == archive.read_bytes()
    assert (home / "lwfm.pyz").stat().st_mode & 0o777 == 0o700
    assert server.log.count("Accepted publickey") == 1
    before = (home / "lwfm.pyz").stat().st_ino
    done = self_copy(server, archive, "--transport", transport)
    assert "was there already" in done.stdout
    assert (home / "lwfm.pyz").stat().st_ino == before
    (home / "lwfm.pyz").write_bytes(b"half")
    done = self_copy(server, archive, "--transport", transport)
    assert (home / "lwfm.pyz").read_bytes() == archive.read_bytes()
    done = self_copy(server, archive, "--force", "--json")
    assert '"sent": true' in done.stdout
    assert os.listdir(home) == ["lwfm.pyz"]


def test_self_copy_elsewhere(copying: tuple[Server, Path], archive: Path) -> None:
    server, home = copying
    (home / "is there").mkdir()
    for to_, path in (
        ("is there", "is there/lwfm.pyz"),
        ("~/new/deep/", "new/deep/lwfm.pyz"),
        ("it's $HOME \\ !.pyz", "it's $HOME \\ !.pyz"),
        (str(home / "a" / "b.pyz"), "a/b.pyz"),
    ):
        done = self_copy(server, archive, "--to", to_)
        assert done.returncode == 0, done.stderr
        assert (home / path).read_bytes() == archive.read_bytes()


def test_self_copy_with_no_python_there(copying: tuple[Server, Path], archive: Path) -> None:
    server, home = copying
    done = self_copy(server, archive, "--remote-python", "/no/python")
    assert done.returncode == 3
    assert "no Python 3.9 or newer" in done.stderr
    assert "--remote-python" in done.stderr
    assert (home / "lwfm.pyz").exists()


def test_self_copy_that_cannot_be(copying: tuple[Server, Path], archive: Path, tmp_path: Path) -> None:
    server, home = copying
    (home / "file").write_text("")
    done = self_copy(server, archive, "--to", "file/lwfm.pyz")
    assert done.returncode == 6, done
    assert "file" in done.stderr
    (tmp_path / "text").write_text("no archive")
    assert self_copy(server, tmp_path / "text").returncode == 2
    assert self_copy(server, tmp_path / "none").returncode == 3
    assert self_copy(server, archive, "--to", "a\nb").returncode == 2
    assert os.listdir(home) == ["file"]


@both
def test_self_copy_where_there_is_no_room(tmp_path: Path, archive: Path, transport: str) -> None:
    home = tmp_path / "there"
    home.mkdir()
    (home / "lwfm.pyz").write_text("before")
    limit = 'ForceCommand ulimit -f 200; eval "$SSH_ORIGINAL_COMMAND"'
    with a_server(tmp_path / "far", lines=[f"SetEnv HOME={home}", limit]) as server:
        done = self_copy(server, archive, "--transport", transport)
    assert done.returncode == 6
    assert "could be written" in done.stderr, done.stderr
    assert os.listdir(home) == ["lwfm.pyz"]
    assert (home / "lwfm.pyz").read_text() == "before"


@both
def test_self_copy_that_is_cut(tmp_path: Path, archive: Path, transport: str) -> None:
    home = tmp_path / "there"
    home.mkdir()
    (home / "lwfm.pyz").write_text("before")
    slow = f'ForceCommand PATH={tmp_path}/slow:$PATH; eval "$SSH_ORIGINAL_COMMAND"'
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "head").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "slow" / "head").chmod(0o755)
    with a_server(tmp_path / "far", lines=[f"SetEnv HOME={home}", slow]) as server:
        words = [*LWFM, "self", "copy", "far", "-F", str(server.client_config), "--file", str(archive)]
        copying = subprocess.Popen(
            [*words, "--transport", transport], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: list(home.glob("lwfm.pyz.part.*")), "the part")
        sshd = [process for process in server.sessions() if process.name() == "sshd"]
        for process in sshd:
            process.kill()
        _, complaint = copying.communicate(timeout=30)
        for process in server.sessions():
            process.terminate()
    assert copying.returncode == 6, complaint
    assert (home / "lwfm.pyz").read_text() == "before"


# ---------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
def test_how_fast_it_is(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 MB each way; told, not judged: it is the machine's."""
    megabytes = 60
    count = megabytes * 1_000_000
    told = {}
    for transport in TRANSPORTS:
        with opened(to(server, transport), f"head -c {count} /dev/zero") as stream:
            started = time.monotonic()
            read_all_of(stream, count)
            told[f"{transport} down"] = megabytes / (time.monotonic() - started)
        with opened(to(server, transport), f"head -c {count} | wc -c") as stream:
            started = time.monotonic()
            block = bytes(4_000_000)
            for _ in range(count // len(block)):
                stream.write(block)
            assert stream.read(100).split() == [str(count).encode()]
            told[f"{transport} up"] = megabytes / (time.monotonic() - started)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(count)
    started = time.monotonic()
    subprocess.run(["scp", "-q", "-F", str(server.client_config), str(tmp_path / "big"), "far:/dev/null"], check=True)
    told["scp"] = megabytes / (time.monotonic() - started)
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in told.items()) + "\n")
