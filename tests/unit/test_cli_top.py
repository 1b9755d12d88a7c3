"""The live view: what it asks, what it shows, and how it leaves the terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from rich.console import Console

import lwfm
from lwfm import errors
from lwfm.__main__ import main
from lwfm.cli import top, top_view
from lwfm.cli.snapshot import Snapshot, Watcher
from lwfm.client import Client, Endpoint
from lwfm.clock import utc_text
from lwfm.paths import Home

from support.fake_api import FakeApi, in_use

JOB = "019aab12-3456-7000-8000-000000000001"
FLOW = "019aab12-0000-7000-8000-000000000003"
UP = {
    "host": "n1",
    "state": "up",
    "cores": 8,
    "cores_used": 3,
    "memory_bytes": 2**34,
    "memory_used_bytes": 2**30,
    "gpus": 0,
    "gpus_used": 0,
    "jobs": 3,
}
PATIENCE_S = 30.0


def running(number: int = 1, **more: Any) -> dict[str, Any]:
    started = utc_text(time.time() - 65)
    job_id = f"{JOB[:-3]}{number:03d}"
    return {"job_id": job_id, "state": "RUNNING", "name": f"sim-{number}", "host": "n1", "started_at": started, **more}


def allocation(**more: Any) -> dict[str, Any]:
    other = {"n1": "up", "n2": "starting", "n3": "missing"}
    ends_at = utc_text(time.time() + 3600)
    return {"scheduler": "slurm", "id": "4711", "ends_at": ends_at, "nodes": 4, "other_nodes": other, **more}


def agent(**more: Any) -> dict[str, Any]:
    return {"host": "login", "workers": [UP], "allocation": None, "jobs": {"COMPLETE": 1200, "RUNNING": 1}, **more}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with in_use(tmp_path, monkeypatch) as fake:
        fake.replies["GET /v1/agent"] = agent()
        fake.replies["GET /v1/jobs"] = {"jobs": [running()]}
        yield fake


class TestOnce:
    def test_without_a_terminal_it_prints_once(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["top"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["NODE", "STATE", "CORES", "MEMORY", "JOBS"]
        assert lines[1].split() == ["n1", "up", "3/8", "1.0", "GiB/16.0", "GiB", "3"]
        assert lines[3] == "Jobs: 1,200 COMPLETE, 1 RUNNING"
        assert lines[6].split() == ["019aab12-3456-7000", "sim-1", "n1", "1m05s"]
        assert [request.path for request in api.requests] == ["/v1/agent", "/v1/jobs"]
        running = {"state": ["RUNNING", "FINISHING"], "origin": ["here"], "limit": [str(top.ONCE_RUNNING)]}
        assert api.requests[1].query == running

    def test_nodes_that_are_not_there_and_the_time_left(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        with_gpus = {**UP, "gpus": 4, "gpus_used": 1}
        api.replies["GET /v1/agent"] = agent(workers=[with_gpus], allocation=allocation(), jobs={"RUNNING": 40})
        assert main(["top", "--once"]) == 0
        out = capsys.readouterr().out
        rows = [line.split()[:2] for line in out.splitlines()[1:4]]
        assert rows == [["n2", "starting"], ["n3", "missing"], ["n1", "up"]]
        assert "1/4" in out
        assert "Allocation 4711 (slurm), 4 nodes, 1 starting, 1 missing, " in out
        assert "1h00m left (until " in out or "59m59s left (until " in out
        assert out.endswith("... and 39 more\n")

    def test_nodes_of_several_allocations(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        made = [
            allocation(id="1", name="slurm-1", nodes=2, other_nodes={"n1": "up", "n2": "starting"}),
            allocation(id="2", name="slurm-2", nodes=1, other_nodes={"n1": "missing"}, ends_at=None),
        ]
        api.replies["GET /v1/agent"] = agent(pid=1, workers=[{**UP, "allocation": "slurm-1"}], allocations=made)
        for command in (["top", "--once"], ["node", "list"]):
            assert main(command) == 0
            out = capsys.readouterr().out
            rows = sorted(line.split() for line in out.splitlines()[1:4])
            assert [(row[0], row[1], row[-1]) for row in rows] == [
                ("n1", "missing", "slurm-2"),
                ("n1", "up", "slurm-1"),
                ("n2", "starting", "slurm-1"),
            ]
            assert "Allocation 1 (slurm), 2 nodes" in out
            assert "Allocation 2 (slurm), 1 node, 1 missing\n" in out
        assert main(["agent", "status"]) == 0
        out = capsys.readouterr().out
        assert "of slurm-1 up" in out
        assert "2 (slurm), 1 node, 1 missing" in out

    def test_nothing_at_all(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/agent"] = {"pid": 1}
        assert main(["top", "--once"]) == 0
        assert capsys.readouterr().out == "\nJobs: none\n"
        assert len(api.requests) == 1  # where nothing runs, nothing is asked for

    def test_json(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/agent"] = agent(allocation=allocation(ends_at=utc_text(0.0)))
        assert main(["top", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [node["state"] for node in found["nodes"]] == ["up", "starting", "missing"]
        assert found["jobs"] == {"COMPLETE": 1200, "RUNNING": 1}
        assert found["running"][0]["name"] == "sim-1"
        assert (found["seconds_left"], found["allocation"]["id"]) == (0.0, "4711")

    def test_of_a_workflow(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/workflows"] = {"workflows": [{"workflow_id": FLOW, "name": "melt"}]}
        api.replies[f"GET /v1/workflows/{FLOW}"] = {"workflow_id": FLOW, "job_counts": {"RUNNING": 1, "READY": 2}}
        assert main(["top", "--workflow", "melt"]) == 0
        assert "Jobs: 1 RUNNING, 2 READY" in capsys.readouterr().out
        assert api.asked("GET", "/v1/jobs")[0].query["workflow"] == [FLOW]

    @pytest.mark.parametrize("interval", ["0", "-1", "often"])
    def test_no_such_interval(self, api: FakeApi, interval: str) -> None:
        assert main(["top", "--interval", interval]) == 2

    def test_names_do_nothing_to_the_terminal(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs"] = {"jobs": [running(name="a\x1b[2Jb", host="\x07")]}
        assert main(["top"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out


class TestWatcher:
    @staticmethod
    def client(api: FakeApi) -> Client:
        home = Home(api.home)
        return Client(Endpoint(home, home.socket, may_start=False))

    def test_the_rate_is_of_what_ended_lately(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        watcher = Watcher(self.client(api), interval_s=2.0)
        rates = []
        for ended in (10, 30, 30, 30, 30, 30, 30, 20):
            api.replies["GET /v1/agent"] = agent(jobs={"COMPLETE": ended - 2, "FAILED": 1, "CANCELLED": 1, "READY": 9})
            rates.append(watcher.look(5).rate)
            clock[0] += 2.0
        assert rates[0] is None
        assert rates[1:6] == [10.0, 5.0, pytest.approx(20 / 6), 2.5, 2.0]
        assert rates[6:] == [0.0, 0.0]  # never less than none

    def test_two_calls_each(self, api: FakeApi) -> None:
        watcher = Watcher(self.client(api))
        for _ in range(3):
            watcher.look(5)
        assert len(api.requests) == 6

    def test_two_calls_each_of_a_workflow(self, api: FakeApi) -> None:
        api.replies[f"GET /v1/workflows/{FLOW}"] = {"job_counts": {"RUNNING": 1}}
        watcher = Watcher(self.client(api), FLOW)
        watcher.look(5)
        api.replies["GET /v1/agent"] = agent(host="renamed")
        api.replies["GET /v1/jobs"] = {"jobs": [running(2)]}
        second = watcher.look(5)
        third = watcher.look(5)
        assert len(api.requests) == 3 + 2 + 2
        assert second.running[0]["name"] == "sim-2"
        assert third.agent["host"] == "renamed"


class TestView:
    @staticmethod
    def lines(snapshot: Snapshot, width: int = 100, height: int = 24, **more: Any) -> list[str]:
        screen = io.StringIO()
        console = Console(file=screen, width=width, height=height, color_system=None)
        console.print(top_view.draw(snapshot, width, height, 2.0, **more))
        return screen.getvalue().splitlines()

    def test_it_fits(self) -> None:
        nodes = [{**UP, "host": f"n{number}.cluster.example.org"} for number in range(300)]
        jobs = [running(number, name="long-name-" * 20) for number in range(200)]
        snapshot = Snapshot(time.time(), agent(workers=nodes, allocation=allocation()), {"RUNNING": 5000}, jobs, 12.5)
        for width, height in ((40, 10), (80, 24), (200, 60)):
            lines = self.lines(snapshot, width, height, trouble="it is gone")
            assert len(lines) <= height or height == 10
            assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert "more nodes" in text
        assert "Ended per second: 12.5" in text
        assert "No answer" in text
        assert "missing" in text

    def test_jobs_get_the_room_that_nodes_leave(self) -> None:
        jobs = [running(number) for number in range(200)]
        snapshot = Snapshot(time.time(), agent(), {"RUNNING": 200}, jobs)
        lines = self.lines(snapshot, 80, 40)
        assert 38 <= len(lines) <= 40
        assert sum("sim-" in line for line in lines) >= 28

    def test_names_are_no_markup_and_no_escapes(self) -> None:
        jobs = [running(name="[red]x[/red] \x1b[2J", host="[b]")]
        nodes = [{**UP, "host": "[bold]n1", "state": "lost"}]
        text = "\n".join(self.lines(Snapshot(time.time(), agent(workers=nodes), {"RUNNING": 1}, jobs, 0.0)))
        assert "[red]x[/red] \\x1b[2J" in text
        assert "[bold]n1" in text

    @pytest.mark.parametrize(
        ("used", "total", "shown"),
        [(0, 8, "────"), (1, 80, "━───"), (4, 8, "━━──"), (9, 8, "━━━━"), (None, 8, "────"), (1, None, ""), (0, 0, "")],
    )
    def test_bar(self, used: Optional[int], total: Optional[int], shown: str) -> None:
        assert top_view.bar(used, total, 4).plain == shown


class Live:
    """``lwfm top`` on a terminal of its own."""

    def __init__(self, api: FakeApi, *words: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100)) if hasattr(termios, "tcsetwinsize") else None
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = b""
        search = os.path.dirname(os.path.dirname(lwfm.__file__))
        variables = {"LWFM_HOME": str(api.home), "PYTHONPATH": search, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lwfm", "top", *words],
            env={**os.environ, **variables},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )

    def until(self, wanted: bytes) -> None:
        """Read on until that has been written."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)

    def end(self) -> int:
        """Wait for its end; the exit code. The terminal must be as it was."""
        code = self.process.wait(PATIENCE_S)
        self.until(b"\x1b[?1049l")
        assert b"\x1b[?25h" in self.seen  # the cursor is shown again
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def live(api: FakeApi) -> Iterator[Live]:
    found = Live(api, "--interval", "0.2")
    yield found
    found.close()


class TestLive:
    def test_q_leaves(self, api: FakeApi, live: Live) -> None:
        live.until(b"\x1b[?1049h")
        live.until(b"sim-1")
        api.replies["GET /v1/jobs"] = {"jobs": [running(2)]}
        live.until(b"sim-2")  # it is drawn anew
        os.write(live.master, b"xq")
        assert live.end() == 0

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_signals_leave_the_terminal_as_it_was(self, live: Live, number: int, code: int) -> None:
        live.until(b"sim-1")
        live.process.send_signal(number)
        assert live.end() == code

    def test_an_agent_that_leaves_is_waited_for_and_not_started(self, api: FakeApi, live: Live) -> None:
        live.until(b"sim-1")
        api.stop()
        live.until(b"No answer")
        assert not (api.home / "agent.log").exists()
        api.replies["GET /v1/jobs"] = {"jobs": [running(7)]}
        api.start()
        live.until(b"sim-7")
        os.write(live.master, b"q")
        assert live.end() == 0

    def test_another_error_is_told_on_the_terminal_as_it_was(self, api: FakeApi, live: Live) -> None:
        live.until(b"sim-1")
        api.replies["GET /v1/agent"] = errors.StoreError("the store is broken")
        live.until(b"lwfm: the store is broken")
        assert live.end() == errors.StoreError.exit_code
        assert live.seen.index(b"\x1b[?1049l") < live.seen.index(b"lwfm: the store is broken")
