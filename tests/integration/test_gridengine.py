"""In-situ: one instance across the nodes of an allocation of a real Grid Engine."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from support.agents import LINK
from support.gridengine import GridEngine, GridJob
from support.waiting import wait_until

pytestmark = pytest.mark.root

LIMIT_S = 300
SCRIPT = """
import json, subprocess, sys
from lwfm import JobDefn, LwfManager
lwf = LwfManager()
hold = [JobDefn(["sh", "-c", f"touch {sys.argv[2]}/$(hostname)-$$; {sys.argv[3]}"]) for _ in range(int(sys.argv[4]))]
done = lwf.wait_all(lwf.get_site("local").run.submit_many(hold))
status = subprocess.run([sys.executable, "-m", "lwfm", "agent", "status", "--json"], stdout=-1, check=True).stdout
print(json.dumps([[(job.host, str(job.state)) for job in done], json.loads(status)["allocation"]]))
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[GridEngine]:
    reason = GridEngine.why_not()
    if reason:
        pytest.skip(reason)
    with GridEngine(nodes=3, slots=2) as grid:
        yield grid


@pytest.fixture
def grid(shared: GridEngine) -> Iterator[GridEngine]:
    """Three nodes of two slots, without jobs."""
    yield shared
    shared.restore()


def submit(grid: GridEngine, tmp_path: Path, code: int, command: str, count: int) -> GridJob:
    """A batch job on all nodes whose script is one line; each of its jobs makes a file in ``marks`` first.

    Grid Engine's programs are not on its PATH, as it is where no package has put them into one of the system's directories.
    """
    (tmp_path / "flow.py").write_text(SCRIPT)
    for directory in ("marks", "bin"):
        (tmp_path / directory).mkdir()
    for program in ("sh", "hostname", "sleep", "touch"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    line = f"exec {sys.executable} -m lwfm run --quiet {tmp_path}/flow.py {code} {tmp_path}/marks '{command}' {count}"
    script = f"export LWFM_HOME={tmp_path}/home PYTHONPATH={LINK} PATH={tmp_path}/bin\n{line}"
    return grid.batch(script, slots=6, options=["-l", f"h_rt={LIMIT_S}"])


def nothing_is_left(grid: GridEngine, home: Path) -> None:
    wait_until(lambda: not any(grid.processes(host, daemons=False) for host in grid.hosts), "all nodes to be empty")
    assert list((home / "allocations").iterdir()) == []


@pytest.mark.parametrize("code", [0, 5])
def test_a_batch_script_needs_one_line(grid: GridEngine, tmp_path: Path, code: int) -> None:
    """All nodes work, the exit code is passed on, and nothing is left on any node."""
    began = time.time()
    job = submit(grid, tmp_path, code, "sleep 1", 12)
    hosts = wait_until(job.hosts, "the job to start", on_timeout=grid.log)
    assert job.wait() == code, job.output()
    told, allocation = json.loads(job.output().splitlines()[-1])
    assert {state for _, state in told} == {"COMPLETE"}
    assert {host for host, _ in told} == set(grid.hosts)
    assert (allocation["scheduler"], allocation["id"]) == ("sge", job.job_id)
    ends_at = datetime.fromisoformat(allocation["ends_at"].replace("Z", "+00:00")).timestamp()
    assert began - 1 <= ends_at - LIMIT_S <= time.time()
    assert allocation["other_nodes"] == dict.fromkeys(hosts[1:], "up")
    log = (tmp_path / "home" / "agent.log").read_text()
    assert all(f"starting workers on {host}: qrsh" in log for host in hosts[1:]), log
    nothing_is_left(grid, tmp_path / "home")


def test_a_worker_that_is_killed_takes_only_its_own_jobs_along(grid: GridEngine, tmp_path: Path) -> None:
    """Grid Engine kills a job when a signal has ended one of its tasks: that must not come of it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "sites.toml").write_text('[local]\ndriver = "local"\nnode_lost_s = 4\n')
    job = submit(grid, tmp_path, 0, "sleep 4", 6)
    wait_until(lambda: len(list((tmp_path / "marks").iterdir())) == 6, "all jobs to run", on_timeout=grid.log)
    victim = job.hosts()[-1]
    workers = {pid: words for pid, words in grid.processes(victim).items() if "worker --rendezvous" in words}
    killed = [pid for pid, words in workers.items() if not words.startswith("/bin/sh -c")]
    assert killed, workers
    for pid in killed:
        os.kill(pid, 9)
    assert job.wait() == 11, job.output()  # of `lwfm run`, since jobs failed: of a killed script it would be another
    told, _ = json.loads(job.output().splitlines()[-1])
    assert sorted(told) == sorted([host, "FAILED" if host == victim else "COMPLETE"] for host in grid.hosts * 2)
    nothing_is_left(grid, tmp_path / "home")
