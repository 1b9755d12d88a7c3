"""``lwfm run --resume``: what a script finished is not done again, what failed or was cut short is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent, environment, running_agent
from support.waiting import wait_until

SCRIPT = """
import json, sys
from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent
where = sys.argv[1]
lwf = LwfManager()
site = lwf.get_site("local")
note = lambda word: f"echo {word} >> {where}/journal"
jobs = [site.run.submit(JobDefn(note("same"))) for _ in range(3)]
jobs += site.run.submit_many([JobDefn(note("same")), JobDefn(f"{note('broken')}; test -e {where}/mended")])
jobs.append(site.run.submit(JobDefn(f"{note('slow')}; until [ -e {where}/go ]; do sleep 0.05; done")))
after = lwf.set_event(JobEvent(jobs[0], "COMPLETE", JobDefn(note("after"))))
data = lwf.set_event(MetadataEvent({"kind": "seed"}, JobDefn(note("data"))))
made = lwf.put_workflow("inner")
lwf.emit_data({"kind": "seed"})
done = lwf.wait_all([*jobs, after.job_ids[0], data.job_ids[0]])
print(json.dumps({"jobs": [job.job_id for job in jobs], "made": made.workflow_id, "handlers": [after.handler_id, data.handler_id],
                  "states": [str(job.state) for job in done]}))
"""


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


def start(agent: Agent, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lwfm", *words], env=environment(LWFM_HOME=str(agent.home.root)), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def run(agent: Agent, *words: str) -> tuple[int, str]:
    """The exit code of ``lwfm``, and what it printed."""
    process = start(agent, *words)
    told, _ = process.communicate(timeout=60)
    return process.returncode, told


def script_states(agent: Agent) -> list[str]:
    return [job["state"] for job in agent.client.get("/v1/jobs", {"name": "flow.py"})["jobs"]]


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    script = tmp_path / "flow.py"
    script.write_text(SCRIPT)
    return script


def journal(where: Path) -> list[str]:
    path = where / "journal"
    return sorted(path.read_text().split()) if path.exists() else []


def test_only_what_is_not_finished_is_run_again(agent: Agent, flow: Path, tmp_path: Path) -> None:
    first = start(agent, "run", "--quiet", "--name", "study", str(flow), str(tmp_path))
    wait_until(lambda: len(journal(tmp_path)) == 8, "everything to have begun", on_timeout=agent.log)
    with first:  # as at the end of an allocation: all at once
        os.killpg(first.pid, signal.SIGKILL)
    agent.restart()
    wait_until(lambda: script_states(agent) == ["FAILED"], "the agent to know", on_timeout=agent.log)
    begun = ["after", "broken", "data", "same", "same", "same", "same", "slow"]
    assert journal(tmp_path) == begun
    (tmp_path / "go").touch()
    code, told = run(agent, "run", "--quiet", "--resume", str(flow), str(tmp_path))
    assert code == 11  # the broken one fails again
    assert journal(tmp_path) == sorted([*begun, "broken"])
    second = json.loads(told.splitlines()[-1])
    assert sorted(second["states"]) == ["COMPLETE"] * 7 + ["FAILED"]
    assert len(set(second["jobs"])) == 6
    (tmp_path / "mended").touch()
    code, told = run(agent, "run", "--quiet", "--resume", str(flow), str(tmp_path))
    assert code == 0
    third = json.loads(told.splitlines()[-1])
    assert journal(tmp_path) == sorted([*begun, "broken", "broken"])
    assert third["jobs"][:4] == second["jobs"][:4]
    assert (third["made"], third["handlers"]) == (second["made"], second["handlers"])
    workflows = agent.client.get("/v1/workflows")["workflows"]
    assert sorted(item["name"] for item in workflows) == ["inner", "study"]
    code, told = run(agent, "run", "--quiet", "--resume", str(flow), str(tmp_path))
    assert code == 0
    assert json.loads(told.splitlines()[-1]) == third


def test_without_an_earlier_run_it_starts_anew(agent: Agent, flow: Path, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    (tmp_path / "mended").touch()
    code, _ = run(agent, "run", "--quiet", "--resume", str(flow), str(tmp_path))
    assert code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "go").touch()
    (other / "mended").touch()
    code, _ = run(agent, "run", "--quiet", "--resume", str(flow), str(other))  # other arguments, another undertaking
    assert code == 0
    assert len(journal(other)) == 8


def test_what_still_runs_is_not_resumed(agent: Agent, flow: Path, tmp_path: Path) -> None:
    first = start(agent, "run", "--quiet", str(flow), str(tmp_path))
    wait_until(lambda: "slow" in journal(tmp_path), "it to run", on_timeout=agent.log)
    code, told = run(agent, "run", "--resume", str(flow), str(tmp_path))
    assert code != 0
    assert "has not ended" in told
    (tmp_path / "go").touch()
    (tmp_path / "mended").touch()
    first.communicate(timeout=30)
