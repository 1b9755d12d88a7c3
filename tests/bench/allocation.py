"""In-situ: jobs over the nodes of a real Slurm, beside one node on the same processors; how soon they come up; what workers cost.

The cluster is that of the tests (tests/support/cluster.py): four nodes on this one machine, so root and Slurm are needed. All
nodes share the machine's processors: what is seen is what the way to other nodes costs, not what more nodes give. Ends with 1
when a target is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "build" / "link")]

from lwfm.clock import parse_utc  # noqa: E402

from support.allocations import InAllocation, an_allocation  # noqa: E402
from support.cluster import Cluster  # noqa: E402

NODES = 4
JOBS = 3000
ROUNDS = 3
IDLE_S = 10.0
_missed: list[str] = []
FLOW = """
import collections, json
from lwfm import JobDefn, LwfManager
run = LwfManager().get_site("local").run
done = LwfManager().wait_all(run.submit_many(JobDefn(["sleep", "1"]) for _ in range(8)))
first = {}
for job in done:
    first[job.host] = min(first.get(job.host, "~"), job.started_at)
print(json.dumps(first))
"""


def main() -> int:
    """Measure, print, judge."""
    reason = Cluster.why_not()
    if reason:
        print(f"not here: {reason}")
        return 1
    with Cluster(nodes=NODES, cores=2) as cluster:
        measure_rate(cluster)
        measure_start(cluster)
    return 1 if _missed else 0


def report(what: str, value: float, unit: str, target: str, met: bool) -> None:
    """One line of the result."""
    print(f"{what:<58} {value:>9.2f} {unit:<6} target {target:<10} {'ok' if met else 'MISSED'}", flush=True)
    if not met:
        _missed.append(what)


def measure_rate(cluster: Cluster) -> None:
    """/bin/true with its full record, on all nodes and on one, in turns."""
    rates: dict[int, list[float]] = {1: [], NODES: []}
    for _ in range(ROUNDS):
        for nodes, measured in rates.items():
            with an_allocation(cluster, nodes=nodes) as inside:
                inside.run("agent", "start")
                inside.wait_nodes()
                measured.append(_rate(inside))
                if nodes == NODES and len(measured) == 1:
                    measure_workers(inside)
                inside.run("agent", "stop")
        print(f"  one node {rates[1][-1]:.0f}/s, {NODES} nodes {rates[NODES][-1]:.0f}/s", flush=True)
    ratio = statistics.median(many / one for one, many in zip(rates[1], rates[NODES]))
    report(f"launch rate over {NODES} nodes / on one", ratio, "", ">= 0.8", ratio >= 0.8)


def _rate(inside: InAllocation) -> float:
    words = ["submit", "--array", f"1-{JOBS}", "--wait", "--", "/bin/true"]
    inside.run("submit", "--array", "1-200", "--wait", "--", "/bin/true")  # all are warm
    began = time.perf_counter()
    inside.run(*words, timeout_s=300)
    return JOBS / (time.perf_counter() - began)


def measure_workers(inside: InAllocation) -> None:
    """What a worker on another node takes when there is nothing to do."""
    pids = inside.pids(inside.hosts[-1], "worker --rendezvous")
    before = sum(map(_cpu_seconds, pids))
    time.sleep(IDLE_S)
    share = (sum(map(_cpu_seconds, pids)) - before) / IDLE_S * 100
    resident = sum(_smaps_mb(pid, "Rss") for pid in pids)
    proportional = sum(_smaps_mb(pid, "Pss") for pid in pids)
    print(
        f"  worker: {len(pids)} processes, resident {resident:.1f} MB, pages they share with others counted once each"
    )
    report("idle worker, memory (shared pages once)", proportional, "MB", "<= 25", proportional <= 25)
    report("idle worker, of one core", share, "%", "<= 0.5", share <= 0.5)


def measure_start(cluster: Cluster) -> None:
    """From ``lwfm.pyz run`` in a batch script to the first job on the last node."""
    archive = ROOT / "dist" / "lwfm.pyz"
    if not archive.exists():
        subprocess.run([sys.executable, str(ROOT / "build" / "make_pyz.py")], check=True)
    taken = []
    with tempfile.TemporaryDirectory(prefix="lwfm-bench-") as directory:
        flow = Path(directory) / "flow.py"
        flow.write_text(FLOW)
        for number in range(ROUNDS + 1):
            line = f"{sys.executable} {archive} run --quiet --require-all {flow}"
            lines = [f"export LWFM_HOME={directory}/home{number} LWFM_CACHE={directory}/cache", "date +%s.%N", line]
            job = cluster.batch("\n".join(lines), nodes=NODES)
            job.wait(120)
            began, told = job.output().splitlines()[-2:]
            first = {host: parse_utc(time) - float(began) for host, time in json.loads(told).items()}
            if number:  # the first one fills the caches
                taken.append(max(first.values()))
                print(f"  first job on the last of {len(first)} nodes after {taken[-1]:.2f} s", flush=True)
    median = statistics.median(taken)
    report(f"from lwfm.pyz run to a job on the last of {NODES} nodes", median, "s", "<= 3", median <= 3)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _smaps_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1000
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
