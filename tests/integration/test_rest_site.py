"""The site author's guide: its example serves a workflow through an agent, and the guide shows the example as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import Agent, running_agent
from support.rest_service import EXAMPLE, PASSWORD, USER, rest_service
from support.waiting import wait_until

GUIDE = EXAMPLE.parents[1] / "docs" / "site-authors.md"


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent that knows the site ``lab``."""
    with rest_service() as url:
        sites = f'[lab]\ndriver = "{EXAMPLE / "rest_site.py"}:RestSite"\nurl = "{url}"\n'
        with running_agent(sites=sites) as running:
            yield running


def login(agent: Agent, *answers: str) -> object:
    return agent.client.post("/v1/sites/lab/login", {"answers": list(answers)})


def test_a_workflow_there_and_here(agent: Agent, tmp_path: Path) -> None:
    """Data go there, a job there works on them, a job here goes on when it has ended, and the result comes back."""
    assert login(agent) == {"name": "lab", "current": False, "questions": [{"prompt": "User", "secret": False}]}
    assert login(agent, USER, PASSWORD) == {"name": "lab", "current": True, "questions": []}
    workflow = agent.workflow("there and here")
    (tmp_path / "numbers").write_text("3\n1\n2\n")
    put = {"path": str(tmp_path / "numbers"), "site": "lab", "properties": {"kind": "numbers"}, "workflow": workflow}
    stored = agent.client.post("/v1/data", {**put, "site_path": f"{tmp_path}/there/numbers"})
    assert stored["url"].startswith("http://")
    sort = agent.submit("sort numbers | tee sorted", site="lab", workflow=workflow, cwd=f"{tmp_path}/there")
    after = agent.on_job([sort], 'echo "after $LWFM_TRIGGER_JOB"', of=workflow)["job_ids"][0]
    assert [agent.wait(job)["state"] for job in (sort, after)] == ["COMPLETE", "COMPLETE"]
    assert agent.output(sort) == b"1\n2\n3\n"
    assert agent.output(after).decode() == f"after {sort}\n"
    fetched = agent.client.post("/v1/data/fetch", {"data": stored["data_id"], "path": f"{tmp_path}/back"})
    assert (fetched["site"], fetched["path"]) == ("local", f"{tmp_path}/back")
    assert fetched["url"].startswith("file://")
    assert (tmp_path / "back").read_text() == "3\n1\n2\n"
    token = agent.home.root / "sites" / "lab.token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_who_is_not_logged_in_is_told_and_then_it_goes_on(agent: Agent) -> None:
    job = agent.submit("echo at last", site="lab")
    wait_until(
        lambda: any("waits for a login" in str(item.get("reason")) for item in agent.statuses(job)), "it is told"
    )
    checks = {item["pillar"]: item["message"] for item in agent.client.post("/v1/sites/lab/check", {})["checks"]}
    assert checks["auth"] == "a login is needed: lwfm site login lab"
    login(agent, USER, PASSWORD)
    assert agent.wait(job)["state"] == "COMPLETE"
    after = agent.client.post("/v1/sites/lab/check", {})["checks"]
    assert [item["ok"] for item in after] == [True] * 4, after
    assert "left there" not in str(after)


def test_the_guide_shows_the_example_as_it_is() -> None:
    """Every piece of code in it that begins a class of the driver stands in the example, and the driver is small."""
    source = (EXAMPLE / "rest_site.py").read_text()
    pieces = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    shown = [piece for piece in pieces if "# rest_site.py" in piece.splitlines()[0]]
    assert len(shown) >= 5
    for piece in shown:
        code = piece.partition("\n")[2].strip("\n")
        assert code in source, f"not in the example:\n{code}"
    assert len(source.splitlines()) < 300
