"""A workflow over three kinds of sites: prepared here, swept by a real Slurm over a real sshd, analysed there, plotted here.

While the sweep runs the connection is cut and the agent at the other end is killed; nobody does anything about it.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cluster as bed
from support.agents import LINK, new_home
from support.cluster import Cluster
from support.peers import Network, a_network, kill
from support.ssh_server import sshd_program
from support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slurm]

cluster = bed.cluster
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
POINTS = range(1, 9)
SITE = """\
[cluster]
driver = "ssh"
host = "far"
ssh_config = "{config}"
remote_path = "{script}"
remote_home = "{home}"
poll_s = 0.2
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that the cluster's nodes see."""
    directory = new_home()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def network(cluster: Cluster, tmp_path: Path) -> Iterator[Network]:
    if sshd_program() is None:
        pytest.skip("there is no sshd")
    with a_network(tmp_path) as made:
        settings = "".join(f"export {name}='{value}'\n" for name, value in cluster.environment.items())
        made.script.write_text(made.script.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{settings}"))
        yield made


def test_from_the_laptop_to_the_queue_and_back(
    cluster: Cluster, network: Network, scratch: Path, tmp_path: Path
) -> None:
    near, far = network.place("near", started=False), network.place("far", started=False)
    far.configure('[slurm]\ndriver = "slurm"\npoll_s = 0.2\n')
    far.env.update(cluster.environment)
    far.start()
    near.configure(SITE.format(config=network.config, script=network.script, home=far.home.root))
    near.start()
    flow, gate = near.workflow("sweep"), scratch / "gate"

    # prepared here, and taken there
    table = tmp_path / "factors.csv"
    near.wait(near.submit(f"printf '%s\\n' {' '.join(map(str, POINTS))} > {table}", workflow=flow))
    body = {"site": "cluster", "path": str(table), "site_path": str(scratch / "factors.csv"), "workflow": flow}
    near.client.post("/v1/data", {**body, "properties": {"kind": "factors"}})

    # swept in the queue: one submission; each point once
    sweep = near.submit_many(
        [
            {
                "command": f"echo run >> {scratch}/ran{point}; while [ ! -e {gate} ]; do sleep 0.1; done;"
                f" n=$(sed -n {point}p {scratch}/factors.csv); echo $n,$((n * n)) > {scratch}/point{point}.csv",
                "outputs": [f"{scratch}/point{point}.csv"],
                "meta": {"point": point},
            }
            for point in POINTS
        ],
        site="cluster/slurm",
        workflow=flow,
    )
    # when all are done the results are put there, which starts the analysis there, whose result starts the plot here
    collect = f"cat {scratch}/point*.csv > {scratch}/all.csv; lwfm put {scratch}/all.csv --meta kind=sweep"
    (collected,) = near.on_job(sweep, collect, site="cluster")["job_ids"]
    analyse = (
        f"awk -F, '{{s += $2}} END {{print s}}' \"$LWFM_TRIGGER_PATH\" > {scratch}/sum.txt;"
        f" lwfm put {scratch}/sum.txt --meta kind=sum"
    )
    (analysed,) = near.on("data", {"match": {"kind": "sweep"}, "site": "cluster"}, analyse)["job_ids"]
    plot = (
        f'lwfm get "$LWFM_TRIGGER_DATA" {tmp_path}/sum.txt >/dev/null && sed "s/^/sum of squares: /" {tmp_path}/sum.txt'
    )
    (plotted,) = near.on("data", {"match": {"kind": "sum"}}, plot)["job_ids"]

    wait_until(lambda: any(scratch.glob("ran*")), "a point to run", timeout_s=60, on_timeout=far.log)
    network.server.cut()
    kill(far.agent_pids())
    gate.touch()

    done = near.wait(plotted, timeout_s=60)
    assert done["state"] == "COMPLETE", near.output(plotted, "stderr")
    assert near.output(plotted) == f"sum of squares: {sum(point**2 for point in POINTS)}\n".encode()
    assert [(scratch / f"ran{point}").read_text() for point in POINTS] == ["run\n"] * len(POINTS)
    for job in [*sweep, collected, analysed, plotted]:  # what a job has put may be known before its end is
        assert near.wait(job)["state"] == "COMPLETE"
    assert {near.job(job)["site"] for job in sweep} == {"cluster/slurm"}
    ids = {str(near.job(job)["native_id"]).partition("_")[0] for job in sweep}
    assert len(ids) == 1, "one array"
    behind = near.json("lineage", plotted)
    assert {analysed, collected} <= {node["id"] for node in behind["nodes"]}
    for place in (near, far):
        assert place.json("store", "check")["ok"]


def test_the_sweep_of_the_tutorial(cluster: Cluster, network: Network, scratch: Path, tmp_path: Path) -> None:
    """examples/sweep as docs/tutorial-sites.md tells it; its files lie where the nodes see them."""
    near, far = network.place("near", started=False), network.place("far", started=False)
    far.configure('[slurm]\ndriver = "slurm"\npoll_s = 0.2\n')
    far.env.update(cluster.environment)
    near.configure(SITE.format(config=network.config, script=network.script, home=far.home.root))
    done = near.lwfm(
        "run", str(EXAMPLES / "sweep" / "sweep.py"), "--cluster", "cluster", "--queue", "cluster/slurm", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr + far.log()
    jobs = {job["name"]: job for job in near.json("job", "list", "--limit", "0")}
    assert len(jobs) == 13
    assert {job["state"] for job in jobs.values()} == {"COMPLETE"}
    natives = {str(job["native_id"]).partition("_")[0] for name, job in jobs.items() if name.startswith("swing-")}
    assert len(natives) == 1, "one array"
    (plot,) = tmp_path.glob("sweep-results/*/periods.svg")
    assert plot.read_text().count("<circle") == 8
    with (plot.parent / "periods.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["period"]) for row in rows] == pytest.approx([float(row["exact"]) for row in rows], rel=1e-6)
    behind = near.json("lineage", str(plot), "--up")
    labels = {node["label"].rpartition("/")[2] for node in behind["nodes"]}
    assert {"plot", "periods.csv", "analyse", "sweep.csv", "collect", "trajectory-1.csv", "swing-10"} <= labels


def test_what_a_job_of_the_far_queue_records_comes_home(
    cluster: Cluster, network: Network, scratch: Path, tmp_path: Path
) -> None:
    """The job has an instance of its own on its node: from there to the login node's when it has ended, from there to here."""
    near, far = network.place("near", started=False), network.place("far", started=False)
    far.configure('[slurm]\ndriver = "slurm"\npoll_s = 0.2\n')
    far.env.update(cluster.environment)
    near.configure(SITE.format(config=network.config, script=network.script, home=far.home.root))
    near.start()
    flow = near.workflow("there")
    python = f"PYTHONPATH={LINK} {sys.executable} -m lwfm"
    command = f"echo 7 > {scratch}/seven && {python} put {scratch}/seven --meta kind=seven"
    (fired,) = near.on("data", {"match": {"kind": "seven"}}, "echo fired")["job_ids"]
    job = near.submit(command, site="cluster/slurm", workflow=flow)
    assert near.wait(job, timeout_s=90)["state"] == "COMPLETE", near.output(job, "stderr")
    assert near.wait(fired, timeout_s=60)["state"] == "COMPLETE"
    (sheet,) = near.json("find", "kind=seven")
    assert (sheet["job_id"], sheet["workflow_id"]) == (job, flow)
