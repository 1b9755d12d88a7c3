"""Instances on a real cluster: one inside an allocation, its commands where the batch script would run; one outside of any."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.agents import LINK
from support.cluster import Cluster
from support.waiting import wait_until

JSON = dict[str, Any]
LWFM = [sys.executable, "-m", "lwfm"]


class InAllocation:
    """An instance whose agent runs inside a batch job.

    Args:
        cluster: where. ``home``: of the instance; all nodes see it.
        environment: that of the batch script.
        hosts: the job's nodes, that of the script first.
    """

    def __init__(self, cluster: Cluster, home: Path, environment: dict[str, str], hosts: list[str]):
        self.cluster = cluster
        self.home = home
        self.hosts = hosts
        kept = {
            name: value for name, value in environment.items() if name.startswith(("SLURM", "PATH", "LANG", "TMPDIR"))
        }
        self.environment = {**kept, "LWFM_HOME": str(home), "PYTHONPATH": str(LINK)}

    def run(self, *words: str, host: str = "", code: int = 0, timeout_s: float = 60.0, **env: str) -> str:
        """Run ``lwfm`` with these words on a node (the first); what it printed."""
        host = host or self.hosts[0]
        variables = {**self.environment, **env}
        if "SLURM_JOB_ID" in variables:
            variables["SLURMD_NODENAME"] = host
        done = self.cluster.on(host, *LWFM, *words, env=variables, timeout_s=timeout_s, check=False)
        assert done.returncode == code, (
            f"{words} on {host}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        )
        return done.stdout

    def ask(self, *words: str, **options: Any) -> Any:
        """The same with ``--json``: the answer."""
        return json.loads(self.run(*words, "--json", **options))

    def submit(self, count: int, command: str, *options: str) -> list[str]:
        """Submit so many jobs that run a shell line; their ids."""
        words = ["submit", "--json", "--array", f"1-{count}", *options, "--", "sh", "-c", command]
        return [job["job_id"] for job in json.loads(self.run(*words))]

    def jobs(self) -> dict[str, JSON]:
        """All jobs, by id."""
        return {job["job_id"]: job for job in self.ask("job", "list", "--limit", "0")}

    def wait_states(self, jobs: Sequence[str], *states: str, timeout_s: float = 60.0) -> dict[str, JSON]:
        """Wait until all of these are in one of the states; their records."""

        def reached() -> dict[str, JSON] | None:
            found = self.jobs()
            return {job: found[job] for job in jobs} if all(found[job]["state"] in states for job in jobs) else None

        return wait_until(
            reached, f"{len(jobs)} jobs to be {' or '.join(states)}", timeout_s=timeout_s, on_timeout=self.log
        )

    def wait_nodes(self, *hosts: str, state: str = "up", timeout_s: float = 60.0) -> None:
        """Wait until the agent has these nodes."""

        def there() -> bool:
            found = {node["host"]: node["state"] for node in self.ask("node", "list")}
            return all(found.get(host) == state for host in hosts or self.hosts)

        wait_until(there, f"{hosts or self.hosts} to be {state}", timeout_s=timeout_s, on_timeout=self.log)

    def pids(self, host: str, word: str) -> list[int]:
        """The pids (of this machine) of processes of this instance on a node that have ``word`` in their command line."""
        found = self.cluster.processes(host, daemons=False)
        return [pid for pid, words in found.items() if word in words and "lwfm" in words]

    def kill(self, host: str, word: str) -> None:
        """SIGKILL them."""
        pids = self.pids(host, word)
        assert pids, f"no {word} on {host}: {self.cluster.processes(host)}"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a child of its that has ended meanwhile
                os.kill(pid, 9)
        wait_until(lambda: not set(self.pids(host, word)) & set(pids), f"{word} on {host} to be gone")

    def log(self) -> str:
        """The end of the agent's log."""
        path = self.home / "agent.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else "(no log)"


@contextmanager
def an_allocation(cluster: Cluster, nodes: int = 4, sites: str = "", minutes: int = 5) -> Iterator[InAllocation]:
    """A batch job that holds nodes so long, with an instance that is not started yet. Ends with the job, and nothing left."""
    home = Path(tempfile.mkdtemp(prefix="lwfm-"))
    if sites:
        (home / "sites.toml").write_text(sites)
    script = f"env -0 > {home}/environment; sleep infinity"
    job = cluster.batch(script, nodes=nodes, time=f"{minutes}:00", options=["--no-kill"])
    try:
        wait_until(lambda: (home / "environment").exists() and (home / "environment").read_bytes(), "the batch script")
        pairs = (home / "environment").read_bytes().decode().split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        yield InAllocation(cluster, home, environment, job.hosts())
    finally:
        _end(cluster, home)


class Login(InAllocation):
    """An instance whose agent runs on a node as on one to log in on: in no allocation, and no job runs there by itself."""

    def create(self, *items: str) -> str:
        """Ask for an allocation of other nodes; its id."""
        host = self.hosts[0]
        return self.run("spin", "create", "allocation", f"option=--exclude={host}", *items).strip()

    def allocations(self) -> dict[str, JSON]:
        """What `lwfm spin list` tells of the allocations, by id: the facts, and the state among them."""
        found = self.ask("spin", "list")
        return {
            item["resource_id"]: {**item["facts"], "state": item["state"]}
            for item in found
            if item["kind"] == "allocation"
        }

    def wait_workers(self, *allocations: str, count: int) -> list[str]:
        """Wait until these allocations have so many workers together; their hosts."""

        def there() -> list[str] | None:
            names = [f"slurm-{allocation}" for allocation in allocations]
            nodes = self.ask("node", "list")
            hosts = [node["host"] for node in nodes if node["state"] == "up" and node.get("allocation") in names]
            return hosts if len(hosts) == count else None

        return wait_until(there, f"{count} workers of {allocations}", timeout_s=60, on_timeout=self.log)

    def wait_ended(self, *allocations: str, timeout_s: float = 60.0) -> None:
        """Wait until Slurm has ended them."""

        def ended() -> bool:
            return set(allocations).isdisjoint(self.cluster.run("squeue", "-h", "-o", "%A").stdout.split())

        wait_until(ended, f"{allocations} to end", timeout_s=timeout_s, on_timeout=self.log)

    def directory(self, allocation: str) -> str:
        """The name of the directory of an allocation that has begun."""
        for path in self.home.glob("allocations/created-*/allocation.json"):
            if json.loads(path.read_text())["id"] == allocation:
                return path.parent.name
        raise AssertionError(f"{allocation} has not begun")

    def nothing_is_left(self, *but_spools: str) -> None:
        """No process, no directory of an allocation, no batch job, no spool.

        Args:
            but_spools: names of directories of allocations whose spools may be left.
        """
        wait_until(
            lambda: not any(self.cluster.processes(host, daemons=False) for host in self.cluster.hosts),
            "all nodes to be empty",
            on_timeout=lambda: str([self.cluster.processes(host, daemons=False) for host in self.cluster.hosts]),
        )
        assert list((self.home / "allocations").iterdir()) == []
        assert not self.cluster.run("squeue", "-h").stdout.strip()
        digests = {
            f"{zlib.crc32(os.fsencode(f'{self.home}/allocations/{name}/agent.json')):08x}" for name in but_spools
        }
        found = [path for path in (self.home / "scratch").glob("*/*") if path.name[:8] not in digests]
        assert found == [], {path: (path / "spool" / "worker.log").read_text()[-500:] for path in found}


@contextmanager
def a_login(cluster: Cluster, sites: str = "") -> Iterator[Login]:
    """An instance on the cluster's last node, that is not started yet. Nothing of it is left in the end."""
    home = Path(tempfile.mkdtemp(prefix="lwfm-"))
    (home / "scratch").mkdir()
    (home / "sites.toml").write_text(f'[local]\ndriver = "local"\ncores = 0\n{sites}')
    try:
        yield Login(cluster, home, {"TMPDIR": f"{home}/scratch"}, cluster.hosts[-1:])
    finally:
        _end(cluster, home)


def _end(cluster: Cluster, home: Path) -> None:
    for host in cluster.hosts:
        for pid, words in cluster.processes(host, daemons=False).items():
            if str(home) in words or "lwfm" in words:
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
    cluster.restore()  # ends the jobs, and switches on what the test has switched off
    shutil.rmtree(home, ignore_errors=True)
