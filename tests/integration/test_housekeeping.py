"""``store size``, ``store compact`` and ``store prune`` of a running agent, by its API and by the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm.errors import Conflict, InvalidRecord, NotFound, StoreFull
from lwfm.housekeeping.leftovers import Limit, old_copies
from lwfm.paths import Home
from lwfm.store import compaction
from lwfm.store.sizes import FREE, RECORDS

from support.agents import Agent, environment, running_agent
from support.threads import HOST, Thread, thread

__all__ = ["thread"]

JSON = dict[str, Any]
LATER, EARLIER = "2999-01-01T00:00:00.000000Z", "2000-01-01T00:00:00.000000Z"
HUNDRED_KB = [sys.executable, "-c", "print('x' * 102400)"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


def prune(agent: Agent, what: str, **body: Any) -> JSON:
    told: JSON = agent.client.post("/v1/store/prune", {"what": what, "before": LATER, **body})
    return told


def lwfm(agent: Agent, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lwfm", *words],
        env=environment(LWFM_HOME=str(agent.home.root)),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip


def part(agent: Agent, what: str) -> JSON:
    found: JSON = next((item for item in agent.client.get("/v1/store/size")["parts"] if item["what"] == what), {})
    return found


def blobs(agent: Agent) -> int:
    import sqlite3

    connection = sqlite3.connect(f"{agent.home.database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("select count(*) from local_blobs").fetchone()[0])
    finally:
        connection.close()


class TestOutputs:
    def test_they_go_and_that_is_said(self, agent: Agent) -> None:
        small, large = agent.submit("echo hello"), agent.submit(HUNDRED_KB)
        agent.wait_all([small, large])
        preview = prune(agent, "outputs", dry_run=True)
        assert (preview["things"], preview["after"]) == (2, None)
        assert agent.output(small) == b"hello\n"
        assert prune(agent, "outputs", before=EARLIER)["things"] == 0
        assert prune(agent, "outputs") == {**preview}
        for job in (small, large):
            with pytest.raises(NotFound, match="was pruned on"):
                agent.output(job)
        assert (blobs(agent), part(agent, "outputs of jobs")) == (0, {})
        assert agent.job(small)["stdout_bytes"] == 6
        assert prune(agent, "outputs")["things"] == 0
        agent.verify()

    def test_by_size(self, agent: Agent) -> None:
        small, large = agent.submit("echo hello"), agent.submit(HUNDRED_KB)
        agent.wait_all([small, large])
        assert prune(agent, "outputs", min_bytes=1000)["things"] == 1
        assert agent.output(small) == b"hello\n"
        with pytest.raises(NotFound, match="was pruned on"):
            agent.output(large)

    def test_what_another_job_printed_too_stays(self, agent: Agent, tmp_path: Path) -> None:
        go = tmp_path / "go"
        first = agent.submit("echo same")
        agent.wait(first)
        second = agent.submit("echo same")
        running = agent.submit(f"while [ ! -e {go} ]; do sleep 0.05; done; echo same")
        agent.wait(second)
        agent.wait_state(running, "RUNNING")
        time = agent.job(second)["time"]
        assert prune(agent, "outputs", before=time)["things"] == 0  # the first alone is older
        assert agent.output(first) == b"same\n"
        assert prune(agent, "outputs")["things"] == 1
        go.touch()
        agent.wait(running)
        assert agent.output(running) == b"same\n"

    def test_a_race_with_a_job_that_prints_the_same(self, thread: Thread, tmp_path: Path) -> None:
        from lwfm.housekeeping.leftovers import old_outputs, remove_blobs

        def run() -> str:
            job = thread.submit("true")
            thread.unit(lambda recorder: kept.append(thread.outputs.keep(recorder.transaction, b"same\n")))
            thread.run(job, stdout={"size": 5, "sha256": kept[-1]["sha256"]})
            return job

        kept: list[JSON] = []
        run()
        found = old_outputs(thread.connection, Home(tmp_path), Limit(LATER))
        thread.connection.execute("update jobs set stdout = null")
        assert found.blobs == [kept[0]["sha256"]]
        with thread.store.transaction() as transaction:
            transaction.append("status", {"job_id": "x", "state": "COMPLETE", "stdout": kept[0]})
        with thread.store.transaction() as transaction:
            assert remove_blobs(transaction, found, found.blobs) == 0
        thread.connection.execute("delete from local_blobs")
        from lwfm.store import maintenance

        maintenance.rebuild(thread.store)


class TestHistory:
    def test_from_the_command_line(self, agent: Agent) -> None:
        jobs = [agent.submit("echo hello") for _ in range(3)]
        agent.wait_all(jobs)
        agent.put({"kind": "x"}, op="event")
        words = ["store", "prune", "--history", "--older-than", "0.001s"]
        assert "nothing is chosen" in lwfm(agent, "store", "prune", "--older-than", "1d").stderr
        assert "add --older-than" in lwfm(agent, "store", "prune", "--history").stderr
        refused = lwfm(agent, *words)
        assert (refused.returncode, "nobody to ask" in refused.stderr) == (2, True)
        preview = json.loads(lwfm(agent, *words, "--dry-run", "--json").stdout)
        assert {item["what"]: item["things"] for item in preview["pruned"]} == {"jobs": 3, "logs": 0}
        assert len(agent.client.get("/v1/jobs")["jobs"]) == 3
        done = lwfm(agent, *words, "--yes")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1].split()[-3:-2] == ["3"]
        assert agent.client.get("/v1/jobs")["jobs"] == []
        assert agent.client.get("/v1/agent")["jobs"] == {}
        with pytest.raises(NotFound, match="was pruned"):
            agent.job(jobs[0])
        assert json.loads(lwfm(agent, "store", "check", "--json").stdout)["pruned"] == 9
        agent.wait(agent.submit("echo again"))
        agent.restart()
        agent.verify()

    def test_what_runs_stays(self, agent: Agent, tmp_path: Path) -> None:
        running = agent.submit("sleep 1000")
        agent.wait_state(running, "RUNNING")
        told = prune(agent, "jobs")
        assert (told["things"], told["kept"]) == (0, {"open": 1})
        agent.cancel(running)

    def test_log_lines(self, agent: Agent) -> None:
        agent.client.post("/v1/logs", {"lines": [{"message": "drop me"}, {"message": "the end"}]})
        assert prune(agent, "logs")["things"] == 1
        assert [line["message"] for line in agent.client.get("/v1/logs")["logs"]] == ["the end"]

    def test_it_waits_for_a_peer(self, agent: Agent) -> None:
        agent.wait(agent.submit("true"))
        agent.put({"kind": "x"}, op="event")
        agent.client.post("/v1/peers", {"name": "far", "address": {"host": "far"}})
        assert (prune(agent, "jobs")["things"], prune(agent, "jobs")["kept"]) == (0, {"unsynced": 1})
        assert prune(agent, "jobs", without=["far"])["things"] == 1

    def test_nonsense(self, agent: Agent) -> None:
        wrong: list[JSON] = [{"before": "never"}, {"what": "all"}, {"without": 7}, {"after": 7}]
        for body in wrong:
            with pytest.raises(InvalidRecord):
                prune(agent, **{"what": "jobs", **body})


class TestCopies:
    def test_only_those_that_others_have_and_no_open_job_needs(self, thread: Thread) -> None:
        home = Home(thread.directory)
        contents = {name: name.encode() * 10 for name in ("elsewhere", "only-here", "used", "young")}
        paths = {}
        for name, content in contents.items():
            digest = hashlib.sha256(content).hexdigest()
            path = home.contents / digest[:2] / f"{digest}-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name != "young":
                os.utime(path, (1_000_000_000, 1_000_000_000))
            paths[name] = path
            for host in (HOST,) if name == "only-here" else (HOST, "far"):
                url = f"file://{host}/data/{name}"
                thread.put(op="put", url=url, path=f"/data/{name}", host=host, sha256=digest, size_bytes=len(content))
        part = home.contents / "aa" / f"{'a' * 64}.part"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(b"part")
        os.utime(part, (1_000_000_000, 1_000_000_000))
        thread.submit(["cat", str(paths["used"])])
        found = old_copies(thread.connection, home, HOST, Limit("2020-01-01T00:00:00.000000Z"))
        assert {old.path for old in found.files} == {str(paths["elsewhere"]), str(part)}
        assert found.kept == {"recorded at no other host": 1, "used by open jobs": 1}
        assert not old_copies(thread.connection, home, HOST, Limit(LATER, 1000)).files

    def test_log_files(self, agent: Agent) -> None:
        old = agent.home.root / "agent.log.1"
        old.write_text("old\n")
        assert prune(agent, "log files", before=EARLIER)["things"] == 0
        assert prune(agent, "log files")["things"] == 1
        assert not old.exists()
        assert agent.home.agent_log.exists()


class TestCompacting:
    def test_it_gives_room_back(self, agent: Agent) -> None:
        for _ in range(4):
            agent.client.post("/v1/logs", {"lines": [{"message": os.urandom(2000).hex()} for _ in range(500)]})
        assert prune(agent, "logs")["things"] == 1999
        assert part(agent, FREE)["bytes"] > 5_000_000
        told = agent.client.post("/v1/store/compact", {})
        assert told["after"] < told["before"] / 4
        assert agent.home.database.stat().st_size == told["after"]
        assert (part(agent, FREE)["bytes"], part(agent, RECORDS)["bytes"] > 0) == (0, True)
        agent.wait(agent.submit("true"))
        agent.verify()
        agent.restart()
        assert "origin" in agent.client.get("/v1/sync")
        assert "notices" not in agent.client.get("/v1/sync")
        assert not list(agent.home.root.glob("etilqs*"))

    def test_size_from_the_command_line(self, agent: Agent) -> None:
        agent.wait(agent.submit(HUNDRED_KB))
        done = lwfm(agent, "store", "size")
        assert "outputs of jobs" in done.stdout
        assert "status" in done.stdout
        told = json.loads(lwfm(agent, "store", "size", "--json").stdout)
        assert {kind["kind"] for kind in told["records"]} >= {"job", "status", "instance"}
        assert sum(item["bytes"] for item in told["parts"] if item["where"] == str(agent.home.database)) > 100_000

    def test_it_is_not_begun_without_room(self, thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr("lwfm.store.compaction.shutil.disk_usage", lambda _: usage)
        with pytest.raises(StoreFull, match="1000 are free"):
            compaction.compact(thread.store)

    def test_it_can_be_stopped(self, thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(20):
            thread.unit(thread.service.log, [{"message": os.urandom(5000).hex()} for _ in range(50)])
        calls = []

        def stop_it() -> int:
            calls.append(1)
            if len(calls) == 3:
                other = threading.Thread(target=compaction.stop, args=(thread.store,))
                other.start()
                other.join()
            return 0

        thread.connection.set_progress_handler(stop_it, 100)
        with pytest.raises(Conflict, match="as before"):
            compaction.compact(thread.store)
        thread.connection.set_progress_handler(None, 0)
        assert len(calls) >= 3
        thread.unit(thread.service.log, [{"message": "more"}])

    def test_stopping_what_does_not_go_on_does_nothing(self, agent: Agent) -> None:
        assert agent.client.post("/v1/store/compact/stop", {}) == {}
        agent.wait(agent.submit("true"))
