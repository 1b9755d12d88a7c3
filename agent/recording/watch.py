"""Who waits for what, in the agent's event loop: woken by what was recorded, never by a clock.

``Watch`` is told every change of state once it is durable. It wakes those that wait for jobs to end and those that follow
the progress of a workflow or of a set of jobs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Optional

from ..states import JobState
from .recorder import StatusChange

MAX_GROUPS = 64


@dataclass
class Progress:
    """The states of a group of jobs, counted.

    Args:
        counts: how many jobs are in each state. ``revision``: rises with every change.
    """

    counts: Counter[str]
    revision: int = 1
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, before: Optional[JobState], after: JobState) -> None:
        """One job of the group has changed."""
        if before is not None:
            self.counts[before.value] -= 1
        self.counts[after.value] += 1
        self.touch()

    def touch(self) -> None:
        """Something about the group has changed."""
        self.revision += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Watch:
    """Those who wait, by what they wait for.

    Of a workflow the jobs of this instance are followed: what others do may be told in a second, or never. Who names a job waits
    for it wherever it is.
    """

    def __init__(self) -> None:
        self._ends: dict[str, set[Ends]] = {}
        self._workflows: dict[str, Progress] = {}
        self._groups: OrderedDict[str, tuple[Progress, list[str]]] = OrderedDict()
        self._groups_of: dict[str, list[Progress]] = {}

    def note(self, changes: Iterable[StatusChange]) -> None:
        """These changes are durable."""
        for change in changes:
            if change.here and change.workflow_id in self._workflows:
                self._workflows[change.workflow_id].note(change.before, change.after)
            for progress in self._groups_of.get(change.job_id, ()):
                progress.note(change.before, change.after)
            if change.after.terminal:
                for ends in self._ends.pop(change.job_id, ()):
                    ends.note(change.job_id)

    def touch_all(self) -> None:
        """Handlers have changed: who follows a workflow shall look again."""
        for progress in self._workflows.values():
            progress.touch()

    def reset(self) -> None:
        """Jobs are of this instance that were not, or the other way: what is followed is counted anew when it is asked for next."""
        groups = [progress for progress, _ in self._groups.values()]
        for progress in [*self._workflows.values(), *groups]:
            progress.touch()
        self._workflows.clear()
        self._groups.clear()
        self._groups_of.clear()

    def workflow(self, workflow_id: str) -> Optional[Progress]:
        """The progress of a workflow, if it is followed already."""
        return self._workflows.get(workflow_id)

    def follow(self, workflow_id: str, counts: dict[str, int]) -> Progress:
        """Follow a workflow from now on; ``counts`` as the store had them at this moment."""
        return self._workflows.setdefault(workflow_id, Progress(Counter(counts)))

    def group(self, key: str) -> Optional[Progress]:
        """The progress of a set of jobs, if it is followed already under ``key``."""
        found = self._groups.get(key)
        return found[0] if found else None

    def follow_group(self, key: str, job_ids: Sequence[str], counts: dict[str, int]) -> Progress:
        """Follow a set of jobs from now on; ``counts`` as the store had them at this moment. The oldest set is forgotten."""
        known = self.group(key)
        if known is not None:
            return known
        progress = Progress(Counter(counts))
        members = list(dict.fromkeys(job_ids))
        self._groups[key] = (progress, members)
        for job_id in members:
            self._groups_of.setdefault(job_id, []).append(progress)
        if len(self._groups) > MAX_GROUPS:
            _, (oldest, members) = self._groups.popitem(last=False)
            for job_id in members:
                left = [item for item in self._groups_of[job_id] if item is not oldest]
                self._groups_of[job_id] = left
                if not left:
                    del self._groups_of[job_id]
        return progress

    @contextmanager
    def ends(self, *, any_of_them: bool = False) -> Iterator[Ends]:
        """Wait for the ends of jobs within this block: tell which with :meth:`expect`, then ``wait``."""
        ends = Ends(any_of_them)
        try:
            yield ends
        finally:
            for job_id in ends.awaited:
                interested = self._ends.get(job_id)
                if interested is not None:
                    interested.discard(ends)
                    if not interested:
                        del self._ends[job_id]

    def expect(self, ends: Ends, job_ids: Iterable[str]) -> None:
        """From now on ``ends`` notices the end of these jobs, none of which has ended as far as has been noted here."""
        for job_id in job_ids:
            ends.awaited.add(job_id)
            self._ends.setdefault(job_id, set()).add(ends)


class Ends:
    """Somebody who waits for all of some jobs to end, or for any of them."""

    def __init__(self, any_of_them: bool):
        self.awaited: set[str] = set()
        self._any_of_them = any_of_them
        self._enough = asyncio.Event()

    def note(self, job_id: str) -> None:
        """One of them has ended."""
        self.awaited.discard(job_id)
        if self._any_of_them or not self.awaited:
            self._enough.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until they have ended, or the time is up."""
        try:
            await asyncio.wait_for(self._enough.wait(), timeout_s)
        except asyncio.TimeoutError:
            return


async def changed_since(progress: Progress, revision: int, timeout_s: float) -> None:
    """Wait until ``progress`` is at another revision, or the time is up. (A lower one: the agent was started again.)"""
    if progress.revision != revision:
        return
    try:
        await asyncio.wait_for(progress.changed.wait(), timeout_s)
    except asyncio.TimeoutError:
        return
