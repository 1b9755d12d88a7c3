"""The whole story, by the one file alone: it is copied to a cluster, a study runs there by sbatch, and its thread comes home.

What a person would do, told in docs/tutorial-sync.md: the study is the one of examples/insitu.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import cluster as bed
from support import onefile
from support.cluster import BatchJob, Cluster
from support.onefile import ROOT
from support.story import HOME_ON_NODES, Story, a_story
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.root, pytest.mark.artifact, pytest.mark.slow, pytest.mark.timeout(240)]
cluster = bed.cluster
archive = onefile.archive

SLOW = """
import pathlib, runpy, sys, time
here = pathlib.Path(__file__).parent
while float(sys.argv[1]) > 80 and not (here / "go").exists():
    time.sleep(0.05)
runpy.run_path(str(here / "pendulum.py"), run_name="__main__")
"""
"""A code that takes as long as the test wants it to at three of six amplitudes: both nodes are needed, and a core is free."""
Jobs = Counter[tuple[str, str]]


@pytest.fixture
def story(cluster: Cluster, archive: Path, tmp_path: Path) -> Iterator[Story]:
    with a_story(cluster, archive, tmp_path) as told:
        yield told


def begin(story: Story, *words: str) -> BatchJob:
    """Bring the study there and submit it; it has begun when this returns, and does not end before :func:`let_it_end`."""
    (story.home / "study" / "slow.py").write_text(SLOW)
    job = story.submit("study", "--output=log", *words)
    wait_until(story.agent_host, "the agent", timeout_s=60, on_timeout=story.log)
    assert story.agent_host() in job.hosts()
    story.hide_socket()
    return job


def let_it_end(story: Story, job: BatchJob) -> None:
    (story.home / "study" / "go").touch()
    assert job.wait(120) == "COMPLETED", (story.home / "study" / "log").read_text() + story.log()


def jobs(story: Story) -> Jobs:
    """How many jobs of other instances are known on the desktop, by role and state."""
    known = [job for job in story.ask("job", "list", "--limit", "0") if "elsewhere" in job]
    return Counter((job["name"].partition("-")[0], job["state"]) for job in known)


def wait_brought(story: Story, expected: Jobs, peer: str, *options: str) -> None:
    """Wait until a sync brings jobs in these states."""

    def brought() -> bool:
        story.sync("pull", peer, *options)
        return jobs(story) == expected

    wait_until(brought, f"{expected}", timeout_s=60, on_timeout=lambda: f"{jobs(story)}\n{story.log()}")


def sync_all(story: Story, *words: str) -> dict[str, Any]:
    """Sync with what has ended: afterwards all that the cluster's store held is on the desktop, the same to the last byte."""
    there = set(story.records(story.home))
    synced = story.sync("pull", *words)
    assert there <= set(story.records(story.desktop.home))
    return synced


def named(graph: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The one node of a lineage that is of that kind and called so."""
    (node,) = (node for node in graph["nodes"] if node["kind"] == kind and Path(node["label"]).name == name)
    return dict(node)


RUNNING = Counter(
    {
        ("study.py", "COMPLETE"): 1,
        ("simulate", "COMPLETE"): 3,
        ("simulate", "RUNNING"): 3,
        ("measure", "COMPLETE"): 3,
        ("measure", "READY"): 3,
        ("tabulate", "READY"): 1,
    }
)
"""All that can have been done while three of the six simulations run."""
ENDED = Counter({(role, "COMPLETE"): 1 for role in ("study.py", "tabulate")})
ENDED.update({(role, "COMPLETE"): 6 for role in ("simulate", "measure")})


def test_a_study_on_a_cluster_comes_home_while_it_runs_and_when_it_has_ended(story: Story) -> None:
    """Seen from the desktop it runs, then it has ended; its result is followed to where it comes from, and is here."""
    assert "It runs there: lwfm " in story.desktop("self", "copy", *story.ssh, "login")
    story.copy(ROOT / "examples" / "insitu", to="study")
    story.desktop("on", "data", "kind=result", "--", "sh", "-c", "echo $LWFM_TRIGGER_PATH >> ~/results")

    job = begin(story, "job.sh", "--code", "slow.py")
    wait_brought(story, RUNNING, "login")
    assert story.agents(story.login) == [], "that of the first node of the batch job was asked, and no other"
    (peer,) = story.ask("peer", "list")
    running = story.ask("job", "list", "--state", "RUNNING")
    assert {(one["origin"], one["origin_host"]) for one in running} == {(peer["origin"], job.hosts()[0])}
    assert {one["host"] for one in running} == set(job.hosts())
    assert story.sync("pull", "login")["rows_received"] == 0

    let_it_end(story, job)
    assert not (story.desktop.home / "results").exists(), "what no sync has told is not known"
    options = ("login", "--data", "kind=result", "--outputs")
    assert sync_all(story, *options)["rows_received"] > 0
    assert jobs(story) == ENDED
    ours = story.ask("job", "list", "--limit", "0", "--origin", "login")
    for one in ours:
        assert one.pop("elsewhere") == "login"
    assert ours == json.loads(story.there("./lwfm.pyz job list --limit 0 --json"))
    assert story.ask("store", "check")["ok"] is True

    (result,) = story.ask("find", "kind=result")
    story.desktop("get", result["data_id"], "out.csv")
    table = (story.desktop.home / "out.csv").read_text()
    assert table == story.there(f"cat {result['path']}")
    assert table.splitlines()[-1] == "170,15.326968,15.326968"
    assert "14 COMPLETE" in story.desktop("workflow", "show", "pendulum")
    graph = story.ask("lineage", result["data_id"], "--up")
    assert {node["elsewhere"] for node in graph["nodes"]} == {"login"}
    for kind, name in [("data", "slow.py"), ("job", "simulate-170"), ("job", "study.py")]:
        assert named(graph, kind, name)["origin"] == peer["origin"]
    tabulate = named(graph, "job", "tabulate")["id"]
    assert story.desktop("job", "output", tabulate) == table
    data = Counter(Path(node["label"]).name for node in graph["nodes"] if node["kind"] == "data")
    assert data == {"periods.csv": 1, "period.txt": 6, "trajectory.csv": 6, "slow.py": 1}

    wait_until((story.desktop.home / "results").exists, "the handler that was set on the desktop")
    sync_all(story, *options)  # an agent was started there to answer, and its node is a record
    again = sync_all(story, *options)
    assert (again["rows_received"], again["data"]["pulled"]["files"]) == (0, 0)
    status = story.sync("status", "login")
    assert (status["missing_here"], status["notices"]) == ({}, [])
    assert (story.desktop.home / "results").read_text() == result["path"] + "\n"


def test_an_agent_alone_on_its_node_is_reached_through_a_jump_host_by_the_users_own_ssh(story: Story) -> None:
    """The file is in a place of its own; all that is needed to get there is told once, of the peer."""
    story.copy(ROOT / "examples" / "insitu", to="study")
    way = (*story.ssh, "--transport", "openssh")
    story.desktop("self", "copy", *way, "inner", "--to", "study/lwfm.pyz")
    story.desktop("peer", "add", "cluster", "inner", *way, "--remote-path", "study/lwfm.pyz")

    command = "exec ./lwfm.pyz run study.py --code slow.py --amplitudes 30 90"
    job = begin(story, "--nodes=1", "--exclusive", f"--wrap={command}")
    assert len(job.hosts()) == 1
    half = Counter([("study.py", "COMPLETE"), ("simulate", "COMPLETE"), ("simulate", "RUNNING")])
    half.update([("measure", "COMPLETE"), ("measure", "READY"), ("tabulate", "READY")])
    wait_brought(story, half, "cluster")
    assert story.agents(story.login) == []
    # A second run in the same instance, on another host, as of another batch job: its process is none that the agent can watch.
    told = story.there("cd study && ./lwfm.pyz run study.py 2>&1 || echo code $?").splitlines()
    assert f"runs on {job.hosts()[0]}, and follows no script on {story.login}" in told[0]
    assert told[-1] == "code 4"

    let_it_end(story, job)
    sync_all(story, "cluster", "--data", "kind=result")
    assert story.desktop("get", "last", "out.csv").strip() == str(story.desktop.home / "out.csv")
    lines = (story.desktop.home / "out.csv").read_text().splitlines()
    assert lines[1:] == ["30,6.392568,6.392568", "90,7.416299,7.416299"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_batch_job_that_begins_after_a_sync_has_the_agent_that_answered_leave(story: Story, nodes: int) -> None:
    """It idles on the node to log in on, and listens to no other; a job must not fail because somebody has looked."""
    story.copy(ROOT / "examples" / "insitu", to="study")
    story.desktop("self", "copy", *story.ssh, "login")
    story.sync("pull", "login")
    assert story.agent_host() == story.login
    for host in story.cluster.hosts[:-1]:
        story.hide_socket(host)

    job = story.submit("study", f"--nodes={nodes}", "--output=log", "job.sh")
    assert job.wait(60) == "COMPLETED", (story.home / "study" / "log").read_text() + story.log()
    sync_all(story, "login")
    assert jobs(story) == ENDED


def test_an_agent_that_was_started_by_hand_is_not_asked_to_leave_in_vain(story: Story) -> None:
    """It stays, and so does one that has work: a command on another node is told where to go."""
    story.desktop("self", "copy", *story.ssh, "login")
    story.there("./lwfm.pyz agent start")
    story.hide_socket(story.cluster.hosts[0])
    done = story.cluster.on(story.cluster.hosts[0], f"{HOME_ON_NODES}/lwfm.pyz", "job", "list", check=False)
    assert done.returncode == 7
    assert f"runs on {story.login}, and listens to no other host" in done.stderr
    assert story.agent_host() == story.login
    assert not (story.home / ".lwfm" / "agent.wanted").exists()
