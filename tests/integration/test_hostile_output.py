"""What jobs and other people write never does anything to the terminal or the browser of who looks at it.

A real agent, in which everything that can have a name or print has a hostile one; every command that shows something is run on a
terminal, and what comes out there is searched for what a terminal would have obeyed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.client.calls import path_of

from support.agents import Agent, environment, running_agent
from support.terminal import OnTerminal

TITLE, ASK, RAW, TURN, WIPE = "\x1b]0;PWNED\x07", "\x1b[31337n", "\x9b31337n", "\u202ePWNED", "\x1bc\x1b[3J"
HOSTILE = f"x{TITLE}{ASK}{RAW}{TURN}{WIPE}\r\b<script>alert('pwned')</script><img src=x onerror=pwned>"
OBEYED = [TITLE, ASK, RAW, TURN, "\x1bc", "\x1b[3J", "\b", "\x07"]
LOOP = """
import os, sys
from lwfm.__main__ import main
for words in {words!r}:
    sys.stdout.write("\\n== " + " ".join(words) + "\\n")
    sys.stdout.flush()
    try:
        main(words)
    except SystemExit:
        pass
    sys.stdout.flush()
"""
ENDLESS_BYTES = 2**19


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as made:
        yield made


@pytest.fixture(scope="module")
def told(agent: Agent) -> dict[str, str]:
    """Hostile things of all kinds; their ids."""
    client = agent.client
    workflow = client.post("/v1/workflows", {"name": HOSTILE, "description": HOSTILE, "meta": {HOSTILE: HOSTILE}})
    of = workflow["workflow_id"]
    script = "import sys; sys.stdout.buffer.write(sys.argv[1].encode()); sys.stderr.buffer.write(sys.argv[1].encode()); sys.exit(3)"
    words = [sys.executable, "-c", script, HOSTILE]
    failed = agent.submit(
        words, name=HOSTILE, meta={HOSTILE: HOSTILE}, env={"X": HOSTILE}, outputs=[HOSTILE], workflow=of
    )
    nowhere = agent.submit([HOSTILE], cwd="/" + HOSTILE.replace("/", "|"), workflow=of)
    running = agent.submit(["sh", "-c", "sleep 60", HOSTILE], name=HOSTILE, workflow=of)
    handler = agent.on_data({HOSTILE.strip(): HOSTILE}, [HOSTILE], of=of, defn={"name": HOSTILE})
    data = agent.put({HOSTILE: HOSTILE, "kind": HOSTILE}, workflow=of, path="/" + HOSTILE, job=failed)
    client.post("/v1/logs", {"lines": [{"message": HOSTILE, "level": "INFO", "job": failed}]})
    agent.wait_all([failed, nowhere])
    agent.wait_state(running, "RUNNING")
    agent.emit(running, "INFO", reason=HOSTILE, native_status=HOSTILE)
    return {
        "workflow": of, "failed": failed, "nowhere": nowhere, "running": running, "handler": handler["handler_id"], "data": data,
    }  # fmt: skip


def commands(told: dict[str, str]) -> list[list[str]]:
    """All that show something, and some that fail with what they were given in the message."""
    shown = [
        ["job", "list"], ["job", "list", "--json"], ["workflow", "list"], ["workflow", "show", told["workflow"]],
        ["workflow", "dump", told["workflow"]], ["handler", "list"], ["log"], ["search", "PWNED"], ["search", "x"],
        ["find", "kind"], ["lineage", told["data"]], ["node", "list"], ["agent", "status"], ["agent", "logs"], ["site", "list"],
        ["data", "missing"], ["spin", "list"], ["store", "check"], ["agent", "status", "--json"],
    ]  # fmt: skip
    for job in (told["failed"], told["nowhere"], told["running"]):
        shown += [["job", verb, job] for verb in ("show", "status", "statuses", "log", "tree", "why", "output")]
        shown += [["job", "output", "--stderr", job]]
    shown += [
        ["job", "wait", told["failed"]],
        ["handler", "unset", told["handler"]],
        ["--debug", "job", "show", HOSTILE],
    ]
    shown += [["job", "show", HOSTILE], ["find", f"{HOSTILE}="], ["site", "check", HOSTILE], ["get", HOSTILE, "/tmp"]]
    return [
        *shown,
        ["submit", "--site", HOSTILE, "--", "true"],
        ["put", "/" + HOSTILE],
        ["nothing" + HOSTILE],
        ["log", "--job", HOSTILE],
    ]


class _Page(HTMLParser):
    """Counts elements, and notes those and the attributes by which a page does or fetches something."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.elements += 1
        names = {name for name, _ in attrs}
        if tag in ("script", "img", "iframe", "object", "embed", "link", "form", "base"):
            self.active.append(tag)
        self.active += [name for name in names if name.startswith("on") or name in ("src", "srcdoc", "action")]
        self.active += [str(value) for name, value in attrs if name == "href" and not str(value).startswith("#")]


def obeyed(screen: str) -> list[str]:
    return [mark for mark in OBEYED if mark in screen]


def test_no_command_lets_anything_through_to_the_terminal(agent: Agent, told: dict[str, str]) -> None:
    words = commands(told)
    variables = environment(LWFM_HOME=str(agent.home.root), TERM="xterm-256color", COLUMNS="200")
    terminal = OnTerminal([sys.executable, "-c", LOOP.format(words=words)], variables)
    assert terminal.end() == 0
    parts = re.split(r"\r?\n== ", terminal.screen)
    assert len(parts) >= len(words)
    assert terminal.screen.count("PWNED") > 20  # it was shown, as text
    assert not {part[:60]: obeyed(part.partition("\n")[2]) for part in parts if obeyed(part.partition("\n")[2])}


def test_top_shows_it_as_text(agent: Agent, told: dict[str, str]) -> None:
    variables = environment(LWFM_HOME=str(agent.home.root), TERM="xterm-256color")
    terminal = OnTerminal([sys.executable, "-m", "lwfm", "top"], variables)
    terminal.expect("PWNED")
    terminal.type("q")
    assert terminal.end() == 0
    assert not obeyed(terminal.screen)


def test_a_foreground_script_may_colour_and_nothing_else(agent: Agent, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"print({HOSTILE!r} + '\\x1b[32mgreen\\x1b[0m')\n")
    variables = environment(LWFM_HOME=str(agent.home.root), TERM="xterm-256color")
    terminal = OnTerminal([sys.executable, "-m", "lwfm", "run", str(script)], variables)
    assert terminal.end() == 0
    assert "\x1b[32mgreen\x1b[0m" in terminal.screen
    assert not obeyed(terminal.screen)


def test_the_report_is_a_page_with_text_in_it(agent: Agent, told: dict[str, str], tmp_path: Path) -> None:
    terminal = OnTerminal(
        [sys.executable, "-m", "lwfm", "report", told["workflow"], "-o", str(tmp_path / "r.html")],
        environment(LWFM_HOME=str(agent.home.root)),
    )
    assert terminal.end() == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "PWNED" in page
    assert not obeyed(page)
    read = _Page()
    read.feed(page)
    assert read.elements > 20
    assert not read.active


def test_binary_and_endless_output_is_kept_to_its_bounds(agent: Agent) -> None:
    """Without a single line's end, all byte values in it: byte for byte as it was, in pieces; and the agent does not grow by it."""
    script = f"import os, sys; sys.stdout.buffer.write(bytes(range(256)) * {ENDLESS_BYTES // 256})"
    job = agent.submit([sys.executable, "-c", script])
    assert agent.wait(job)["state"] == "COMPLETE"
    whole = b""
    while True:
        answer = agent.client.get_bytes(path_of("jobs", job, "output"), {"stream": "stdout", "offset": len(whole)})
        if not answer.body:
            break
        whole += answer.body
    assert whole == bytes(range(256)) * (ENDLESS_BYTES // 256)
    terminal = OnTerminal(
        [sys.executable, "-m", "lwfm", "job", "output", job], environment(LWFM_HOME=str(agent.home.root), TERM="xterm")
    )
    assert terminal.end() == 0
    assert set(terminal.screen) & set(map(chr, [*range(9), *range(11, 13), *range(14, 32), *range(127, 160)])) == set()
    listed: list[Any] = json.loads(json.dumps(agent.client.get("/v1/jobs", {"limit": 0})["jobs"]))
    assert os.path.getsize(agent.home.database) < 64 * 2**20
    assert any(item["job_id"] == job for item in listed)
