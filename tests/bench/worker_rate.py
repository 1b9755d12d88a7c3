"""How close a worker comes to what the machine can do: /bin/true through it, and through a C program, in turns.

The agent here is as fast as can be: it sends all jobs at once and looks at the answers only to count them. Two jobs at
a time on both sides. Prints jobs per second, their ratio, and the worker's memory.

    python tests/bench/worker_rate.py [jobs] [rounds]
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINK = HERE.parents[1] / "build" / "link"
sys.path[:0] = [str(LINK)]

from lwfm.wire import encode  # noqa: E402

ACK_EVERY = 64
"""Events: about what an agent makes durable with one fsync."""
_NUMBER = re.compile(rb'"n":(\d+)')


def c_rate(program: Path, jobs: int) -> float:
    """Processes per second of the C program."""
    return float(subprocess.run([program, str(jobs)], check=True, capture_output=True, text=True).stdout)


def worker_rate(directory: Path, jobs: int) -> tuple[float, int, int]:
    """Jobs per second of a worker, and the resident KiB of its loop and its keeper afterwards."""
    path = directory / "worker.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    code = "import sys; from lwfm.worker.main import main; sys.exit(main(sys.argv[1:]))"
    worker = subprocess.Popen(
        [sys.executable, "-c", code, "--connect", str(path), "--spool", str(directory / "spool"), "--cores", "2"],
        env={**os.environ, "PYTHONPATH": str(LINK)},
        start_new_session=True,
    )
    connection, _ = listener.accept()
    hello = connection.recv(1 << 20)
    pid = int(re.search(rb'"pid":(\d+)', hello)[1])  # type: ignore[index]
    connection.sendall(encode([{"t": "welcome", "protocol": 1, "acked": 0}]))
    frames = [encode([{"t": "context", "id": 1, "env": dict(os.environ)}])]
    for first in range(0, jobs, 500):
        frames.append(
            encode(
                [
                    {
                        "t": "run",
                        "job": f"0199f3c2-5a00-7000-8000-{number:012d}",
                        "attempt": 1,
                        "argv": ["/bin/true"],
                        "cwd": "/",
                        "context": 1,
                        "env": {"LWFM_WORKFLOW_ID": "w"},
                        "cores": None,
                        "memory_bytes": None,
                        "gpus": 0,
                        "time_limit_s": None,
                        "grace_s": 5.0,
                        "outputs": [],
                    }
                    for number in range(first, min(first + 500, jobs))
                ]
            )
        )
    begin = time.perf_counter()
    connection.sendall(b"".join(frames))
    ended = acked = 0
    last = b""
    while ended < jobs:
        data = connection.recv(1 << 20)
        if not data:
            raise SystemExit((directory / "spool" / "worker.log").read_text())
        ended += (last[-12:] + data).count(b'"t":"ended"') - last[-12:].count(b'"t":"ended"')
        last = data
        numbers = _NUMBER.findall(data)
        if numbers and (int(numbers[-1]) - acked >= ACK_EVERY or ended >= jobs):
            acked = int(numbers[-1])
            connection.sendall(encode([{"t": "ack", "n": int(numbers[-1])}]))
    rate = jobs / (time.perf_counter() - begin)
    sizes = resident_kib(pid), resident_kib(worker.pid)
    connection.sendall(encode([{"t": "stop", "kill": False}]))
    worker.wait(30)
    listener.close()
    return rate, *sizes


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def main() -> None:
    """Run both in turns and print the medians."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    limits, rates, loops, keepers = [], [], [], []
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "spawn_limit"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "spawn_limit.c"], check=True)
        for number in range(rounds):
            limits.append(c_rate(program, jobs))
            place = Path(directory) / str(number)
            place.mkdir()
            rate, loop, keeper = worker_rate(place, jobs)
            rates.append(rate)
            loops.append(loop)
            keepers.append(keeper)
            print(f"C {limits[-1]:7.0f}/s   worker {rate:7.0f}/s   ratio {rate / limits[-1]:.3f}")
    limit, rate = statistics.median(limits), statistics.median(rates)
    print(f"median: C {limit:.0f}/s, worker {rate:.0f}/s, ratio {rate / limit:.3f}")
    print(f"resident: loop {max(loops) / 1024:.1f} MiB, keeper {max(keepers) / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
