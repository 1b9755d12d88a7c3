"""Real agents in homes of their own that sync with each other by the real command, over a real sshd on this machine.

::

    with a_network(tmp_path) as network:
        near, far = network.place(), network.place()
        network.synced(near, far)          # lwfm sync both far --json
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from lwfm.sites.base import Observation, SiteContext
from lwfm.states import JobState
from lwfm.store.columns import FACTS
from lwfm.sync.address import Address
from lwfm.sync.site import SshSite
from lwfm.testing import SiteUnderTest

from support.agents import LINK, Agent, environment, new_home
from support.ssh_server import Server, a_server
from support.waiting import wait_until

JSON = dict[str, Any]
CLIENT_CONFIG = """\
Host down
    Port 1
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {identity}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
"""
FAR = """\
#!/bin/sh
unset LWFM_HOME LWFM_SOCKET
PYTHONPATH={link} exec {python} -m lwfm "$@"
"""


class Place(Agent):
    """A home whose agent may have been started by anybody."""

    def __init__(self, root: Path, name: str, env: Optional[Mapping[str, str]] = None):
        super().__init__(root, env=env)
        self.name = name

    def lwfm(self, *words: str, timeout_s: float = 90.0, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        with self.running(*words, cwd=cwd) as process:
            out, complaint = process.communicate(timeout=timeout_s)
        assert "Traceback" not in complaint, complaint
        return subprocess.CompletedProcess(process.args, process.returncode, out, complaint)

    @contextmanager
    def running(self, *words: str, cwd: Path = Path("/")) -> Iterator[subprocess.Popen[str]]:
        """The command while it runs; killed at the end if it still does."""
        process = subprocess.Popen(
            [sys.executable, "-m", "lwfm", *words],
            env=environment(LWFM_HOME=str(self.home.root), **self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=cwd,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def json(self, *words: str) -> Any:
        """What the command tells programs."""
        done = self.lwfm(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def agent_pids(self) -> list[int]:
        """The processes of its agents."""
        return [pid for pid, words in self.processes().items() if " agent serve " in words]

    def serving(self) -> list[int]:
        """The processes that answer a sync from there."""
        return [
            pid for pid, words in self.processes().items() if " sync serve --stdio" in words and "/bin/sh" not in words
        ]

    def leave(self) -> None:
        """Have whatever agent there is leave."""
        if self.alive:
            self.stop(kill=True)
        with suppress(Exception):
            self.client.post("/v1/agent/stop", {"kill": True})
        wait_until(lambda: not self.processes(), "its processes to be gone", on_timeout=self._left)
        self.client.close()

    def close(self) -> None:
        with suppress(AssertionError):
            self.leave()
        super().close()

    def query(self, statement: str, *parameters: Any) -> list[Any]:
        """What the store holds, as anybody may read it."""
        if not self.home.database.exists():
            return []
        connection = sqlite3.connect(f"{self.home.database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(statement, parameters).fetchall()
        except sqlite3.OperationalError:
            return []  # it is being made
        finally:
            connection.close()

    def count(self) -> int:
        """How many records its store has."""
        found = self.query("select count(*) from log")
        return int(found[0][0]) if found else 0

    def await_count(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until it has so many, or the process has ended; looked for as often as can be."""
        connection = sqlite3.connect(f"{self.home.database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)
        try:
            while process.poll() is None:
                (found,) = connection.execute("select count(*) from log").fetchone()
                if found >= count:
                    return
                time.sleep(0.001)
        finally:
            connection.close()

    def log_of(self) -> list[Any]:
        """All records."""
        return self.query("select * from log order by origin, seq")

    def write_logs(self, count: int, length: int = 200) -> None:
        """So many records."""
        self.client.post("/v1/logs", {"lines": [{"message": f"{n} " + "x" * length} for n in range(count)]})


class Network:
    """Homes on one machine, each reached from the others by ssh under its own name."""

    def __init__(self, directory: Path, server: Server):
        self.server = server
        self.places: list[Place] = []
        self.script = directory / "far-lwfm"
        self.script.write_text(FAR.format(link=LINK, python=sys.executable))
        self.script.chmod(0o755)
        self.config = directory / "ssh-config"
        self.config.write_text(
            CLIENT_CONFIG.format(
                port=server.port, user=server.user, identity=server.identity, known_hosts=server.known_hosts
            )
        )

    def place(self, name: str, *, started: bool = True, root: Optional[Path] = None) -> Place:
        """Another home."""
        place = Place(root or new_home(), name)
        self.places.append(place)
        if started:
            place.start().worker()  # that it has come is recorded
        return place

    def options(self, far: Place) -> list[str]:
        """The options of ssh that reach a home."""
        return ["-F", str(self.config), "--remote-path", str(self.script), "--remote-home", str(far.home.root)]

    def address(self, far: Place, host: str = "") -> JSON:
        """The same as a peer has it."""
        made = Address(
            host or far.name, ssh_config=str(self.config), remote_path=str(self.script), remote_home=str(far.home.root)
        )
        return made.to_json()

    def words(self, far: Place, way: str = "both", *more: str) -> list[str]:
        """The command line of a sync."""
        return ["sync", way, far.name, "--batch", "--json", *self.options(far), *more]

    def sync(self, near: Place, far: Place, way: str = "both", *more: str) -> subprocess.CompletedProcess[str]:
        """One sync."""
        return near.lwfm(*self.words(far, way, *more))

    def synced(self, near: Place, far: Place, way: str = "both", *more: str) -> JSON:
        """One sync that must go well; what came of it."""
        done = self.sync(near, far, way, *more)
        assert done.returncode == 0, f"{done.stderr}\n{far.log()}\n{near.log()}"
        told: JSON = json.loads(done.stdout)
        return told

    def equal(self, *places: Place) -> None:
        """When what their agents record by themselves has come over, all of them hold the same, and are sound."""
        for place in places:
            place.worker()
        pairs = list(zip(places, places[1:]))
        for near, far in [*pairs, *reversed(pairs[:-1])]:
            self.synced(near, far)
        logs = [place.log_of() for place in places]
        assert logs[0]
        assert all(log == logs[0] for log in logs)
        for place in places:
            answer = place.json("store", "check")
            assert answer["ok"], answer["problems"]

    def close(self) -> None:
        for place in self.places:
            place.close()


@contextmanager
def a_network(directory: Path, *, known: bool = True) -> Iterator[Network]:
    """One, whose processes are all gone at the end."""
    with a_server(directory / "sshd", known=known) as server:
        network = Network(directory, server)
        try:
            yield network
        except BaseException:
            for place in network.places:
                sys.stderr.write(f"--- {place.name}\n{place.log()}\n")
                place.kill_everything()
            raise
        finally:
            network.close()


def kill(pids: list[int]) -> None:
    """End these processes as nothing would."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def observed(place: Place, job_id: str) -> Observation:
    """What an agent knows of a job, as a driver would say it."""
    job = place.job(job_id)
    facts = {name: job[name] for name in FACTS if name in job}
    return Observation(JobState(job["state"]), job.get("native_status"), job.get("native_id"), job.get("reason"), facts)


@contextmanager
def site_through_ssh(
    network: Network, near: Place, home: Path, here: Path, there: Path, **options: str
) -> Iterator[SiteUnderTest]:
    """The instance in ``home`` as a site of ``near``, its driver alone: what comes of jobs is asked of the agent there.

    Args:
        here, there: directories for the tests' files, and on the site. ``options``: more of the site.
    """
    given = {"host": "far", "ssh_config": str(network.config), "remote_path": str(network.script), **options}
    context = SiteContext("cluster", {**given, "remote_home": str(home)}, near.home.root, near.home.repository)
    driver = SshSite(context)
    assert driver.run is not None
    ask = driver.run.status

    def reported(job_ids: Sequence[str]) -> dict[str, Observation]:
        ask([])
        return {job_id: observed(near, job_id) for job_id in job_ids}

    yield SiteUnderTest(driver, here, str(there), reported)
    driver.close()
