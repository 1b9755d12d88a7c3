"""What is asked for in a soak, by callers that do not give up, and a ledger of what was acknowledged.

Every job notes in a journal when it starts and when it has done its work. What is asked for can be asked again when its answer
was lost: jobs have ids of ours, handlers a name, data a number.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, TypeVar

from soak.plan import Step

from lwfm.errors import AgentError, LwfmError

from support.agents import Agent
from support.journals import Journal

T = TypeVar("T")
JSON = dict[str, Any]
INSIST_S = 120.0
PAUSE_S = 0.2


@dataclass
class Ledger:
    """What was acknowledged.

    Attributes:
        jobs: which may end as what. ``handlers``: and the jobs that they are to start. ``data``: the numbers.
        refused: how often something was refused, by the class of the refusal.
    """

    jobs: dict[str, frozenset[str]] = field(default_factory=dict)
    handlers: list[JSON] = field(default_factory=list)
    data: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


ANY = frozenset({"COMPLETE", "FAILED"})
CANCELLED = frozenset({"CANCELLED", "FAILED"})


class Caller:
    """Somebody who asks one instance for things.

    Args:
        agent: with a connection of its own.
    """

    def __init__(self, agent: Agent, journal: Journal, ledger: Ledger) -> None:
        self.agent, self.journal, self.ledger = agent, journal, ledger

    def insist(self, call: Callable[[], T], was_done: Callable[[], T | None] = lambda: None) -> T:
        """Make a call until it is acknowledged.

        Args:
            was_done: looks, after an answer was lost, whether it was done all the same.
        """
        until = time.monotonic() + INSIST_S
        while True:
            try:
                return call()
            except LwfmError as error:
                if not _passes(error):
                    raise
                if time.monotonic() > until:
                    raise AssertionError(f"not taken within {INSIST_S:.0f} s: {error}") from error
                self.ledger.refused[error.code] += 1
                lost = isinstance(error, AgentError)
            time.sleep(PAUSE_S)
            if lost:
                done = self._look(was_done)
                if done is not None:
                    return done

    def _look(self, was_done: Callable[[], T | None]) -> T | None:
        while True:
            try:
                return was_done()
            except LwfmError as error:
                if not _passes(error):
                    raise
            time.sleep(PAUSE_S)

    def submit(self, count: int, body: str, may: frozenset[str] = ANY, site: str = "", **keys: Any) -> list[str]:
        """Submit jobs of one kind."""
        defn = {"command": self.journal.command(body), "cwd": "/", **keys}
        given = [{"job_id": str(uuid.uuid4()), **defn} for _ in range(count)]
        more = {"site": site} if site else {}
        jobs = self.insist(lambda: self.agent.submit_many(given, **more))
        self.ledger.jobs.update(dict.fromkeys(jobs, may))
        return jobs

    def on(self, kind: str, event: JSON, **keys: Any) -> JSON:
        """Set a handler, under a name by which it is found when the answer is lost."""
        name = f"soak-{uuid.uuid4()}"

        def known() -> JSON | None:
            listed = self.agent.client.get("/v1/handlers", {"limit": 0})["handlers"]
            return next((item for item in listed if item["event"].get("name") == name), None)

        handler = self.insist(
            lambda: self.agent.on(kind, {**event, "name": name}, self.journal.command("sleep 0.05"), **keys), known
        )
        self.ledger.handlers.append(handler)
        return handler

    def put(self, number: int) -> None:
        """Record data once."""

        def known() -> str | None:
            found = self.agent.client.get("/v1/data", {"match": f"number={number}"})["data"]
            return str(found[0]["data_id"]) if found else None

        self.insist(lambda: self.agent.put({"kind": "soak", "number": number}), known)
        self.ledger.data.append(number)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs, of which some may have ended by themselves."""
        for job in jobs:
            self.insist(lambda job=job: self._cancel(job))  # type: ignore[misc]

    def _cancel(self, job: str) -> str:
        try:
            self.agent.cancel(job)
        except LwfmError as error:
            if error.code != "Conflict":
                raise
        return job


class Load(threading.Thread):
    """Asks for what the plan says, here and over there.

    Attributes:
        error: what it could not go on from.
    """

    def __init__(self, steps: Sequence[Step], here: Caller, there: Caller, begun: float) -> None:
        super().__init__(daemon=True, name="soak-load")
        self._steps, self._begun = steps, begun
        self._here, self._there = here, there
        self._number = 0
        self._open: list[tuple[Caller, list[str]]] = []
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._doing: dict[str, Callable[[int], None]] = {
            "short jobs": lambda n: self._note(here.submit(8 + n, "sleep 0.1")),
            "retried jobs": lambda n: self._note(here.submit(2 + n // 4, '[ "$LWFM_ATTEMPT" -ge 2 ]', retries=3)),
            "followed jobs": self._follow,
            "data": self._put,
            "array in the queue": lambda n: self._note(here.submit(2 + n // 3, "sleep 0.2", site="queue")),
            "cancelled jobs": self._cancel,
            "jobs over there by ssh": lambda n: self._note(here.submit(2 + n // 3, "sleep 0.2", site="there")),
            "jobs on the allocation": lambda n: self._note(there.submit(8 + n, "sleep 0.1", retries=1)),
            "jobs on two nodes": lambda n: self._note(there.submit(1 + n // 5, "sleep 0.3", resources={"nodes": 2})),
            "jobs that tell": lambda n: self._note(there.submit(1, 'lwfm log "from $LWFM_JOB_ID"')),
            "large output": lambda n: self._note(here.submit(1 + n // 6, "head -c 200000 /dev/zero")),
        }

    def run(self) -> None:
        try:
            self._here.on("data", {"match": {"kind": "soak"}}, repeat=True)
            for step in self._steps:
                time.sleep(max(0.0, self._begun + step.at_s - time.monotonic()))
                self._doing[step.what](int(step.size * 12))
                self.done[step.what] += 1
            self._cancel_open()
        except BaseException as error:
            self.error = error

    def _note(self, jobs: Sequence[str]) -> None:
        del jobs  # they are in the ledger

    def _follow(self, n: int) -> None:
        heads = self._here.submit(1 + n // 3, "sleep 0.1")
        self._here.on("job", {"jobs": heads})

    def _put(self, n: int) -> None:
        for _ in range(1 + n // 3):
            self._number += 1
            self._here.put(self._number)

    def _cancel(self, n: int) -> None:
        """Those of the last time are cancelled now: some run, some wait."""
        self._cancel_open()
        where = self._here if n % 2 else self._there
        self._open.append((where, where.submit(1 + n // 3, "sleep 600", CANCELLED, resources={"cores": 0})))

    def _cancel_open(self) -> None:
        for caller, jobs in self._open:
            caller.cancel(jobs)
        self._open.clear()


def _passes(error: LwfmError) -> bool:
    """Whether to go on asking: the agent is dead at the moment, or cannot accept anything."""
    return error.transient or isinstance(error, AgentError)
