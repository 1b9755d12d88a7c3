"""A real agent for tests: started in a home of its own, spoken to over its socket, killed, started again, cleaned up after.

::

    with running_agent() as agent:
        job = agent.submit("echo hello")
        assert agent.wait(job)["state"] == "COMPLETE"

When the block ends the agent, its worker and all jobs must be gone by themselves soon after the agent was told to leave;
a process that is not is killed, and the test fails. When the block fails, the end of the agent's log is printed.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

from lwfm.client import Client, Endpoint
from lwfm.client.calls import path_of
from lwfm.paths import Home

from support.waiting import wait_until

JSON = dict[str, Any]
Command = Union[str, Sequence[str]]

LINK = Path(__file__).resolve().parents[2] / "build" / "link"
TERMINAL = ("COMPLETE", "FAILED", "CANCELLED")
START_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 6000


def environment(**more: str) -> dict[str, str]:
    """An environment in which ``import lwfm`` works and nothing of another instance is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
    return {**kept, "PYTHONPATH": str(LINK), **more}


class Agent:
    """An agent and the instance it serves.

    Args:
        root: the home; made when it is not there.
        options: more words for ``agent serve``. ``env``: more variables for the agent.
    """

    def __init__(self, root: Path, options: Sequence[str] = (), env: Optional[Mapping[str, str]] = None) -> None:
        self.home = Home(root)
        self.options = list(options)
        self.env = dict(env or {})
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.client = self.new_client()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------ the processes

    def new_client(self) -> Client:
        """Another caller, which never starts an agent."""
        return Client(Endpoint(self.home, self.home.socket, may_start=False))

    def configure(self, text: str) -> None:
        """Write ``sites.toml``; the next start reads it."""
        self.home.sites_file.write_text(text)

    def launch(self, **env: str) -> tuple[subprocess.Popen[bytes], Optional[JSON]]:
        """Start an agent process; the process, and what it reported on its pipe (None: it died before that)."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "lwfm", "agent", "serve", "--home", str(self.home.root)]
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writing), *self.options],
            env=environment(LWFM_HOME=str(self.home.root), **{**self.env, **env}),
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            line = pipe.readline()
        return process, json.loads(line) if line else None

    def start(self, **env: str) -> Agent:
        """Start it and wait until it answers."""
        self.process, report = self.launch(**env)
        assert report == {"ok": True}, f"the agent did not start: {report}\n{self.log()}"
        return self

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the agent's process alone, its worker goes on; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait_gone()

    def wait_gone(self, timeout_s: float = GONE_TIMEOUT_S) -> int:
        """Wait for the agent's process to end; its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self.client.close()
        return code

    def stop(self, *, kill: bool = False) -> int:
        """Tell it to leave, as ``lwfm agent stop`` does, and wait until it has."""
        self.client.post("/v1/agent/stop", {"kill": kill})
        return self.wait_gone()

    def restart(self) -> Agent:
        """Kill it as nothing would, and start it again."""
        self.kill()
        return self.start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def worker(self) -> JSON:
        """The worker as the agent shows it, once it is connected."""

        def found() -> Optional[JSON]:
            workers = [item for item in self.client.get("/v1/agent")["workers"] if item["state"] == "up"]
            return workers[0] if workers else None

        return wait_until(found, "a worker", on_timeout=self.log)

    def processes(self) -> dict[int, str]:
        """The processes of this instance, with their command lines: those that have its home in their environment or
        on their command line."""
        marks = {os.fsencode(str(self.home.root)), os.fsencode(str(self.home.runtime))}
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = Path(entry.path, "cmdline").read_bytes()
                variables = Path(entry.path, "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if not words:
                continue  # ended, and not waited for yet
            homes = {line[len(b"LWFM_HOME=") :] for line in variables if line.startswith(b"LWFM_HOME=")}
            if homes & marks or any(mark in words for mark in marks):
                found[int(entry.name)] = words.replace(b"\0", b" ").decode("utf-8", "replace")[:200]
        return found

    def close(self) -> None:
        """End everything, remove the home.

        Raises:
            AssertionError: a process was left that should have gone by itself.
        """
        try:
            if self.alive:
                try:
                    self.stop(kill=True)
                except Exception:
                    self.kill()
            wait_until(lambda: not self.processes(), "all processes of the instance to be gone", on_timeout=self._left)
        finally:
            self.kill_everything()
            self.client.close()
            shutil.rmtree(self.home.root, ignore_errors=True)
            if self.home.runtime != self.home.root:
                shutil.rmtree(self.home.runtime, ignore_errors=True)

    def kill_everything(self) -> None:
        """Kill every process of this instance, those they start while we look included."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while True:
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.process is not None:
                self.process.poll()
            if not left:
                return
            assert time.monotonic() < deadline, f"these do not end: {left}"
            time.sleep(0.01)

    def log(self) -> str:
        """The end of the agent's log and of its worker's."""
        parts = []
        for path in (self.home.agent_log, self.home.spool / "worker.log"):
            if path.exists():
                parts.append(f"--- {path.name}\n" + path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace"))
        return "\n".join(parts)

    def _left(self) -> str:
        return "left: " + "\n".join(f"{pid}: {words}" for pid, words in self.processes().items()) + "\n" + self.log()

    # ------------------------------------------------------------------------------------------ calls

    def submit_many(self, definitions: Sequence[JSON], **body: Any) -> list[str]:
        """Submit definitions; the jobs' ids."""
        context = {"host": "test", "user": "test", "cwd": "/", "env": {"PATH": os.environ["PATH"]}}
        request = {"context": context, "jobs": list(definitions), **body}
        return [job["job_id"] for job in self.client.post("/v1/jobs", request)["jobs"]]

    def submit(self, command: Command, **keys: Any) -> str:
        """Submit one job: keys of a definition, or of the request (``workflow``, ``parent``, ``context``, ``site``)."""
        body = {name: keys.pop(name) for name in ("workflow", "parent", "context", "site") if name in keys}
        return self.submit_many([{"command": command, **keys}], **body)[0]

    def on_job(self, jobs: Union[str, Sequence[str]], command: Optional[Command] = None, **keys: Any) -> JSON:
        """Set a job handler; keys of the event, and ``workflow``, ``parent`` of the request."""
        return self.on("job", {"jobs": [jobs] if isinstance(jobs, str) else list(jobs)}, command, **keys)

    def on_data(self, match: JSON, command: Optional[Command] = None, **keys: Any) -> JSON:
        """Set a data handler; keys of the event, and ``workflow``, ``parent`` of the request."""
        return self.on("data", {"match": match}, command, **keys)

    def on(self, kind: str, event: JSON, command: Optional[Command] = None, **keys: Any) -> JSON:
        """Set a handler."""
        event = dict(event)
        body = {name: keys.pop(name) for name in ("parent", "context") if name in keys}
        if "of" in keys:
            body["workflow"] = keys.pop("of")
        event.update(keys)
        if command is not None:
            event["defn"] = {"command": command, "cwd": "/", **event.get("defn", {})}
        answer: JSON = self.client.post("/v1/handlers", {"kind": kind, "event": event, **body})
        return answer

    def put(self, properties: JSON, **keys: Any) -> str:
        """Put data: an event without a file, unless keys say otherwise; its id."""
        return str(self.client.post("/v1/data", {"op": "event", "properties": properties, **keys})["data_id"])

    def workflow(self, name: str = "test") -> str:
        """A new workflow's id."""
        return str(self.client.post("/v1/workflows", {"name": name})["workflow_id"])

    def job(self, job: str) -> JSON:
        answer: JSON = self.client.get(path_of("jobs", job))
        return answer

    def state(self, job: str) -> str:
        return str(self.job(job)["state"])

    def statuses(self, job: str) -> list[JSON]:
        answer: list[JSON] = self.client.get(path_of("jobs", job, "statuses"))["statuses"]
        return answer

    def states(self, job: str) -> list[str]:
        """The states a job went through."""
        return [status["state"] for status in self.statuses(job)]

    def handler(self, handler: str) -> JSON:
        listed = self.client.get("/v1/handlers", {"limit": 0})["handlers"]
        found: JSON = next(item for item in listed if item["handler_id"] == handler)
        return found

    def cancel(self, job: str, reason: str = "no longer wanted") -> JSON:
        answer: JSON = self.client.post(path_of("jobs", job, "cancel"), {"reason": reason})
        return answer

    def emit(self, job: str, state: str, **facts: Any) -> JSON:
        answer: JSON = self.client.post(path_of("jobs", job, "emit"), {"state": state, **facts})
        return answer

    def wait_all(self, jobs: Sequence[str], timeout_s: float = 60.0) -> list[JSON]:
        """Wait until jobs have ended; the jobs."""
        body = {"jobs": list(jobs), "mode": "all", "timeout_s": timeout_s}
        answer = self.client.post("/v1/jobs/wait", body, repeatable=True)
        assert answer["done"], f"not ended within {timeout_s} s: {self._open(answer['jobs'])}\n{self.log()}"
        listed: list[JSON] = answer["jobs"]
        return listed

    def wait(self, job: str, timeout_s: float = 60.0) -> JSON:
        """Wait until a job has ended; the job with its details."""
        self.wait_all([job], timeout_s)
        return self.job(job)

    def wait_state(self, job: str, *states: str) -> JSON:
        """Wait until a job is in one of these states."""

        def reached() -> Optional[JSON]:
            found = self.job(job)
            return found if found["state"] in states else None

        return wait_until(reached, f"{job} to be {' or '.join(states)}", on_timeout=self.log)

    def output(self, job: str, stream: str = "stdout", **query: Any) -> bytes:
        """What a job printed."""
        return bytes(self.client.get_bytes(path_of("jobs", job, "output"), {"stream": stream, **query}).body)

    def raw(self, method: str, target: str, body: Optional[bytes] = None, **headers: str) -> tuple[int, bytes]:
        """One request as it stands; the status and the body of the answer."""
        connection = _Raw(self.home.socket)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def verify(self) -> None:
        """The store's chain and tables are sound."""
        answer = self.client.post("/v1/store/check", {})
        assert answer["ok"], answer["problems"]

    @staticmethod
    def _open(jobs: Sequence[JSON]) -> list[str]:
        return [f"{job['job_id']} {job['state']}" for job in jobs if job["state"] not in TERMINAL]


class _Raw(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("lwfm", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


def new_home() -> Path:
    """A place for an instance, its path short enough for sockets."""
    return Path(tempfile.mkdtemp(prefix="lwfm-test-"))


@contextmanager
def running_agent(
    sites: str = "",
    options: Sequence[str] = (),
    env: Optional[Mapping[str, str]] = None,
    first_env: Optional[Mapping[str, str]] = None,
    root: Optional[Path] = None,
) -> Iterator[Agent]:
    """An agent in a fresh home.

    Args:
        root: the home, where it has to be a certain one.
        sites: the text of its ``sites.toml``. ``options``: for ``agent serve``.
        env: variables of the agent. ``first_env``: more of them for its first start alone.
    """
    agent = Agent(root or new_home(), options, env)
    if sites:
        agent.configure(sites)
    try:
        agent.start(**(first_env or {}))
        yield agent
    except BaseException:
        sys.stderr.write(agent.log() + "\n")
        agent.kill_everything()
        raise
    finally:
        agent.close()
