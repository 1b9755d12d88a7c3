"""Nodes that cannot reach the agent's: their workers come through ssh, made from its side, and so do calls of their jobs."""

from __future__ import annotations

from pathlib import Path

from support import cluster as bed
from support.agents import LINK
from support.allocations import LWFM, InAllocation, an_allocation
from support.cluster import Cluster
from support.journals import Journal
from support.waiting import wait_until

cluster = bed.cluster


def sockets() -> set[Path]:
    """What ssh has made for lwfm; all nodes of the bed see the same /tmp."""
    return {path for path in Path("/tmp").glob("lwfm-*") if path.suffix in (".worker", ".api")}


def put_from(inside: InAllocation, host: str, *, tunnelled: bool = True) -> None:
    """A job on that node records data, by the way its worker has."""
    out = inside.home / f"out-{host}"
    there = "" if tunnelled else "! "
    line = f'set -e; {there}expr "$LWFM_SOCKET" : ".*/tunnel.api"; echo hello > {out}; {" ".join(LWFM)} put {out} --meta on={host}'
    (job,) = inside.submit(1, line, "--on", host, "--env", f"PYTHONPATH={LINK}")
    found = inside.wait_states([job], "COMPLETE", "FAILED")[job]
    assert found["state"] == "COMPLETE", (found, inside.run("job", "output", job, "--stderr"))
    (sheet,) = inside.ask("find", f"on={host}")
    assert sheet["job_id"] == job


def test_everything_works_over_ssh_alone(cluster: Cluster) -> None:
    """Nothing listens; jobs, output, calls; the agent is killed while jobs run, and the next one makes new ways."""
    before = sockets()
    with an_allocation(cluster, nodes=3, sites='[local]\nchannel = "ssh"\n') as inside:
        journal = Journal(inside.home / "journal")
        inside.run("agent", "start")
        inside.wait_nodes()
        assert not list(inside.home.glob("allocations/*/agent.json"))
        for path in sockets() - before:
            assert path.stat().st_mode & 0o077 == 0, path
        put_from(inside, inside.hosts[1])
        calls = f"{' '.join(LWFM)} log from-$(uname -n)"
        (wide,) = inside.submit(
            1, calls, "--nodes", "3", "--tasks-per-node", "1", "--env", f"PYTHONPATH={LINK}", "--env", "OMPI_ALLOW_RUN_AS_ROOT=1",
            "--env", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        )  # fmt: skip
        inside.wait_states([wide], "COMPLETE", "FAILED")
        told = {line["message"] for line in inside.ask("log") if line.get("job_id") == wide}
        assert told == {f"from-{host}" for host in inside.hosts}, inside.run("job", "output", wide, "--stderr")
        jobs = inside.submit(6, f"seq 1 100000; {journal.command('sleep 3')}")
        inside.wait_states(jobs, "RUNNING")
        inside.kill(inside.hosts[0], "agent serve")
        wait_until(lambda: journal.count("end") == 6, "the jobs to end while there is no agent")
        inside.run("agent", "start")
        found = inside.wait_states(jobs, "COMPLETE")
        assert {job["host"] for job in found.values()} == set(inside.hosts)
        for job in jobs:
            assert inside.run("job", "output", job).endswith("99999\n100000\n")
        assert journal.count("start") == 6
        inside.wait_nodes()
        put_from(inside, inside.hosts[2])
        inside.run("agent", "stop")
        wait_until(
            lambda: not any(cluster.processes(host, daemons=False) for host in inside.hosts[1:]),
            "the nodes to be empty",
            on_timeout=lambda: str([cluster.processes(host, daemons=False) for host in inside.hosts]) + inside.log(),
        )
    wait_until(lambda: sockets() <= before, "the sockets to be gone")


def keep_out(cluster: Cluster, host: str, target: str) -> None:
    """The node may answer ssh, and reach nothing else on the target."""
    for number, rule in enumerate((["sport", "22", "to", target, "table", "main"], ["to", target, "prohibit"])):
        cluster.on(host, "ip", "rule", "add", "pref", str(10 + number), "ipproto", "tcp", *rule)


def let_in(cluster: Cluster, host: str) -> None:
    for number in ("10", "11"):
        cluster.on(host, "ip", "rule", "del", "pref", number, check=False)


def test_where_the_agent_cannot_be_reached_ssh_is_tried(cluster: Cluster) -> None:
    """The others come by themselves; what their workers were started with does not matter."""
    with an_allocation(cluster, nodes=3) as inside:
        inside.environment["LWFM_LAUNCHER"] = "ssh"
        away = inside.hosts[1]
        address = cluster.run("getent", "hosts", inside.hosts[0]).stdout.split()[0]
        keep_out(cluster, away, address)
        try:
            inside.run("agent", "start")
            inside.wait_nodes(inside.hosts[0], inside.hosts[2])
            states = {node["host"]: node["state"] for node in inside.ask("node", "list")}
            assert states[away] == "starting"
            inside.wait_nodes()
            assert f"no worker of node {away} has reached this node: trying through ssh" in inside.log()
            put_from(inside, away)
            put_from(inside, inside.hosts[2], tunnelled=False)
            inside.run("agent", "stop")
        finally:
            let_in(cluster, away)
