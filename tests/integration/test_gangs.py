"""Jobs over several nodes of a real Slurm: MPI programs, scripts that start their own, and what becomes of them when things die."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lwfm import hostlist

from support import cluster as bed
from support.allocations import InAllocation, an_allocation
from support.cluster import Cluster
from support.waiting import wait_until

cluster = bed.cluster
ROOT_MAY = ("--env", "OMPI_ALLOW_RUN_AS_ROOT=1", "--env", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
"""Open MPI refuses root, which the tests are, unless it is told twice."""
MELT = """
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 8 0 8 0 8
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.44 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 100
run 200
"""


@pytest.fixture
def inside(cluster: Cluster) -> Iterator[InAllocation]:
    with an_allocation(cluster, nodes=3, sites="[local]\nnode_lost_s = 4\n") as allocation:
        allocation.run("agent", "start")
        allocation.wait_nodes()
        yield allocation
        allocation.run("agent", "stop", "--kill")


def submit(inside: InAllocation, *words: str) -> str:
    return str(json.loads(inside.run("submit", "--json", *ROOT_MAY, *words))["job_id"])


def output(inside: InAllocation, job: str) -> list[str]:
    return inside.run("job", "output", job).splitlines()


def wait_complete(inside: InAllocation, *jobs: str) -> None:
    found = inside.wait_states(jobs, "COMPLETE", "FAILED", "CANCELLED")
    told = {job: (found[job].get("reason"), inside.run("job", "output", job, "--stderr")) for job in jobs}
    assert {found[job]["state"] for job in jobs} == {"COMPLETE"}, told


def left(inside: InAllocation, word: str) -> dict[str, list[str]]:
    """What still runs on the nodes and has this word in its command line."""
    found = {host: inside.cluster.processes(host, daemons=False).values() for host in inside.hosts}
    return {host: [words for words in listed if word in words] for host, listed in found.items() if listed}


@pytest.mark.parametrize("starter", ["", "mpiexec", "srun --mpi=none"])
def test_the_tasks_of_a_job_run_on_all_its_nodes(inside: InAllocation, starter: str) -> None:
    rank = "${OMPI_COMM_WORLD_RANK:-$SLURM_PROCID}"
    line = f'echo "$(uname -n) {rank} $LWFM_JOB_ID $MINE $LWFM_NODELIST $(nproc)"'
    options = ["--starter", starter] if starter else []
    words = ("--nodes", "2", "--tasks-per-node", "2", "--env", "MINE=a b", *options)
    job = submit(inside, *words, "--", "sh", "-c", line)
    wait_complete(inside, job)
    lines = [text.split() for text in output(inside, job)]
    hosts = sorted({words[0] for words in lines})
    assert len(lines) == 4
    assert len(hosts) == 2
    assert sorted(words[1] for words in lines) == ["0", "1", "2", "3"]
    assert {tuple(words[2:5]) for words in lines} == {(job, "a", "b")}
    assert {words[5] for words in lines} == {hostlist.fold(hosts)}
    statuses = inside.ask("job", "statuses", job)
    running = next(status for status in statuses if status["state"] == "RUNNING")
    assert running["hosts"] == hostlist.fold(hosts)
    assert inside.ask("job", "show", job)["hosts"] == hostlist.fold(hosts)


def test_a_real_simulation_over_mpi_on_two_nodes(inside: InAllocation) -> None:
    """LAMMPS on one processor and on four of two nodes: the same physics."""
    program = shutil.which("lmp")
    if program is None:
        pytest.skip("lammps is not installed (apt install lammps)")
    script = inside.home / "in.melt"
    script.write_text(MELT)
    one = submit(inside, "--", program, "-in", str(script), "-log", "none")
    four = submit(inside, "--nodes", "2", "--tasks-per-node", "2", "--", program, "-in", str(script), "-log", "none")
    wait_complete(inside, one, four)
    energies = []
    for job, processors in ((one, 1), (four, 4)):
        printed = inside.run("job", "output", job)
        assert f"on {processors} procs for 200 steps with 2048 atoms" in printed
        found = re.search(r"^\s+200\s+\S+\s+\S+\s+\S+\s+(\S+)", printed, re.MULTILINE)
        assert found, printed
        energies.append(float(found.group(1)))
    assert energies[0] == pytest.approx(energies[1], rel=1e-5)


def test_a_script_finds_its_nodes_and_starts_its_own_steps(inside: InAllocation) -> None:
    lines = (
        'sort "$LWFM_NODEFILE"; echo "nodes $LWFM_NODES"; srun --mpi=none uname -n | sort;'
        ' mpiexec uname -n | sort; echo "$LWFM_NODEFILE"'
    )
    job = submit(inside, "--nodes", "2", "--cores", "2", "--", "sh", "-c", lines)
    wait_complete(inside, job)
    told = output(inside, job)
    names = [line.split()[0] for line in told[:2]]
    assert told[:2] == [f"{name} slots=2" for name in names]
    assert told[2:-1] == ["nodes 2", *sorted(names * 2), *sorted(names * 2)]
    assert not Path(told[-1]).exists()


def test_jobs_of_several_nodes_and_of_one_share_the_nodes(inside: InAllocation) -> None:
    """Never more on a node than it has cores for; wide and narrow ones all come to run."""
    log = inside.home / "log"
    begin, end = (f'echo "{word} $(uname -n)" >> {log}' for word in ("+", "-"))
    narrow = inside.submit(12, f"{begin}; sleep 0.4; {end}")
    wide = [
        submit(inside, "--nodes", "2", "--tasks-per-node", "2", "--", "sh", "-c", f"{begin}; sleep 0.3; {end}")
        for _ in range(4)
    ]
    wait_complete(inside, *narrow, *wide)
    busy: dict[str, int] = {}
    for line in log.read_text().splitlines():
        sign, host = line.split()
        busy[host] = busy.get(host, 0) + (1 if sign == "+" else -1)
        assert busy[host] <= 2, log.read_text()
    assert set(busy.values()) == {0}


def running_gang(inside: InAllocation, word: str, *options: str) -> tuple[str, Sequence[str]]:
    """A gang of two nodes that sleeps for long, with ``word`` in its processes' words: its id and hosts, its head first."""
    job = submit(inside, "--nodes", "2", "--tasks-per-node", "2", *options, "--", "sh", "-c", f"sleep 3600; : {word}")
    wait_until(
        lambda: sum(map(len, left(inside, f": {word}").values())) >= 5, "all tasks to run", on_timeout=inside.log
    )
    statuses = inside.ask("job", "statuses", job)
    hosts = next(status for status in statuses if status["state"] == "RUNNING")["hosts"]
    return job, hostlist.expand(hosts)


def nothing_left(inside: InAllocation, word: str) -> None:
    wait_until(lambda: not any(left(inside, f": {word}").values()), f"{word} to be gone from all nodes")


def test_a_cancelled_gang_leaves_nothing(inside: InAllocation) -> None:
    job, hosts = running_gang(inside, "cancelled")
    busy = {node["host"]: node["cores_used"] for node in inside.ask("node", "list")}
    assert [busy[host] for host in hosts] == [2, 2]
    shown = inside.run("agent", "status")
    assert all(re.search(rf"{host} pid .* up: 2/2 cores, .* 1 job running", shown) for host in hosts), shown
    inside.run("job", "cancel", job)
    inside.wait_states([job], "CANCELLED")
    nothing_left(inside, "cancelled")
    wait_until(
        lambda: not any(node["cores_used"] for node in inside.ask("node", "list")), "the nodes to be free", timeout_s=10
    )


def test_a_gang_survives_its_agent(inside: InAllocation) -> None:
    job, hosts = running_gang(inside, "survives")
    inside.kill(inside.hosts[0], "agent serve")
    inside.run("agent", "start")
    inside.wait_nodes()
    busy = {node["host"]: node["cores_used"] for node in inside.ask("node", "list")}
    assert [busy[host] for host in hosts] == [2, 2]
    assert inside.ask("job", "show", job)["state"] == "RUNNING"
    inside.run("job", "cancel", job)
    inside.wait_states([job], "CANCELLED")
    nothing_left(inside, "survives")


def test_a_gang_ends_with_any_of_its_nodes(inside: InAllocation) -> None:
    """Told truly, also where what runs does not notice; tried again if that was asked for, as soon as there are nodes enough."""
    lost = inside.hosts[2]
    once = submit(inside, "--nodes", "3", "--", "sleep", "3600")
    again = submit(inside, "--nodes", "3", "--retries", "1", "--", "sleep", "3600")
    inside.wait_states([once, again], "RUNNING")
    inside.cluster.kill_node(lost)
    found = inside.wait_states([once], "FAILED")[once]
    assert f"node {lost} is lost" in found["reason"]
    pending = inside.wait_states([again], "PENDING")[again]
    assert f"node {lost} is lost" in pending["reason"]
    assert "2 of the 3 it needs" in inside.run("job", "why", again)
