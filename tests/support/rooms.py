"""Rooms: sets of Linux namespaces with a first process of their own, and what runs in them.

What cleans up: each first process ends when its standard input ends, which this process holds open; when it ends, the kernel
kills the rest of its namespace and removes the network interfaces. So also after ``kill -9`` of the tests only the directory
is left, which the next one removes: the pid in its name tells whose it was.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import wait_until

PREFIX = "lwfm-cluster-"
"""What the names of directories begin with; the pid of the tests follows."""
COMMAND_TIMEOUT_S = 60.0

# The first process of each set of namespaces. It says `ready`, waits for a line that tells it to go on, and ends when its
# standard input does. Meanwhile the shell waits for `cat` and for every orphan; the last line keeps it from becoming `cat`.
SWITCH = """\
set -e
ip link add switch type bridge
ip link set switch up
echo ready
cat >/dev/null
exit
"""
CONTROLLER = """\
set -e
mount --bind "$root/hosts-machine" /etc/hosts
[ ! -e /etc/ssh/ssh_config ] || mount --bind "$root/ssh/config" /etc/ssh/ssh_config
echo ready
read -r go
{daemons}
cat >/dev/null
exit
"""
NODE = """\
set -e
hostname "$host"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount --bind "$root/hosts" /etc/hosts
[ ! -e /etc/ssh/ssh_config ] || mount --bind "$root/ssh/config" /etc/ssh/ssh_config
for place in $private; do
    mkdir -p "$root/private/$host$place"
    mount --bind "$root/private/$host$place" "$place"
done
ip link set lo up
echo ready
read -r go
ip address add "$address/24" dev eth0
ip link set eth0 up
sshd=$(command -v sshd)
"$sshd" -D -e -f "$root/ssh/sshd-$host" </dev/null >>"$root/log/sshd-$host.log" 2>&1 &
{daemons}
cat >/dev/null
exit
"""

UNSHARE = ("unshare", "--fork", "--kill-child")
SLAVE = ("--propagation", "slave")
NODE_KINDS = ("--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc", *SLAVE)
NODE_KINDS_TO_ENTER = ("--net", "--uts", "--ipc", "--mount", "--pid")


class Room:
    """A set of namespaces and its first process; when that ends, all that runs in it ends.

    Args:
        kinds: options of ``unshare``; a process namespace is always made.
    """

    def __init__(self, name: str, script: str, kinds: Sequence[str], root: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = root / "log" / f"room-{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*UNSHARE, "--pid", *kinds, "sh", "-c", script, str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**env, "root": str(root)},
                cwd="/",
                start_new_session=True,
            )
        self.pid = 0
        self.network = 0

    def wait_ready(self) -> None:
        """Wait until it is set up as far as it gets by itself."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"ready\n", f"{self.name} was not set up: {self._log.read_text()}"
        (self.pid,) = children_of(self._process.pid)
        self.network = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def go(self) -> None:
        """Let it start what is to run in it."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def own(self) -> set[int]:
        """The processes that hold it open: ``unshare``, the first one inside, and its ``cat``."""
        return {self._process.pid, self.pid, *(pid for pid in children_of(self.pid) if words_of(pid) == ["cat"])}

    def kill(self) -> None:
        """Kill the first process, and with it all others."""
        if self.alive:
            kill(self.pid or self._process.pid)

    def end(self) -> None:
        """Let the first process end, and with it all others."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass

    def wait_gone(self) -> None:
        """Wait until it has ended: not before all processes in it have."""
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(COMMAND_TIMEOUT_S)
        self.end()
        assert self._process.stdout is not None
        self._process.stdout.close()


def processes_in(network: int) -> dict[int, str]:
    """The processes in a network namespace, without those that ended and were not waited for: command lines by pid."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/net").st_ino == network:
                found[int(name)] = " ".join(words_of(int(name)))
        except OSError:
            continue
    return found


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return []


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove_leftovers() -> None:
    """Remove what clusters left whose tests are dead."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = place.name[len(PREFIX) :].partition("-")[0]
        if not owner.isdigit() or Path("/proc", owner).exists():
            continue
        wait_until(functools.partial(_without_holders, place), f"what holds {place} to be gone")
        shutil.rmtree(place, ignore_errors=True)


def _without_holders(place: Path) -> bool:
    """There are none, unless something that outlived the tests keeps their pipes open; they are killed."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    words = {pid: words_of(pid) for pid in pids}
    holders = [pid for pid in pids if words[pid][:1] == ["unshare"] and words[pid][-1] == str(place)]
    for pid in holders:
        kill(pid)
    return not holders
