"""The calls that answer when something has changed: when jobs have ended, or when a workflow has come further."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRecord
from ..instance import Instance
from ..recording.bodies import job_ids_of
from ..recording.handlers import active_count
from ..recording.recorder import Recorder
from ..recording.watch import Progress, changed_since
from ..states import JobState
from ..store import queries
from .call import JSON, Call, number_of

MAX_WAIT_S = 60.0
MAX_GATHER_S = 5.0
PROGRESS_PAUSE_S = 0.05
"""How long changes are gathered before who follows is told, unless all has ended."""


async def wait(instance: Instance, call: Call) -> JSON:
    """Answer when the jobs have ended, or the time is up."""
    body = call.body()
    given = job_ids_of(body)
    any_of_them = body.get("mode") == "any"
    timeout_s = min(number_of(body, "timeout_s"), MAX_WAIT_S)
    ids = await until_ended(instance, given, timeout_s, any_of_them=any_of_them)
    found = await instance.writer.read(queries.jobs_by_id, ids)
    ended = [JobState(job["state"]).terminal for job in found]
    return {"jobs": found, "done": any(ended) if any_of_them else all(ended)}


async def until_ended(
    instance: Instance, given: Sequence[str], timeout_s: float, *, any_of_them: bool = False
) -> list[str]:
    """Wait until these jobs have ended, or any of them, but no longer than that.

    Args:
        given: their ids, or the beginnings of these.

    Returns:
        Their ids.

    Raises:
        NotFound: one of them does not exist.
    """
    with instance.watch.ends(any_of_them=any_of_them) as ends:

        def look(recorder: Recorder) -> tuple[list[str], bool]:
            connection = recorder.transaction.connection
            ids = [_whole(connection, job_id) for job_id in given]
            states = _states_of(connection, ids)
            for job_id in ids:
                if job_id not in states:
                    queries.resolve(connection, "job", job_id)
            going_on = [job_id for job_id in ids if not JobState(states[job_id]).terminal]
            wanted = bool(going_on) and not (any_of_them and len(going_on) < len(ids))
            if wanted:
                recorder.effects.also.append(lambda: instance.watch.expect(ends, going_on))
            return ids, wanted

        ids, wanted = await instance.writer.write(look)
        if wanted:
            await ends.wait(timeout_s)
    return ids


def _whole(connection: Any, job_id: str) -> str:
    """The id that ``job_id`` begins; one that is whole is taken for right, which is quicker for many."""
    return job_id if len(job_id) == 36 and job_id.isascii() else queries.resolve(connection, "job", job_id)


def _states_of(connection: Any, ids: list[str]) -> dict[str, str]:
    states: dict[str, str] = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        marks = ",".join("?" * len(part))
        states.update(connection.execute(f"select id, state from jobs where id in ({marks})", part))  # noqa: S608 - only marks
    return states


async def progress(instance: Instance, call: Call) -> JSON:
    """How far the jobs that a workflow has at this instance, or a set of jobs, have come; answers when that has changed."""
    body = call.body() or {name: call.value(name) for name in ("workflow", "jobs", "since", "timeout_s", "gather_s")}
    since, timeout_s = int(number_of(body, "since")), min(number_of(body, "timeout_s"), MAX_WAIT_S)
    if body.get("workflow"):
        workflow = await instance.writer.read(queries.resolve, "workflow", str(body["workflow"]))
        followed = instance.watch.workflow(workflow) or await _follow_workflow(instance, workflow)
    else:
        workflow = None
        followed = await _follow_jobs(instance, body.get("jobs"))
    if since == followed.revision:
        await changed_since(followed, since, timeout_s)
        gather_until = time.monotonic() + min(number_of(body, "gather_s") or PROGRESS_PAUSE_S, MAX_GATHER_S)
        while _active(followed) and time.monotonic() < gather_until:  # noqa: ASYNC110 - each change shall not wake us
            await asyncio.sleep(PROGRESS_PAUSE_S)
    revision = followed.revision
    counts = {state: count for state, count in followed.counts.items() if count}
    active, waiting = _active(followed), 0
    if workflow:
        active = active or await instance.writer.write(active_count, workflow)
        waiting = await instance.writer.read(queries.count_waiting_handlers, workflow)
    return {
        "revision": revision,
        "counts": counts,
        "total": sum(counts.values()),
        "waiting_handlers": waiting,
        "active": active,
    }


def _active(followed: Progress) -> int:
    return sum(followed.counts[state] for state in ("PENDING", "RUNNING", "FINISHING", "UNKNOWN"))


async def _follow_workflow(instance: Instance, workflow: str) -> Progress:
    await instance.writer.read(instance.elsewhere.of)  # which may take a moment, so that it need not below

    def look(recorder: Recorder) -> None:
        counts = queries.own_job_counts(recorder.transaction.connection, instance.elsewhere, workflow)
        recorder.effects.also.append(lambda: followed.append(instance.watch.follow(workflow, counts)))

    followed: list[Progress] = []
    await instance.writer.write(look)
    return followed[0]


async def _follow_jobs(instance: Instance, given: Any) -> Progress:
    ids = given.split(",") if isinstance(given, str) else given
    if not isinstance(ids, list) or not ids or not all(isinstance(job_id, str) for job_id in ids):
        raise InvalidRecord("give a workflow, or the ids of jobs")
    key = hashlib.sha256(",".join(ids).encode("utf-8", "surrogatepass")).hexdigest()
    followed = instance.watch.group(key)
    if followed is not None:
        return followed

    def look(recorder: Recorder) -> None:
        connection = recorder.transaction.connection
        whole = [_whole(connection, job_id) for job_id in ids]
        counts = Counter(_states_of(connection, whole).values())
        recorder.effects.also.append(lambda: groups.append(instance.watch.follow_group(key, whole, counts)))

    groups: list[Progress] = []
    await instance.writer.write(look)
    return groups[0]
