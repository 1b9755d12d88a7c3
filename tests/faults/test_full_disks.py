"""Disks that take nothing more: full, over quota, read-only. What was acknowledged is there when they take writes again.

The agent says that it accepts nothing and why, its jobs go on, and nobody does anything but make room.
"""

from __future__ import annotations

import errno
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lwfm.client.calls import path_of
from lwfm.errors import LwfmError, StoreError, StoreFull, StoreUnwritable

from support.agents import Agent, new_home, running_agent
from support.faulty import a_disk, a_quota, need_root, refusing
from support.journals import Journal
from support.peers import Place
from support.waiting import wait_until

JSON = dict[str, Any]
pytestmark = pytest.mark.root


def until(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


def status(agent: Agent) -> JSON:
    answer: JSON = agent.client.get("/v1/agent")
    return answer


def accepted_until_refused(
    agent: Agent, journal: Journal, kind: type[StoreError], size: int = 3000
) -> tuple[list[str], StoreError]:
    """Submit until the store refuses: the jobs that were acknowledged, and what was said then.

    It may be that nothing is refused at once on a disk that is full: the store's own files have room within.
    """
    accepted: list[str] = []
    for _ in range(2000):
        try:
            accepted.append(agent.submit(journal.command(": " + "x" * size), cwd="/"))
        except kind as error:
            return accepted, error
    raise AssertionError("nothing was refused")


def recovered(agent: Agent, journal: Journal, jobs: Sequence[str]) -> None:
    """All is well again, and all these jobs have come to their end once."""
    wait_until(lambda: status(agent)["accepts"], "the agent to accept again", timeout_s=30, on_timeout=agent.log)
    ended = agent.wait_all(jobs)
    journal.judge([agent.job(job) for job in jobs], {job: agent.statuses(job) for job in jobs})
    assert {job["state"] for job in ended} == {"COMPLETE"}, [job for job in ended if job["state"] != "COMPLETE"]
    assert agent.wait(agent.submit(journal.command(), cwd="/"))["state"] == "COMPLETE"
    wait_until(lambda: not status(agent)["troubles"], "the trouble to be over", on_timeout=agent.log)
    agent.verify()


def test_the_home_is_full(tmp_path: Path) -> None:
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    with a_disk(16) as disk, running_agent(root=disk.root) as agent:
        caller = Place(agent.home.root, "caller")
        running = agent.submit_many(
            [{"command": journal.command(until(go)), "cwd": "/", "resources": {"cores": 0}}] * 4
        )
        wait_until(lambda: journal.count("start") == 4, "the jobs to run", on_timeout=agent.log)
        disk.fill(leave=200_000)
        accepted, said = accepted_until_refused(agent, journal, StoreFull)
        assert "no space left" in said.message
        assert said.hint is not None
        assert "nothing acknowledged was lost" in said.hint
        disk.fill()
        accepted += accepted_until_refused(agent, journal, StoreFull, size=0)[0]
        for words in (("submit", "--", "true"), ("put", str(journal.path), "--meta", "a=b")):
            refused = caller.lwfm(*words)
            assert refused.returncode == 8, refused.stderr
            assert "no space left" in refused.stderr
            assert "→ free some space" in refused.stderr
        told = caller.lwfm("agent", "status")
        assert told.returncode == 0
        assert re.search(r"accepts nothing: .*no space left", told.stdout), told.stdout
        assert not status(agent)["accepts"]
        assert "no space left" in caller.lwfm("doctor").stdout
        disk.fill()  # also what the commands before have given back
        go.touch()
        wait_until(lambda: journal.count("end") >= 4, "the jobs to end meanwhile")
        unrecorded = {agent.state(job) for job in running} == {"RUNNING"}
        assert unrecorded or status(agent)["accepts"], "their end cannot be recorded without room"
        disk.make_room()
        recovered(agent, journal, [*running, *accepted])
        assert "store: over after" in agent.log()


def test_the_agent_dies_while_its_home_is_full(tmp_path: Path) -> None:
    """It cannot be started again before there is room, and says so; then all is known."""
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    with a_disk(16) as disk, running_agent(root=disk.root) as agent:
        job = agent.submit(journal.command(until(go)), cwd="/")
        wait_until(lambda: journal.count("start") == 1, "the job to run", on_timeout=agent.log)
        disk.fill()
        agent.kill()
        go.touch()
        wait_until(lambda: journal.count("end") == 1, "the job to end")
        process, report = agent.launch()
        process.wait(30)
        assert process.returncode == 8
        assert report is not None
        assert report["error"]["code"] == "StoreFull", report
        disk.make_room()
        agent.start()
        recovered(agent, journal, [job])


def test_the_spool_is_full(tmp_path: Path) -> None:
    """Jobs are accepted and wait, with the reason; what ran ends as it did; what could not be printed is told."""
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    root = new_home()
    with a_disk(4, root / "spool") as disk, running_agent(root=root) as agent:
        none = {"cores": 0}
        running = agent.submit(journal.command(until(go)), cwd="/", resources=none)
        printing = agent.submit(journal.command(f"{until(go)}; echo lost 2>/dev/null || true"), cwd="/", resources=none)
        wait_until(lambda: journal.count("start") == 2, "the jobs to run", on_timeout=agent.log)
        disk.fill()
        long = journal.command(": " + "x" * 5000)
        waiting = agent.submit_many([{"command": long, "cwd": "/", "resources": none}] * 3)
        trouble = wait_until(lambda: agent.worker().get("trouble"), "the worker's word", on_timeout=agent.log)
        assert trouble == "its spool cannot be written: No space left on device"
        assert "starts no jobs: its spool" in Place(root, "caller").lwfm("agent", "status").stdout
        later = agent.submit(journal.command(), cwd="/")
        why = agent.client.get(path_of("jobs", later, "why"))["explanation"][0]
        assert "starts no jobs at the moment: its spool cannot be written" in why
        go.touch()
        wait_until(lambda: journal.count("end") == 2, "the jobs to end meanwhile")
        assert journal.count("start") == 2
        disk.make_room()
        recovered(agent, journal, [running, printing, *waiting, later])
        assert "may be incomplete: the disk of its node was full while it ran" in agent.job(printing)["reason"]
        assert "reason" not in agent.job(later), "it began when there was room again"
        assert not agent.worker()["trouble"]


def test_there_is_no_room_for_an_output(tmp_path: Path) -> None:
    """A job that has ended stays until what it printed can be kept; others do not wait for that."""
    root = new_home()
    with a_disk(1, root / "outputs") as disk, running_agent(root=root) as agent:
        job = agent.submit("head -c 3000000 /dev/zero", cwd="/")
        found = wait_until(lambda: status(agent)["troubles"], "the trouble to be told", on_timeout=agent.log)
        assert [item["about"] for item in found] == ["outputs"]
        assert "no space left" in found[0]["message"]
        assert status(agent)["accepts"]
        assert agent.wait(agent.submit("true", cwd="/"))["state"] == "COMPLETE"
        assert agent.state(job) == "RUNNING"
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk.root)], check=True)
        assert agent.wait(job)["stdout_bytes"] == 3_000_000
        assert len(agent.output(job)) == 3_000_000
        assert not status(agent)["troubles"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EDQUOT, StoreFull, "the quota is used up"),
        (errno.EROFS, StoreUnwritable, "its file system takes no writes"),
        (errno.EIO, StoreUnwritable, "its disk or file server fails"),
    ],
    ids=["quota", "read-only", "failing"],
)
def test_a_disk_that_refuses(number: int, kind: type[StoreError], words: str, tmp_path: Path) -> None:
    """At every place where one can, which no real disk does at will: a library says it in the kernel's stead."""
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    root = new_home()
    disk = refusing(root, tmp_path)
    with running_agent(root=root, env=disk.env) as agent:
        running = [agent.submit(journal.command(until(go)), cwd="/", resources={"cores": 0}) for _ in range(3)]
        wait_until(lambda: journal.count("start") == 3, "the jobs to run", on_timeout=agent.log)
        disk.begin(number)
        with pytest.raises(kind, match=words):
            agent.submit("true")
        with pytest.raises(kind, match=words):
            agent.put({"a": 1})
        assert not status(agent)["accepts"]
        go.touch()
        wait_until(lambda: journal.count("end") == 3, "the jobs to end meanwhile")
        time.sleep(1.5)  # let everybody try in vain
        disk.end()
        recovered(agent, journal, running)


@pytest.mark.optin  # what some kernels cannot; that the programs are missing is a failure all the same
def test_a_quota_of_the_kernel_is_used_up(tmp_path: Path) -> None:
    journal, go = Journal(tmp_path / "journal"), tmp_path / "go"
    with a_quota(tmp_path) as quota, running_agent(root=quota.root) as agent:
        running = [agent.submit(journal.command(until(go)), cwd="/", resources={"cores": 0}) for _ in range(3)]
        wait_until(lambda: journal.count("start") == 3, "the jobs to run", on_timeout=agent.log)
        quota.use_up()
        accepted, said = accepted_until_refused(agent, journal, StoreFull)
        assert "the quota is used up" in said.message
        refused = Place(quota.root, "caller").lwfm("submit", "--", "true")
        assert refused.returncode == 8, refused.stderr
        assert not status(agent)["accepts"]
        go.touch()
        wait_until(lambda: journal.count("end") >= 3, "the jobs to end meanwhile")
        time.sleep(1.5)  # let everybody try in vain
        quota.lift()
        recovered(agent, journal, [*running, *accepted])


def test_a_file_system_is_mounted_read_only_and_back(tmp_path: Path) -> None:
    """For real, which Linux does only while nobody writes there: an agent does not start, and says why."""
    with a_disk(16) as disk, running_agent(root=disk.root) as agent:
        job = agent.submit("true")
        agent.wait(job)
        agent.stop()
        wait_until(lambda: not agent.processes(), "the worker to be gone", on_timeout=agent.log)
        subprocess.run(["mount", "-o", "remount,ro", str(disk.root)], check=True)
        try:
            refused = Place(disk.root, "caller").lwfm("submit", "--", "true")
            assert refused.returncode == 2
            assert f"cannot write to {disk.root}: its file system is mounted read-only" in refused.stderr
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(disk.root)], check=True)
        agent.start()
        assert agent.state(job) == "COMPLETE"
        assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"


def test_a_file_system_that_fails_and_is_repaired(tmp_path: Path) -> None:
    """ext4 that has met an error and takes no writes until somebody has mounted it again; the agent is there all the while."""
    need_root("mounting")
    image, root = tmp_path / "image", new_home()
    image.touch()
    with image.open("r+b") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount = ["mount", "-o", "loop,errors=remount-ro", str(image), str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no loop device can be mounted here")
    try:
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(root)], check=True, capture_output=True, text=True
        ).stdout.strip()
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip("this kernel makes no file system fail")
        with running_agent(root=root) as agent:
            accepted = [agent.submit("true") for _ in range(5)]
            agent.wait_all(accepted)
            trigger.write_text("1")
            with pytest.raises(StoreUnwritable, match="its file system takes no writes"):
                agent.submit("true")
            assert not status(agent)["accepts"]
            with pytest.raises(LwfmError):
                agent.put({"a": 1})
            assert {agent.state(job) for job in accepted} == {"COMPLETE"}, "it can still be asked"
            agent.kill_everything()
            subprocess.run(["umount", str(root)], check=True)
            assert subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True).returncode in (0, 1)
            subprocess.run(mount, check=True)
            agent.start()
            assert {agent.state(job) for job in accepted} == {"COMPLETE"}
            assert agent.wait(agent.submit("true"))["state"] == "COMPLETE"
            agent.verify()
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=False, capture_output=True)
