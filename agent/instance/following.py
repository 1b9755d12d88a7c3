"""What follows from a unit of work: at its end in the same transaction, and once it is durable."""

from __future__ import annotations

from ..config import LOCAL_SITE
from ..placing.dispatcher import Dispatcher
from ..polled import handover
from ..recording import recovery
from ..recording.attached import AttachedJobs
from ..recording.attached import release as release_attached
from ..recording.events import Rules
from ..recording.recorder import Effects, Recorder
from ..recording.requests import RequestBuilder
from ..recording.service import Service
from ..recording.watch import Watch
from ..states import JobState
from .forgetting import Forgetting
from .sites import Sites

CROWD = 32


class Following:
    """What the writer calls.

    Args:
        rules, service: what they have learned from a unit of work is forgotten when it was undone.
        watch: wakes who waits. ``forgetting``: the secrets of what has ended. ``attached``: jobs that their callers run.
        builder: what pending jobs ask of their sites. ``sites``, ``dispatcher``: where they go.
    """

    def __init__(
        self,
        rules: Rules,
        service: Service,
        watch: Watch,
        forgetting: Forgetting,
        attached: AttachedJobs,
        builder: RequestBuilder,
        sites: Sites,
        dispatcher: Dispatcher,
    ):
        self._rules = rules
        self._service = service
        self._watch = watch
        self._forgetting = forgetting
        self._attached = attached
        self._builder = builder
        self._sites = sites
        self._dispatcher = dispatcher

    def complete(self, recorder: Recorder) -> None:
        """At its end: what its pending jobs ask of their sites; what jobs that have ended had is free with the same transaction."""
        pending = recorder.effects.pending
        if pending:
            built = self._builder.build(recorder.transaction.connection, pending)
            recorder.effects.requests = built
            ours = [item.request for item in built if self._sites.reports_itself(item.site)]
            for worker_id, jobs in self._dispatcher.reserve(ours).items():
                recovery.claim(recorder, worker_id, jobs)
        for change in recorder.effects.changes:
            if change.after.terminal and change.before is not JobState.READY:
                release_attached(recorder, change.job_id)
                if change.here and change.site != LOCAL_SITE and not self._sites.reports_itself(change.site):
                    handover.release(recorder, change.job_id)

    def durable(self, effects: Effects) -> None:
        """It is durable: wake who waits, forget what has ended, hand on what is pending."""
        self._watch.note(effects.changes)
        if effects.handlers_changed:
            self._watch.touch_all()
            self._forgetting.used(effects.handlers_used)
        for change in effects.changes:
            if change.after.terminal:
                self._forgetting.ended(change.job_id)
                self._attached.forget(change.job_id)
                self._sites.polled.forget(change.site, change.job_id)
                if change.after is JobState.CANCELLED:
                    self._dispatcher.forget(change.job_id, change.attempt, "cancelled")
        if effects.requests:
            self._dispatcher.launch([item.request for item in effects.requests])
            self._sites.submit(effects.requests)
        for call in effects.also:
            call()

    def undone(self) -> None:
        """It was undone."""
        self._rules.reset()
        self._service.reset()
        self._dispatcher.release()

    def is_crowded(self) -> bool:
        """Whether so many jobs are under way that none is waited for by itself."""
        return len(self._dispatcher.flights) + self._dispatcher.waiting > CROWD
