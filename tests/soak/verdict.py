"""What a soak has shown: what the instances have recorded, held against the journal of the jobs and what was acknowledged."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from soak.load import Ledger

from support.journals import Journal, Line

TERMINAL = frozenset({"COMPLETE", "FAILED", "CANCELLED"})
SHOWN = 10
KINDS = ("lost", "doubled", "false COMPLETE", "leaked processes", "unsound")
Query = Callable[[str], Sequence[Sequence[Any]]]


@dataclass
class Verdict:
    """What was found wrong, by kind; and how the jobs ended."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not any(self.wrong.values())

    def add(self, kind: str, found: Iterable[str]) -> None:
        self.wrong[kind].extend(found)


def judge(journal: Journal, ledgers: Sequence[Ledger], query: Query) -> Verdict:
    """Judge what is recorded.

    Args:
        query: of the store that both instances have by now.
    """
    verdict, lines = Verdict(), journal.lines()
    jobs = {row[0]: (row[1], row[2], row[3] or "") for row in query("select id, state, attempt, reason from jobs")}
    _judge_ends(verdict, jobs, ledgers)
    _judge_runs(verdict, jobs, lines)
    recorded: dict[str, set[str]] = defaultdict(set)
    for job, state in query("select job_id, state from statuses"):
        if state in TERMINAL:
            recorded[job].add(state)
    verdict.add("doubled", (f"job {job} ended as {sorted(ends)}" for job, ends in recorded.items() if len(ends) > 1))
    _judge_handlers(verdict, jobs, ledgers, query)
    _judge_data(verdict, ledgers, query)
    return verdict


def _judge_ends(verdict: Verdict, jobs: dict[str, tuple[str, int, str]], ledgers: Sequence[Ledger]) -> None:
    for job, may in ((job, may) for ledger in ledgers for job, may in ledger.jobs.items()):
        if job not in jobs:
            verdict.add("lost", [f"job {job} was acknowledged, and is not there"])
        elif jobs[job][0] in TERMINAL and jobs[job][0] not in may:
            verdict.add("unsound", [f"job {job} ended as {jobs[job][0]} ({jobs[job][2]}), not as {sorted(may)}"])
    for job, (state, _, reason) in jobs.items():
        verdict.states[state] += 1
        if state not in TERMINAL and state != "READY":
            verdict.add("lost", [f"job {job} has not ended: {state} ({reason})"])
        if state == "FAILED":
            verdict.reasons[_kind_of(reason)] += 1
            if not reason:
                verdict.add("unsound", [f"job {job} failed, nobody says why"])


def _judge_runs(verdict: Verdict, jobs: dict[str, tuple[str, int, str]], lines: Sequence[Line]) -> None:
    starts = Counter((line.job, line.attempt) for line in lines if line.what == "start")
    ends: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if line.what == "end":
            ends[line.job].append(line.attempt)
    verdict.add("doubled", (f"attempt {key} was started {count} times" for key, count in starts.items() if count > 1))
    verdict.add("lost", (f"job {job} ran, and nobody knows it" for job in {job for job, _ in starts} - set(jobs)))
    for job, (state, attempt, _) in jobs.items():
        if any(done != attempt for done in ends[job]):
            verdict.add("doubled", [f"job {job} ran again after it had succeeded: {ends[job]}, attempt {attempt}"])
        if state == "COMPLETE" and attempt not in ends[job]:
            verdict.add("false COMPLETE", [f"job {job}, attempt {attempt}: it has done {ends[job]}"])


def _judge_handlers(
    verdict: Verdict, jobs: dict[str, tuple[str, int, str]], ledgers: Sequence[Ledger], query: Query
) -> None:
    known = {row[0]: row[1:] for row in query("select id, kind, fired, state, event from handlers")}
    for handler in (handler for ledger in ledgers for handler in ledger.handlers):
        found = known.get(handler["handler_id"])
        if found is None:
            verdict.add("lost", [f"handler {handler['handler_id']} was acknowledged, and is not there"])
            continue
        kind, fired, state, event = found
        if kind == "job":
            well = all(jobs[job][0] == "COMPLETE" for job in json.loads(event)["jobs"])
            if fired != int(well):
                verdict.add("lost" if well else "doubled", [f"handler {handler['handler_id']} fired {fired}: {state}"])
    firings = Counter(
        (body["handler_id"], body["trigger_id"])
        for body in (json.loads(row[0]) for row in query("select body from log where kind = 'firing'"))
    )
    verdict.add("doubled", (f"{key} fired {count} times" for key, count in firings.items() if count > 1))


def _judge_data(verdict: Verdict, ledgers: Sequence[Ledger], query: Query) -> None:
    rows = query("select id, properties from metasheets where op = 'event'")
    numbers = Counter(json.loads(row[1]).get("number") for row in rows)
    acknowledged = {number for ledger in ledgers for number in ledger.data}
    verdict.add("lost", (f"data {number} was acknowledged, and is not there" for number in acknowledged - set(numbers)))
    verdict.add("doubled", (f"data {number} is there {count} times" for number, count in numbers.items() if count > 1))
    fired = {row[0] for row in query("select trigger_id from firings where trigger_data is not null")}
    verdict.add("lost", (f"data {row[0]} fired no handler" for row in rows if row[0] not in fired))


def _kind_of(reason: str) -> str:
    """A reason without what differs from job to job."""
    words = [word for word in reason.split() if not any(sign.isdigit() for sign in word) or len(word) < 4]
    return " ".join(words)[:90] or "(none)"
