"""What another instance as a site costs: two homes on this machine, a real sshd between them.

    ./lwfm.sh bench remote

Prints submissions a second through ssh, the time from a job's end there to the start of what waits for it here, and the processor
time that the agent takes while many jobs are there. Ends with 1 when a target is missed; run it again when it surprises.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LINK = HERE.parents[1] / "build" / "link"
sys.path[:0] = [str(LINK), str(HERE), str(HERE.parent)]

import psutil  # noqa: E402

from support.peers import Network, Place, a_network  # noqa: E402

SITE = """\
[cluster]
driver = "ssh"
host = "far"
ssh_config = "{config}"
remote_path = "{script}"
remote_home = "{home}"
poll_s = {poll_s}
"""
WAITING_JOBS = 10_000
WATCHED_S = 20.0
POLL_S = 1.0
_missed: list[str] = []


def report(what: str, value: float, unit: str, target: str = "", met: bool = True) -> None:
    aim = f"target {target:<10} {'ok' if met else 'MISSED'}" if target else ""
    print(f"{what:<66} {value:>10.2f} {unit:<7} {aim}".rstrip(), flush=True)
    if not met:
        _missed.append(what)


def submissions(near: Place, count: int) -> list[str]:
    """How many jobs a second come there, from the submission here to the last one's adoption."""
    began = time.perf_counter()
    jobs: list[str] = []
    for _ in range(0, count, 1000):
        jobs += near.submit_many([{"command": "sleep 100000"}] * 1000, site="cluster")
    recorded = time.perf_counter() - began
    handed = "select count(*) from jobs where runner is not null"
    while near.query(handed)[0][0] < count:
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    report(f"{count} jobs to the other instance: recorded here", count / recorded, "/s")
    report("  adopted there", count / seconds, "/s", ">= 500", count / seconds >= 500)
    return jobs


def processor(near: Place) -> None:
    """What the agent uses while all these wait."""
    agent = psutil.Process(near.process.pid if near.process else 0)
    drivers = [psutil.Process(pid) for pid, words in near.processes().items() if " site-host " in words]
    before = [sum(process.cpu_times()[:2]) for process in (agent, *drivers)]
    time.sleep(WATCHED_S)
    after = [sum(process.cpu_times()[:2]) for process in (agent, *drivers)]
    used = [100 * (then - now) / WATCHED_S for now, then in zip(before, after)]
    report("processor while they wait: the agent", used[0], "%")
    report("  the driver's process, with the ssh connection", sum(used[1:]), "%")


def latency(near: Place, directory: Path, rounds: int) -> None:
    """From a job's end there to the start of what waits for it here, without the interval between two questions."""
    times = []
    for number in range(rounds):
        ended, started = directory / f"ended{number}", directory / f"started{number}"
        job = near.submit(f"sleep 0.{number % 9}; date +%s.%N > {ended}", site="cluster")
        (waiting,) = near.on_job(job, f"date +%s.%N > {started}")["job_ids"]
        near.wait(waiting)
        times.append(float(started.read_text()) - float(ended.read_text()))
    report("from a job's end there to the start of what waits here: least", 1000 * min(times), "ms")
    report("  median, with the interval between questions in it", 1000 * statistics.median(times), "ms")
    report("  (that is at least)", 1000 * POLL_S, "ms")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./lwfm.sh bench remote", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=WAITING_JOBS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print what was missed as JSON at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lwfm-bench-remote-") as made, a_network(Path(made)) as network:
        near, far = _places(network)
        latency(near, Path(made), options.rounds)
        submissions(near, options.jobs)
        processor(near)
        far.kill_everything()
    if options.json:
        print(json.dumps({"missed": _missed}))
    for what in _missed:
        print(f"MISSED: {what.strip()}")
    return 1 if _missed else 0


def _places(network: Network) -> tuple[Any, Any]:
    near, far = network.place("near", started=False), network.place("far", started=False)
    far.configure(f"[local]\ncores = {min(4, os.cpu_count() or 1)}\n")
    far.start().worker()
    near.configure(SITE.format(config=network.config, script=network.script, home=far.home.root, poll_s=POLL_S))
    near.start().worker()
    return near, far


if __name__ == "__main__":
    sys.exit(main())
