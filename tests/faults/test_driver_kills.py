"""SIGKILL of a driver's process, again and again, while it is given jobs: each of them runs once, and ends as it should."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from support.agents import running_agent
from support.waiting import wait_until

JOBS, KILLS = 60, 3


@pytest.mark.slow
def test_no_job_is_lost_or_run_twice(tmp_path: Path) -> None:
    chance = random.Random(4)
    sites = f'[mine]\ndriver = "lwfm.sites.skeleton:SkeletonSite"\ndirectory = "{tmp_path}/site"\n'
    with running_agent(sites=sites) as agent:
        journal = tmp_path / "journal"
        jobs = agent.submit_many([{"command": f"echo $LWFM_JOB_ID >> {journal}"}] * JOBS, site="mine")
        killed: set[int] = set()

        def another() -> int:
            found = [pid for pid, words in agent.processes().items() if "site-host" in words and pid not in killed]
            return found[0] if found else 0

        for _ in range(KILLS):
            pid = wait_until(another, "the driver's process", timeout_s=60, on_timeout=agent.log)
            begun = len(list((tmp_path / "site").glob("jobs/*/1")))
            wanted = min(JOBS, begun + chance.randrange(3, 15))
            wait_until(
                lambda wanted=wanted: len(list((tmp_path / "site").glob("jobs/*/1"))) >= wanted,  # type: ignore[misc]
                "some jobs to begin",
                timeout_s=60,
                on_timeout=agent.log,
            )
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        assert {job["state"] for job in agent.wait_all(jobs, timeout_s=100)} == {"COMPLETE"}
        assert sorted(journal.read_text().split()) == sorted(jobs)
        agent.verify()
