"""The jobs of one site that must be asked: which wait in the agent, which may be there, which are. Pure; ids only.

What is recorded of a job is the store's. This is what the agent has in mind, and can be told again from the store.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple, Optional

MISSED = 3
"""A job that the site has not known in so many questions, one after the other, is not there any more."""


class Waiting(NamedTuple):
    """A job that is to be handed over: those of higher priority first, then the older ones. ``movable``: it names other sites."""

    job_id: str
    attempt: int = 1
    priority: int = 0
    movable: bool = False


class Backlog:
    """What is with one site, and what is to go there.

    Attributes:
        doubtful: handed over, perhaps. ``there``: the site has them, and in how many questions it did not know them.
        cancels: what the site is to be told to stop: attempt and reason.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._order: list[tuple[int, str]] = []
        self.doubtful: dict[str, Waiting] = {}
        self.there: dict[str, int] = {}
        self.cancels: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self.doubtful) + len(self.there) + len(self.cancels)

    @property
    def waiting(self) -> int:
        """How many wait in the agent."""
        return len(self._waiting)

    @property
    def with_site(self) -> int:
        """How many are with the site, those among them that perhaps are."""
        return len(self.doubtful) + len(self.there)

    def add(self, job: Waiting) -> None:
        """A job is to be handed over; nothing of it is with the site."""
        self.there.pop(job.job_id, None)
        self.doubtful.pop(job.job_id, None)
        self._waiting[job.job_id] = job
        heapq.heappush(self._order, (-job.priority, job.job_id))

    def waits(self, job_id: str) -> bool:
        """Whether a job waits here."""
        return job_id in self._waiting

    def room(self, max_jobs: Optional[int]) -> int:
        """How many can be handed over now, where so many may be there at once."""
        return self.waiting if max_jobs is None else max(0, min(self.waiting, max_jobs - self.with_site))

    def hand(self, count: int) -> list[Waiting]:
        """The next jobs, which are about to be handed over: until the site says something, nobody knows."""
        taken: list[Waiting] = []
        while len(taken) < count and self._order:
            priority, job_id = heapq.heappop(self._order)
            job = self._waiting.get(job_id)
            if job is not None and job.priority == -priority:
                del self._waiting[job_id]
                self.doubtful[job_id] = job
                taken.append(job)
        return taken

    def first(self, count: int) -> list[str]:
        """The ids of those that come next."""
        ordered = heapq.nsmallest(count, self._order) if count < len(self._order) else sorted(self._order)
        return [job_id for job_id in dict.fromkeys(job_id for _, job_id in ordered) if job_id in self._waiting]

    def movable(self) -> list[str]:
        """Those that wait and may go to another site, in their order."""
        return [job_id for job_id in self.first(self.waiting) if self._waiting[job_id].movable]

    def wait_again(self, job_id: str) -> None:
        """A job that was in doubt is to be handed over (again)."""
        job = self.doubtful.pop(job_id, None)
        if job is not None:
            self.add(job)

    def known(self, job_id: str) -> None:
        """The site has said that it has the job."""
        self.doubtful.pop(job_id, None)
        self.there[job_id] = 0

    def missed(self, job_id: str) -> bool:
        """The site did not know a job that it had; whether that has now been so often enough."""
        if job_id not in self.there:
            return False
        self.there[job_id] += 1
        return self.there[job_id] >= MISSED

    def forget(self, job_id: str) -> None:
        """The job has ended, or goes elsewhere."""
        self._waiting.pop(job_id, None)
        self.doubtful.pop(job_id, None)
        self.there.pop(job_id, None)
        self.cancels.pop(job_id, None)
