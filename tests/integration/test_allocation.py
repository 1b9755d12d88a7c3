"""In-situ: one instance across the nodes of an allocation of a real Slurm."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from support import cluster as bed
from support.agents import LINK
from support.allocations import LWFM, an_allocation
from support.cluster import Cluster
from support.journals import Journal
from support.waiting import wait_until

cluster = bed.cluster

SCRIPT = """
import collections, json, sys
from lwfm import JobDefn, LwfManager
lwf = LwfManager()
site = lwf.get_site("local")
hold = [JobDefn(["sh", "-c", "hostname; sleep 1"]) for _ in range(24)]
done = lwf.wait_all(site.run.submit_many(hold))
print(json.dumps([collections.Counter(job.host for job in done), [str(job.state) for job in done]]))
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 5])
def test_a_batch_script_needs_one_line(cluster: Cluster, tmp_path: Path, code: int) -> None:
    """All nodes work, the exit code is passed on, and nothing is left on any node."""
    (tmp_path / "flow.py").write_text(SCRIPT)
    line = f"exec {sys.executable} -m lwfm run --quiet {tmp_path}/flow.py {code}"
    job = cluster.batch(f"export LWFM_HOME={tmp_path}/home PYTHONPATH={LINK}\n{line}", nodes=4)
    job.wait(90)
    assert job.exit_code() == code, job.output()
    hosts, states = json.loads(job.output().splitlines()[-1])
    assert set(hosts) == set(job.hosts())
    assert set(states) == {"COMPLETE"}
    wait_until(
        lambda: not any(cluster.processes(host, daemons=False) for host in cluster.hosts), "all nodes to be empty"
    )
    assert list((tmp_path / "home" / "allocations").iterdir()) == []


def test_what_is_seen_of_the_nodes(cluster: Cluster) -> None:
    with an_allocation(cluster, nodes=3) as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        told = inside.run("node", "list")
        assert "Allocation" in told
        there = inside.submit(2, "true", "--site", "allocation")
        found = inside.wait_states(there, "COMPLETE")
        assert {(job["site"], job["allocation"]) for job in found.values()} == {
            ("allocation", f"slurm-{inside.environment['SLURM_JOB_ID']}")
        }
        assert re.search(r"^Allocation \d+ \(slurm\), 3 nodes, \S+ left \(until [\d: -]+\)$", told, re.MULTILINE), told
        shown = inside.run("node", "history")
        assert all(re.search(rf" {host} +up +2 ", shown) for host in inside.hosts), shown
        status = inside.ask("agent", "status")
        assert status["allocation"]["scheduler"] == "slurm"
        assert set(status["allocation"]["other_nodes"].values()) == {"up"}
        key = next(inside.home.glob("allocations/*/key.pem"))
        assert key.stat().st_mode & 0o777 == 0o600
        for host in inside.hosts:  # neither in a command line nor in an environment
            for pid in inside.pids(host, "worker"):
                secret = key.read_bytes().splitlines()[1]
                assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
                assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
        inside.run("agent", "stop", "--kill")


def test_only_who_has_the_key_is_in(cluster: Cluster) -> None:
    """Another process of the network gets no word out of the agent."""
    with an_allocation(cluster, nodes=2) as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        told = json.loads(next(inside.home.glob("allocations/*/agent.json")).read_text())
        host, port = told["addresses"][0]
        code = (
            "import socket, ssl, sys; c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname = False;"
            "c.verify_mode = ssl.CERT_NONE; s = c.wrap_socket(socket.create_connection((sys.argv[1], int(sys.argv[2])), 10));"
            "s.sendall(b'\\0\\0\\0\\2[]'); print(s.recv(100))"
        )
        done = cluster.on(inside.hosts[1], sys.executable, "-c", code, host, str(port), check=False)
        assert done.stdout in ("", "b''\n"), done  # hung up on, with an alert or without
        assert len(inside.ask("node", "list")) == 2
        inside.run("agent", "stop", "--kill")


def test_large_output_is_brought_from_another_node(cluster: Cluster) -> None:
    with an_allocation(cluster, nodes=2) as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(8, "sleep 0.5; hostname; seq 1 300000")
        found = inside.wait_states(jobs, "COMPLETE")
        assert {job["host"] for job in found.values()} == set(inside.hosts)
        expected = "".join(f"{number}\n" for number in range(1, 300001))
        for job in jobs:
            printed = inside.run("job", "output", job)
            assert printed == f"{found[job]['host']}\n{expected}"
        inside.run("agent", "stop")


@pytest.mark.parametrize("where", ["same node", "another node"])
def test_an_agent_that_was_killed_is_followed_by_another(cluster: Cluster, where: str) -> None:
    """The jobs run on meanwhile; their results wait on their nodes, and are all taken over; nothing is run twice."""
    with an_allocation(cluster, nodes=4) as inside:
        journal = Journal(inside.home / "journal")
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(24, journal.command("sleep 2"))
        wait_until(lambda: journal.count("start") >= 8, "jobs on all nodes")
        inside.kill(inside.hosts[0], "agent serve")
        before = journal.count("end")
        wait_until(lambda: journal.count("end") >= min(24, before + 8), "jobs that end while there is no agent")
        if where == "another node":
            inside.hosts = [*inside.hosts[1:], inside.hosts[0]]
        inside.run("agent", "start")
        found = inside.wait_states(jobs, "COMPLETE")
        inside.wait_nodes()
        statuses = {job: inside.ask("job", "statuses", job) for job in jobs}
        journal.judge(list(found.values()), statuses)
        assert Counter(line.job for line in journal.lines() if line.what == "start") == Counter(jobs)
        inside.run("agent", "stop", "--kill")


def test_a_node_that_is_lost_takes_only_its_own_jobs_along(cluster: Cluster) -> None:
    """They have failed, and say why; those that may be tried again are, elsewhere."""
    with an_allocation(cluster, nodes=3, sites='[local]\ndriver = "local"\nnode_lost_s = 4\n') as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        once = inside.submit(3, "sleep 8")
        again = inside.submit(3, "sleep 8", "--retries", "1")
        inside.wait_states([*once, *again], "RUNNING")
        before = inside.jobs()
        victim = inside.hosts[2]
        cluster.kill_node(victim)
        found = inside.wait_states([*once, *again], "COMPLETE", "FAILED", timeout_s=90)
        for job in [*once, *again]:
            on_victim = before[job]["host"] == victim
            assert found[job]["state"] == ("FAILED" if on_victim and job in once else "COMPLETE"), found[job]
            if on_victim and job in once:
                assert f"node {victim} is lost" in found[job]["reason"]
            if on_victim and job in again:
                assert (found[job]["attempt"], found[job]["host"] != victim) == (2, True)
        assert {before[job]["host"] for job in before} == set(inside.hosts)
        inside.run("agent", "stop", "--kill")


def test_a_network_cut_for_a_while_changes_nothing(cluster: Cluster) -> None:
    with an_allocation(cluster, nodes=3) as inside:
        journal = Journal(inside.home / "journal")
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(30, journal.command("sleep 0.7"))
        wait_until(lambda: journal.count("start") >= 6, "jobs on all nodes")
        cluster.cut(inside.hosts[1])
        time.sleep(3)  # long enough that jobs end there meanwhile
        cluster.join(inside.hosts[1])
        found = inside.wait_states(jobs, "COMPLETE", timeout_s=120)
        journal.judge(list(found.values()), {job: inside.ask("job", "statuses", job) for job in jobs})
        assert {job["attempt"] for job in found.values()} == {1}
        inside.run("agent", "stop", "--kill")


def test_a_worker_that_is_killed_on_another_node_is_told_truthfully(cluster: Cluster) -> None:
    """Its keeper goes on: nothing is lost. Both killed: what ran has not proved its success."""
    with an_allocation(cluster, nodes=2, sites='[local]\ndriver = "local"\nnode_lost_s = 5\n') as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(4, "sleep 3")
        inside.wait_states(jobs, "RUNNING")
        here = {job: record["host"] for job, record in inside.jobs().items()}
        inside.kill(inside.hosts[1], "worker --rendezvous")
        found = inside.wait_states(jobs, "COMPLETE", "FAILED", timeout_s=60)
        for job in jobs:
            assert found[job]["state"] == ("FAILED" if here[job] == inside.hosts[1] else "COMPLETE")
        inside.run("agent", "stop", "--kill")


def test_before_the_allocation_ends_what_runs_is_cut_off_and_the_rest_is_kept(cluster: Cluster) -> None:
    """What was cut off says so; what had not started is what the next allocation begins with."""
    with an_allocation(cluster, nodes=2, sites='[local]\ndriver = "local"\nend_notice_s = 2\n') as inside:
        inside.run("agent", "start", SLURM_JOB_END_TIME=str(int(time.time()) + 20))
        inside.wait_nodes()
        long = inside.submit(2, "true", "--time", "1:00:00")
        (short,) = inside.submit(1, "true", "--time", "5")
        inside.wait_states([short], "COMPLETE")
        assert "kept for another allocation: its time limit is 3600 s" in inside.run("job", "why", long[0])
        once = inside.submit(4, "trap 'echo warned; exit 1' TERM; sleep 60 & wait")
        inside.wait_states(once, "RUNNING")
        waiting = inside.submit(3, "true")
        found = inside.wait_states(once, "FAILED")
        assert all("ends at 20" in job["reason"] for job in found.values())
        assert inside.run("job", "output", once[0]) == "warned\n"
        found = inside.wait_states([*long, *waiting], "PENDING")
        assert "this one is about to end" in inside.run("job", "why", waiting[0])
        inside.run("agent", "stop", "--kill")
        for name in [name for name in inside.environment if name.startswith("SLURM")]:
            del inside.environment[name]  # the next allocation is this machine
        inside.run("agent", "start")
        inside.wait_states([*long, *waiting], "COMPLETE")
        inside.run("agent", "stop")


def test_a_node_that_does_not_come_up_is_told_and_left_out(cluster: Cluster, tmp_path: Path) -> None:
    """Here the launcher is ssh, and one name of the host file is no node's. With --require-all nothing is run."""
    with an_allocation(cluster, nodes=2) as inside:
        for name in [name for name in inside.environment if name.startswith("SLURM")]:
            del inside.environment[name]
        hostfile = tmp_path / "hosts"
        hostfile.write_text(f"{inside.hosts[0]}\n{inside.hosts[1]}:2\nnowhere\n")
        script = tmp_path / "flow.py"
        script.write_text(SCRIPT)
        inside.environment["LWFM_HOSTFILE"] = str(hostfile)
        done = cluster.on(
            inside.hosts[0], *LWFM, "run", "--require-all", str(script), "0", env=inside.environment, check=False
        )
        assert done.returncode == 6, done
        assert "nowhere did not come up" in done.stderr
        assert done.stdout == ""
        done = cluster.on(inside.hosts[0], *LWFM, "run", str(script), "0", env=inside.environment, timeout_s=120)
        hosts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))[0]
        assert set(hosts) == set(inside.hosts)
        assert "without 1 node that did not come up: nowhere" in done.stderr


def test_a_job_on_another_node_speaks_to_the_agent(cluster: Cluster) -> None:
    """What it puts and asks goes over TLS, tagged as its own; also while one agent is followed by the next."""
    with an_allocation(cluster, nodes=2) as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        away = inside.hosts[1]
        lwfm = f"LWFM_SOCKET=/nowhere/agent.sock {' '.join(LWFM)}"  # on this machine sockets are seen on all nodes
        out = inside.home / "out.txt"
        line = f"echo hello > {out}; {lwfm} put {out} --meta kind=away && {lwfm} job list --json | wc -c"
        (job,) = inside.submit(1, line, "--on", away, "--env", f"PYTHONPATH={LINK}")
        found = inside.wait_states([job], "COMPLETE", "FAILED")[job]
        told = inside.run("job", "output", job, "--stderr")
        assert (found["state"], found["host"]) == ("COMPLETE", away), told
        (sheet,) = inside.ask("find", "kind=away")
        assert sheet["job_id"] == job
        later = f"until [ -e {inside.home}/killed ]; do sleep 0.1; done; {lwfm} put {out} --meta kind=later"
        (job,) = inside.submit(1, later, "--on", away, "--env", f"PYTHONPATH={LINK}")
        inside.wait_states([job], "RUNNING")
        inside.kill(inside.hosts[0], "agent serve")
        (inside.home / "killed").touch()
        inside.run("agent", "start")
        inside.wait_states([job], "COMPLETE")
        (sheet,) = inside.ask("find", "kind=later")
        assert sheet["job_id"] == job
        inside.run("agent", "stop")


@pytest.mark.parametrize("family", ["openmpi", "mpich"])
def test_workers_come_through_mpiexec_and_leave_with_the_agent(cluster: Cluster, tmp_path: Path, family: str) -> None:
    """A host file and the ``mpiexec`` of either family, which reaches the nodes by ssh.

    Jobs can run ``mpiexec`` there as if nobody had before, and one worker that is killed does not take the others along.
    """
    program = shutil.which(f"mpiexec.{family}")
    if program is None:
        pytest.skip(f"mpiexec.{family} is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mpiexec").symlink_to(program)  # plain mpiexec is of whichever family this machine prefers
    for proxy in Path(program).parent.glob("hydra_*"):
        (tmp_path / "bin" / proxy.name).symlink_to(proxy)  # MPICH's finds it on the nodes beside itself

    def processes() -> dict[str, list[int]]:
        return {host: sorted(cluster.processes(host)) for host in cluster.hosts}

    with an_allocation(cluster, nodes=3, sites='[local]\ndriver = "local"\nnode_lost_s = 4\n') as inside:
        for name in [name for name in inside.environment if name.startswith("SLURM")]:
            del inside.environment[name]
        (tmp_path / "hosts").write_text("".join(f"{host}:2\n" for host in inside.hosts))
        inside.environment["PATH"] = f"{tmp_path}/bin:{inside.environment['PATH']}"
        inside.environment["LWFM_HOSTFILE"] = str(tmp_path / "hosts")
        inside.environment["LWFM_LAUNCHER"] = "mpiexec"
        inside.environment.update(dict.fromkeys(["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"], "1"))
        before = processes()
        inside.run("agent", "start")
        inside.wait_nodes()
        assert f"starting workers on {', '.join(inside.hosts[1:])}: mpiexec" in inside.log()
        jobs = inside.submit(6, "mpiexec -n 2 hostname && sleep 1")
        found = inside.wait_states(jobs, "COMPLETE", "FAILED")
        assert [inside.run("job", "output", job) for job in jobs] == [f"{found[job]['host']}\n" * 2 for job in jobs]
        assert {job["host"] for job in found.values()} == set(inside.hosts)

        jobs = inside.submit(6, "sleep 4")
        inside.wait_states(jobs, "RUNNING")
        victim = inside.hosts[2]
        for pid, words in cluster.processes(victim).items():
            if words.startswith(f"{sys.executable} -m lwfm worker"):
                os.kill(pid, signal.SIGKILL)
        found = inside.wait_states(jobs, "COMPLETE", "FAILED")
        assert {(job["host"], job["state"]) for job in found.values()} == {
            (host, "FAILED" if host == victim else "COMPLETE") for host in inside.hosts
        }
        inside.run("agent", "stop")
        wait_until(lambda: processes() == before, "the nodes to be as they were", on_timeout=inside.log)


RESUMED = """
import sys
from lwfm import JobDefn, LwfManager, Resources
lwf = LwfManager()
run = lwf.get_site("local").run
line = 'echo "$LWFM_JOB_ID $(hostname)" >> ' + sys.argv[1]
jobs = run.submit_many([JobDefn(f"sleep 0.2; {line}")] * 8)
jobs += run.submit_many([JobDefn(f"until [ -e {sys.argv[1]}.go ]; do sleep 0.1; done; {line}")] * 4)
jobs.append(run.submit(JobDefn(f"sleep 0.1; {line}", resources=Resources(nodes=2, cores=2))))
print(*sorted({str(job.state) for job in lwf.wait_all(jobs)}))
"""


def test_the_next_allocation_goes_on_with_what_this_one_did_not_finish(cluster: Cluster, tmp_path: Path) -> None:
    """All is killed at once, without a word to anybody; the next one has other nodes."""
    (tmp_path / "flow.py").write_text(RESUMED)
    done = tmp_path / "done"
    line = f"exec {sys.executable} -m lwfm run --quiet --resume {tmp_path}/flow.py {done}"
    script = f"export LWFM_HOME={tmp_path}/home PYTHONPATH={LINK} TMPDIR=/tmp\n{line}"
    first = cluster.batch(script, nodes=2, options=["--no-kill"])

    def finished() -> list[str]:
        return done.read_text().splitlines() if done.exists() else []

    wait_until(lambda: len(finished()) >= 8, "the short jobs", timeout_s=60, on_timeout=first.output)
    hosts = first.hosts()
    before = finished()
    for host in hosts:
        cluster.kill_node(host)
    first.cancel()
    cluster.restore()
    done.with_suffix(".go").touch()
    began = time.monotonic()
    others = ",".join(sorted(set(cluster.hosts) - set(hosts)))
    second = cluster.batch(script, nodes=2, options=[f"--nodelist={others}"])
    second.wait(90)
    assert second.output().splitlines()[-1:] == ["COMPLETE"], second.output()
    assert second.exit_code() == 0
    assert time.monotonic() - began < 60, "it waited for nodes that are gone, as if they were only cut off"
    told = finished()
    assert told[: len(before)] == before
    ran = Counter(text.split()[0] for text in told)
    assert set(ran.values()) == {1}
    assert len(ran) == 13
