"""What a report is made of: a workflow's records, asked of the agent, and what follows from them. Shows nothing.

The agent is asked for the list of jobs at once, and for details of a bounded number of them, however large the workflow.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import hostlist
from ..client import Client
from ..client.calls import path_of
from ..clock import utc_text
from ..errors import LwfmError, NotFound
from ..states import TERMINAL
from . import charts
from .text import harmless_lines, why

if TYPE_CHECKING:
    from ..records import JSON

ASKED_ATTEMPTS = 500
"""Jobs of several attempts whose earlier attempts are asked for."""
LISTED_FAILURES = 50
LISTED_DATA = 50
LISTED_HANDLERS = 50
COUNTED = 10_000
"""Data and handlers are counted up to here."""
STDERR_BYTES = 4096
STDERR_LINES = 15
STDERR_WIDTH = 400
OUTPUTS_TIME_S = 10.0
"""How long to go on asking for what failed jobs printed."""
STARTED = ("RUNNING", "FINISHING", "UNKNOWN", "COMPLETE", "FAILED", "CANCELLED")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Run:
    """One attempt of a job, on a node.

    Args:
        job: the job. attempt: which of its attempts. state: how that one stands. reason: why.
        lane: the node; for a job whose node is not known (then it is not ``placed``), the site.
        span: from when to when, in seconds since the epoch (to now while it runs); its weight are the cores.
        going_on: whether it runs now. part: whether this is a further node of a run that has several: only its cores count.
        cpu_seconds, peak_rss_bytes: what was measured of it, 0 where nothing was.
    """

    job: JSON
    attempt: int
    state: str
    reason: str
    lane: str
    placed: bool
    span: charts.Span
    going_on: bool
    cpu_seconds: float
    peak_rss_bytes: int
    part: bool = False

    @property
    def length_s(self) -> float:
        """How long it ran."""
        return self.span.end - self.span.start


@dataclass(frozen=True)
class Node:
    """Where jobs ran.

    Args:
        name: of the node; of the site, for jobs whose node is not known. placed: whether it is a node.
        cores: how many it has. known: whether that is so, or they are only the most that were in use at once.
        there: when it was there, with its cores as weight, within the time of the report; for one of which that is not known,
            all of that time.
    """

    name: str
    cores: float
    known: bool
    placed: bool = True
    there: tuple[charts.Span, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A job that failed, the end of what it printed on standard error, or why that is not there."""

    job: JSON
    stderr: str
    missing: str = ""


@dataclass
class Facts:
    """All that a report tells. What follows from the rest is computed when it is first asked for.

    Args:
        made_at: when it was asked, in seconds since the epoch. context: of the workflow's first job.
        runs: every attempt that is known to have started. skewed: how many seem to have ended before they started.
        untold: how many jobs had earlier attempts that were not asked for.
        data, handlers: the first of them, with how many there are (at most ``COUNTED``).
    """

    workflow: JSON
    agent: JSON
    made_at: float
    context: JSON = field(default_factory=dict)
    jobs: list[JSON] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    skewed: int = 0
    untold: int = 0
    reasons: list[tuple[str, int]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    data: list[JSON] = field(default_factory=list)
    data_count: int = 0
    handlers: list[JSON] = field(default_factory=list)
    handler_count: int = 0

    @cached_property
    def whole_runs(self) -> list[Run]:
        """The runs, each once."""
        return [run for run in self.runs if not run.part]

    @cached_property
    def start(self) -> float:
        """When the first job started; when the report was made, if none has."""
        return min((run.span.start for run in self.runs), default=self.made_at)

    @cached_property
    def end(self) -> float:
        """When the last one ended; the same."""
        return max((run.span.end for run in self.runs), default=self.made_at)

    @property
    def wall_s(self) -> float:
        """From the first start to the last end."""
        return self.end - self.start

    @property
    def core_seconds(self) -> float:
        """Cores times seconds for which jobs had them."""
        return charts.total(run.span for run in self.runs)

    @property
    def core_seconds_there(self) -> float:
        """Cores times seconds that there were, from the first start to the last end."""
        return charts.total(span for node in self.nodes for span in node.there)

    @cached_property
    def counts(self) -> Counter[str]:
        """How many jobs are in each state."""
        return Counter(job["state"] for job in self.jobs)


def collect(client: Client, workflow: JSON) -> Facts:
    """Ask the agent for all that a report on ``workflow`` (its record) tells.

    Raises:
        LwfmError: as any call to the agent. What a failed job printed may be missing without an error.
    """
    identifier = workflow["workflow_id"]
    agent = client.get("/v1/agent")
    jobs: list[JSON] = client.get("/v1/jobs", {"workflow": identifier, "limit": 0})["jobs"]
    facts = Facts(client.get(path_of("workflows", identifier)), agent, time.time())
    facts.jobs = jobs[::-1]  # oldest first
    if facts.jobs:
        facts.context = client.get(path_of("jobs", facts.jobs[0]["job_id"])).get("context") or {}
    _add_runs(client, facts)
    if facts.runs:
        asked = {"since": utc_text(facts.start), "until": utc_text(facts.end), "limit": 0}
        facts.nodes = _nodes(facts, client.get("/v1/nodes", asked)["nodes"])
    failed = sorted((job for job in facts.jobs if job["state"] == "FAILED"), key=_ended)
    facts.reasons = Counter(why(job) or "no reason known" for job in failed).most_common()
    facts.failures = _failures(client, failed[:LISTED_FAILURES])
    data = client.get("/v1/data", {"workflow": identifier, "op": "put", "limit": COUNTED})["data"]
    facts.data, facts.data_count = data[::-1][:LISTED_DATA], len(data)
    handlers = client.get("/v1/handlers", {"workflow": identifier, "limit": COUNTED})["handlers"]
    facts.handlers, facts.handler_count = handlers[::-1][:LISTED_HANDLERS], len(handlers)
    return facts


def seconds(text: Any) -> float | None:
    """A time of a record as seconds since the epoch; None for what is none. Much faster than ``clock.parse_utc``."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (AttributeError, ValueError):
        return None


def lane_of(host: Any, job: JSON) -> str:
    """Where a job is drawn: its node, else its site."""
    return str(host or f"{job.get('site') or 'local'}: node unknown")


def _ended(job: JSON) -> str:
    return str(job.get("ended_at") or job.get("time") or "~")


def _add_runs(client: Client, facts: Facts) -> None:
    asked = 0
    for job in facts.jobs:
        weight = float(job.get("cores", 1))
        if job.get("attempt", 1) > 1:
            asked += 1
            if asked <= ASKED_ATTEMPTS:
                for ended in _earlier_attempts(client, job["job_id"]):
                    _add_run(facts, job, ended, weight)
            else:
                facts.untold += 1
        if job["state"] in STARTED:
            _add_run(facts, job, job, weight)


def _earlier_attempts(client: Client, job_id: str) -> list[JSON]:
    statuses = client.get(path_of("jobs", job_id, "statuses"))["statuses"]
    return [status["ended_attempt"] for status in statuses if isinstance(status.get("ended_attempt"), dict)]


def _add_run(facts: Facts, job: JSON, attempt: JSON, weight: float) -> None:
    """Take notice of one attempt: of ``job`` as it is, or of one that has ended before."""
    started = seconds(attempt.get("started_at"))
    if started is None:
        return
    state = attempt["state"]
    ended = seconds(attempt.get("ended_at")) or (seconds(attempt.get("time")) if state in TERMINAL else None)
    going_on = ended is None
    until = facts.made_at if ended is None else ended
    facts.skewed += until < started
    run = Run(
        job=job,
        attempt=int(attempt.get("attempt", 1)),
        state=state,
        reason=why(attempt),
        lane=lane_of(attempt.get("host"), job),
        placed=bool(attempt.get("host")),
        span=charts.span_of(started, until, weight),
        going_on=going_on,
        cpu_seconds=float(attempt.get("cpu_seconds") or 0.0),
        peak_rss_bytes=int(attempt.get("peak_rss_bytes") or 0),
    )
    facts.runs.append(run)
    for host in _expanded(attempt.get("hosts")):
        if host != run.lane:
            facts.runs.append(replace(run, lane=host, cpu_seconds=0.0, peak_rss_bytes=0, part=True))


def _expanded(hosts: Any) -> list[str]:
    try:
        return hostlist.expand(hosts) if isinstance(hosts, str) else []
    except LwfmError:  # of another release, perhaps: the first node is known anyway
        return []


def _nodes(facts: Facts, changes: list[JSON]) -> list[Node]:
    """The nodes that were there, and those that jobs ran on, by name.

    Args:
        changes: when nodes came and went, oldest first.
    """
    there = _presence(facts, changes)
    lanes: dict[str, list[charts.Span]] = {name: [] for name in there}
    placed = set(there)
    for run in facts.runs:
        lanes.setdefault(run.lane, []).append(run.span)
        if run.placed:
            placed.add(run.lane)
    found = []
    for name in sorted(lanes, key=_natural):
        spans = there.get(name, ())
        cores = max((span.weight for span in spans), default=0.0) or charts.peak(lanes[name])
        whole = (charts.span_of(facts.start, facts.end, cores),)
        found.append(Node(name, cores, bool(spans), name in placed, tuple(spans) or whole))
    return found


def _presence(facts: Facts, changes: list[JSON]) -> dict[str, list[charts.Span]]:
    """By node, when it was there within the time of the report; its cores are the weight."""
    there: dict[str, list[charts.Span]] = {}
    up: dict[str, JSON] = {}

    def close(change: JSON, until: float) -> None:
        start, end = max(seconds(change["time"]) or facts.start, facts.start), min(until, facts.end)
        if end > start:
            there.setdefault(str(change["host"]), []).append(
                charts.span_of(start, end, float(change.get("cores") or 0))
            )

    for change in changes:
        earlier = up.pop(change["worker_id"], None)
        if earlier is not None:
            close(earlier, seconds(change["time"]) or facts.end)
        if change["state"] == "up":
            up[change["worker_id"]] = change
    for change in up.values():
        close(change, facts.end)
    return there


def _natural(name: str) -> list[tuple[int, str]]:
    """An order in which ``n2`` comes before ``n10``."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def _failures(client: Client, failed: list[JSON]) -> list[Failure]:
    until = time.monotonic() + OUTPUTS_TIME_S
    return [_failure(client, job, time.monotonic() < until) for job in failed]


def _failure(client: Client, job: JSON, ask: bool) -> Failure:
    size = job.get("stderr_bytes")
    if size == 0:
        return Failure(job, "")
    if not ask:
        return Failure(job, "", "not asked for: the others took too long")
    query = {"stream": "stderr", "offset": max(0, (size or 0) - STDERR_BYTES), "limit": STDERR_BYTES}
    try:
        text = client.get_bytes(path_of("jobs", job["job_id"], "output"), query).body.decode("utf-8", "replace")
    except NotFound:
        return Failure(job, "", "no longer there")
    except LwfmError as error:  # its site may not be reachable now; the report is worth having without
        return Failure(job, "", error.message)
    return Failure(job, last_lines(text))


def last_lines(text: str) -> str:
    """The last lines of what a job printed, without colours and with other control characters made visible."""
    lines = harmless_lines(_COLOURS.sub("", text)).rstrip("\n").split("\n")[-STDERR_LINES:]
    return "\n".join(line if len(line) <= STDERR_WIDTH else line[: STDERR_WIDTH - 1] + "…" for line in lines)
