"""Another user of the same node: reads nothing of an instance, replaces nothing, and is not taken for its agent or its owner."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwfm import paths
from lwfm.allocations.own import AllocatedWorkers
from lwfm.client import Client, Endpoint
from lwfm.errors import InsecureState, LwfmError
from lwfm.host.private import private_directory
from lwfm.launch.allocation import Allocation, NodeShare
from lwfm.paths import Home
from lwfm.worker.line import LocalLine
from lwfm.worker.main import own_spool
from lwfm.workers.protocol import WorkerServer

from support import otheruser
from support.agents import environment, running_agent
from support.otheruser import OTHER, as_other, other_process

pytestmark = pytest.mark.root
stranger_uid, scratch = otheruser.stranger_uid, otheruser.scratch
SECRET = "hunter2-of-the-node"


@pytest.fixture
def open_to_all(scratch: Path) -> Path:
    """A directory in which anybody may do anything to everything."""
    place = scratch / "open"
    place.mkdir()
    place.chmod(0o777)
    return place


def dial(path: Path, said: bytes) -> str:
    """What is answered at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(20)
        line.connect(str(path))
        line.sendall(said)
        return line.recv(1000).decode("latin-1")


def trials(home: Path) -> dict[str, Callable[[], Any]]:
    """What a stranger may try on a home, by name."""
    return {
        "list": lambda: os.listdir(home),
        "read": lambda: (home / "thread.db").read_bytes()[:16].decode("latin-1"),
        "log": lambda: (home / "agent.log").read_text(),
        "connect": lambda: dial(home / "agent.sock", b"GET /v1/agent HTTP/1.1\r\n\r\n"),
        "work": lambda: dial(home / "worker.sock", b"\0\0\0\2[]"),
        "add": lambda: (home / "sites.toml").write_text("[evil]\n"),
        "rename": lambda: home.rename(home.with_name("gone")),
        "replace": lambda: (home / "agent.sock").unlink(),
        "link": lambda: os.link(home / "thread.db", home.with_name("mine")),
        "chmod": lambda: home.chmod(0o777),
    }


@pytest.mark.parametrize("opened", [False, True])
def test_nothing_of_an_instance_is_a_strangers(stranger_uid: int, opened: bool) -> None:
    """Also where its owner has opened the home's directory to all by mistake: each thing in it is the owner's alone by itself."""
    os.umask(0)  # of a careless user
    try:
        with running_agent(env={"A_TOKEN": SECRET}) as agent:
            agent.wait(agent.submit("seq 1 100000", env={"A_TOKEN": SECRET}))
            agent.put({"kind": "x"})
            held = agent.submit("sleep 60", env={"A_TOKEN": SECRET})
            agent.wait_state(held, "RUNNING")
            if opened:
                agent.home.root.chmod(0o755)
            for name, trial in trials(agent.home.root).items():
                if not (opened and name == "list"):
                    assert as_other(trial) == "PermissionError", name
            found = [path for path in agent.home.root.rglob("*") if not path.is_symlink()]
            assert {"thread.db", "agent.sock", "worker.sock", "journal", "lock", f"{held}.json"} <= {
                p.name for p in found
            }
            others = {str(path): oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077}
            assert not others
            agent.cancel(held)
    finally:
        os.umask(0o022)


@pytest.mark.parametrize("which", ["agent", "worker"])
def test_a_socket_that_was_opened_to_all_still_answers_only_its_owner(stranger_uid: int, which: str) -> None:
    with running_agent() as agent:
        path = agent.home.socket if which == "agent" else agent.home.worker_socket
        agent.home.root.chmod(0o755)
        path.chmod(0o666)
        said = b"GET /v1/agent HTTP/1.1\r\nHost: x\r\n\r\n"  # which is answered at both
        assert as_other(lambda: dial(path, said)) in ("", "ConnectionResetError", "BrokenPipeError")
        assert "200 OK" in dial(path, said)
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"


def test_a_strangers_process_is_not_taken_for_the_agent(scratch: Path) -> None:
    """Neither by a caller, who would tell it secrets, nor by a worker, which would run what it is told."""
    path = scratch / "agent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))

    def listen() -> bool:
        listener.listen()
        return True

    with other_process(listen):
        os.chown(
            path, os.getuid(), -1
        )  # it looks like ours, as one may for a moment that is swapped after it was looked at
        with pytest.raises(InsecureState, match=f"user {OTHER}, not you"):
            Client(Endpoint(Home(scratch), path, may_start=False)).get("/v1/agent")
        with pytest.raises(PermissionError, match=f"user {OTHER}, not you"):
            LocalLine(str(path))
    listener.close()


# ---------------------------------------------------------------------------------------------- directories


def made_by_other(path: Path, mode: int = 0o700) -> None:
    def make() -> None:
        path.mkdir()
        path.chmod(mode)

    assert as_other(make) is None


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_directory_that_a_stranger_has_made_first_is_refused(scratch: Path, mode: int) -> None:
    made_by_other(scratch / "taken", mode)
    with pytest.raises(InsecureState, match=f"belongs to user {OTHER}"):
        private_directory(scratch / "taken")
    assert list((scratch / "taken").iterdir()) == []


@pytest.mark.parametrize("target", ["theirs", "ours"])
def test_a_link_that_a_stranger_has_laid_is_refused(scratch: Path, target: str) -> None:
    """Also one to a directory of ours: it can lead elsewhere a moment later."""
    made_by_other(scratch / "theirs", 0o777)
    (scratch / "ours").mkdir(mode=0o755)
    assert as_other(lambda: os.symlink(scratch / target, scratch / "link")) is None
    for place in (scratch / "link", scratch / "link" / "below"):
        with pytest.raises(InsecureState, match=f"is a link of user {OTHER}"):
            private_directory(place)
    assert stat.S_IMODE((scratch / "ours").stat().st_mode) == 0o755  # nor was its mode changed


def test_a_home_that_anybody_could_replace_is_refused(open_to_all: Path) -> None:
    for place in (open_to_all / "home", open_to_all / "above" / "home"):
        with pytest.raises(InsecureState, match=f"anybody can replace what is in {open_to_all}") as caught:
            Home(place).create()
        assert caught.value.hint
    (open_to_all.parent / "link").symlink_to(open_to_all / "above")
    with pytest.raises(InsecureState, match="anybody can replace"):
        private_directory(open_to_all.parent / "link" / "home")


def test_what_is_made_above_a_home_is_the_owners_alone_too(scratch: Path) -> None:
    mask = os.umask(0)
    try:
        Home(scratch / "a" / "b" / "home").create()
    finally:
        os.umask(mask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (scratch / "a", scratch / "a" / "b")} == {0o700}


def test_in_the_scratch_of_the_node_nothing_is_replaced_under_an_instance(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets and spool of a home on a shared file system lie there, while a stranger tries all the time to be in their place."""
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(paths, "is_shared", lambda _: True)
    home = Home(scratch / "home")
    home.create()
    top = scratch / f"lwfm-{os.getuid()}"
    home.socket.touch()
    assert top in home.socket.parents

    def trial() -> bool:
        for act in (
            lambda: top.rename(scratch / "moved"),
            lambda: shutil.rmtree(top),
            lambda: os.symlink("/", top),
            lambda: top.mkdir(),
            lambda: home.socket.unlink(),
            lambda: home.runtime.chmod(0o777),
        ):
            try:
                act()
            except OSError:
                pass
        return True

    before = top.stat().st_ino
    with other_process(trial):
        for _ in range(200):
            home.create()
            private_directory(home.spool)
    assert top.stat().st_ino == before
    assert home.socket.exists()
    assert not (scratch / "moved").exists()


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_worker_does_not_use_a_spool_that_was_laid_for_it(scratch: Path, kind: str) -> None:
    """It would run what it finds there."""
    top = scratch / f"lwfm-{os.getuid()}"
    if kind == "directory":
        made_by_other(top, 0o777)
    else:
        made_by_other(scratch / "trap", 0o777)
        assert as_other(lambda: os.symlink(scratch / "trap", top)) is None
    words = [sys.executable, "-m", "lwfm", "worker", "--rendezvous", str(scratch / "agent.json")]
    done = subprocess.run(words, env=environment(TMPDIR=str(scratch)), capture_output=True, text=True, timeout=60)
    assert done.returncode == InsecureState.exit_code
    assert f"user {OTHER}" in done.stderr
    assert list(top.iterdir()) == []


def test_the_spool_of_a_worker_has_the_users_number_in_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that two users never want the same."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = own_spool("/shared/allocations/x/agent.json")
    assert spool.startswith(f"{tmp_path}/lwfm-{os.getuid()}/")
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    assert own_spool("/shared/allocations/x/agent.json") != spool


def test_the_key_of_an_allocation_is_its_owners_alone(scratch: Path) -> None:
    import asyncio

    home = Home(scratch / "home")
    home.create()
    allocation = Allocation("hostfile", "9", (NodeShare("n1"), NodeShare("127.0.0.9")))

    class Listens(WorkerServer):
        def __init__(self) -> None:
            pass

        async def listen(self, hosts: Any, context: Any, gate: Any) -> list[Any]:
            return []

    async def opened() -> Path:
        allocated = AllocatedWorkers(home, allocation, Listens(), "tcp")
        await allocated.open()
        return allocated.rendezvous

    told = asyncio.run(opened())
    key = told.parent / "key.pem"
    for path in (told, key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert as_other(path.read_text) == "PermissionError"
    os.chmod(key, 0o644)
    with pytest.raises(LwfmError, match="not yours alone"):
        asyncio.run(opened())
