"""The call for what a job has printed: from the worker that has it, from the site that it is at, or from what was kept."""

from __future__ import annotations

import asyncio
from typing import Any

from ..config import LOCAL_SITE
from ..errors import InvalidRecord, NotFound
from ..instance import Instance
from ..sites.base import Run
from ..states import JobState
from ..store import queries, stubs
from .call import JSON, Call, Raw
from .selecting import job_meant

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
MAX_WAIT_S = 30.0
NOT_THERE_YET_S = 0.5
"""How long a request for output waits for a job that no worker has at the moment."""
ASK_AGAIN_S = 1.0
"""Who follows an output has its site asked so often while the job prints nothing."""
OUTPUT_S = 60.0
"""So long a site may take to give a piece of an output."""


async def output(instance: Instance, call: Call) -> Raw:
    """A piece of what a job printed."""
    stream = call.value("stream") or "stdout"
    if stream not in ("stdout", "stderr"):
        raise InvalidRecord(f"stream must be stdout or stderr, not {stream!r}")
    offset, limit = int(call.number("offset", 0)), int(call.number("limit", MAX_OUTPUT_BYTES)) or MAX_OUTPUT_BYTES
    limit, wait_s = min(limit, MAX_OUTPUT_BYTES), min(call.number("wait_s", 0), MAX_WAIT_S)
    job = await job_meant(instance, call)
    attempt = int(call.number("attempt", job["attempt"]))
    if not 1 <= attempt <= job["attempt"]:
        raise NotFound(f"there is no attempt {attempt} of job {job['job_id']}", hint=f"it has had {job['attempt']}")
    site = job.get("adopted_at") or job["site"]
    if "elsewhere" in job and "adopted_at" not in job:
        if attempt >= job["attempt"] and not JobState(job["state"]).terminal:
            raise _not_here(job)  # no worker of ours has it, and nobody waits for what only a sync can bring
        return await _kept(instance, job["job_id"], attempt, stream, offset, limit)
    if job["site"] != LOCAL_SITE and _is_kept(job, stream, attempt):
        try:
            return await _kept(instance, job["job_id"], attempt, stream, offset, limit)
        except NotFound:
            if "runner" not in job or "adopted_at" in job:
                raise  # else the instance that has run it has it still
    run = await instance.sites.pillar(site, "run")
    if not run.reports_itself:
        ended = JobState(job["state"]).terminal
        return await _at_site(instance, site, run, job["job_id"], stream, offset, limit, wait_s, ended=ended)
    live = await instance.workers.output(job["job_id"], attempt, stream, offset, limit, wait_s)
    if live is not None:
        data, ended, size = live
        if not ended:
            return _piece(data, offset, size, ended=False)
        return await _kept(instance, job["job_id"], attempt, stream, offset, limit)
    if attempt == job["attempt"] and not JobState(job["state"]).terminal:
        if wait_s:
            with instance.watch.ends() as ends:
                instance.watch.expect(ends, [job["job_id"]])
                await ends.wait(min(wait_s, NOT_THERE_YET_S))
        return _piece(b"", offset, 0, ended=False)
    return await _kept(instance, job["job_id"], attempt, stream, offset, limit)


async def _at_site(
    instance: Instance,
    site: str,
    run: Run,
    job_id: str,
    stream: str,
    offset: int,
    limit: int,
    wait_s: float,
    *,
    ended: bool,
) -> Raw:
    """A piece of what a job has printed at a site that must be asked: again after a moment, while there is nothing new."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        data = await instance.sites.call(site, run.output, job_id, stream, offset, limit, run_s=OUTPUT_S)
        left_s = until - loop.time()
        if data or ended or left_s <= 0:
            return _piece(data, offset, offset + len(data), ended=not data and ended)
        with instance.watch.ends() as ends:
            instance.watch.expect(ends, [job_id])
            await ends.wait(min(left_s, ASK_AGAIN_S))
        job = await instance.writer.read(queries.job, job_id)
        ended = JobState(job["state"]).terminal


def _is_kept(job: JSON, stream: str, attempt: int) -> bool:
    """Whether all that an attempt has printed is here, or nowhere else any more."""
    size = job.get(f"{stream}_bytes")
    whole = size == 0 or (size is not None and size == (job.get(stream) or {}).get("size"))
    return attempt < job["attempt"] or (JobState(job["state"]).terminal and whole)


async def _kept(instance: Instance, job_id: str, attempt: int, stream: str, offset: int, limit: int) -> Raw:
    """A piece of the output of an attempt that has ended."""

    def read(connection: Any) -> tuple[bytes, int, bool]:
        job = queries.job_details(connection, job_id)
        found, settled = job.get(stream), JobState(job["state"]).terminal or attempt < job["attempt"]
        if attempt != job["attempt"]:
            ends = [
                status["ended_attempt"] for status in queries.statuses(connection, job_id) if "ended_attempt" in status
            ]
            found = next((end.get(stream) for end in ends if end["attempt"] == attempt), None)
        if not settled:
            return b"", 0, False
        try:
            return instance.outputs.read(connection, found, offset, limit), int((found or {}).get("size", 0)), True
        except NotFound:
            by, output_bytes = job.get("runner") or job["origin"], int((found or {}).get("size", 0))
            pruned_at = stubs.outputs_pruned_at(connection, by, job["time"], output_bytes)
            if pruned_at is not None:
                where = f" at the instance on {job['elsewhere']}" if "elsewhere" in job else ""
                raise NotFound(
                    f"what job {job_id} has printed was pruned{where} on {pruned_at[:10]}",
                    hint="an instance that had brought it may still have it",
                ) from None
            if "elsewhere" not in job:
                raise
            raise _not_here(job) from None

    data, size, settled = await instance.writer.read(read)
    return _piece(data, offset, size, ended=settled and offset + len(data) >= size)


def _not_here(job: JSON) -> NotFound:
    """What is said where the output of a job of another instance is asked for and was not brought here."""
    when = "" if JobState(job["state"]).terminal else " once it has ended"
    return NotFound(
        f"what job {job['job_id']} has printed is not here: it belongs to the instance on {job['elsewhere']}",
        hint=f"lwfm sync pull {job.get('origin_host') or 'HOST'} --outputs brings it{when}",
    )


def _piece(data: bytes, offset: int, size: int, *, ended: bool) -> Raw:
    headers = {"Lwfm-Offset": str(offset + len(data)), "Lwfm-Size": str(size), "Lwfm-Ended": "1" if ended else "0"}
    return Raw(data, headers)
