"""The agent's port for the workers of its allocation, and everybody who has not got the key: no word, no room, no harm."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm import rendezvous
from lwfm.rendezvous import Address, Rendezvous
from lwfm.wire import encode
from lwfm.workers import admission
from lwfm.workers.keys import make_key

from support.agents import Agent, environment, new_home, running_agent
from support.strangers import WORDS, stranger
from support.waiting import wait_until

JSON = dict[str, Any]
ELSEWHERE = "127.0.0.2"
"""Another address of this machine, from which strangers come: the agent takes it for another host."""
DESCRIPTORS = 256
GROWTH_BYTES = 64 * 2**20
CONNECTIONS = 10_000


class Listening:
    """An agent in an allocation of this host and of one that does not come up.

    Attributes:
        agent: it. ``place``: where it says that it is. ``port``: where it listens.
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        (self.file,) = agent.home.allocations.glob("*/agent.json")
        self.place = rendezvous.read(self.file)
        self.port = self.place.addresses[0].port

    @property
    def proc(self) -> Path:
        assert self.agent.process is not None
        return Path(f"/proc/{self.agent.process.pid}")

    def descriptors(self) -> int:
        return len(list((self.proc / "fd").iterdir()))

    def memory_bytes(self) -> int:
        return int((self.proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def workers(self) -> list[JSON]:
        found: list[JSON] = self.agent.client.get("/v1/agent")["workers"]
        return [worker for worker in found if worker["state"] == "up"]

    @contextmanager
    def another_worker(self) -> Iterator[int]:
        """A worker that comes over the network, as from another node; its pid, once the agent has it."""
        spool = new_home()
        words = [sys.executable, "-m", "lwfm", "worker", "--rendezvous", str(self.file), "--spool", str(spool)]
        before = len(self.workers())
        process = subprocess.Popen(words, env=environment(LWFM_HOME=str(self.agent.home.root)), cwd="/")
        try:
            wait_until(
                lambda: len(self.workers()) > before, "the worker to be let in", timeout_s=60, on_timeout=self.agent.log
            )
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            shutil.rmtree(spool, ignore_errors=True)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    hostfile = tmp_path_factory.mktemp("hosts") / "hosts"
    hostfile.write_text(f"{socket.gethostname()}\n127.0.0.9\n")
    with running_agent('[local]\nchannel = "tcp"\n', env={"LWFM_HOSTFILE": str(hostfile), "PATH": os.defpath}) as agent:
        agent.worker()
        made = Listening(agent)
        resource.prlimit(int(made.proc.name), resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield made


def answers(connection: socket.socket, said: bytes) -> bytes:
    """What comes back, to the end; alerts of TLS and resets are no answer."""
    connection.settimeout(60)
    told = b""
    try:
        connection.sendall(said)
        while True:
            piece = connection.recv(4096)
            if not piece:
                return told
            told += piece
    except OSError:
        return told
    finally:
        connection.close()


HTTP = b"GET /v1/agent HTTP/1.1\r\nHost: lwfm\r\nConnection: close\r\n\r\n"


def test_with_the_key_both_are_answered(listening: Listening) -> None:
    """So that the silence in the other tests is one for want of the key."""
    assert b"200 OK" in answers(rendezvous.dial(listening.place, 20), HTTP)
    assert b"refused" in answers(
        rendezvous.dial(listening.place, 20),
        encode([{"t": "hello", "protocols": [999], "worker": "w", "host": "h", "pid": 1, "jobs": [], "node": {}}]),
    )


@pytest.mark.parametrize("key", ["none", "another"])
@pytest.mark.parametrize("said", ["http", "frames"])
def test_without_the_key_no_word(listening: Listening, key: str, said: str, tmp_path: Path) -> None:
    """Neither a worker nor a caller of the API, by TLS that is right but for the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if key == "another":
        make_key(tmp_path / "key.pem")
        context.load_cert_chain(tmp_path / "key.pem")
    try:
        line = context.wrap_socket(socket.create_connection(listening.place.addresses[0], 60))
    except OSError:
        return  # TLS 1.2 refuses in the handshake, 1.3 after the client's part of it
    assert answers(line, HTTP if said == "http" else WORDS["frames"]) == b""


def test_a_worker_trusts_no_other_agent(tmp_path: Path) -> None:
    """Somebody who listens where the agent was, with a key of their own, is told nothing and obeyed in nothing."""
    for name in ("ours", "theirs"):
        make_key(tmp_path / name)
    context = rendezvous.server_context(tmp_path / "theirs")
    context.verify_mode = ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def listen() -> None:
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as line:
                    heard.append(line.recv(100))
            except OSError:
                heard.append(b"")

        thread = threading.Thread(target=listen)
        thread.start()
        place = Rendezvous((Address(*listener.getsockname()),), tmp_path / "ours")
        with pytest.raises(OSError, match=r"(?i)certificate|ssl"):
            rendezvous.dial(place, 20)
        thread.join(20)
    assert heard == [b""]


def test_what_was_overheard_is_worth_nothing(listening: Listening) -> None:
    """All that a worker has sent, byte for byte, sent again: the agent does not take it for the worker."""
    recorded = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as between:

        def carry(source: socket.socket, target: socket.socket, keep: Optional[bytearray]) -> None:
            try:
                while piece := source.recv(65536):
                    if keep is not None:
                        keep += piece
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        def listen() -> None:
            near, _ = between.accept()
            with near, socket.create_connection(listening.place.addresses[0]) as far:
                back = threading.Thread(target=carry, args=(far, near, None))
                back.start()
                carry(near, far, recorded)
                back.join(20)

        thread = threading.Thread(target=listen)
        thread.start()
        through = Rendezvous((Address(*between.getsockname()),), listening.place.key)
        body = json.dumps({"lines": [{"message": "said once", "level": "INFO"}]}).encode()
        head = f"POST /v1/logs HTTP/1.1\r\nHost: lwfm\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        assert b"200 OK" in answers(rendezvous.dial(through, 20), head.encode() + body)
        thread.join(20)
    assert len(recorded) > len(body)
    told = answers(socket.create_connection(listening.place.addresses[0]), bytes(recorded))
    assert b"HTTP" not in told
    lines = listening.agent.client.get("/v1/logs", {"text": "said once"})["logs"]
    assert len(lines) == 1


@pytest.mark.parametrize("manner", list(WORDS))
def test_a_crowd_takes_no_room_and_holds_up_nobody(listening: Listening, manner: str) -> None:
    """Thousands that hold on: memory and descriptors stay bounded, jobs run, and a worker that comes meanwhile is let in."""
    memory, descriptors = listening.memory_bytes(), listening.descriptors()
    agent = listening.agent
    with stranger(listening.port, manner, CONNECTIONS // len(WORDS), ELSEWHERE) as held:
        assert held >= min(CONNECTIONS // len(WORDS), 500)
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
        with listening.another_worker():
            assert listening.descriptors() <= descriptors + admission.MOST + 20
            assert listening.memory_bytes() <= memory + GROWTH_BYTES
    wait_until(
        lambda: listening.descriptors() <= descriptors + 5,
        "what they held to be free",
        timeout_s=60,
        on_timeout=agent.log,
    )
    assert agent.log().count("connections without the key were refused") <= 3
    assert "Traceback" not in agent.log()
