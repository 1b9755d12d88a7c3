"""A desktop and a cluster, each with a home directory of its own and nothing of ours but the one file; ssh between them.

The home directory of the cluster is on all its nodes, as on any; the last node is the one to log in on, and is not computed on.
Unix sockets, which on this one machine are seen on all nodes, are taken from its sight, as they are where nodes have a kernel each.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Optional

from support.cluster import BatchJob, Cluster
from support.onefile import Pyz
from support.waiting import wait_until

HOME_ON_NODES = pwd.getpwuid(os.getuid()).pw_dir
COMMAND_TIMEOUT_S = 90
SSH_CONFIG = """\
Include {config}
Host login inner
    HostName {address}
    HostKeyAlias {host}
    IdentityFile {ssh}/user
    UserKnownHostsFile {ssh}/known_hosts
Host inner
    ProxyJump {gate}
"""


class Story:
    """Both of them.

    Args:
        cluster: the machines. ``archive``: the one file. ``root``: an empty directory.

    Attributes:
        home: the home directory of the cluster, as this machine sees it.
        desktop: the file, run on the desktop.
        ssh: the options with which the cluster is reached from there, as ``login``, and as ``inner`` through another node.
    """

    def __init__(self, cluster: Cluster, archive: Path, root: Path):
        self.cluster = cluster
        self.login = cluster.hosts[-1]
        self.home = root / "cluster"
        self.home.mkdir()
        (root / "desktop").mkdir()
        (root / "config").write_text(
            SSH_CONFIG.format(
                address=cluster.addresses[self.login],
                host=self.login,
                gate=cluster.hosts[-2],
                ssh=cluster.root / "ssh",
                config=cluster.ssh_config,
            )
        )
        self.ssh = ["-F", str(root / "config")]
        self.desktop = Pyz(archive, root / "desktop", sys.executable, {"LWFM_CACHE": str(root / "parts")})

    def there(self, line: str) -> str:
        """Run a line of shell on the cluster, as a person does by ssh; what it printed."""
        done = subprocess.run(
            ["ssh", *self.ssh, "login", line], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def copy(self, *sources: Path, to: str) -> None:
        """Copy files or directories to the cluster, as a person does by scp."""
        words = ["scp", "-q", "-r", *self.ssh, *map(str, sources), f"login:{to}"]
        subprocess.run(words, check=True, timeout=COMMAND_TIMEOUT_S)

    def submit(self, directory: str, *words: str) -> BatchJob:
        """Submit a batch script there, for nodes other than the one to log in on."""
        line = f"cd {directory} && sbatch --parsable --exclude={self.login} {shlex.join(words)}"
        return BatchJob(self.cluster, self.there(line).strip())

    def sync(self, *words: str, code: int = 0) -> dict[str, Any]:
        """``lwfm sync`` on the desktop; its answer as JSON."""
        return dict(json.loads(self.desktop("sync", *words, "--json", *self.ssh, code=code)))

    def ask(self, *words: str) -> Any:
        """``lwfm`` on the desktop; its answer as JSON."""
        return json.loads(self.desktop(*words, "--json"))

    def agent_host(self) -> Optional[str]:
        """On which node the cluster's agent runs, once it answers."""
        if not (self.home / ".lwfm" / "agent.sock").exists():
            return None
        owner = (self.home / ".lwfm" / "agent.lock").read_text()
        return str(json.loads(owner)["host"]) if owner else None

    def hide_socket(self, host: str = "") -> None:
        """From a node, that to log in on: a socket is there, as on a shared file system, at which nobody of that node answers."""
        (self.home / "nobody").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(self.home / "nobody"))
        places = (f"{HOME_ON_NODES}/nobody", f"{HOME_ON_NODES}/.lwfm/agent.sock")
        self.cluster.on(host or self.login, "mount", "--bind", *places)

    def agents(self, host: str) -> list[str]:
        """The agents that run on a node."""
        return [words for words in self.cluster.processes(host, daemons=False).values() if "agent serve" in words]

    def records(self, home: Path) -> list[tuple[str, int, str]]:
        """All that is in a store: of each record the instance that made it, its number, and the checksum of all up to it."""
        with closing(sqlite3.connect(f"file:{home}/.lwfm/thread.db?mode=ro", uri=True)) as connection:
            return connection.execute("select origin, seq, hex(hash) from log order by origin, seq").fetchall()

    def log(self) -> str:
        """The end of the log of the cluster's agent."""
        path = self.home / ".lwfm" / "agent.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else "(no log)"


@contextmanager
def a_story(cluster: Cluster, archive: Path, root: Path) -> Iterator[Story]:
    """Set it up; all of it is gone in the end."""
    story = Story(cluster, archive, root)
    (story.home / ".bashrc").write_text(f"export LWFM_CACHE={root}/parts-there\n")
    mounted: list[str] = []
    try:
        for host in cluster.hosts:
            cluster.on(host, "mount", "--bind", str(story.home), HOME_ON_NODES)
            mounted.append(host)
        yield story
    finally:
        story.desktop.run("agent", "stop", "--kill")
        for host in mounted:
            end_all(cluster, host)
            cluster.on(host, "umount", "--lazy", HOME_ON_NODES, check=False)
        cluster.restore()


def end_all(cluster: Cluster, host: str) -> None:
    """End what of lwfm runs on a node."""

    def none() -> bool:
        found = [pid for pid, words in cluster.processes(host, daemons=False).items() if "lwfm" in words]
        for pid in found:
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        return not found

    wait_until(none, f"{host} to be empty")
