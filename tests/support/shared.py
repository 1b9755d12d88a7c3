"""Hosts that share a file system: each with a name, a boot and scratch of its own, and a mount that has faults on demand.

::

    with SharedDisk() as disk:
        one, other = disk.host("n1"), disk.host("n2")
        agent = one.agent()
        agent.start()

The kernel of a test machine may have no NFS; so the file system is one of our own (``sharedfs.c``, by FUSE), which imitates what
is hard about NFS: attributes and names are seen late by other hosts, locks reach none of them, a file that another host removed
is stale, calls fail with EIO or ESTALE. Each host is a set of namespaces, in which the disk is mounted anew at the same path.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.client import Client, Endpoint

from support.agents import GONE_TIMEOUT_S, Agent, environment
from support.waiting import wait_until

SOURCE = Path(__file__).with_name("sharedfs.c")
SEEN_AFTER_S = 1.0
"""How long a host may not see what another has done."""
HOST = """\
set -e
hostname "$1"
mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$2/machine-id" /etc/machine-id
echo ready
exec cat >/dev/null
"""


def why_not() -> str:
    """What is missing for such hosts here; empty when nothing is."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    if not os.path.exists("/dev/fuse"):
        return "this kernel has no FUSE"
    for program in ("unshare", "nsenter", "gcc", "pkg-config"):
        if shutil.which(program) is None:
            return f"needs {program}"
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode != 0:
        return "needs libfuse3-dev"
    return ""


needs_hosts = pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")


@functools.lru_cache(maxsize=1)
def program() -> str:
    """The compiled file system; of this process, removed at its end."""
    directory = tempfile.mkdtemp(prefix="lwfm-sharedfs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True)
    made = f"{directory}/sharedfs"
    subprocess.run(["gcc", "-O1", "-o", made, str(SOURCE), *flags.stdout.split()], check=True)
    return made


class Host:
    """A host, while the block of its disk runs. Construct by :meth:`SharedDisk.host`."""

    def __init__(self, name: str, disk: SharedDisk):
        self.name = name
        self.disk = disk
        self.own = disk.root / name
        self.scratch = self.own / "t"
        self.scratch.mkdir(parents=True)
        self.faults = self.own / "faults"
        self.started: list[subprocess.Popen[bytes]] = []
        (self.own / "machine-id").write_text(uuid.uuid4().hex + "\n")
        self.up()

    def up(self) -> None:
        """Boot it."""
        (self.own / "boot_id").write_text(f"{uuid.uuid4()}\n")
        words = ["unshare", "--uts", "--mount", "sh", "-c", HOST, "sh", self.name, str(self.own)]
        self._first = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == b"ready\n"
        disk = self.disk
        mount = [program(), str(disk.backing), str(self.faults), str(disk.mounted), "-f", "-s"]
        options = ["-o", "subtype=sharedfs,fsname=server:/export"]
        self._server = subprocess.Popen(
            [*self.enter, *mount, *options], env={**os.environ, "SEEN_AFTER_S": str(SEEN_AFTER_S)}
        )
        wait_until(lambda: "fuse.sharedfs" in self.run("cat", "/proc/self/mountinfo").stdout, "the mount")

    def down(self) -> None:
        """Cut its power: everything on it ends at once, what was written is there."""

        def is_down() -> bool:
            left = self.pids()
            for pid in left:  # while we look others are started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(is_down, f"{self.name} to be down")
        for process in self.started:
            process.wait(GONE_TIMEOUT_S)
        self._server.kill()
        self._server.wait()
        self._first.kill()
        self._first.communicate()

    @property
    def sockets(self) -> Path:
        """Where an agent has its sockets there; outside too."""
        digest = hashlib.sha256(os.fsencode(self.disk.home)).hexdigest()[:12]
        return self.scratch / f"lwfm-{os.getuid()}" / digest

    @property
    def enter(self) -> list[str]:
        """The words that run a command there."""
        return ["nsenter", "--uts", "--mount", "--target", str(self._first.pid), "--"]

    def run(self, *words: str, code: Optional[int] = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command there. ``code``: its exit code; None: any."""
        done = subprocess.run(
            [*self.enter, *words], env=self.environment(**env), capture_output=True, text=True, timeout=100, check=False
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def lwfm(self, *words: str, code: Optional[int] = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``lwfm`` there."""
        return self.run(sys.executable, "-m", "lwfm", *words, code=code, **env)

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a process there."""
        return environment(LWFM_HOME=str(self.disk.home), TMPDIR=str(self.scratch), **more)

    def agent(self) -> HostAgent:
        """An agent there, not started."""
        return HostAgent(self)

    def fail(self, *lines: str) -> None:
        """Have calls of its mount fail, as ``EIO write,fsync thread.db``; without lines no more."""
        part = self.faults.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in lines))
        part.replace(self.faults)

    def pids(self) -> list[int]:
        """The processes of instances there."""
        mark = os.fsencode(f"TMPDIR={self.scratch}")
        found = []
        for entry in os.scandir("/proc"):
            try:
                if not entry.name.isdigit() or not Path(entry.path, "cmdline").read_bytes():
                    continue
                if mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


class HostAgent(Agent):
    """An agent on a host. Its home is looked at from outside, where the disk's content really is."""

    def __init__(self, host: Host):
        self.host = host
        super().__init__(host.disk.backing / "home")

    def launch(self, *options: str, **env: str) -> tuple[subprocess.Popen[bytes], Optional[dict[str, Any]]]:
        """Start it there; the process, and what it reported."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "lwfm", "agent", "serve", "--home", str(self.host.disk.home)]
        process = subprocess.Popen(
            [*self.host.enter, *command, "--ready-fd", str(writing), *options, *self.options],
            env=self.host.environment(**env),
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        self.host.started.append(process)
        with os.fdopen(reading, "rb") as pipe:
            line = pipe.readline()
        return process, json.loads(line) if line else None

    def take_over(self) -> HostAgent:
        """Start it by force."""
        self.process, report = self.launch("--take-over")
        assert report == {"ok": True}, f"the agent did not start: {report}\n{self.log()}"
        return self

    def new_client(self) -> Client:
        return Client(Endpoint(self.home, self.host.sockets / "agent.sock", may_start=False))


class SharedDisk:
    """A disk that hosts share."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="lwfm-sh-"))
        self.backing = self.root / "backing"
        self.mounted = self.root / "mnt"
        self.home = self.mounted / "home"
        self.hosts: list[Host] = []

    def __enter__(self) -> SharedDisk:
        self.backing.mkdir()
        self.mounted.mkdir()
        return self

    def host(self, name: str) -> Host:
        """One more host that has it mounted."""
        self.hosts.append(Host(name, self))
        return self.hosts[-1]

    def __exit__(self, *failure: object) -> None:
        if failure[0] is not None:
            log = self.backing / "home" / "agent.log"
            sys.stderr.write(log.read_text(errors="replace")[-6000:] if log.exists() else "(no log)\n")
        for host in self.hosts:
            host.down()
        shutil.rmtree(self.root, ignore_errors=True)
