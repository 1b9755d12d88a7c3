from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors, paths
from lwfm.client import startup

from support.fake_api import FakeApi

PRETENDER = """
import json, os, sys
words = sys.argv[1:]
descriptor = int(words[words.index("--ready-fd") + 1])
{body}
"""


@pytest.fixture
def home(tmp_path: Path) -> paths.Home:
    return paths.Home(tmp_path / "home")


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Make ``body`` what is started in place of the agent."""
    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER.format(body=body))
    monkeypatch.setattr(startup, "lwfm_command", lambda: [sys.executable, str(script)])


def absent() -> Any:
    raise ConnectionRefusedError


def test_ready(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.json"
    monkeypatch.setenv("LWFM_JOB_ID", "a job's")
    monkeypatch.setenv("LWFM_TRIGGER_JOB", "a job's")
    monkeypatch.delenv("LWFM_IDLE_EXIT_S", raising=False)
    pretend(
        monkeypatch,
        tmp_path,
        f"facts = dict(words=words, cwd=os.getcwd(), env=dict(os.environ), leader=os.getsid(0) == os.getpid())\n"
        f"open({str(record)!r}, 'w').write(json.dumps(facts))\n"
        "os.write(descriptor, b'{\"ok\": true}\\n')",
    )
    assert startup.start_agent(home, 60.0, lambda: "connected") == "connected"
    facts = json.loads(record.read_text())
    assert facts["words"][:6] == ["agent", "serve", "--home", str(home.root), "--idle-exit", "60"]
    assert (facts["cwd"], facts["leader"]) == (str(home.root), True)
    assert facts["env"]["LWFM_HOME"] == str(home.root)
    assert not {"LWFM_JOB_ID", "LWFM_TRIGGER_JOB"} & set(facts["env"])
    assert (home.agent_log.stat().st_mode & 0o777, home.root.stat().st_mode & 0o777) == (0o600, 0o700)


def test_never_leaving(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, "print(words, flush=True)\nos.write(descriptor, b'{\"ok\": true}\\n')")
    startup.start_agent(home, None, lambda: None)
    assert "--idle-exit" not in home.agent_log.read_text()


def test_what_it_reports_is_raised(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.dumps({"error": errors.StoreTooNew("from the future", hint="upgrade").to_json()})
    pretend(monkeypatch, tmp_path, f"os.write(descriptor, {report.encode()!r} + b'\\n')")
    with pytest.raises(errors.StoreTooNew, match="from the future"):
        startup.start_agent(home, 60.0, absent)


def test_its_last_words_are_in_the_hint(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, "sys.exit('dropped dead')")
    with pytest.raises(errors.AgentUnreachable, match="ended while it started") as caught:
        startup.start_agent(home, 60.0, absent)
    assert "dropped dead" in str(caught.value.hint)


def test_nonsense_is_not_readiness(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, "os.write(descriptor, b'hello\\n')")
    with pytest.raises(errors.AgentUnreachable):
        startup.start_agent(home, 60.0, absent)


def test_too_slow(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "START_TIMEOUT_S", 0.1)
    pretend(monkeypatch, tmp_path, "import time; time.sleep(2)")
    with pytest.raises(errors.AgentUnreachable, match="not ready"):
        startup.start_agent(home, 60.0, absent)


LOCKED = json.dumps({"error": errors.StoreLocked("taken").to_json()})


def test_somebody_elses_agent_is_as_good(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, f"os.write(descriptor, {LOCKED.encode()!r} + b'\\n')")
    tries: list[int] = []

    def connect() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise FileNotFoundError
        return "theirs"

    assert startup.start_agent(home, 60.0, connect) == "theirs"


def test_a_lock_without_an_agent(home: paths.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "SETTLE_TIMEOUT_S", 0.05)
    pretend(monkeypatch, tmp_path, f"os.write(descriptor, {LOCKED.encode()!r} + b'\\n')")
    with pytest.raises(errors.StoreLocked):
        startup.start_agent(home, 60.0, absent)


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConfigError, match="in the way"):
        startup.start_agent(paths.Home(tmp_path / "file"), 60.0, absent)


def test_the_client_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwfm.client import Client, Endpoint

    fake = FakeApi(tmp_path / "home")
    home = paths.Home(fake.home)

    def launch(command: list[str], where: paths.Home) -> Any:
        fake.start()
        return {"ok": True}

    monkeypatch.setattr(startup, "_launch", launch)
    client = Client(Endpoint(home, home.socket))
    try:
        assert client.get("/v1/agent")["version"] == "fake"
    finally:
        client.close()
        fake.stop()


class TestCommand:
    def test_ours(self) -> None:
        assert startup.lwfm_command()[-1].endswith((".pyz", "lwfm"))

    def test_of_a_process_that_has_only_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr(paths, "running_archive", lambda: None)
        monkeypatch.setenv("LWFM_COMMAND", '["/opt/python", "/opt/lwfm.pyz"]')
        assert startup.lwfm_command() == ["/opt/python", "/opt/lwfm.pyz"]

    @pytest.mark.parametrize("value", ["", "nonsense", "{}", "[]", "[1]"])
    def test_none(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr(paths, "running_archive", lambda: None)
        monkeypatch.setenv("LWFM_COMMAND", value)
        with pytest.raises(errors.AgentUnreachable, match="only the library"):
            startup.lwfm_command()


def test_the_package_is_found_again() -> None:
    assert os.path.samefile(os.path.join(startup.package_parent(), "lwfm"), os.path.dirname(errors.__file__))
