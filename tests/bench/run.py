"""The benchmarks: what lwfm costs, beside what the machine can do, measured in the same run.

    ./lwfm.sh bench                    all but the last two
    ./lwfm.sh bench launch latency     those named
    ./lwfm.sh bench simulated --help   the agent with simulated workers: its own options, the curves without any
    ./lwfm.sh bench allocation         over the nodes of a real Slurm on this machine (needs root and Slurm)
    ./lwfm.sh bench million            the store of a million jobs (makes it first: some minutes)
    ./lwfm.sh bench sync --help        two instances over a real sshd (its data part needs root)
    ./lwfm.sh bench remote --help      jobs at another instance, over a real sshd

Machines are shared and noisy: read the ratios and medians, and run it again when they surprise.
Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LINK = HERE.parents[1] / "build" / "link"
sys.path[:0] = [str(LINK)]

LWFM = [sys.executable, "-I", "-m", "lwfm"]
_missed: list[str] = []


def report(what: str, value: float, unit: str, target: str, met: bool) -> None:
    """One line of the result."""
    print(f"{what:<58} {value:>9.2f} {unit:<6} target {target:<10} {'ok' if met else 'MISSED'}", flush=True)
    if not met:
        _missed.append(what)


@contextlib.contextmanager
def instance() -> Iterator[Path]:
    """A fresh home with an agent, which is stopped afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="lwfm-bench-"))
    os.environ["LWFM_HOME"] = str(directory)
    subprocess.run([*LWFM, "agent", "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        run_one(directory)
        yield directory
    finally:
        subprocess.run([*LWFM, "agent", "stop", "--kill"], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


def run_one(directory: Path) -> None:
    """One job, so that agent and worker are known to be up."""
    command = [*LWFM, "submit", "--wait", "--", "/bin/true"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)


def launch(jobs: int = 5000, rounds: int = 3) -> None:
    """/bin/true, each with its full durable record, from one ``submit --each-line``; beside a C loop, two at once."""
    with instance() as home:
        program = home / "spawn_limit"
        subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "spawn_limit.c")], check=True)
        lines = home / "lines"
        lines.write_text("".join(f"{number}\n" for number in range(jobs)))
        ours: list[float] = []
        limits: list[float] = []
        for _ in range(rounds):
            limits.append(
                float(subprocess.run([program, str(jobs)], check=True, capture_output=True, text=True).stdout)
            )
            began = time.perf_counter()
            command = [*LWFM, "submit", "--each-line", str(lines), "--wait", "--", "/bin/true"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ours.append(jobs / (time.perf_counter() - began))
            print(f"  C {limits[-1]:.0f}/s   lwfm {ours[-1]:.0f}/s   ratio {ours[-1] / limits[-1]:.3f}", flush=True)
        ratio = statistics.median(our / limit for our, limit in zip(ours, limits))
        report("launch rate / C posix_spawn loop, two at once", ratio, "", ">= 0.55", ratio >= 0.55)
        for name, words in _peers(lines, home):
            began = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            rate = jobs / (time.perf_counter() - began)
            print(f"  {name} {rate:.0f}/s   ratio {rate / statistics.median(limits):.3f}", flush=True)


def _peers(lines: Path, home: Path) -> Iterator[tuple[str, list[str]]]:
    """Other programs that do the like, where they are installed; none of them keeps a durable record here."""
    if shutil.which("xargs"):
        yield "xargs -P2", ["sh", "-c", f"xargs -P2 -I_ /bin/true < '{lines}'"]
    if shutil.which("parallel"):
        yield "GNU parallel -j2", ["parallel", "-j2", "-N0", "-a", str(lines), "/bin/true"]
    if shutil.which("hq"):
        start = f"export HQ_SERVER_DIR='{home}/hq'; hq server start & sleep 1; hq worker start --cpus 2 & sleep 1; "
        yield "HyperQueue", ["bash", "-c", start + f"hq submit --each-line '{lines}' --wait /bin/true; hq server stop"]


def latency(rounds: int = 200) -> None:
    """One job through the library; and from a recorded status to the start of the job it fires."""
    from lwfm import JobDefn, JobEvent, LwfManager

    with instance():
        lwf = LwfManager()
        site = lwf.get_site("local")
        single: list[float] = []
        for _ in range(rounds):
            began = time.perf_counter()
            lwf.wait(site.run.submit(JobDefn(["/bin/true"])))
            single.append((time.perf_counter() - began) * 1000)
        median = statistics.median(single)
        report("one job through the library, submit to result, median", median, "ms", "<= 10", median <= 10)
        fired: list[float] = []
        for _ in range(rounds // 4):
            first = site.run.submit(JobDefn(["sleep", "0.02"]))
            handler = lwf.set_event(JobEvent(first, "COMPLETE", JobDefn(["/bin/true"])))
            assert handler.job_id is not None
            second = lwf.wait(handler.job_id)
            recorded = _moment(lwf.statuses(first)[-1]["time"])
            fired.append((_moment(second.started_at) - recorded) * 1000)
        median = statistics.median(fired)
        report("trigger: status recorded to fired job's start, median", median, "ms", "<= 5", median <= 5)


def _moment(text: str | None) -> float:
    from lwfm.clock import parse_utc

    assert text is not None
    return parse_utc(text)


def idle(seconds: float = 10.0) -> None:
    """What an agent and its worker cost when there is nothing to do."""
    with instance() as home:
        time.sleep(2.0)
        pids = _processes_of(home)
        before = sum(_cpu_seconds(pid) for pid in pids)
        time.sleep(seconds)
        share = (sum(_cpu_seconds(pid) for pid in pids) - before) / seconds * 100
        resident = {pid: _smaps(pid) for pid in pids}
        for pid, (rss, pss) in resident.items():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            role = "worker" if b"worker" in words else "agent"
            print(f"  {role} {pid}: resident {rss:.1f} MB, of it proportional {pss:.1f} MB", flush=True)
        proportional = sum(pss for _, pss in resident.values())
        report("idle agent and worker, memory (shared pages once)", proportional, "MB", "<= 60", proportional <= 60)
        report("idle agent and worker, of one core", share, "%", "< 0.5", share < 0.5)


def _processes_of(home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(home).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _smaps(pid: int) -> tuple[float, float]:
    """Resident and proportional set size, MB."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name.rstrip(":")] = int(value) / 1000
    return sizes["Rss"], sizes["Pss"]


def startup(rounds: int = 15) -> None:
    """The command line's start, beside the bare interpreter's."""
    bare = _median_ms([sys.executable, "-I", "-c", "pass"], rounds)
    version = _median_ms([*LWFM, "--version"], rounds)
    limit = 2 * bare + 30
    print(f"  bare interpreter {bare:.1f} ms", flush=True)
    report("lwfm --version", version, "ms", f"<= {limit:.0f}", version <= limit)
    with instance():
        listing = _median_ms([*LWFM, "job", "list"], rounds)
        report("lwfm job list, agent up", listing, "ms", "<= 200", listing <= 200)


def _median_ms(command: list[str], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def worker() -> None:
    """The worker alone, with an agent that costs nothing."""
    subprocess.run([sys.executable, str(HERE / "worker_rate.py")], check=True)


def onefile() -> None:
    """The start of dist/lwfm.pyz, with every Python of this machine."""
    if subprocess.run([sys.executable, str(HERE / "onefile.py")], check=False).returncode:
        _missed.append("onefile")


def simulated() -> None:
    """The agent alone: jobs on simulated workers, a few small points."""
    if subprocess.run([sys.executable, str(HERE / "simulated.py"), "--quick"], check=False).returncode:
        _missed.append("simulated")


def allocation() -> None:
    """Over the nodes of a real Slurm on this machine, as root."""
    if subprocess.run([sys.executable, str(HERE / "allocation.py")], check=False).returncode:
        _missed.append("allocation")


def million() -> None:
    """A store of a million jobs."""
    if subprocess.run([sys.executable, str(HERE / "million.py")], check=False).returncode:
        _missed.append("million")


BENCHMARKS: dict[str, Callable[[], Any]] = {
    "launch": launch,
    "latency": latency,
    "idle": idle,
    "startup": startup,
    "worker": worker,
    "onefile": onefile,
    "simulated": simulated,
    "allocation": allocation,
    "million": million,
}


def main() -> int:
    """Run what is asked for."""
    if sys.argv[1:2] in (["simulated"], ["sync"], ["remote"]):  # these have options of their own
        return subprocess.run([sys.executable, str(HERE / f"{sys.argv[1]}.py"), *sys.argv[2:]], check=False).returncode
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS], help="which; default: all but allocation and million"
    )
    options = parser.parse_args()
    print(
        json.dumps(
            {"python": sys.version.split()[0], "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
        )
    )
    for name in options.names or [name for name in BENCHMARKS if name not in ("allocation", "million")]:
        print(f"{name}: {(BENCHMARKS[name].__doc__ or '').splitlines()[0]}", flush=True)
        BENCHMARKS[name]()
    if _missed:
        print(f"{len(_missed)} missed: " + "; ".join(_missed))
    return 1 if _missed else 0


if __name__ == "__main__":
    sys.exit(main())
