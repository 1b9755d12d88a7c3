"""Grid Engine, in the hooks of :mod:`.scheduler`. Pure.

Forms and words are those of qsub(1), qstat(1), qacct(1), qdel(1) and qhost(1) of Son of Grid Engine 8.1; the others of the family
write the same. It keeps no list of jobs that have ended but the accounting, and tells a job that was deleted from one that met a
limit only by who asked for its end. What a job asks for in cores is slots of a parallel environment, whose rule says how they lie
on hosts.
"""

from __future__ import annotations

import math
import re
from calendar import timegm
from collections.abc import Sequence
from time import strptime
from typing import Optional
from xml.etree import ElementTree

from ...errors import InvalidRecord, SiteError
from ...quantities import bytes_of, count_of
from .request import BatchRequest, check_options
from .scheduler import (
    BUSY,
    DOWN,
    DRAINING,
    ENDED,
    FAILED,
    FREE,
    KILLED,
    MIXED,
    PENDING,
    RESERVED,
    RUNNING,
    SUCCEEDED,
    UNKNOWN,
    UP,
    BatchJob,
    BatchNode,
    Command,
    JobWords,
    Partition,
    Scheduler,
    is_id,
)

_ENVIRONMENT: dict[str, Optional[str]] = {"TZ": "UTC0", "LC_ALL": "C", "SGE_SINGLE_LINE": None, "SGE_LONG_QNAMES": None}
"""Times are told in that of who asks."""
_MARK = re.compile(r"lwfm-job-[0-9a-f]+$")
_REFUSED = frozenset(
    ("-t", "-N", "-o", "-e", "-j", "-wd", "-cwd", "-S", "-b", "-sync", "-terse", "-verify", "-help", "-now", "-@", "-C")
)
_AFTER_JOB = 100
"""sge_accounting(5), ``failed``: a signal ended it. Below are failures of Grid Engine's own to start it."""


class GridEngine(Scheduler):
    """Grid Engine."""

    name = "sge"
    programs = ("qsub", "qstat", "qdel")
    keys = frozenset(("partition", "account", "environment", "option"))
    words = JobWords(
        job_id="$JOB_ID$(case $SGE_TASK_ID in (*[0-9]*) echo .$SGE_TASK_ID ;; esac)",
        element="${SGE_TASK_ID-}",
        restart="${RESTARTED:-0}",
        nodes="""{ if [ -n "${PE_HOSTFILE-}" ]; then awk '{ print $1 }' "$PE_HOSTFILE"; else uname -n; fi; }""",
    )
    kept = r"SGE_(ROOT|CELL|ARCH|CLUSTER_NAME|QMASTER_PORT|EXECD_PORT)"

    def ask_resources(self) -> Sequence[Command]:
        """The hosts, with their queues."""
        return [Command(("qhost", "-q", "-xml"), environment=_ENVIRONMENT)]

    def read_resources(self, answers: Sequence[str]) -> tuple[list[Partition], list[BatchNode]]:
        """A queue's part on each host has slots and a state of its own."""
        nodes: list[BatchNode] = []
        parts: dict[str, list[BatchNode]] = {}
        for host in _parsed(answers[0]).iter("host"):
            told = {value.get("name"): (value.text or "").strip() for value in host.findall("hostvalue")}
            names, memory = [], bytes_of(told.get("mem_total") or "")
            for queue in host.findall("queue"):
                has = {value.get("name"): (value.text or "").strip() for value in queue.findall("queuevalue")}
                slots, used = _number(has.get("slots")) or 0, _number(has.get("slots_used")) or 0
                letters, name = has.get("state_string") or "", str(queue.get("name"))
                state = _node_state(letters, used, slots)
                one = BatchNode(str(host.get("name")), state, letters or "-", slots, max(0, slots - used), memory)
                parts.setdefault(name, []).append(one)
                names.append(one)
            if names:
                nodes.append(_with_queues(names, [str(queue.get("name")) for queue in host.findall("queue")]))
        return [_partition(name, listed) for name, listed in parts.items()], nodes

    def ask_jobs(self, user: str) -> Command:
        """Those that have not ended, each task of an array by itself, with their whole names."""
        return Command(("qstat", "-u", user, "-g", "d", "-r", "-xml"), environment=_ENVIRONMENT)

    def read_jobs(self, answer: str, now: float) -> list[BatchJob]:
        """The mark stands at the end of the name."""
        jobs = []
        for job in _parsed(answer).iter("job_list"):
            told = {child.tag: (child.text or "").strip() for child in job}
            number, task, letters = told.get("JB_job_number"), told.get("tasks"), told.get("state") or ""
            whole = f"{number}.{task}" if task else number or ""
            if not is_id(whole):
                continue
            mark = _MARK.search(told.get("full_job_name") or told.get("JB_name") or "")
            host = (told.get("queue_name") or "").rpartition("@")[2]
            phase = job_phase(letters)
            jobs.append(
                BatchJob(
                    whole,
                    phase,
                    letters,
                    f"in error: qstat -j {number} tells why" if "E" in letters else None,
                    hosts=(host,) if host and phase == RUNNING else (),
                    mark=mark.group() if mark else None,
                    started_at=_seconds(told.get("JAT_start_time")) if phase == RUNNING else None,
                )
            )
        return jobs

    def ask_ended(self, job_ids: Sequence[str]) -> Sequence[Command]:
        """The accounting, which is asked for one job, or all tasks of an array, at a time."""
        return [
            Command(("qacct", "-j", job_id), environment=_ENVIRONMENT)
            for job_id in dict.fromkeys(map(self.whole, job_ids))
        ]

    def read_ended(self, answer: str) -> list[BatchJob]:
        """Of a job that was run again there are several; the last counts."""
        jobs = []
        for block in re.split(r"^=+$", answer, flags=re.MULTILINE):
            told = dict(line.split(None, 1) for line in block.splitlines() if len(line.split(None, 1)) == 2)
            number, task = told.get("jobnumber", "").strip(), told.get("taskid", "").strip()
            if not is_id(number):
                continue
            failed, why = _number(told.get("failed", "").split()[:1]), told.get("failed", "").partition(":")[2].strip()
            code = _number(told.get("exit_status", "").split()[:1])
            jobs.append(_ended(f"{number}.{task}" if task.isdigit() else number, failed, why, code))
        return jobs

    def submit(self, request: BatchRequest, script: str, output: str, directory: str) -> Command:
        """One job, or an array, which is not run again."""
        words = ["qsub", "-terse", "-S", "/bin/sh", "-r", "n", "-j", "y", "-o", output, "-wd", directory]
        name = request.name if request.name[0].isalpha() else f"j{request.name}"
        words += ["-N", f"{name}.{request.mark}" if request.mark else name]
        words += ["-t", f"1-{request.elements}"] if request.elements else []
        words += [] if math.isinf(request.time_s) else ["-l", f"h_rt={math.ceil(request.time_s / 60) * 60}"]
        words += ["-q", request.partition] if request.partition else []
        words += ["-A", request.account] if request.account else []
        slots = request.nodes * (request.cores or 1)
        if request.environment:
            words += ["-pe", request.environment, str(slots)]
        elif slots > 1:
            raise InvalidRecord(
                f"{slots} slots need a parallel environment", hint="give option environment=NAME; qconf -spl lists them"
            )
        if request.memory_bytes is not None:
            words += ["-l", f"h_vmem={math.ceil(request.memory_bytes / (request.cores or 1))}"]
        if request.gpus:
            raise InvalidRecord("each site of Grid Engine calls GPUs otherwise", hint="such as option='-l gpu=1'")
        words += check_options(request.options, _REFUSED)
        return Command(tuple(words), stdin=script, environment=_ENVIRONMENT)

    def read_submitted(self, answer: str) -> Optional[str]:
        """``4711``, of an array ``4711.1-500:1``."""
        found = re.fullmatch(r"(\d+)(?:\.\d+-\d+:\d+)?", (answer.strip().splitlines() or [""])[-1].strip(), re.ASCII)
        return found.group(1) if found else None

    def element(self, job_id: str, number: int) -> str:
        """``4711.3``."""
        return f"{job_id}.{number}"

    def whole(self, element: str) -> str:
        """Of ``4711.3`` what is before the point."""
        return element.partition(".")[0]

    def ask_limits(self) -> Optional[Command]:
        """The configuration."""
        return Command(("qconf", "-sconf"), environment=_ENVIRONMENT)

    def read_limits(self, answer: str) -> Optional[int]:
        """``max_aj_tasks``; 0: no limit."""
        found = re.search(r"^max_aj_tasks\s+(\d{1,18})\s*$", answer, re.MULTILINE | re.ASCII)
        return int(found.group(1)) or None if found else None

    def is_doubtful(self, complaint: str) -> bool:
        """The qmaster has not answered."""
        return re.search(r"timed? ?out|commlib|communication|got no response", complaint, re.IGNORECASE) is not None

    def is_refusal(self, complaint: str) -> bool:
        """It knows nothing of that name."""
        return (
            re.search(r"reject|unknown resource|unknown option|does not exist|invalid", complaint, re.IGNORECASE)
            is not None
        )

    def is_unknown_job(self, complaint: str) -> bool:
        """Jobs that have ended do not exist for it."""
        return "does not exist" in complaint

    def cancel(self, job_ids: Sequence[str]) -> Command:
        """With SIGKILL, at once."""
        return Command(("qdel", *job_ids), environment=_ENVIRONMENT)


def job_phase(letters: str) -> str:
    """The phase of a job, of qstat's letters: ``qw``, ``hqw``, ``Eqw``, ``t``, ``r``, ``Rr``, ``dr``, ``s``, ``S``, ``T`` …"""
    if not letters or not set(letters) <= set("drtsSTRhqwE"):
        return UNKNOWN
    return PENDING if {"q", "w"} & set(letters) else RUNNING


def _ended(job_id: str, failed: Optional[int], why: str, code: Optional[int]) -> BatchJob:
    native = f"failed {failed}: {why}" if failed else f"exit {code}"
    if failed is None or code is None:
        return BatchJob(job_id, ENDED, native)
    if failed == 0:
        return BatchJob(job_id, ENDED, native, outcome=FAILED if code else SUCCEEDED, exit_code=code)
    if failed == _AFTER_JOB or "limit" in why:
        return BatchJob(job_id, ENDED, native, outcome=KILLED, told="was deleted, or went over one of its limits")
    return BatchJob(job_id, ENDED, native, outcome=FAILED, told=f"could not be run: {why}")


def _node_state(letters: str, used: int, slots: int) -> str:
    """Of qstat(1), the letters of a queue's state on a host."""
    if set(letters) & set("uEo"):
        return DOWN
    if set(letters) & set("dD"):
        return DRAINING
    if letters:
        return RESERVED
    return FREE if not used else MIXED if used < slots else BUSY


def _with_queues(parts: Sequence[BatchNode], queues: Sequence[str]) -> BatchNode:
    best = max(parts, key=lambda part: part.cores_free or 0)
    return BatchNode(
        best.name, best.state, best.native_state, max(part.cores or 0 for part in parts), best.cores_free,
        best.memory_bytes, None, tuple(queues),
    )  # fmt: skip


def _partition(name: str, parts: Sequence[BatchNode]) -> Partition:
    return Partition(
        name,
        UP,
        "-",
        nodes=len(parts),
        nodes_free=sum(part.state == FREE for part in parts),
        cores=sum(part.cores or 0 for part in parts),
        cores_free=sum(part.cores_free or 0 for part in parts),
        node_cores=max((part.cores or 0 for part in parts), default=None),
        node_memory_bytes=max((part.memory_bytes or 0 for part in parts), default=None),
    )


def _parsed(text: str) -> ElementTree.Element:
    """An answer.

    Raises:
        SiteError: it is none.
    """
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - of the user's own scheduler
    except (ElementTree.ParseError, ValueError) as error:  # the latter of an encoding that it does not know
        raise SiteError(f"sge answered what is no XML: {error}") from None


def _number(text: object) -> Optional[int]:
    word = text[0] if isinstance(text, list) and text else text
    return count_of(word) if isinstance(word, str) else None


def _seconds(text: Optional[str]) -> Optional[float]:
    try:
        return float(timegm(strptime((text or "").partition(".")[0], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None
