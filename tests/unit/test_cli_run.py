"""``lwfm run`` against an agent that only remembers: what it reports, what it passes through, how it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lwfm
from lwfm import errors
from lwfm.cli import scripts
from lwfm.cli.session import Session

from support.fake_api import FakeApi, Request
from support.waiting import wait_until

FLOW = "019aab12-0000-7000-8000-000000000003"
SEARCH = os.path.dirname(os.path.dirname(lwfm.__file__))


class Agent(FakeApi):
    """Knows one workflow, whose only job is the script, and what is added to ``counts``."""

    def __init__(self, home: Path):
        super().__init__(home)
        self.counts: dict[str, int] = {}
        self.revision = 1
        self.finished: list[Any] = []
        self.replies.update(
            {
                "POST /v1/workflows": {"workflow_id": FLOW, "name": "script"},
                "GET /v1/workflows": {"workflows": []},
                f"GET /v1/workflows/{FLOW}": lambda _: {
                    "workflow_id": FLOW,
                    "name": "script",
                    "job_counts": self.counts,
                },
                "GET /v1/progress": self.progress,
                "POST /v1/jobs/attach": self.attach,
                "POST /v1/jobs/cancel": {"cancelled": 3},
                f"POST /v1/workflows/{FLOW}/close": {"unset": ["a handler"]},
                "GET /v1/jobs": {"jobs": []},
                "GET /v1/data": {"data": []},
            }
        )

    def attach(self, request: Request) -> Any:
        job = request.body["definition"]["job_id"]
        self.replies[f"POST /v1/jobs/{job}/finish"] = self.finish
        self.counts["RUNNING"] = self.counts.get("RUNNING", 0) + 1
        self.revision += 1
        return {"job_id": job, "state": "RUNNING"}

    def finish(self, request: Request) -> Any:
        self.finished.append(request.body)
        del self.counts["RUNNING"]
        state = "CANCELLED" if request.body["cause"] == "cancel" else "COMPLETE"
        state = "FAILED" if request.body.get("exit_code") or request.body.get("signal") else state
        self.counts[state] = self.counts.get(state, 0) + 1
        self.revision += 1
        return {"state": state}

    def progress(self, request: Request) -> Any:
        since = int(request.query.get("since", ["0"])[0])
        if since:
            deadline_s = min(0.5, float(request.query["timeout_s"][0]))
            try:
                wait_until(lambda: self.revision > since, "a change", timeout_s=deadline_s)
            except AssertionError:
                pass
        active = self.counts.get("RUNNING", 0)
        return {"revision": self.revision, "counts": self.counts, "total": sum(self.counts.values()), "active": active}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    fake = Agent(tmp_path / "home")
    with fake:
        yield fake


def start(agent: Agent, script: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
    return subprocess.Popen(
        [sys.executable, "-m", "lwfm", "--home", str(agent.home), "run", *options, str(script), *words],
        env={**environment, "PYTHONPATH": SEARCH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=agent.home.parent,
        start_new_session=True,
    )


def run(agent: Agent, program: str, *words: str, options: tuple[str, ...] = ()) -> tuple[int, bytes, bytes]:
    script = agent.home.parent / "script.py"
    script.write_text(program)
    process = start(agent, script, *words, options=options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_script_is_recorded_and_finds_its_place(agent: Agent) -> None:
    code, out, _ = run(
        agent,
        "import json, os, sys, lwfm\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ), lwfm.LwfmError.__module__]))\n"
        "print('to stderr', file=sys.stderr)\n"
        "sum(range(10**6))\n",
        "--an-option",
        "argument",
    )
    assert code == 0
    words, environment, module = json.loads(out.splitlines()[0])
    attached = agent.asked("POST", "/v1/jobs/attach")[0].body
    job = attached["definition"]["job_id"]
    assert (words, module) == (["--an-option", "argument"], "lwfm.errors")
    assert (environment["LWFM_JOB_ID"], environment["LWFM_WORKFLOW_ID"]) == (job, FLOW)
    assert (environment["LWFM_HOME"], environment["LWFM_SOCKET"]) == (str(agent.home), str(agent.socket))
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert attached["workflow"] == FLOW
    assert attached["definition"]["command"][1:] == [str(agent.home.parent / "script.py"), "--an-option", "argument"]
    assert attached["definition"]["resources"] == {"cores": 0}
    (finished,) = agent.finished
    assert (finished["cause"], finished["exit_code"]) == ("exit", 0)
    assert finished["cpu_seconds"] > 0
    assert base64.b64decode(finished["stderr"]["data"]) == b"to stderr\n"
    assert agent.asked("POST", f"/v1/workflows/{FLOW}/close")
    assert agent.asked("POST", "/v1/workflows")[0].body["name"] == "script"


def test_the_summary(agent: Agent) -> None:
    code, out, _ = run(agent, "print('hello')")
    text = out.decode()
    assert code == 0
    assert text.startswith("hello\n\nWorkflow script (019aab12-0000-7000): 1 job, 1 COMPLETE\n")
    assert "1 handler still waited for data" in text
    assert "lwfm job list --workflow 019aab12-0000-7000" in text


def test_the_summary_as_json(agent: Agent) -> None:
    code, out, err = run(agent, "print('hello')", options=("--json",))
    assert code == 0
    assert json.loads(out)["script_exit_code"] == 0
    assert b"hello\n" in err  # what the script prints does not disturb the JSON


def test_a_workflow_that_the_script_described_anew_is_not_one_it_made(agent: Agent) -> None:
    agent.replies["GET /v1/workflows"] = {"workflows": [{"workflow_id": FLOW, "name": "better name"}]}
    _, out, _ = run(agent, "print('hello')", options=("--json",))
    assert "made" not in json.loads(out)


def test_its_exit_code_is_ours(agent: Agent) -> None:
    code, _, _ = run(agent, "raise SystemExit(7)")
    assert (code, agent.finished[0]["exit_code"]) == (7, 7)


def test_a_signal_is_128_and_its_number(agent: Agent) -> None:
    code, _, _ = run(agent, "import os; os.kill(os.getpid(), 9)")
    assert (code, agent.finished[0]["signal"]) == (137, "SIGKILL")
    assert "exit_code" not in agent.finished[0]


def test_a_failed_job_is_11(agent: Agent) -> None:
    agent.counts = {"COMPLETE": 4}
    marker = agent.home.parent / "go"
    agent.replies["GET /v1/jobs"] = {"jobs": []}

    original = agent.finish

    def finish(request: Request) -> Any:
        agent.counts["FAILED"] = 1
        return original(request)

    agent.finish = finish  # type: ignore[method-assign]
    code, _, _ = run(agent, f"print({str(marker)!r})")
    assert code == 11


def test_failures_from_before_do_not_count(agent: Agent) -> None:
    agent.counts = {"FAILED": 2}
    agent.replies["GET /v1/workflows/last"] = {"workflow_id": FLOW, "name": "script"}
    code, _, _ = run(agent, "", options=("--workflow", "last"))
    assert code == 0
    assert not agent.asked("POST", "/v1/workflows")


def test_handlers_may_be_kept(agent: Agent) -> None:
    assert run(agent, "", options=("--keep-handlers",))[0] == 0
    assert not agent.asked("POST", f"/v1/workflows/{FLOW}/close")


def test_output_that_is_not_text_passes_through(agent: Agent) -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    code, out, _ = run(agent, program, options=("--quiet",))
    assert (code, out) == (0, bytes(range(256)) * 1000)
    kept = agent.finished[0]["stdout"]
    assert kept["size"] == 256_000
    assert base64.b64decode(kept["data"]) == (bytes(range(256)) * 1000)[:65536]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_script_and_its_jobs(agent: Agent, number: int, code: int) -> None:
    script = agent.home.parent / "script.py"
    script.write_text(
        "import signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.default_int_handler)\n"
        "try:\n    print('up', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('tidied up', flush=True)\n"
    )
    process = start(agent, script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == b"tidied up\n"
    assert b"3 jobs cancelled" in err
    assert agent.finished[0]["cause"] == "cancel"
    assert signal.Signals(number).name in agent.finished[0]["reason"]
    assert agent.asked("POST", "/v1/jobs/cancel")[0].body["workflow"] == FLOW
    order = [request.path.rpartition("/")[2] for request in agent.requests if request.method == "POST"]
    assert order[-3:] == ["finish", "cancel", "close"]


def test_a_second_interrupt_leaves_at_once(agent: Agent) -> None:
    script = agent.home.parent / "script.py"
    script.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    process = start(agent, script)
    assert process.stdout is not None
    assert process.stderr is not None
    pid = int(process.stdout.readline())
    try:
        process.send_signal(signal.SIGINT)
        while b"stopping" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=10)


def test_an_agent_that_goes_away_does_not_end_the_script(agent: Agent, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('up', flush=True)\nsys.stdin.read()\nopen('done', 'w').close()\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
    elsewhere = {"LWFM_SOCKET": str(agent.socket), "PYTHONPATH": SEARCH}  # no home: it cannot be started from here
    process = subprocess.Popen(
        [sys.executable, "-m", "lwfm", "run", str(script)],
        env={**environment, **elsewhere},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"up\n"
    agent.stop()
    while b"the script runs on" not in process.stderr.readline():
        pass
    agent.start()
    process.communicate(timeout=60)
    assert (process.returncode, len(agent.finished)) == (0, 1)
    assert (tmp_path / "done").exists()


class TestScripts:
    def test_bad_scripts(self, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFound):
            scripts.check_script(str(tmp_path / "none.py"))
        with pytest.raises(errors.ConfigError, match="directory"):
            scripts.check_script(str(tmp_path))

    def test_python(self, tmp_path: Path) -> None:
        assert scripts.choose_python(None, None) == sys.executable
        assert scripts.choose_python("sh", None).endswith("/sh")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").symlink_to(sys.executable)
        assert scripts.choose_python(None, str(tmp_path)) == str(tmp_path / "bin" / "python")
        with pytest.raises(errors.NotFound):
            scripts.choose_python("no-such-python", None)
        with pytest.raises(errors.NotFound):
            scripts.choose_python(None, str(tmp_path / "bin"))
        with pytest.raises(errors.InvalidRecord):
            scripts.choose_python("python", "venv")

    def test_a_virtual_environment_is_entered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("LWFM_SOCKET", raising=False)
        environment = scripts.script_environment(Session(), str(tmp_path / "bin" / "python"), str(tmp_path))
        assert environment["VIRTUAL_ENV"] == str(tmp_path)
        assert environment["PATH"].startswith(f"{tmp_path}/bin{os.pathsep}")

    def test_only_the_library_is_shown_to_a_script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        crowded = tmp_path / "site-packages"
        crowded.mkdir()
        (crowded / "click").mkdir()
        (crowded / "lwfm").symlink_to(os.path.dirname(lwfm.__file__))
        monkeypatch.setattr(scripts, "package_parent", lambda: str(crowded))
        monkeypatch.setenv("LWFM_HOME", str(tmp_path / "home"))
        shown = scripts.library_directory(Session().instance, "/some/other/python")
        assert shown is not None
        assert os.listdir(shown) == ["lwfm"]
        assert os.path.exists(os.path.join(shown, "lwfm", "__init__.py"))
        assert scripts.library_directory(Session().instance, "/some/other/python") == shown


def test_the_library_needs_only_the_standard_library() -> None:
    program = (
        "import lwfm, lwfm.library.logs; [getattr(lwfm, name) for name in lwfm.__all__]; lwfm.LwfManager();"
        "import sys; print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": SEARCH},
        capture_output=True,
        text=True,
        check=True,
    )
    for heavy in ("click", "rich", "tornado", "psutil", "sqlite3"):
        assert f"'{heavy}'" not in done.stdout
