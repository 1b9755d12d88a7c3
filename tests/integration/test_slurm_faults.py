"""What may happen between an agent and a real Slurm, and to jobs behind its back: each runs once, and ends as what it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.errors import InvalidRecord, ResourcesImpossible, SiteError
from lwfm.models import JobDefn
from lwfm.sites.base import JobRequest, Observation, SiteContext
from lwfm.sites.batch import run as batch_run
from lwfm.sites.batch_site import SlurmSite
from lwfm.states import JobState

from support import cluster as bed
from support.agents import Agent, new_home, running_agent
from support.cluster import Cluster
from support.meddling import Meddling
from support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slurm]

cluster = bed.cluster
SITES = '[slurm]\ndriver = "slurm"\ngrace_s = 1\n'
EMPTY_HANDED = "exit 0"
LOSE_ANSWER = '"$real" "$@" >/dev/null; kill -9 $$'


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that all nodes see."""
    directory = new_home()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def tools(cluster: Cluster, place: Path) -> Meddling:
    return Meddling(place / "tools", cluster.environment["PATH"], "sbatch", "squeue")


@pytest.fixture(scope="module")
def shared_agent(cluster: Cluster, tools: Meddling) -> Iterator[Agent]:
    with running_agent(sites=SITES, env={**cluster.environment, "PATH": tools.path}) as running:
        yield running
        cluster.restore()  # batch jobs do not end with the agent; nothing of its home may be left when it has


@pytest.fixture
def agent(shared_agent: Agent, tools: Meddling) -> Iterator[Agent]:
    """An agent whose site ``slurm`` is the cluster; nobody meddles yet."""
    yield shared_agent
    tools.relent()


@pytest.fixture(scope="module")
def timed_out(shared_agent: Agent, cluster: Cluster) -> str:
    """A job beyond its time limit. Slurm looks every half a minute; meanwhile there is other work."""
    job = shared_agent.submit("sleep 600", site="slurm", resources={"time_limit_s": 60})
    shared_agent.wait_state(job, "RUNNING")
    cluster.run("scontrol", "update", f"JobId={shared_agent.job(job)['native_id']}", "TimeLimit=0:00:01")
    return job


@pytest.fixture(scope="module")
def wide() -> Iterator[tuple[Cluster, Agent]]:
    """A cluster of its own that takes many jobs at once, and an agent for it."""
    reason = Cluster.why_not()
    if reason:
        pytest.skip(reason)
    with Cluster(nodes=2, cores=100) as own, running_agent(sites=SITES, env=own.environment) as running:
        yield own, running


def slurm_ids(cluster: Cluster) -> set[str]:
    return set(cluster.run("squeue", "-h", "-r", "-t", "all", "-o", "%i").stdout.split())


def touching(path: Path, then: str = "true") -> str:
    """A job that notes each time it runs."""
    return f"echo $SLURM_JOB_ID >> {path}; {then}"


def until(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


def test_a_first_job(agent: Agent, timed_out: str, place: Path) -> None:
    """All that is known of a job comes with it, as of one that ran here."""
    job = agent.submit("echo out; echo err >&2; head -c 100000 /dev/zero >&2", site="slurm")
    done = agent.wait(job)
    assert (done["state"], done["exit_code"], done.get("reason")) == ("COMPLETE", 0, None)
    assert re.fullmatch(r"\d+", done["native_id"])
    assert done["host"] in {"n1", "n2", "n3", "n4"}
    assert done["started_at"] <= done["ended_at"]
    assert (done["stdout_bytes"], done["stderr_bytes"]) == (4, 100004)
    assert done["cpu_seconds"] >= 0
    assert agent.output(job) == b"out\n"
    assert agent.output(job, "stderr")[:4] == b"err\n"


def test_what_it_asks_for_is_what_slurm_is_asked_for(agent: Agent, cluster: Cluster, place: Path) -> None:
    resources = {"nodes": 2, "cores": 2, "memory_bytes": 500 * 2**20, "time_limit_s": 3599}
    options = {"partition": "test", "option": ["--nice=7", "--mail-type=NONE"]}
    job = agent.submit(until(place / "asked"), site="slurm", resources=resources, options=options, name="two nodes")
    agent.wait_state(job, "RUNNING")
    told = cluster.run("scontrol", "show", "job", "-o", agent.job(job)["native_id"]).stdout
    for fact in ("NumNodes=2", "NumCPUs=4", "MinMemoryNode=500M", "TimeLimit=01:00:00", "Partition=test", "Nice=7"):
        assert f" {fact} " in told
    assert "JobName=two_nodes" in told
    (place / "asked").touch()
    assert agent.wait(job)["hosts"] in {"n[1-2]", "n[2-3]", "n[3-4]", "n[1,3]", "n[2,4]", "n[1,4]"}


def test_tasks_on_several_nodes(agent: Agent) -> None:
    """Each finds its job's variables; the command that starts them is that of the scheduler here."""
    resources = {"nodes": 2, "tasks_per_node": 2, "starter": "srun"}
    job = agent.submit('echo "$(hostname) $LWFM_JOB_ID $OWN"', site="slurm", resources=resources, env={"OWN": "a b"})
    done = agent.wait(job)
    assert done["state"] == "COMPLETE", agent.output(job, "stderr")
    lines = agent.output(job).decode().splitlines()
    assert len(lines) == 4
    assert {line.partition(" ")[2] for line in lines} == {f"{job} a b"}
    assert len({line.split()[0] for line in lines}) == 2


def test_the_nodes_are_in_a_file(agent: Agent) -> None:
    job = agent.submit("cat $LWFM_NODEFILE; echo $LWFM_NODES", site="slurm", resources={"nodes": 2, "cores": 2})
    agent.wait(job)
    assert re.fullmatch(r"n\d slots=2\nn\d slots=2\n2\n", agent.output(job).decode())


def test_what_it_did_not_write_fails_it(agent: Agent, place: Path) -> None:
    (place / "work").mkdir()
    keys: dict[str, Any] = {"site": "slurm", "cwd": str(place / "work")}
    good = agent.submit("touch 'a file' b1", outputs=["a file", "b*"], **keys)
    bad = agent.submit("touch c", outputs=["c", "d*"], **keys)
    assert agent.wait(good)["state"] == "COMPLETE"
    done = agent.wait(bad)
    assert (done["state"], done["reason"]) == (
        "FAILED",
        "exit code 0, but it did not write its declared output d*",
    )


def test_what_slurm_refuses_fails_with_its_words(agent: Agent) -> None:
    job = agent.submit("true", site="slurm", options={"partition": "there-is-none"})
    done = agent.wait(job)
    assert (done["state"], done["native_status"]) == ("FAILED", "refused")
    assert "nvalid partition" in done["reason"]


def test_what_makes_no_sense_is_refused_at_once(agent: Agent) -> None:
    agent.client.get("/v1/sites/slurm/resources")
    with pytest.raises(InvalidRecord, match="knows no option 'colour'"):
        agent.submit("true", site="slurm", options={"colour": "red"})
    with pytest.raises(InvalidRecord, match="knows no option 'partition'"):
        agent.submit("true", options={"partition": "test"})
    with pytest.raises(InvalidRecord, match="not possible here"):
        agent.submit("true", site="slurm", options={"option": "--array=1-5"})
    with pytest.raises(ResourcesImpossible, match="5 nodes with 3 cores"):
        agent.submit("true", site="slurm", resources={"nodes": 5, "cores": 3})


def test_nothing_of_a_job_is_shown_to_others(agent: Agent, cluster: Cluster, place: Path) -> None:
    secret = "hunter2-nobody-sees-this"
    job = agent.submit(f"echo {secret} >/dev/null; {until(place / 'seen')}", site="slurm", env={"MY_TOKEN": secret})
    native = agent.wait_state(job, "RUNNING")["native_id"]
    script = cluster.run("scontrol", "write", "batch_script", native, "-").stdout
    told = cluster.run("scontrol", "show", "job", "-dd", native).stdout
    assert "exec /bin/sh" in script
    assert secret not in script + told
    spooled = subprocess.run(["grep", "-rlaF", secret, cluster.root], capture_output=True, text=True, check=False)
    assert spooled.stdout == ""
    directory = agent.home.root / "batch" / "slurm"
    (script_path,) = [path for path in directory.rglob("*.sh") if secret in path.read_text()]
    assert [path.stat().st_mode & 0o777 for path in (directory, script_path)] == [0o700, 0o600]
    (place / "seen").touch()
    assert agent.wait(job)["state"] == "COMPLETE"
    assert not script_path.exists(), "it was needed only for the run"


# ---------------------------------------------------------------------------------------------- lost answers


def test_a_lost_answer_is_not_a_second_submission(agent: Agent, tools: Meddling, place: Path) -> None:
    """sbatch is killed after it has submitted: the job is found by its mark."""
    before = tools.calls("sbatch")
    tools.want("sbatch", LOSE_ANSWER, once=True)
    job = agent.submit(touching(place / "lost"), site="slurm")
    assert agent.wait(job)["state"] == "COMPLETE"
    assert len((place / "lost").read_text().splitlines()) == 1
    assert tools.calls("sbatch") - before == 1


def test_the_agent_is_killed_in_the_middle_of_a_submission(cluster: Cluster, place: Path) -> None:
    """Slurm has the jobs, and nobody knows their id."""
    env, first = dict(cluster.environment), {"LWFM_FAULTPOINT": "batch.submitted"}
    with running_agent(sites=SITES, env=env, first_env=first) as agent:
        command = touching(place / "killed")
        jobs = agent.submit_many([{"command": command, "cwd": "/"} for _ in range(4)], site="slurm")
        agent.wait_gone()
        agent.start()
        assert {job["state"] for job in agent.wait_all(jobs)} == {"COMPLETE"}
    ran = (place / "killed").read_text().split()
    assert len(ran) == len(set(ran)) == 4


class Alone:
    """The driver without an agent, its answers looked at one by one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.site = SlurmSite(SiteContext("slurm", {"grace_s": 1}, home, home))

    def request(self, command: str, number: int = 1) -> JobRequest:
        job = f"00000000-0000-7000-8000-{number:012d}"
        return JobRequest(job, 1, JobDefn(command, cwd="/"), "", {"PATH": os.defpath}, {"LWFM_JOB_ID": job})

    def until(self, job: str, *states: JobState) -> Observation:
        """What is said of it once it is in one of these states."""

        def reached() -> Optional[Observation]:
            said = self.site.run.status([job]).get(job)
            return said if said is not None and said.state in states else None

        return wait_until(reached, f"{job} to be {states}")


@pytest.fixture
def alone(
    cluster: Cluster, tools: Meddling, place: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Alone]:
    """One for whom a submission that is not seen at once was not taken."""
    for name, value in {**cluster.environment, "PATH": tools.path}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(batch_run, "SETTLE_S", 0.0)
    yield Alone(place / str(request.node.name))
    tools.relent()


def over(cluster: Cluster, ids: set[str]) -> bool:
    """Whether none of these is waiting or at work."""
    states = "PENDING,RUNNING,COMPLETING,CONFIGURING"
    return not cluster.run("squeue", "-h", "-t", states, "-j", ",".join(ids)).stdout


def test_of_two_submissions_of_a_job_one_runs(cluster: Cluster, tools: Meddling, alone: Alone) -> None:
    """The answer is lost, the queue does not show the job, so it is submitted again: and then both are there."""
    home, run = alone.home, alone.site.run
    before = slurm_ids(cluster)
    request = alone.request(touching(home / "ran", until(home / "go")))
    tools.want("sbatch", LOSE_ANSWER, once=True)
    with pytest.raises(SiteError):
        run.submit([request])
    tools.want("squeue", EMPTY_HANDED)
    run.submit([request])
    tools.relent()
    wait_until((home / "ran").exists, "one to run")
    ours = slurm_ids(cluster) - before
    assert len(ours) == 2
    alone.until(request.job_id, JobState.RUNNING)
    (home / "go").touch()
    said = alone.until(request.job_id, JobState.COMPLETE, JobState.FAILED, JobState.CANCELLED)
    assert said.state is JobState.COMPLETE, said
    wait_until(lambda: over(cluster, ours), "both to be over")
    assert (home / "ran").read_text().split() == [said.native_id]


def test_what_was_begun_and_never_handed_over_is_handed_over(tools: Meddling, alone: Alone) -> None:
    """The agent died in between; the next one finds no such job in the queue."""
    request = alone.request(touching(alone.home / "ran"))
    tools.want("sbatch", "kill -9 $$", once=True)
    with pytest.raises(SiteError):
        alone.site.run.submit([request])
    again = Alone(alone.home)
    assert dict(again.site.run.status([request.job_id])) == {}, "it is not known there: the agent hands it over again"
    again.site.run.submit([request])
    assert again.until(request.job_id, JobState.COMPLETE, JobState.FAILED).state is JobState.COMPLETE
    assert len((alone.home / "ran").read_text().splitlines()) == 1


def test_what_was_cancelled_before_its_id_was_known_does_not_run(
    cluster: Cluster, tools: Meddling, alone: Alone
) -> None:
    """Its script finds that it is not wanted, whenever Slurm starts it."""
    before = slurm_ids(cluster)
    request = alone.request(touching(alone.home / "ran"))
    tools.want("sbatch", '"$real" --hold "$@" >/dev/null; kill -9 $$', once=True)
    with pytest.raises(SiteError):
        alone.site.run.submit([request])
    tools.want("squeue", EMPTY_HANDED)
    alone.site.run.cancel(request.job_id, 1, "not wanted")
    said = alone.until(request.job_id, JobState.CANCELLED)
    assert said.native_id is None
    tools.relent()
    (native,) = slurm_ids(cluster) - before
    cluster.run("scontrol", "release", native)
    wait_until(lambda: over(cluster, {native}), "it to be over")
    assert not (alone.home / "ran").exists()


# ---------------------------------------------------------------------------------------------- no answers, false ones


def test_a_queue_that_cannot_be_asked_changes_nothing(agent: Agent, tools: Meddling, place: Path) -> None:
    job = agent.submit(until(place / "asked-again"), site="slurm")
    agent.wait_state(job, "RUNNING")
    tools.want("squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    wait_until(lambda: "Unable to contact" in str(agent.statuses(job)), "the trouble to be on record")
    assert agent.state(job) == "RUNNING"
    tools.relent()
    (place / "asked-again").touch()
    assert agent.wait(job)["state"] == "COMPLETE"


def test_a_queue_that_lies_makes_it_unknown_until_it_is_seen_again(agent: Agent, tools: Meddling, place: Path) -> None:
    job = agent.submit(until(place / "seen-again"), site="slurm")
    agent.wait_state(job, "RUNNING")
    tools.want("squeue", EMPTY_HANDED)
    lost = agent.wait_state(job, "UNKNOWN")
    assert "does not list the job" in lost["reason"]
    assert "there is no exit record" in lost["reason"]
    tools.relent()
    agent.wait_state(job, "RUNNING")
    (place / "seen-again").touch()
    assert agent.wait(job)["state"] == "COMPLETE"
    assert agent.states(job).count("UNKNOWN") == 1


# ---------------------------------------------------------------------------------------------- behind our back


def test_somebody_cancels_it(agent: Agent, cluster: Cluster) -> None:
    jobs = agent.submit_many([{"command": "sleep 600", "cwd": "/"} for _ in range(2)], site="slurm")
    for job in jobs:
        agent.wait_state(job, "RUNNING")
    cluster.run("scancel", agent.job(jobs[0])["native_id"])
    done = agent.wait(jobs[0])
    assert (done["state"], done["native_status"]) == ("CANCELLED", "CANCELLED")
    assert "slurm says CANCELLED" in done["reason"]
    assert agent.state(jobs[1]) == "RUNNING", "of an array one element was meant"
    agent.cancel(jobs[1])
    assert agent.wait(jobs[1])["state"] == "CANCELLED"


def test_it_is_requeued(agent: Agent, cluster: Cluster, place: Path) -> None:
    """What the first run left behind does not count when the second one is still to come."""
    line = touching(place / "requeued", f"[ -e {place}/second ] && exit 0; {until(place / 'never')}")
    job = agent.submit(line, site="slurm", options={"option": "--requeue"})
    native = agent.wait_state(job, "RUNNING")["native_id"]
    wait_until((place / "requeued").exists, "the first run")
    (place / "second").touch()
    cluster.run("scontrol", "requeue", native)
    agent.wait_state(job, "PENDING")
    exits = list((agent.home.root / "batch").rglob(f"{job}.1.exit"))
    assert exits, "the first run was stopped and has told so"
    cluster.run("scontrol", "update", f"JobId={native}", "StartTime=now")
    done = agent.wait(job)
    assert (done["state"], done["exit_code"], done["native_id"]) == ("COMPLETE", 0, native)
    assert (place / "requeued").read_text().split() == [native, native]


# ---------------------------------------------------------------------------------------------- many


def test_like_jobs_are_one_submission(wide: tuple[Cluster, Agent]) -> None:
    _, agent = wide
    definitions = [{"command": f"echo {number}; exit {3 if number % 50 == 7 else 0}"} for number in range(500)]
    jobs = agent.submit_many(definitions, site="slurm")
    done = agent.wait_all(jobs)
    assert len({str(job["native_id"]).partition("_")[0] for job in done}) == 1
    for number, job in enumerate(done):
        assert job["state"] == ("FAILED" if number % 50 == 7 else "COMPLETE")
        assert agent.output(job["job_id"]) == f"{number}\n".encode()
    submissions = agent.home.root / "batch" / "slurm" / "submissions"
    assert list(submissions.iterdir()) == [], "what was needed to run them is gone"


def test_the_controller_is_restarted(wide: tuple[Cluster, Agent], place: Path) -> None:
    own, agent = wide
    job = agent.submit(touching(place / "through", until(place / "restarted")), site="slurm")
    agent.wait_state(job, "RUNNING")
    with (own.root / "slurm.conf").open("a") as conf:
        conf.write("MessageTimeout=2\n")  # for so long commands try to reach it, by default five times that
    own.run("scontrol", "shutdown", "slurmctld")
    wait_until(lambda: own.run("scontrol", "ping", check=False).returncode != 0, "the controller to be gone")
    (place / "restarted").touch()
    later = agent.submit(touching(place / "through"), site="slurm")
    wait_until(lambda: "site slurm" in str(agent.statuses(later)), "the trouble to be on record", on_timeout=agent.log)
    with subprocess.Popen(own.command("slurmctld", "-D"), env=own.environment, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert {one["state"] for one in agent.wait_all([job, later])} == {"COMPLETE"}
        finally:
            daemon.terminate()
    ran = (place / "through").read_text().split()
    assert len(ran) == len(set(ran)) == 2


def test_a_time_limit_is_told_as_that(agent: Agent, cluster: Cluster, timed_out: str) -> None:
    native = agent.job(timed_out)["native_id"]
    told = ("squeue", "-h", "-t", "all", "-j", native, "-o", "%T")
    wait_until(lambda: cluster.run(*told).stdout.strip() == "TIMEOUT", "Slurm to look", timeout_s=90)
    agent.wait(agent.submit("true", site="slurm"))  # an agent with nothing new asks more and more seldom
    done = agent.wait(timed_out)
    assert (done["state"], done["native_status"]) == ("FAILED", "TIMEOUT")
    assert done["reason"] == "slurm says TIMEOUT: the job reached its time limit"


def test_its_node_fails(agent: Agent, cluster: Cluster) -> None:
    job = agent.submit("sleep 600", site="slurm")
    host = agent.wait_state(job, "RUNNING")["host"]
    try:
        cluster.kill_node(host)
        cluster.run("scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=gone")
        done = agent.wait(job)
        assert (done["state"], done["native_status"]) == ("FAILED", "NODE_FAIL")
        assert done["reason"].startswith("slurm says NODE_FAIL: the job lost one of its nodes")
    finally:
        cluster.restart_node(host)
