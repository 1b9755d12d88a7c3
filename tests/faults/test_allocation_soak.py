"""Two thousand jobs, some with handlers, some over two nodes, on four nodes of a real Slurm, while things die.

Agent and workers are killed and stopped, and links are cut.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import cluster as bed
from support.allocations import InAllocation, an_allocation
from support.cluster import Cluster
from support.journals import Journal
from support.waiting import wait_until

cluster = bed.cluster

SEED = int(os.environ.get("LWFM_TEST_SEED", "20261122"))
HEADS, PLAIN, GANGS = 200, 1520, 80
MISHAPS = 14
FINISH_WITHIN_S = 240.0
NODE_LOST_S = 60


def mishap(inside: InAllocation, cluster: Cluster, chosen: random.Random) -> str:
    """One of what happens to clusters; what it was. Everything is mended again, but for what lwfm has to mend itself."""
    kind = chosen.choice(["agent", "agent", "loop", "loop", "stop agent", "stop worker", "cut", "cut"])
    host = chosen.choice(inside.hosts[1:])
    if kind == "agent":
        inside.kill(inside.hosts[0], "agent serve")
        inside.run("agent", "start")
    elif kind == "loop":  # the keeper's child; a child of that is a job whose program has not begun
        pids = inside.pids(host, "worker --rendezvous")
        for pid in pids:
            if parent_of(pid) in pids and parent_of(parent_of(pid)) not in pids:
                os.kill(pid, signal.SIGKILL)
    elif kind.startswith("stop"):
        pids = (
            inside.pids(inside.hosts[0], "agent serve") if "agent" in kind else inside.pids(host, "worker --rendezvous")
        )
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(chosen.uniform(0.2, 1.5))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    else:
        cluster.cut(host)
        time.sleep(chosen.uniform(0.5, 3.0))
        cluster.join(host)
    return f"{kind} {host}"


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_or_falsely_complete(cluster: Cluster) -> None:
    chosen = random.Random(SEED)
    with an_allocation(cluster, nodes=4, sites=f'[local]\ndriver = "local"\nnode_lost_s = {NODE_LOST_S}\n') as inside:
        journal = Journal(inside.home / "journal")
        inside.run("agent", "start")
        inside.wait_nodes()
        script = inside.home / "submit.py"
        script.write_text(SUBMIT)
        told = inside.run(
            "python", str(script), journal.command("sleep 0.12"), str(HEADS), str(PLAIN), str(GANGS), timeout_s=120
        )
        workflow, expected = json.loads(told.splitlines()[-1])
        done: list[str] = []
        for _ in range(MISHAPS):
            time.sleep(chosen.uniform(0.2, 1.0))
            done.append(mishap(inside, cluster, chosen))
        assert journal.count("end") < expected, "all was over before the last mishap: the jobs are too short"

        def ended() -> bool:
            counts = inside.ask("workflow", "show", workflow)["job_counts"]
            return bool(sum(counts.get(state, 0) for state in ("COMPLETE", "FAILED", "CANCELLED")) == expected)

        wait_until(ended, f"{expected} jobs to end after {done}", timeout_s=FINISH_WITHIN_S, on_timeout=inside.log)
        jobs = list(inside.jobs().values())
        assert len(jobs) == expected
        failed = [job for job in jobs if job["state"] != "COMPLETE"]
        assert failed == [], (SEED, done, [(job["host"], job["reason"]) for job in failed])
        lines = journal.lines()
        starts = [(line.job, line.attempt) for line in lines if line.what == "start"]
        assert len(starts) == len(set(starts)) == expected, (SEED, done)
        idle = {node["host"]: (node["cores_used"], node["jobs"]) for node in inside.ask("node", "list")}
        assert set(idle.values()) == {(0, 0)}, (SEED, done, idle)
        assert {line.job for line in lines if line.what == "end"} == {job["job_id"] for job in jobs}
        assert {job["host"] for job in jobs} == set(inside.hosts)
        assert "all is well" in inside.run("store", "check")
        files = subprocess.run(["find", str(inside.home), "-type", "f"], capture_output=True, text=True, check=True)
        assert len(files.stdout.splitlines()) < 40, files.stdout  # a handful per thousand jobs, not one each
        inside.run("agent", "stop")
        wait_until(
            lambda: not any(cluster.processes(host, daemons=False) for host in inside.hosts[1:]),
            "the nodes to be empty",
        )


SUBMIT = """
import json, sys
from lwfm import JobDefn, JobEvent, LwfManager, Resources
command, (heads, plain, gangs) = sys.argv[1], map(int, sys.argv[2:])
lwf = LwfManager()
site = lwf.get_site("local")
flow = lwf.put_workflow("soak")
first = site.run.submit_many([JobDefn(command, cwd="/")] * heads, workflow=flow)
for job in first:
    lwf.set_event(JobEvent(job, "COMPLETE", JobDefn(command, cwd="/")), workflow=flow)
two, step = JobDefn(command, cwd="/", resources=Resources(nodes=2, cores=1)), plain // gangs
for _ in range(gangs):
    site.run.submit_many([JobDefn(command, cwd="/")] * step + [two], workflow=flow)
print(json.dumps([flow.workflow_id, 2 * heads + gangs * (step + 1)]))
"""
