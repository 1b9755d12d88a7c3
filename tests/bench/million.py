"""How fast a store of a million jobs answers: makes one, starts a real agent on it, and asks over the agent's socket.

The store is written by the real projections, in large transactions: jobs of many workflows (one of them huge) in common
and rare states, properties that many and that few have, data, and a lineage. It is kept in a directory and used again.

    python tests/bench/million.py [--jobs 1000000] [--dir DIRECTORY] [--rounds 7] [--remake]
    python tests/bench/million.py --jobs 20000         a quick look

Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

LINK = Path(__file__).resolve().parents[2] / "build" / "link"
sys.path[:0] = [str(LINK)]

from lwfm.ids import new_id  # noqa: E402
from lwfm.store import Store, Transaction  # noqa: E402
from lwfm.store.schema import SCHEMA_VERSION  # noqa: E402

LAYOUT = 1
"""Raised when this script makes other stores than before."""
BATCH = 10_000
HUGE_SHARE = 0.3
"""How much of all jobs the one huge workflow has."""
WORKFLOW_JOBS = 500
RARE_JOBS = 20
SHARED_INPUT = "/data/shared/potential.dat"
CALL_TARGET_MS = 100.0
SEARCH_TARGET_MS = 250.0
START_TARGET_S = 2.0
HOST = "node"


@dataclass(frozen=True)
class Question:
    """A call of the API, and in how many milliseconds it must be answered."""

    name: str
    path: str
    target_ms: float = CALL_TARGET_MS


class Maker:
    """Fills a store.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int):
        self._random = random.Random(1)
        self._jobs = jobs
        self._workflows: list[str] = []
        self._rare = set(self._random.sample(range(jobs), RARE_JOBS))
        self._context = ""
        self._last_file: dict[str, str] = {}

    def fill(self, store: Store) -> None:
        """Record everything."""
        began = time.monotonic()
        with store.transaction() as transaction:
            self._begin(transaction)
        for first in range(0, self._jobs, BATCH):
            with store.transaction() as transaction:
                for number in range(first, min(first + BATCH, self._jobs)):
                    self._job(transaction, number)
            done = min(first + BATCH, self._jobs)
            if done % 100_000 == 0:
                say(f"{done} jobs, {done / (time.monotonic() - began):.0f} a second")

    def _begin(self, transaction: Transaction) -> None:
        context = {
            "host": HOST, "user": "ada", "cwd": "/work", "env": {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            "git": {"commit": "0" * 40, "dirty": False}, "python": "3.11", "version": "0",
        }  # fmt: skip
        self._context = transaction.append("context", context).uid
        for number in range(1 + int(self._jobs * (1 - HUGE_SHARE)) // WORKFLOW_JOBS):
            identifier = new_id()
            body = {
                "workflow_id": identifier,
                "name": f"study {number}",
                "description": "a parameter study",
                "meta": {},
            }
            transaction.append("workflow", body, identifier)
            self._workflows.append(identifier)

    def _job(self, transaction: Transaction, number: int) -> None:
        chance = self._random.random
        small = int(number * (1 - HUGE_SHARE)) // WORKFLOW_JOBS + 1
        workflow = self._workflows[0 if chance() < HUGE_SHARE else min(small, len(self._workflows) - 1)]
        meta: dict[str, Any] = {
            "kind": self._random.choice(("melt", "melt", "melt", "analysis", "plot")),
            "T": round(chance() * 10, 4),
            "label": f"point-{number:07d}",
        }
        if number in self._rare:
            meta["marked"] = "yes"
        job = new_id()
        definition = {
            "command": ["lmp", "-in", "in.melt", "-var", "T", str(meta["T"])],
            "name": meta["kind"],
            "meta": meta,
        }
        body = {
            "state": "PENDING", "site": "elsewhere", "workflow_id": workflow, "context_id": self._context,
            "definition": {**definition, "cwd": "/work"},
        }  # fmt: skip
        transaction.append("job", body, job)
        if number in self._rare:
            return
        status = {
            "job_id": job,
            "attempt": 1,
            "host": HOST,
            "native_id": str(number),
            "started_at": "2025-01-01T00:00:00.000000Z",
        }
        transaction.append("status", {**status, "state": "RUNNING"})
        self._data(transaction, number, job, workflow, meta)
        draw = chance()
        state = "COMPLETE" if draw < 0.96 else "FAILED" if draw < 0.99 else "CANCELLED"
        facts = {"exit_code": 0 if state == "COMPLETE" else 1, "cpu_seconds": 1.5, "peak_rss_bytes": 10_000_000}
        reason = {} if state == "COMPLETE" else {"reason": "exit code 1"}
        transaction.append("status", {**status, "state": state, **reason, **facts})

    def _data(self, transaction: Transaction, number: int, job: str, workflow: str, meta: dict[str, Any]) -> None:
        """Every fourth job reads what another one of its workflow wrote, or what all read, and writes a file."""
        if number % 4:
            return
        source = self._last_file.get(workflow, SHARED_INPUT)
        path = f"/data/{workflow}/{number}.log"
        common = {"site": "local", "host": HOST, "job_id": job, "workflow_id": workflow, "size_bytes": 100}
        for op, place in (("get", source), ("put", path)):
            body = {
                **common,
                "op": op,
                "path": place,
                "url": f"file://{HOST}{place}",
                "sha256": f"{hash_of(place):064x}",
            }
            transaction.append(
                "metasheet", {**body, "properties": {"kind": "thermo", "T": meta["T"]} if op == "put" else {}}
            )
        self._last_file[workflow] = SHARED_INPUT if number % 40 == 0 else path


def hash_of(place: str) -> int:
    """A number that stands for the content at a place: the same in every run."""
    return int.from_bytes(place.encode()[-24:], "big")


def make(directory: Path, jobs: int) -> None:
    """Make the store of ``directory``, whole or not at all."""
    part = directory / "thread.part"
    for left in directory.glob("thread.*"):
        left.unlink()
    store = Store.open(part, host=HOST, user="ada", home=str(directory))
    for pragma in ("synchronous = off", "cache_size = -1000000", "wal_autocheckpoint = 100000"):
        store.connection.execute(f"pragma {pragma}")
    Maker(jobs).fill(store)
    store.close()
    os.replace(part, directory / "thread.db")


def questions(directory: Path) -> list[Question]:
    """What is asked: about things that are there."""
    store = Store.open(directory / "thread.db", host=HOST, user="ada", home=str(directory))

    def one(query: str) -> str:
        return str(store.connection.execute(query).fetchone()[0])

    huge = one("select workflow_id from job_counts group by 1 order by sum(jobs) desc limit 1")
    small = one("select workflow_id from job_counts group by 1 order by sum(jobs) limit 1")
    label = one("select name from workflows order by id limit 1 offset (select count(*) / 2 from workflows)")
    some_file = one(
        "select path from metasheets where op = 'put' order by id limit 1 offset (select count(*) / 2 from metasheets) - 1"
    )
    an_old_job = one("select id from jobs order by id limit 1 offset 10")
    middle = one(
        "select json_extract(meta, '$.label') from jobs where meta like '%label%' order by id limit 1 offset 1000"
    )
    store.close()

    def jobs(**query: Any) -> str:
        return "/v1/jobs?" + urlencode({"limit": 50, **query}, doseq=True)

    return [
        Question("newest 50 jobs", jobs()),
        Question("state, common: COMPLETE", jobs(state="COMPLETE")),
        Question("state, 3 %: FAILED", jobs(state="FAILED")),
        Question("state, rare: PENDING", jobs(state="PENDING")),
        Question("states, not ended", jobs(state=["READY", "PENDING", "RUNNING", "FINISHING", "UNKNOWN"])),
        Question("workflow, huge", jobs(workflow=huge)),
        Question("workflow, small", jobs(workflow=small)),
        Question("workflow, huge, FAILED", jobs(workflow=huge, state="FAILED")),
        Question("workflow, huge, PENDING", jobs(workflow=huge, state="PENDING")),
        Question("workflow, small, COMPLETE", jobs(workflow=small, state="COMPLETE")),
        Question("property, common: kind=melt", jobs(match="kind=melt")),
        Question("property, rare: marked=yes", jobs(match="marked=yes")),
        Question("property, one: label", jobs(match=f"label={middle}")),
        Question("property, none: kind=nothing", jobs(match="kind=nothing")),
        Question("number, wide range: T>=5", jobs(match="T>=5")),
        Question("number, narrow range", jobs(match=["T>=5", "T<5.001"])),
        Question("number, equal: T=5", jobs(match="T=5")),
        Question("glob, many: label=point-*", jobs(match="label=point-*")),
        Question("glob, few: label=point-00001*", jobs(match="label=point-00001*")),
        Question("regular expression, many", jobs(match="kind~^me")),
        Question("two properties", jobs(match=["kind=plot", "T>9.9"])),
        Question("property in a small workflow", jobs(workflow=small, match="kind=plot")),
        Question("property, state FAILED", jobs(state="FAILED", match="kind=plot")),
        Question("full text", jobs(text="melt")),
        Question("data: kind=thermo", "/v1/data?" + urlencode({"match": "kind=thermo"})),
        Question("data: narrow range", "/v1/data?" + urlencode({"match": ["T>=5", "T<5.01"]}, doseq=True)),
        Question("lineage of a file", "/v1/lineage?" + urlencode({"of": some_file})),
        Question("lineage of a file all read, 1 step", "/v1/lineage?" + urlencode({"of": SHARED_INPUT, "depth": 1})),
        Question("one job by the prefix of its id", "/v1/jobs/" + an_old_job[:24]),
        Question("50 workflows with their counts", "/v1/workflows?limit=50"),
        Question("workflows by name", "/v1/workflows?" + urlencode({"name": label})),
        Question("the agent's status, all counts", "/v1/agent"),
        Question("search", "/v1/search?" + urlencode({"q": "lmp"}), SEARCH_TARGET_MS),
    ]


class Agent:
    """A real agent on a home, until the block ends."""

    def __init__(self, home: Path):
        self._home = home
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
        self._environment["PYTHONPATH"] = str(LINK)
        self.start_s = 0.0

    def __enter__(self) -> Agent:
        reading, writing = os.pipe()
        command = [
            sys.executable,
            "-m",
            "lwfm",
            "agent",
            "serve",
            "--home",
            str(self._home),
            "--ready-fd",
            str(writing),
        ]
        began = time.perf_counter()
        self._process = subprocess.Popen(
            command, pass_fds=[writing], env=self._environment, cwd="/", start_new_session=True
        )
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.readline()
        self.start_s = time.perf_counter() - began
        if '"ok"' not in said:
            raise RuntimeError(f"the agent did not start: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(120)

    def ask(self, path: str) -> tuple[float, Any]:
        """Milliseconds until the whole answer is there, and the answer."""
        connection = UnixConnection(self._home / "agent.sock")
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        elapsed = (time.perf_counter() - began) * 1000
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {body.decode()}")
        return elapsed, json.loads(body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path):
        super().__init__("lwfm", timeout=300)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def measure(home: Path, rounds: int) -> Iterator[tuple[str, float, float, str, str]]:
    """What was measured, how much, the target, its unit, and a remark."""
    asked = questions(home)
    starts = []
    for _ in range(3):
        with Agent(home) as agent:
            starts.append(agent.start_s)
    yield "start of the agent", statistics.median(starts), START_TARGET_S, "s", f"of {len(starts)}"
    with Agent(home) as agent:
        for question in asked:
            times = []
            for _ in range(rounds):
                elapsed, answer = agent.ask(question.path)
                times.append(elapsed)
            rows = next((len(value) for value in answer.values() if isinstance(value, list)), 1)
            first = f"first {times[0]:.0f} ms, best {min(times):.1f} ms, {rows} rows"
            yield question.name, statistics.median(times), question.target_ms, "ms", first


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument(
        "--dir", type=Path, help="where the store is kept for the next time (default: the system's scratch)"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--remake", action="store_true", help="make the store anew")
    options = parser.parse_args()
    base = options.dir or Path(tempfile.gettempdir()) / f"lwfm-bench-{os.getuid()}"
    kept = base / f"million-{options.jobs}-{LAYOUT}-{SCHEMA_VERSION}"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.remake or not (kept / "thread.db").exists():
        began = time.monotonic()
        make(kept, options.jobs)
        say(f"made a store of {options.jobs} jobs in {time.monotonic() - began:.0f} s")
    size = (kept / "thread.db").stat().st_size
    print(f"{options.jobs} jobs, {size / 1e6:.0f} MB, {options.rounds} calls each, median\n")
    missed = 0
    for name, value, target, unit, remark in measure(kept, options.rounds):
        verdict = "ok" if value <= target else "MISSED"
        missed += value > target
        print(f"{name:38} {value:9.2f} {unit:2} of {target:5.0f}   {verdict:7} ({remark})", flush=True)
    for left in ("spool", "sealed"):
        shutil.rmtree(kept / left, ignore_errors=True)
    print(f"\n{missed} targets missed" if missed else "\nall targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
