"""From what a worker tells to what the thread records: started, ended, with all the facts; and when to try again.

Sources for the meaning of exit codes above 128: POSIX, "Exit Status for Commands" (shells add 128 to a signal's number).
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Mapping
from typing import Any, Optional

from .. import faultpoints, hostlist
from ..clock import utc_now
from ..data.outputs import OutputStore
from ..models import Metasheet
from ..records import JSON
from ..states import JobState
from .recorder import JobNow, Recorder

CUT_OUTPUT = "what it printed may be incomplete: the disk of its node was full while it ran"
_CAUSES_OF_FAILURE = ("time_limit", "memory_limit", "not_started", "lost", "cut_off", "node_lost")
_ACCOUNTED = ("exit_code", "signal", "cpu_seconds", "peak_rss_bytes", "read_bytes", "write_bytes")


def record_started(
    recorder: Recorder, job_id: str, attempt: int, message: Mapping[str, Any], host: str, allocation: str = ""
) -> None:
    """A worker has started the process of a job, on a node of that allocation, if any."""
    job = recorder.job_now(job_id)
    if job is None or job.attempt != attempt:
        return
    if job.state in (JobState.RUNNING, JobState.FINISHING) and job.started:
        return  # told again after a reconnection
    facts: JSON = {"host": host, "native_id": str(message.get("pid")), "started_at": message.get("time")}
    if allocation:
        facts["allocation"] = allocation
    for name in ("cores", "gpus"):
        if message.get(name):
            facts[f"{name}_used"] = message[name]
    if message.get("hosts"):
        facts["hosts"] = hostlist.fold(message["hosts"])
    if job.state is JobState.FINISHING:
        recorder.record_status(
            job, JobState.FINISHING, native_status="cancel requested", reason="cancel requested", **facts
        )
        return
    recorder.record_status(job, JobState.RUNNING, **facts)


def record_ended(
    recorder: Recorder,
    job_id: str,
    attempt: int,
    message: Mapping[str, Any],
    host: str,
    outputs: OutputStore,
    sheets: list[Metasheet],
) -> None:
    """An attempt of a job is over.

    Args:
        recorder: the unit of work.
        job_id, attempt: which. ``message``: as in ``docs/protocol.md``. ``host``: the worker's.
        outputs: where what it printed is kept.
        sheets: its declared inputs and outputs, as they were found.
    """
    job = recorder.job_now(job_id)
    if job is None or job.state.terminal or job.attempt != attempt or not recorder.is_ours(job):
        return
    if message.get("cause") == "cut_off" and not message.get("started") and job.state is JobState.PENDING:
        recorder.record_status(job, JobState.PENDING, reason="had not started when the allocation ended")
        return
    facts = _facts(recorder, message, host, outputs)
    state, reason = verdict(message)
    if message.get("disk_full"):
        reason = f"{reason}; {CUT_OUTPUT}" if reason else CUT_OUTPUT
    for sheet in sheets:
        recorder.record_data({**sheet.to_json(), "job_id": job_id, "workflow_id": job.workflow_id})
    if state is JobState.FAILED and attempt <= job.retries and job.state is not JobState.FINISHING:
        record_retry(recorder, job, reason, facts)
        return
    if message.get("cause") == "lost":
        recorder.record_status(job, JobState.UNKNOWN, reason=reason)
        reason = f"counted as failed, since it did not prove success: {reason}"
    recorder.record_status(job, state, reason=reason, **facts)


def record_lost(recorder: Recorder, job_id: str, attempt: int, reason: str, host: str, outputs: OutputStore) -> None:
    """Nothing more will be learned of an attempt."""
    record_ended(recorder, job_id, attempt, {"cause": "lost", "reason": reason, "time": utc_now()}, host, outputs, [])


def record_retry(recorder: Recorder, job: JobNow, reason: Optional[str], facts: JSON) -> None:
    """The attempt's end and the next one's beginning are one record: at no moment has the job ended."""
    faultpoints.hit("execution.retry")
    recorder.record_status(
        job,
        JobState.PENDING,
        attempt=job.attempt + 1,
        reason=f"attempt {job.attempt} of {job.retries + 1} failed: {reason or 'no reason known'}; trying again",
        ended_attempt={"attempt": job.attempt, "state": "FAILED", "reason": reason, **facts},
    )


def _facts(recorder: Recorder, message: Mapping[str, Any], host: str, outputs: OutputStore) -> JSON:
    facts: JSON = {name: value for name in _ACCOUNTED if (value := message.get(name)) is not None}
    facts["host"] = host
    if message.get("started"):
        facts["started_at"] = message["started"]
    facts["ended_at"] = message.get("time") or utc_now()
    if message.get("cause"):
        facts["native_status"] = message["cause"]
    for stream in ("stdout", "stderr"):
        output = message.get(stream)
        if output and "size" in output:
            facts[f"{stream}_bytes"] = output["size"]
            if output["size"]:
                facts[stream] = _kept(recorder, output, outputs)
    return facts


def _kept(recorder: Recorder, output: Mapping[str, Any], outputs: OutputStore) -> JSON:
    if "data" in output:
        return outputs.keep(recorder.transaction, base64.b64decode(output["data"]))
    return {key: output[key] for key in ("size", "file", "path", "sha256") if key in output}


def verdict(message: Mapping[str, Any]) -> tuple[JobState, Optional[str]]:
    """The state an attempt ended in, and why."""
    cause = message.get("cause")
    given = message.get("reason")
    if cause == "cancel":
        return JobState.CANCELLED, given or "cancelled"
    if cause in _CAUSES_OF_FAILURE:
        return JobState.FAILED, given or str(cause).replace("_", " ")
    if message.get("signal"):
        return JobState.FAILED, given or f"ended by {message['signal']}{_signal_hint(message['signal'])}"
    code = message.get("exit_code")
    if code != 0:
        return JobState.FAILED, given or f"exit code {code}{_code_hint(code)}"
    missing = message.get("missing_outputs") or []
    if missing:
        return JobState.FAILED, "exit code 0, but it did not write its declared output " + ", ".join(missing)
    return JobState.COMPLETE, given


def _signal_hint(name: str) -> str:
    if name == "SIGKILL":
        return ": killed from outside lwfm, for instance by the system when memory ran out"
    return ""


def _code_hint(code: Any) -> str:
    if code == 127:
        return ": the shell did not find a command"
    if code == 126:
        return ": the shell could not run a command"
    if isinstance(code, int) and 128 < code <= 192:
        try:
            return f": a command in it was ended by {signal.Signals(code - 128).name}"
        except ValueError:
            return ""
    return ""
