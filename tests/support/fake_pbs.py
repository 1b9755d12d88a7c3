"""A fake PBS: ``qsub``, ``qstat``, ``qdel`` and ``pbsnodes`` that run jobs as processes of this machine.

No real one can be had here. What it answers has the form that PBS 19 to 2022 were seen to write (``qstat -f -F json``); what it
does is what the manuals say, as far as lwfm's driver depends on it, and proves nothing of a real one.

::

    install(directory)       # puts the four programs there; its state is beside them
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SERVER = "fake"
PROGRAMS = ("qsub", "qstat", "qdel", "pbsnodes")
KEPT_S = 3600


def install(directory: Path) -> None:
    """Make the programs."""
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {directory} {name} "$@"\n')
        (directory / name).chmod(0o755)
    (directory / "jobs.json").write_text("{}")


def main(directory: Path, name: str, words: list[str]) -> int:
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs: dict[str, dict[str, Any]] = json.loads((directory / "jobs.json").read_text())
        look(jobs)
        code = {"qsub": qsub, "qstat": qstat, "qdel": qdel, "pbsnodes": pbsnodes}[name](directory, jobs, words)
        (directory / "jobs.json").write_text(json.dumps(jobs))
    return code


def qsub(directory: Path, jobs: dict[str, dict[str, Any]], words: list[str]) -> int:
    given: dict[str, list[str]] = {}
    while words:
        given.setdefault(words[0], []).append(words[1])
        words = words[2:]
    if "no-such-queue" in given.get("-q", []):
        sys.stderr.write("qsub: Unknown queue\n")
        return 170
    number = 1 + max((int(re.match(r"\d+", job_id).group()) for job_id in jobs), default=0)  # type: ignore[union-attr]
    script = directory / f"{number}.sh"
    script.write_text(sys.stdin.read())
    first, _, last = given.get("-J", ["0-0"])[0].partition("-")
    is_array = "-J" in given
    nodes = 1
    for part in given.get("-l", []):
        if part.startswith("select="):
            nodes = int(part[len("select=") :].partition(":")[0])
    for index in range(int(first), int(last) + 1):
        job_id = f"{number}[{index}].{SERVER}" if is_array else f"{number}.{SERVER}"
        hosts = directory / f"{number}.{index}.nodes"
        hosts.write_text("".join(f"m{at}\n" * 2 for at in range(nodes)))
        variables = dict(part.split("=", 1) for part in given.get("-v", []))
        told = {"PBS_JOBID": job_id, "PBS_NODEFILE": str(hosts), "PATH": os.defpath, **variables}
        told.update({"PBS_ARRAY_INDEX": str(index)} if is_array else {})
        wrapped = f"/bin/sh {script}; code=$?; echo $code > {directory}/{number}.{index}.part; mv {directory}/{number}.{index}.part {directory}/{number}.{index}.code"  # noqa: E501
        with open(given["-o"][0], "ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"trap : TERM; {wrapped}"],
                env=told, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
                close_fds=True,
            )  # fmt: skip
        jobs[job_id] = {
            "Job_Name": given["-N"][0],
            "Job_Owner": f"somebody@{SERVER}",
            "job_state": "R",
            "queue": given.get("-q", ["workq"])[0],
            "server": SERVER,
            "exec_host": "+".join(f"m{at}/0*2" for at in range(nodes)),
            "stime": time.strftime("%a %b %d %H:%M:%S %Y"),
            "Variable_List": {"PBS_O_HOME": "/", **variables},
            "fake": [process.pid, str(directory / f"{number}.{index}.code")],
        }
    sys.stdout.write(f"{number}[].{SERVER}\n" if is_array else f"{number}.{SERVER}\n")
    return 0


def qstat(directory: Path, jobs: dict[str, dict[str, Any]], words: list[str]) -> int:
    head = {"timestamp": int(time.time()), "pbs_version": "19.0.0", "pbs_server": SERVER}
    if "-Q" in words:
        queue = {
            "queue_type": "Execution",
            "enabled": "True",
            "started": "True",
            "resources_max": {"walltime": "04:00:00"},
        }
        sys.stdout.write(json.dumps({**head, "Queue": {"workq": queue}}) + "\n")
        return 0
    wanted = [word for word in words if re.match(r"\d", word)]
    listed = {}
    for job_id, job in jobs.items():
        of_these = not wanted or job_id in wanted or re.sub(r"\[\d+\]", "[]", job_id) in wanted
        if of_these and ("-x" in words or job["job_state"] != "F"):
            listed[job_id] = {key: value for key, value in job.items() if key != "fake"}
    if wanted and not listed:
        sys.stderr.write(f"qstat: Unknown Job Id {wanted[0]}\n")
        return 153
    sys.stdout.write(json.dumps({**head, **({"Jobs": listed} if listed else {})}) + "\n")
    return 0


def qdel(directory: Path, jobs: dict[str, dict[str, Any]], words: list[str]) -> int:
    code = 0
    for job_id in words:
        job = jobs.get(job_id)
        if job is None or job["job_state"] == "F":
            sys.stderr.write(f"qdel: Job has finished {job_id}\n" if job else f"qdel: Unknown Job Id {job_id}\n")
            code = 35
            continue
        os.killpg(job["fake"][0], signal.SIGTERM)
        job["deleted"] = True
    return code


def pbsnodes(directory: Path, jobs: dict[str, dict[str, Any]], words: list[str]) -> int:
    has = {"arch": "linux", "host": "m0", "mem": "4194304kb", "ncpus": 4, "ngpus": 0}
    node = {"state": "free", "resources_available": has, "resources_assigned": {"ncpus": 0}}
    sys.stdout.write(json.dumps({"timestamp": 0, "pbs_version": "19.0.0", "nodes": {"m0": node}}) + "\n")
    return 0


def look(jobs: dict[str, dict[str, Any]]) -> None:
    """See what has ended."""
    for job in jobs.values():
        if job["job_state"] == "F":
            continue
        pid, code = job["fake"]
        if os.path.exists(code):
            status = int(Path(code).read_text())
            job.update(job_state="F", Exit_status=status)
            continue
        try:
            os.kill(pid, 0)
            gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (ProcessLookupError, FileNotFoundError):
            gone = True
        if gone and not os.path.exists(code):
            job.update(job_state="F", Exit_status=265)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
