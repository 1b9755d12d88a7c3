"""PBS Professional and OpenPBS, in the hooks of :mod:`.scheduler`. Pure.

Forms and words are those of qsub(1B), qstat(1B), qdel(1B) and pbsnodes(8B) of releases that answer in JSON (14 and later; Torque
does not), the meaning of exit statuses that of the PBS Professional Administrator's Guide, "Job Exit Codes". Written after the
manuals and what others have recorded: no PBS could be had to try it on.
"""

from __future__ import annotations

import json
import math
import re
from calendar import timegm
from collections.abc import Mapping, Sequence
from time import strptime
from typing import Any, Optional

from ...errors import SiteError
from ...quantities import bytes_of, count_of, seconds_of
from .request import BatchRequest, check_options
from .scheduler import (
    BUSY,
    CANCELLED,
    CLOSED,
    DOWN,
    DRAINING,
    ENDED,
    ENDING,
    FAILED,
    FREE,
    KILLED,
    MIXED,
    OFF,
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

MARK_VARIABLE = "LWFM_MARK"
JOB_PHASES = {
    **dict.fromkeys(("Q", "H", "W", "T", "B"), PENDING),
    **dict.fromkeys(("R", "S", "U"), RUNNING),
    **dict.fromkeys(("F", "X"), ENDED),
    "E": ENDING,
}
"""qstat(1B), "job_state". ``M``: it was moved to another server, where it lives on."""
NODE_STATES = {
    **dict.fromkeys(("free",), FREE),
    **dict.fromkeys(("job-busy", "busy", "job-exclusive", "resv-exclusive"), BUSY),
    **dict.fromkeys(("offline", "maintenance"), DRAINING),
    **dict.fromkeys(("down", "Stale", "stale", "state-unknown", "unresolvable"), DOWN),
    **dict.fromkeys(("sleep", "provisioning", "wait-provisioning", "initializing"), OFF),
}
_ENDS = {
    -24: "took more cores than it had asked for",
    -25: "took more cores than it had asked for",
    -26: "took more virtual memory than it had asked for",
    -27: "took more memory than it had asked for",
    -28: "took more processor time than it had asked for",
    -29: "reached its time limit",
}
_DELETED = 91
"""``substate`` of one that was deleted."""
_FROM_SIGNALS = (128, 256)
_ENVIRONMENT: dict[str, Optional[str]] = {"TZ": "UTC0", "LC_ALL": "C"}
_REFUSED = frozenset(["-N", "-o", "-e", "-j", "-J", "-S", "-I", "-W", "-z", "-v", "-V", "-C", "-h"])


class Pbs(Scheduler):
    """PBS."""

    name = "pbs"
    programs = ("qsub", "qstat", "qdel")
    keys = frozenset(("partition", "account", "option"))
    words = JobWords(
        job_id="$PBS_JOBID",
        element="${PBS_ARRAY_INDEX-}",
        restart="0",
        nodes="""awk '!seen[$0]++' "$PBS_NODEFILE\"""",
    )
    kept = r"PBS_(CONF_FILE|EXEC|HOME|SERVER|DEFAULT|PRIMARY|SECONDARY)"

    def ask_resources(self) -> Sequence[Command]:
        """The queues, and the nodes."""
        return [
            Command(("qstat", "-Q", "-f", "-F", "json"), environment=_ENVIRONMENT),
            Command(("pbsnodes", "-a", "-F", "json"), environment=_ENVIRONMENT),
        ]

    def read_resources(self, answers: Sequence[str]) -> tuple[list[Partition], list[BatchNode]]:
        """Which nodes serve which queue is told in too many ways: each queue has them all."""
        queues, nodes = (_parsed(answer) for answer in answers)
        told_queues = _tables(queues.get("Queue"))
        listed = [_node(name, told, tuple(told_queues)) for name, told in _tables(nodes.get("nodes")).items()]
        return [_partition(name, told, listed) for name, told in told_queues.items()], listed

    def ask_jobs(self, user: str) -> Command:
        """Those that have not ended, each of an array by itself; ``-u`` does not go with these."""
        return Command(("qstat", "-t", "-f", "-F", "json"), environment=_ENVIRONMENT)

    def read_jobs(self, answer: str, now: float) -> list[BatchJob]:
        """Those of others among them have other marks and ids."""
        return [_job(job_id, told) for job_id, told in _tables(_parsed(answer).get("Jobs")).items() if is_id(job_id)]

    def ask_ended(self, job_ids: Sequence[str]) -> Sequence[Command]:
        """The history, where the server keeps one."""
        wholes = dict.fromkeys(map(self.whole, job_ids))
        return [
            Command(("qstat", "-x", "-t", "-f", "-F", "json", job_id), environment=_ENVIRONMENT) for job_id in wholes
        ]

    def read_ended(self, answer: str) -> list[BatchJob]:
        """Those that have really ended."""
        return [job for job in self.read_jobs(answer, 0.0) if job.phase == ENDED]

    def submit(self, request: BatchRequest, script: str, output: str, directory: str) -> Command:
        """One job, or an array, which is not run again; several nodes are several hosts."""
        chunk = f"{request.nodes}:ncpus={request.cores or 1}:mpiprocs={request.tasks_per_node}"
        chunk += f":mem={request.memory_bytes}b" if request.memory_bytes is not None else ""
        chunk += f":ngpus={request.gpus}" if request.gpus else ""
        words = ["qsub", "-S", "/bin/sh", "-r", "n", "-j", "oe", "-o", output]
        words += ["-N", request.name[:15] if request.name[0].isalpha() else f"j{request.name[:14]}"]
        words += ["-l", f"select={chunk}", *(["-l", "place=scatter"] if request.nodes > 1 else [])]
        words += [] if math.isinf(request.time_s) else ["-l", f"walltime={math.ceil(request.time_s / 60) * 60}"]
        words += ["-J", f"1-{request.elements}"] if request.elements else []
        words += ["-v", f"{MARK_VARIABLE}={request.mark}"] if request.mark else []
        words += ["-q", request.partition] if request.partition else []
        words += ["-A", request.account] if request.account else []
        return Command((*words, *check_options(request.options, _REFUSED)), stdin=script, environment=_ENVIRONMENT)

    def read_submitted(self, answer: str) -> Optional[str]:
        """``4711.server``, of an array ``4711[].server``."""
        last = (answer.strip().splitlines() or [""])[-1].strip()
        return last if re.fullmatch(r"\d+(\[\])?(\.[\w.-]+)?", last, re.ASCII) else None

    def element(self, job_id: str, number: int) -> str:
        """``4711[3].server``."""
        return job_id.replace("[]", f"[{number}]", 1)

    def whole(self, element: str) -> str:
        """``4711[].server``."""
        return re.sub(r"\[\d+\]", "[]", element)

    def is_doubtful(self, complaint: str) -> bool:
        """The server has not answered."""
        return (
            re.search(r"timed? ?out|connect|communication|end of file|no reply", complaint, re.IGNORECASE) is not None
        )

    def is_refusal(self, complaint: str) -> bool:
        """Of pbs_error.h, the complaints about what was asked for; that a limit is reached now is not among them."""
        words = r"unknown (queue|resource)|illegal|invalid|unauthorized|access.*denied|bad uid|violates queue.*resource"
        return re.search(words, complaint, re.IGNORECASE) is not None

    def is_unknown_job(self, complaint: str) -> bool:
        """What it says of jobs that have ended."""
        return re.search(r"unknown job|has finished|request invalid for state", complaint, re.IGNORECASE) is not None

    def cancel(self, job_ids: Sequence[str]) -> Command:
        """With SIGTERM, and SIGKILL a while later."""
        return Command(("qdel", *job_ids), environment=_ENVIRONMENT)


def _job(job_id: str, told: Mapping[str, Any]) -> BatchJob:
    native = str(told.get("job_state"))
    phase = JOB_PHASES.get(native, UNKNOWN)
    variables = told.get("Variable_List")
    mark = _text(_table(variables).get(MARK_VARIABLE))
    hosts = dict.fromkeys(part.partition("/")[0] for part in str(told.get("exec_host") or "").split("+") if part)
    outcome, meaning, code = _end(told) if phase == ENDED else (None, None, None)
    return BatchJob(
        job_id,
        phase,
        native,
        _text(told.get("comment")),
        hosts=tuple(hosts),
        mark=mark,
        started_at=_seconds(told.get("stime")) if phase == RUNNING else None,
        outcome=outcome,
        told=meaning,
        exit_code=code,
    )


def _end(told: Mapping[str, Any]) -> tuple[Optional[str], Optional[str], Optional[int]]:
    """The outcome, what it means, and the script's exit code."""
    status = told.get("Exit_status")
    if isinstance(status, bool) or not isinstance(status, int):
        return (CANCELLED, "was deleted", None) if told.get("substate") == _DELETED else (None, None, None)
    if status in _ENDS:
        return FAILED, _ENDS[status], None
    if status < 0:
        return FAILED, f"could not be run (exit status {status})", None
    for base in reversed(_FROM_SIGNALS):
        if base < status <= base + 64:
            return KILLED, f"was deleted, or ended by signal {status - base}", None
    return (FAILED if status else SUCCEEDED), None, status


def _node(name: str, told: Mapping[str, Any], queues: tuple[str, ...]) -> BatchNode:
    has, used = _table(told.get("resources_available")), _table(told.get("resources_assigned"))
    native = str(told.get("state"))
    cores, taken = _count(has.get("ncpus")), _count(used.get("ncpus")) or 0
    states = [NODE_STATES.get(word.strip(), UNKNOWN) for word in native.split(",")]
    worst = min(states, key=(UNKNOWN, DOWN, DRAINING, OFF, RESERVED, BUSY, MIXED, FREE).index)
    state = MIXED if worst == FREE and taken else worst
    free = None if cores is None else max(0, cores - taken)
    return BatchNode(
        name,
        state,
        native,
        cores,
        free,
        _bytes(has.get("mem")),
        _count(has.get("ngpus")),
        queues,
        _text(told.get("comment")),
    )


def _partition(name: str, told: Mapping[str, Any], nodes: Sequence[BatchNode]) -> Partition:
    open_now = told.get("enabled") == "True" and told.get("started") == "True"
    limit = _table(told.get("resources_max")).get("walltime")
    return Partition(
        name,
        UP if open_now else CLOSED,
        "started" if open_now else "stopped",
        time_limit_s=seconds_of(str(limit)) if limit else None,
        nodes=len(nodes),
        nodes_free=sum(node.state == FREE for node in nodes),
        cores=sum(node.cores or 0 for node in nodes),
        cores_free=sum(node.cores_free or 0 for node in nodes),
        node_cores=max((node.cores or 0 for node in nodes), default=None),
        node_memory_bytes=max((node.memory_bytes or 0 for node in nodes), default=None),
        node_gpus=max((node.gpus or 0 for node in nodes), default=None),
    )


def _parsed(text: str) -> dict[str, Any]:
    """An answer; an empty one has nothing in it.

    Raises:
        SiteError: it is none.
    """
    try:
        found = json.loads(text, strict=False) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise SiteError(f"pbs answered what is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _table(value: Any) -> Mapping[str, Any]:
    """A table of an answer; an empty one where something else stands."""
    return value if isinstance(value, Mapping) else {}


def _tables(value: Any) -> dict[str, Mapping[str, Any]]:
    """A table of tables, without what is none."""
    return {name: told for name, told in _table(value).items() if isinstance(told, Mapping)}


def _text(value: Any) -> Optional[str]:
    return value if isinstance(value, str) else None


def _count(value: Any) -> Optional[int]:
    return None if isinstance(value, bool) else count_of(str(value))


def _bytes(text: Any) -> Optional[int]:
    """``4194304kb``: in PBS, kibibytes."""
    return bytes_of(str(text).lower().rstrip("b")) if text else None


def _seconds(text: Any) -> Optional[float]:
    try:
        return float(timegm(strptime(str(text), "%a %b %d %H:%M:%S %Y")))
    except ValueError:
        return None
