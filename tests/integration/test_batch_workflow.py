"""A workflow within a job of a batch site: it has an instance of its own on the nodes, whose thread joins that of its submitter."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cluster as bed
from support.agents import Agent, environment, new_home, running_agent
from support.cluster import Cluster
from support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slurm]

cluster = bed.cluster
SITES = '[slurm]\ndriver = "slurm"\ngrace_s = 1\npoll_s = 0.2\n'
LWFM = f"{shlex.quote(sys.executable)} -m lwfm"
STUDY = """
import sys
from pathlib import Path
from lwfm import JobDefn, LwfManager, Resources

place = Path(sys.argv[1])
manager = LwfManager()
site = manager.get_site("local")
site.run.submit_many(
    [
        JobDefn(f"hostname; echo {n} > {place}/part{n}; lwfm put {place}/part{n} --meta part={n}", name=f"part{n}",
                resources=Resources(cores=2))
        for n in range(3)
    ]
)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that all nodes see."""
    directory = new_home()
    (directory / "study.py").write_text(STUDY)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def agent(cluster: Cluster, place: Path) -> Iterator[Agent]:
    with running_agent(sites=SITES, env=cluster.environment) as running:
        yield running
        cluster.restore()  # batch jobs do not end with the agent; nothing of its home may be left when it has


def lwfm(agent: Agent, *words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "lwfm", "--home", str(agent.home.root), *words]
    return subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def known(agent: Agent, job: str) -> set[str]:
    """The jobs that are known to have been started by a job, or by what that started."""
    listed = agent.client.get("/v1/jobs", {"limit": 0})["jobs"]
    flows = agent.client.get("/v1/workflows", {"limit": 0})["workflows"]
    inner = {flow["workflow_id"] for flow in flows if flow.get("parent_job") == job}
    return {one["job_id"] for one in listed if one.get("workflow_id") in inner or one.get("parent_id") == job}


def test_its_thread_joins_the_one_of_its_submitter(agent: Agent, place: Path) -> None:
    flow = agent.workflow("outer")
    job = agent.submit(
        f"{LWFM} run {place}/study.py {place}", site="slurm", workflow=flow, resources={"nodes": 2, "cores": 2}
    )
    done = agent.wait(job, timeout_s=120)
    assert done["state"] == "COMPLETE", agent.output(job, "stderr").decode() + agent.log()
    wait_until(lambda: len(known(agent, job)) == 4, "its thread", timeout_s=60, on_timeout=agent.log)
    inner = {name: agent.job(one) for one in known(agent, job) for name in [agent.job(one)["name"]]}
    assert set(inner) == {"study.py", "part0", "part1", "part2"}
    assert {one["state"] for one in inner.values()} == {"COMPLETE"}
    assert {one["host"] for name, one in inner.items() if name != "study.py"} == {"n1", "n2"}
    assert all(one["elsewhere"] for one in inner.values())
    # what its jobs printed is here, their data found and followed to the job in the queue
    assert agent.output(inner["part1"]["job_id"]).decode().splitlines()[0] == inner["part1"]["host"]
    (sheet,) = agent.client.get("/v1/data", {"match": "part=1"})["data"]
    assert sheet["job_id"] == inner["part1"]["job_id"]
    behind = json.loads(lwfm(agent, "lineage", sheet["data_id"], "--json"))
    assert {inner["part1"]["job_id"], inner["study.py"]["job_id"], job} <= {node["id"] for node in behind["nodes"]}
    fetched = place / "fetched"
    lwfm(agent, "get", sheet["data_id"], str(fetched))
    assert fetched.read_text() == "1\n"
    agent.verify()


def test_what_is_at_rest_runs_nothing(agent: Agent, place: Path) -> None:
    """What is left of a job's own instance is answered for, by an agent that leaves at once, and has no worker."""
    job = agent.submit(f"{LWFM} log 'there is one'", site="slurm")
    assert agent.wait(job, timeout_s=120)["state"] == "COMPLETE", agent.output(job, "stderr").decode()
    inner = next(agent.home.root.glob(f"batch/slurm/jobs/*/{job}.1.home"))
    collected = json.loads(lwfm(agent, "sync", "collect", str(inner), "--json"))
    assert collected["origin"] != agent.client.get("/v1/agent")["origin"]
    log = (inner / "agent.log").read_text()
    serving = log.rindex("serving")
    assert "leaving" in log[: log.index("serving", log.index("serving") + 1)], "the one in the job was told to leave"
    wait_until(lambda: "leaving" in (inner / "agent.log").read_text()[serving:], "the agent at rest to leave")
    assert "worker" not in (inner / "agent.log").read_text()[serving:]


def test_what_a_job_puts_belongs_to_it(agent: Agent, place: Path) -> None:
    flow = agent.workflow("puts")
    (place / "result").write_text("42\n")
    command = f"{LWFM} put {place}/result --meta kind=result && {LWFM} log 'it is put'"
    job = agent.submit(command, site="slurm", workflow=flow)
    seen = agent.on_data({"kind": "result"}, "true")["job_ids"][0]
    assert agent.wait(job, timeout_s=120)["state"] == "COMPLETE", agent.output(job, "stderr").decode()
    assert agent.wait(seen)["state"] == "COMPLETE", "what is put there is an event here"
    (sheet,) = agent.client.get("/v1/data", {"match": "kind=result"})["data"]
    assert (sheet["job_id"], sheet["workflow_id"]) == (job, flow)
    assert [line["message"] for line in agent.client.get("/v1/logs", {"job": job})["logs"]] == ["it is put"]


def begun(agent: Agent, here: Path) -> str:
    """A job whose workflow of four long jobs, one after another, has begun with the first; each notes in ``here`` that it runs."""
    here.mkdir()
    script = here / "long.py"
    long = STUDY.replace("range(3)", "range(4)").replace('f"hostname;', 'f"echo >> {place}/ran{n}; sleep 600;')
    script.write_text(long)
    job = agent.submit(f"exec {LWFM} run {script} {here}", site="slurm", resources={"cores": 2})
    wait_until(lambda: any(here.glob("ran*")), "a job of it", timeout_s=60, on_timeout=agent.log)
    return job


def judge_rest(agent: Agent, job: str, here: Path, states: set[str]) -> None:
    """Once its thread has come: nothing of that is called COMPLETE, and nothing was run again, here or anywhere."""
    wait_until(lambda: len(known(agent, job)) == 5, "its thread", timeout_s=90, on_timeout=agent.log)
    inner = {one["name"]: one for one in map(agent.job, known(agent, job))}
    inner.pop("long.py")  # which may have been done with asking before
    assert {one["state"] for one in inner.values()} <= states, inner
    (ran,) = here.glob("ran*")
    assert ran.read_text() == "\n"


def test_what_its_end_cuts_off_is_not_run_elsewhere(agent: Agent, place: Path) -> None:
    job = begun(agent, place / "cancelled")
    agent.cancel(job)
    assert agent.wait(job, timeout_s=120)["state"] == "CANCELLED"
    judge_rest(agent, job, place / "cancelled", {"CANCELLED"})


def test_an_instance_that_was_killed_leaves_what_it_knew(agent: Agent, cluster: Cluster, place: Path) -> None:
    job = begun(agent, place / "killed")
    cluster.run("scancel", "--signal=KILL", "--full", agent.job(job)["native_id"])
    subprocess.run(["pkill", "-KILL", "-f", f"{job}.1.home"], check=True)
    assert agent.wait(job, timeout_s=120)["state"] in {"FAILED", "CANCELLED"}
    judge_rest(agent, job, place / "killed", {"CANCELLED", "UNKNOWN"})
