"""What the agent itself can do: jobs on simulated workers, which speak the protocol and start no process.

A real agent in an empty home; one other process is all workers (tests/support/simulated_workers.py); jobs are submitted by the
command line, in one workflow. First all are submitted while no worker is there, then the workers come: so what submitting costs,
what a waiting job takes of memory, and what claiming, sending and recording cost are seen apart. With ``--streaming`` the workers
are there from the beginning. Beside it, plain SQLite: as many rows, made durable every 50 ms, in the same run. At the end all jobs
must be COMPLETE and the store must verify.

    ./lwfm.sh bench simulated                                the curves: number of workers, number of jobs (some minutes)
    ./lwfm.sh bench simulated --workers 256 --jobs 100000    one point
    ./lwfm.sh bench simulated --quick                        a few small points

Ends with 1 when a record is missing or a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "build" / "link"), str(ROOT / "tests")]

from support.agents import Agent, environment, new_home  # noqa: E402
from support.simulated_workers import SimulatedWorkers, spool_taken  # noqa: E402

JSON = dict[str, Any]
WORKERS = (1, 4, 16, 64, 256)
JOBS = (1_000, 10_000, 100_000)
CORES = 8
"""Of each simulated node."""
COMMIT_S = 0.05
ROWS_PER_JOB = 3
"""Records of a job without a handler: submitted, started, ended."""
TARGET_RATE = 5000.0
TARGET_CPU_US = 200.0
TARGET_WAITING_BYTES = 1024.0
VERIFY_TIMEOUT_S = 900.0


def measure(workers: int, jobs: int, cores: int = CORES, *, streaming: bool = False) -> JSON:
    """One point of the curve."""
    with held_agent() as agent:
        assert agent.process is not None
        pid = agent.process.pid
        workflow = agent.workflow("simulated")
        memory, cpu = anonymous_bytes(pid), cpu_seconds(pid)
        began = time.monotonic()
        simulated = None
        if streaming:
            simulated = come(agent, workers, cores, jobs)
            cpu, began = cpu_seconds(pid), time.monotonic()
        submit(agent, workflow, jobs)
        submitted, waiting_bytes = time.monotonic(), (anonymous_bytes(pid) - memory) / jobs
        submit_cpu = cpu_seconds(pid) - cpu
        simulated = simulated or come(agent, workers, cores, jobs)
        try:
            told = simulated.told()
            finish_cpu = cpu_seconds(pid) - cpu - submit_cpu
            assert told["repeated"] == 0, told
            counts = agent.client.get(f"/v1/workflows/{workflow}")["job_counts"]
            assert counts == {"COMPLETE": jobs}, counts
            verified = agent.client.post("/v1/store/check", {}, timeout_s=VERIFY_TIMEOUT_S)
            assert verified["ok"], verified
            assert verified["records"] >= ROWS_PER_JOB * jobs, verified
            peak = peak_bytes(pid)
        finally:
            simulated.close()
    plain_s, plain_cpu_s = plain_sqlite(jobs)
    first = began if streaming else told["began"]
    point: JSON = {"workers": workers, "jobs": jobs, "cores": cores, "streaming": streaming}
    point["submit_per_s"] = jobs / (submitted - began)
    point["finished_per_s"] = jobs / (told["done"] - first)
    point["submit_cpu_us"] = submit_cpu / jobs * 1e6
    point["finish_cpu_us"] = finish_cpu / jobs * 1e6
    point["agent_cpu_us"] = (submit_cpu + finish_cpu) / jobs * 1e6
    point["worker_cpu_us"] = told["cpu_s"] / jobs * 1e6
    point["busy_workers"] = told["busy_workers"]
    point["waiting_bytes"] = None if streaming else waiting_bytes
    point["peak_mb"] = peak / 1e6
    point["sqlite_cpu_us"] = plain_cpu_s / jobs * 1e6
    point["cpu_over_sqlite"] = point["agent_cpu_us"] / point["sqlite_cpu_us"]
    point["rate_over_sqlite"] = point["finished_per_s"] * plain_s / jobs
    return point


@contextmanager
def held_agent() -> Iterator[Agent]:
    """An agent in an empty home that gets no worker of its own."""
    agent = Agent(new_home())
    with spool_taken(agent.home.spool):
        try:
            agent.start()
            yield agent
        finally:
            agent.close()


def come(agent: Agent, workers: int, cores: int, jobs: int) -> SimulatedWorkers:
    """Have the workers come; they are connected then."""
    simulated = SimulatedWorkers(agent.home.worker_socket, workers=workers, cores=cores, jobs=jobs)
    told = simulated.told()
    assert told["ready"] == workers, told
    return simulated


def submit(agent: Agent, workflow: str, jobs: int) -> None:
    """Submit so many jobs as a person would."""
    words = [sys.executable, "-m", "lwfm", "submit", "--workflow", workflow, "--array", f"1-{jobs}", "--", "true", "{}"]
    env = environment(LWFM_HOME=str(agent.home.root))
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=env, cwd=agent.home.root)


def plain_sqlite(jobs: int) -> tuple[float, float]:
    """The floor: the log's rows alone, of usual length, each hashed, one fsync per ``COMMIT_S``; seconds, and of them CPU.

    No index, no table beside it, nobody told: what a durable record cannot cost less than in this language on this disk.
    """
    with tempfile.TemporaryDirectory(prefix="lwfm-bench-") as directory:
        connection = sqlite3.connect(Path(directory) / "plain.db", isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute(
            "create table log (seq integer primary key, prev text, hash text, uid text, kind text, time text, body text)"
        )
        began, cpu = time.perf_counter(), time.process_time()
        connection.execute("begin")
        commit_at = time.perf_counter() + COMMIT_S
        prev = "0" * 64
        for number in range(jobs * ROWS_PER_JOB):
            uid = f"0199f3c2-5a00-7000-8000-{number:012d}"
            body = f'{{"job_id":"{uid}","attempt":1,"state":"COMPLETE","time":"2026-01-01T00:00:00.000000Z","n":{number:0180d}}}'
            digest = hashlib.sha256(f"{number}|{prev}|{uid}|status|{body}".encode()).hexdigest()
            connection.execute(
                "insert into log values (?,?,?,?,?,?,?)", (number, prev, digest, uid, "status", "2026-01-01", body)
            )
            prev = digest
            if time.perf_counter() > commit_at:
                connection.execute("commit")
                connection.execute("begin")
                commit_at = time.perf_counter() + COMMIT_S
        connection.execute("commit")
        taken = time.perf_counter() - began, time.process_time() - cpu
        connection.close()
    return taken


def cpu_seconds(pid: int) -> float:
    """What a process has taken of the processors, all its threads together; to the nanosecond where the kernel tells it."""
    with contextlib.suppress(OSError):  # threads of the agent do not end before it does
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own, without mapped files."""
    return _status_kib(pid, "RssAnon") * 1024


def peak_bytes(pid: int) -> int:
    """The most memory a process has had."""
    return _status_kib(pid, "VmHWM") * 1024


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


HEADINGS = (
    ("workers", "workers", "d"), ("busy", "busy_workers", "d"), ("jobs", "jobs", "d"), ("jobs/s", "finished_per_s", ".0f"),
    ("/sqlite", "rate_over_sqlite", ".2f"), ("agent us/job", "agent_cpu_us", ".0f"), ("submit", "submit_cpu_us", ".0f"),
    ("finish", "finish_cpu_us", ".0f"), ("sqlite us", "sqlite_cpu_us", ".0f"), ("workers us", "worker_cpu_us", ".0f"),
    ("B/waiting", "waiting_bytes", ".0f"), ("peak MB", "peak_mb", ".0f"),
)  # fmt: skip


def show(point: JSON | None) -> None:
    """A line of the table; its head for None."""
    cells = []
    for heading, key, form in HEADINGS:
        value = heading if point is None else "-" if point[key] is None else format(point[key], form)
        cells.append(value.rjust(max(7, len(heading))))
    print("  ".join(cells), flush=True)


def curve(jobs: Sequence[int], workers: Sequence[int]) -> list[tuple[int, int]]:
    """Every number of workers with a middling number of jobs, and every number of jobs with the most workers."""
    middle = sorted(jobs)[len(jobs) // 2]
    points = [(count, middle) for count in workers]
    return points + [(max(workers), count) for count in jobs if (max(workers), count) not in points]


def missed(points: Sequence[JSON]) -> list[str]:
    """The targets that the largest point misses."""
    largest = max(points, key=lambda point: (point["jobs"], point["workers"]))
    where = f"{largest['workers']} workers, {largest['jobs']} jobs"
    judged = [
        ("jobs/s finished", largest["finished_per_s"], ">=", TARGET_RATE, largest["finished_per_s"] >= TARGET_RATE),
        ("agent CPU us/job", largest["agent_cpu_us"], "<=", TARGET_CPU_US, largest["agent_cpu_us"] <= TARGET_CPU_US),
    ]
    bytes_each = largest["waiting_bytes"]
    if bytes_each is not None and largest["jobs"] >= 10_000:  # with fewer it is what the agent needs once
        judged.append(
            ("bytes per waiting job", bytes_each, "<=", TARGET_WAITING_BYTES, bytes_each <= TARGET_WAITING_BYTES)
        )
    return [
        f"{what} {value:.0f}, target {sign} {target:.0f} ({where})"
        for what, value, sign, target, met in judged
        if not met
    ]


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, action="append", help="how many (may be repeated)")
    parser.add_argument("--jobs", type=int, action="append", help="how many (may be repeated)")
    parser.add_argument("--cores", type=int, default=CORES, help="of each node")
    parser.add_argument("--streaming", action="store_true", help="the workers are there before the jobs")
    parser.add_argument("--quick", action="store_true", help="1 and 16 workers, 2,000 jobs")
    parser.add_argument("--json", action="store_true", help="one JSON object per point")
    options = parser.parse_args()
    few = ((1, 16), (2_000,)) if options.quick else (WORKERS, JOBS)
    points = []
    if not options.json:
        show(None)
    for workers, jobs in curve(options.jobs or few[1], options.workers or few[0]):
        point = measure(workers, jobs, options.cores, streaming=options.streaming)
        points.append(point)
        if options.json:
            print(json.dumps(point), flush=True)
        else:
            show(point)
    misses = missed(points)
    if misses and not options.json:
        print("missed: " + "; ".join(misses))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
