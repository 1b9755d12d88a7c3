"""Who waits for what, in the agent's event loop: woken by what was recorded, never by a clock.

``Watch`` is told every change of state once it is durable. It wakes those that wait for jobs to end and those that follow
the progress of a workflow or of a set of jobs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Optional

from .recorder import StatusChange
from .states import JobState

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
    """Those who wait, by what they wait for."""

    def __init__(self) -> None:
        self._ends: dict[str, set[asyncio.Event]] = {}
        self._workflows: dict[str, Progress] = {}
        self._groups: OrderedDict[str, tuple[Progress, list[str]]] = OrderedDict()
        self._groups_of: dict[str, list[Progress]] = {}

    def note(self, changes: Iterable[StatusChange]) -> None:
        """These changes are durable."""
        for change in changes:
            if change.workflow_id in self._workflows:
                self._workflows[change.workflow_id].note(change.before, change.after)
            for progress in self._groups_of.get(change.job_id, ()):
                progress.note(change.before, change.after)
            if change.after.terminal:
                for event in self._ends.pop(change.job_id, ()):
                    event.set()

    def touch_all(self) -> None:
        """Handlers have changed: who follows a workflow shall look again."""
        for progress in self._workflows.values():
            progress.touch()

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
        progress = Progress(Counter(counts))
        self._groups[key] = (progress, list(job_ids))
        for job_id in job_ids:
            self._groups_of.setdefault(job_id, []).append(progress)
        if len(self._groups) > MAX_GROUPS:
            _, (oldest, members) = self._groups.popitem(last=False)
            for job_id in members:
                left = [item for item in self._groups_of[job_id] if item is not oldest]
                self._groups_of[job_id] = left
                if not left:
                    del self._groups_of[job_id]
        return progress

    async def ended(self, job_ids: Sequence[str], *, any_of_them: bool, timeout_s: float) -> None:
        """Wait until all of these jobs, none of which had ended when this was called, have ended; or any; or the time is up."""
        event = asyncio.Event()
        waiting = set(job_ids)
        for job_id in waiting:
            self._ends.setdefault(job_id, set()).add(event)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            while waiting and loop.time() < deadline:
                try:
                    await asyncio.wait_for(event.wait(), deadline - loop.time())
                except asyncio.TimeoutError:
                    return
                event.clear()
                waiting = {job_id for job_id in waiting if event in self._ends.get(job_id, ())}
                if any_of_them:
                    return
        finally:
            for job_id in job_ids:
                events = self._ends.get(job_id)
                if events is not None:
                    events.discard(event)
                    if not events:
                        del self._ends[job_id]


async def changed_since(progress: Progress, revision: int, timeout_s: float) -> None:
    """Wait until ``progress`` is beyond ``revision``, or the time is up."""
    if progress.revision > revision:
        return
    try:
        await asyncio.wait_for(progress.changed.wait(), timeout_s)
    except asyncio.TimeoutError:
        return
