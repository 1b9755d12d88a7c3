"""``lwfm report`` on a real agent: a small workflow of which some jobs fail."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Optional

from support.agents import environment, running_agent

VOID = {"meta"}


class Page(HTMLParser):
    """The text of a page, by what it stands in; fails when an element is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tooltips: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.references += [value for name, value in attrs if name in ("href", "src") and value]
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        if tag == "title":
            self.tooltips.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"]:
            self.tooltips[-1] += data
        elif "style" not in self.open:
            self.text += data
            if "td" in self.open:
                self.cells[-1] += data


def test_a_workflow_with_failing_jobs(tmp_path: Path) -> None:
    with running_agent() as agent:
        flow = agent.workflow("melt <b>& freeze</b>")
        cwd = str(tmp_path)
        good = agent.submit("echo well; sleep 0.2", workflow=flow, name="good <1>", cwd=cwd)
        bad = agent.submit("echo '<oops> & out' >&2; exit 3", workflow=flow, name="bad", retries=1)
        killed = agent.submit("kill -9 $$", workflow=flow, name="killed")
        after = agent.on_job(good, "true", of=flow, name="after")
        agent.wait_all([good, bad, killed, *after["job_ids"]])
        waits = agent.on_data({"kind": "never"}, "true", of=flow)
        file = tmp_path / "thermo.csv"
        file.write_text("T,E\n")
        agent.put({"kind": "thermo", "T": 0.7}, op="put", path=str(file), workflow=flow, notate=True)
        cancelled = agent.submit("sleep 1000", workflow=flow, name="endless")
        agent.wait_state(cancelled, "RUNNING")
        agent.cancel(cancelled)
        agent.wait(cancelled)
        running = agent.submit("sleep 1000", workflow=flow, name="still-on")
        agent.wait_state(running, "RUNNING")
        done = subprocess.run(
            [sys.executable, "-m", "lwfm", "report", flow, "--output", "page.html"],
            cwd=tmp_path,
            env=environment(LWFM_HOME=str(agent.home.root)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        agent.cancel(running)
        agent.wait(running)
        started = [good, bad, killed, *after["job_ids"], cancelled, running]
        host = agent.worker()["host"]
    assert done.stdout == f"{tmp_path / 'page.html'}\n"
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"@import|<script|<link|url\((?!#)|https?://", html)
    assert "melt <b>& freeze</b>" in page.text
    bars = [tooltip for tooltip in page.tooltips if host in tooltip]
    for job in started:
        assert any(job in bar for bar in bars), job
    assert sum(bad in bar for bar in bars) == 2  # both attempts
    assert any("good <1>" in bar for bar in bars)
    for job in (*started, *waits["job_ids"]):
        assert html.count(job) >= 1, job
    assert "2 of 7 jobs failed" in page.text or "2 of 8 jobs failed" in page.text
    assert "exit code 3" in page.cells
    assert any("SIGKILL" in cell for cell in page.cells)
    assert "<oops> & out" in page.text
    assert str(file) in page.cells
    assert any("kind=thermo" in cell and "T=0.7" in cell for cell in page.cells)
    assert any("kind=never" in cell for cell in page.cells)
    assert "still-on" in page.text
    assert "so far" in page.text
