"""Recognisable secrets are planted wherever a user may have some; then all that lwfm keeps, shows or sends is searched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwfm.client.calls import path_of
from lwfm.sync.frames import Cut, Line
from lwfm.sync.streams import FileStream

from support.agents import Agent, environment, new_home, running_agent
from support.waiting import wait_until

JSON = dict[str, Any]
LOOK_EVERY_S = 0.02
OUT_OF_SIGHT = {
    "env": "planted-env-7d1f", "option": "planted-option-7d1f", "url": "planted-url-7d1f", "hook": "planted-hook-7d1f",
    "log": "planted-log-7d1f", "token": "ghp_" + "pL4n" * 9, "shell": "planted-shell-7d1f", "handler": "planted-handler-7d1f",
    "slack": "plantedslack7d1f" + "x" * 20,
}  # fmt: skip
"""By where they are planted."""
IN_ITS_COMMAND = {"option", "url", "token", "handler"}
"""Those that the user has put into a job's command itself, where its process shows them."""


EACH = """
import json, sys
from lwfm.__main__ import main
for words in json.loads(sys.argv[1]):
    print("==", *words[:2], flush=True)
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, words
    sys.stdout.flush()
"""


class Looker:
    """Looks at the command lines and the environments of all processes, all the time.

    Attributes:
        lines: of commands. ``environments``: of lwfm's own processes, by their command.
    """

    def __init__(self) -> None:
        self.lines: set[bytes] = set()
        self.environments: dict[bytes, bytes] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Looker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for entry in os.scandir("/proc"):
                if not entry.name.isdigit():
                    continue
                try:
                    line = Path(entry.path, "cmdline").read_bytes()
                    self.lines.add(line)
                    words = line.split(b"\0")
                    if b"-m" in words and b"lwfm" in words and {b"serve", b"worker", b"site-host"} & set(words):
                        self.environments[line] = Path(entry.path, "environ").read_bytes()
                except OSError:
                    continue


def lwfm(home: Path, *words: str, code: int = 0, **variables: str) -> str:
    """What a command prints, on both streams; or many commands, which one process is quicker with."""
    start = ["-c", EACH] if words[0].startswith("[") else ["-m", "lwfm"]
    done = subprocess.run(
        [sys.executable, *start, *words], env=environment(LWFM_HOME=str(home), **variables), cwd=home,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def plant(agent: Agent, workflow: str) -> list[str]:
    """Jobs, handlers and log lines with secrets in them; the jobs."""
    s = OUT_OF_SIGHT
    words = [
        "sh",
        "-c",
        "sleep 0.3; exit 3",
        "-",
        "--password",
        s["option"],
        f"https://me:{s['url']}@host/x",
        s["token"],
    ]
    jobs = [
        agent.submit(words, env={"DB_PASSWORD": s["env"]}, retries=1, workflow=workflow),
        agent.submit(f"sleep 0.3; : --token={s['option']}", env={"DB_PASSWORD": s["env"]}, workflow=workflow),
    ]
    agent.on_job(jobs[0], words, states=["FAILED"], defn={"env": {"A_TOKEN": s["handler"]}}, of=workflow)
    agent.on_data({"k": "*"}, f"curl -u x --password {s['handler']} || true", repeat=True, of=workflow)
    agent.on_job(jobs[1], notify={"url": f"http://me:{s['hook']}@127.0.0.1:9/x"}, of=workflow)
    agent.on_job(jobs[1], notify={"url": f"http://127.0.0.1:9/api/webhooks/{s['slack']}"}, of=workflow)
    agent.on_data({"never": 1}, "true", defn={"env": {"A_TOKEN": s["handler"]}}, of=workflow)
    agent.put({"k": 1}, workflow=workflow)
    agent.client.post("/v1/logs", {"lines": [{"message": f"login --password {s['log']}", "workflow": workflow}]})
    printed = lwfm(
        agent.home.root, "submit", "--workflow", workflow, "--env", "SHELL_TOKEN", "--env", "DB_SECRET=" + s["env"],
        "--", "sleep", "0.3", SHELL_TOKEN=s["shell"],
    )  # fmt: skip
    return [*jobs, printed.split()[0]]


def shown(agent: Agent, workflow: str, jobs: list[str]) -> Iterator[tuple[str, bytes]]:
    """All that lwfm shows of it, and sends."""
    home = agent.home.root
    looks = [
        ["job", "list", "--limit", "0"], ["handler", "list"], ["log", "--limit", "0"], ["workflow", "show", workflow],
        ["agent", "status"], ["search", "password"], ["find", "k=1"],
    ]  # fmt: skip
    many = json.dumps([*looks, *([*words, "--json"] for words in looks), ["agent", "logs"]])
    told = lwfm(home, many)
    assert told.count("== ") > 2 * len(looks)
    yield "commands", told.encode()
    for job in jobs:
        for part in ((), ("statuses",), ("tree",), ("why",)):
            yield f"job {part}", json.dumps(agent.client.get(path_of("jobs", job, *part))).encode()
        for stream in ("stdout", "stderr"):
            yield stream, agent.output(job, stream)
    yield "dump", json.dumps(agent.client.get(path_of("workflows", workflow, "dump"))).encode()
    report, bundle = home.with_name(home.name + ".html"), home.with_name(home.name + ".lwfm")
    try:
        lwfm(home, "report", workflow, "--output", str(report))
        yield "report", report.read_bytes()
        lwfm(home, "sync", "export", str(bundle))
        yield "bundle", bundle.read_bytes()
        with bundle.open("rb") as file:
            line = Line(FileStream(file))
            line.await_greeting()
            pieces = []
            try:
                while True:
                    head, body = line.receive()
                    pieces += [json.dumps(head).encode(), body]
            except Cut:
                pass
        assert any(jobs[0].encode() in piece for piece in pieces)
        yield "records of the bundle", b"\n".join(pieces)
    finally:
        for path in (report, bundle):
            path.unlink(missing_ok=True)


def files(home: Path) -> Iterator[tuple[str, bytes]]:
    """All that lies in an instance."""
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(home)), path.read_bytes()


def planted_in(found: Mapping[str, bytes], names: set[str]) -> list[tuple[str, str]]:
    return [(where, name) for where, data in found.items() for name in names if OUT_OF_SIGHT[name].encode() in data]


@contextmanager
def imported(agent: Agent) -> Iterator[Path]:
    """Another instance that has all records of this one."""
    bundle, other = agent.home.root.with_name(agent.home.root.name + ".lwfm"), new_home()
    try:
        lwfm(agent.home.root, "sync", "export", str(bundle))
        lwfm(other, "sync", "import", str(bundle))
        yield other
    finally:
        lwfm(other, "agent", "stop", "--kill")
        bundle.unlink(missing_ok=True)
        shutil.rmtree(other, ignore_errors=True)


def test_no_secret_is_seen_anywhere() -> None:
    """Command lines, environments, logs, store, answers, pages, bundles, another store; in the end not their own place."""
    every = set(OUT_OF_SIGHT)
    with Looker() as looker, running_agent() as agent:
        workflow = agent.workflow("planted")
        jobs = plant(agent, workflow)
        keeping = dict(files(agent.home.root))
        sealed = [name for name in keeping if name.startswith("sealed/")]
        assert planted_in({name: keeping[name] for name in sealed}, every), "nothing was planted"
        open_places = {
            name: data for name, data in keeping.items() if not name.startswith(("sealed/", "spool/journal"))
        }
        assert not planted_in(open_places, every)
        listed = wait_until(lambda: agent.client.get("/v1/jobs", {"limit": 0})["jobs"], "the jobs")
        waiting = {job["job_id"] for job in listed if job["state"] != "READY"}
        for job in [job["job_id"] for job in listed if job["name"] == "notify"]:
            agent.wait_state(job, "RUNNING", "FAILED", "PENDING")
            agent.cancel(job)
        agent.wait_all(sorted(waiting))
        for handler in agent.client.get("/v1/handlers", {"limit": 0})["handlers"]:
            if handler["state"] == "waiting":
                agent.client.delete(path_of("handlers", handler["handler_id"]))
        jobs = [job["job_id"] for job in agent.client.get("/v1/jobs", {"limit": 0})["jobs"]]
        assert len(jobs) >= 6
        assert not planted_in(dict(shown(agent, workflow, jobs)), every)
        with imported(agent) as other:
            assert not planted_in(dict(files(other)), every)
        wait_until(lambda: not list(agent.home.sealed.iterdir()), "the sealed to be forgotten", timeout_s=60)
        agent.stop()
        wait_until(lambda: not agent.processes(), "the worker to leave", on_timeout=agent.log)
        assert (agent.home.spool / "journal").stat().st_size > 0
        assert not planted_in(dict(files(agent.home.root)), every)
    assert looker.environments
    assert not planted_in({repr(line): data for line, data in looker.environments.items()}, every)
    assert not planted_in(
        {repr(line): line for line in looker.lines if b"\0submit\0" not in line}, every - IN_ITS_COMMAND
    )
