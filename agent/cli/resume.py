"""Finding what ``lwfm run --resume`` goes on with: the last runs of the same script with the same arguments, at this instance."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..client.calls import path_of
from ..clock import parse_utc
from ..errors import Conflict
from ..states import TERMINAL
from .progress import Progress
from .session import Session
from .tally import own_counts

if TYPE_CHECKING:
    from ..records import JSON

IDENTITY = "script"
"""The property of a run's job that tells which script it is, with its arguments."""
SETTLED_S = 15.0
"""So long after its start an agent knows what became of what others executed while there was none."""
ENDED_S = 60.0
"""So long after its start an agent is waited for to know of earlier allocations whether they have ended: nodes are cleaned up."""
LOOK_AGAIN_S = 0.25


@dataclass(frozen=True)
class Earlier:
    """What is resumed.

    Args:
        flow: the workflow. ``runs``: the jobs that were the earlier runs, oldest first.
        before: its jobs that are not counted as this run's: those runs, and what has failed or was cancelled by now.
    """

    flow: JSON
    runs: list[str]
    before: Progress


def find_earlier(session: Session, identity: str, workflow: str | None) -> Earlier | None:
    """The earlier runs of a script, in the given workflow or that of the last one; None when there are none.

    Raises:
        Conflict: the last one has not ended.
    """
    query: JSON = {"match": [f"{IDENTITY}=={identity}"], "origin": "here", "limit": 0}
    if workflow is not None:
        query["workflow"] = session.workflow_id(workflow)
    found = session.client.get("/v1/jobs", query)["jobs"]
    if not found or not found[0].get("workflow_id"):
        return None
    _wait_for_allocations(session)
    last = _settled(session, found[0])
    found[0] = last
    if last["state"] not in TERMINAL:
        raise Conflict(
            f"the last run of this script has not ended: job {last['job_id']} is {last['state']} on {last.get('host')}",
            hint="wait for it, or end it: lwfm job cancel",
        )
    flow = session.workflow(last["workflow_id"])
    runs = [job for job in found if job.get("workflow_id") == last["workflow_id"]]
    counts = Counter(job["state"] for job in runs if job["state"] == "COMPLETE")
    here = own_counts(flow)
    counts.update({state: here.get(state, 0) for state in ("FAILED", "CANCELLED")})
    before = Progress({state: count for state, count in counts.items() if count}, sum(counts.values()))
    return Earlier(flow, [job["job_id"] for job in reversed(runs)], before)


def _wait_for_allocations(session: Session) -> None:
    """Until an agent that has just begun knows of earlier allocations whether they have ended: what ran there runs again then."""
    while True:
        agent = session.client.get("/v1/agent")
        if not agent.get("settling") or time.time() - parse_utc(agent["started_at"]) > ENDED_S:
            return
        time.sleep(LOOK_AGAIN_S)


def _settled(session: Session, job: JSON) -> JSON:
    """The job, when an agent that has just begun has seen whether what executed it is still there."""
    if job["state"] in TERMINAL:
        return job
    began = parse_utc(session.client.get("/v1/agent")["started_at"])
    while job["state"] not in TERMINAL and time.time() - began < SETTLED_S:
        time.sleep(LOOK_AGAIN_S)
        job = session.client.get(path_of("jobs", job["job_id"]))
    return job
