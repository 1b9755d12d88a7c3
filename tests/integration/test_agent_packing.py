"""What runs at the same time: never more than there is room for, each job on cores of its own, in a fair order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.agents import Agent, running_agent
from support.waiting import wait_until

CORES = os.cpu_count() or 1
RECORD = (
    "import json, os, sys, time\n"
    "began = time.monotonic(); cores = sorted(os.sched_getaffinity(0)); time.sleep(float(sys.argv[2]))\n"
    "line = json.dumps([began, time.monotonic(), cores, int(sys.argv[3]), sys.argv[4]]) + '\\n'\n"
    "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT); os.write(fd, line.encode())\n"
)


class Span(NamedTuple):
    """When a job ran, what it could use, and what it had asked for."""

    began: float
    ended: float
    cores: list[int]
    asked: int
    name: str


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


def recording(path: Path, seconds: float, asked: int, name: str = "-", **resources: int) -> dict[str, object]:
    command = ["python3", "-c", RECORD, str(path), str(seconds), str(asked), name]
    return {"command": command, "cwd": "/", "resources": {"cores": asked, **resources}, "name": name}


def spans(path: Path) -> list[Span]:
    return [Span(*json.loads(line)) for line in path.read_text().splitlines()]


def most_at_once(found: list[Span], weight: str = "asked") -> int:
    """The largest sum over all jobs that overlap."""
    changes = [(span.began, 1, span.asked) for span in found] + [(span.ended, 0, -span.asked) for span in found]
    level = highest = 0
    for _, _, change in sorted(changes):
        level += change
        highest = max(highest, level)
    return highest


def test_never_more_cores_than_there_are(agent: Agent, tmp_path: Path) -> None:
    sizes = [1 + number % CORES for number in range(24)]
    ids = agent.submit_many([recording(tmp_path / "spans", 0.03, size) for size in sizes])
    assert {job["state"] for job in agent.wait_all(ids)} == {"COMPLETE"}
    found = spans(tmp_path / "spans")
    assert len(found) == 24
    assert most_at_once(found) <= CORES
    for span in found:
        assert len(span.cores) == span.asked
        together = [
            other for other in found if other is not span and other.began < span.ended and span.began < other.ended
        ]
        assert not [other for other in together if set(other.cores) & set(span.cores)]
    recorded = {tuple(status["cores_used"]) for job in ids for status in agent.statuses(job) if "cores_used" in status}
    assert recorded == {tuple(span.cores) for span in found}


def test_a_job_that_names_no_cores_is_not_pinned(agent: Agent) -> None:
    job = agent.submit(["python3", "-c", "import os; print(len(os.sched_getaffinity(0)))"])
    agent.wait(job)
    assert int(agent.output(job)) == len(os.sched_getaffinity(0))


def test_jobs_without_cores_run_beside_all_others(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    full = agent.submit(f"cat {tmp_path}/go", resources={"cores": CORES})
    agent.wait_state(full, "RUNNING")
    beside = agent.submit_many([{"command": "true", "cwd": "/", "resources": {"cores": 0}} for _ in range(20)])
    assert {job["state"] for job in agent.wait_all(beside)} == {"COMPLETE"}
    assert agent.state(full) == "RUNNING"
    (tmp_path / "go").write_text("")
    agent.wait(full)


def test_the_room_is_free_again_after_every_kind_of_end(agent: Agent) -> None:
    ids = [agent.submit(command, resources={"cores": CORES}, retries=1) for command in ("true", "false", "kill -9 $$")]
    ids.append(agent.submit(["no-such-program"], resources={"cores": CORES}))
    ids.append(agent.submit("sleep 600", resources={"cores": CORES, "time_limit_s": 0.1}, grace_s=0.1))
    agent.wait_all(ids)  # another attempt waits at the end of the queue, so nothing long may come before it
    stopped = agent.submit("sleep 600", resources={"cores": CORES})
    agent.wait_state(stopped, "RUNNING")
    agent.cancel(stopped)
    agent.wait(stopped)
    assert agent.wait(agent.submit("true", resources={"cores": CORES}))["state"] == "COMPLETE"
    worker = agent.worker()
    assert (worker["cores_used"], worker["memory_used_bytes"], worker["gpus_used"], worker["jobs"]) == (0, 0, 0, 0)


def test_memory_and_gpus_are_shared_out_too(tmp_path: Path) -> None:
    with running_agent('[local]\ndriver = "local"\ngpus = 2\nmemory_bytes = 1000000000\n') as agent:
        half, all_of_it = recording(tmp_path / "m", 0.03, 0), recording(tmp_path / "m", 0.03, 0)
        half["resources"], all_of_it["resources"] = {"cores": 0, "memory_bytes": 500 << 20}, {"cores": 0, "gpus": 2}
        half["command"][5], all_of_it["command"][5] = "1", "1"  # type: ignore[index]
        for definition in (half, all_of_it):
            (tmp_path / "m").unlink(missing_ok=True)
            agent.wait_all(agent.submit_many([definition] * 4))
            assert most_at_once(spans(tmp_path / "m")) == 1


def test_first_come_first_served(agent: Agent, tmp_path: Path) -> None:
    ids = agent.submit_many([recording(tmp_path / "order", 0, CORES, f"{number:02}") for number in range(12)])
    agent.wait_all(ids)
    assert [span.name for span in spans(tmp_path / "order")] == [f"{number:02}" for number in range(12)]


@pytest.mark.slow
def test_a_large_job_is_not_passed_by_for_ever(agent: Agent, tmp_path: Path) -> None:
    """Small ones go ahead while it does not fit, but it comes before the last of them."""
    if CORES < 2:
        return
    small = agent.submit_many([recording(tmp_path / "s", 0.01, 1, "small") for _ in range(4)])
    large = agent.submit_many([recording(tmp_path / "s", 0.01, CORES, "large")])
    more = agent.submit_many([recording(tmp_path / "s", 0.01, 1, "small") for _ in range(200)])
    wait_until(lambda: agent.state(large[0]) == "COMPLETE", "the large job", timeout_s=40)
    agent.client.post("/v1/jobs/cancel", {"jobs": more})
    agent.wait_all(small + more)


def test_a_limit_on_the_node_is_kept(tmp_path: Path) -> None:
    with running_agent('[local]\ndriver = "local"\ncores = 1\n') as agent:
        assert agent.worker()["cores"] == 1
        agent.wait_all(agent.submit_many([recording(tmp_path / "one", 0.02, 1) for _ in range(6)]))
        assert most_at_once(spans(tmp_path / "one")) == 1
