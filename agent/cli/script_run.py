"""A user's script as a job of its workflow: recorded, started, followed with all that it sets going, and stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..client.calls import path_of
from ..errors import LwfmError
from ..ids import new_id, short
from ..library.bodies import without_none
from ..library.resuming import VARIABLE as EARLIER_RUNS
from ..library.submission import capture_context
from ..records import JSON
from . import render
from .foreground import Foreground
from .progress import Progress, ask, choose_meter, follow
from .resume import IDENTITY
from .screen import Screen
from .session import Session
from .text import plural

_TRIGGER = "LWFM_TRIGGER_"


class Stopped(KeyboardInterrupt):
    """A signal that asks us to leave."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Stops:
    """INT, TERM and HUP as exceptions; while they are held, the first is kept and raised afterwards."""

    def __init__(self) -> None:
        self._held = False
        self._kept: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """A signal has come."""
        if not self._held:
            raise Stopped(number)
        self._kept = self._kept or number

    @contextmanager
    def held(self) -> Iterator[None]:
        """For what must not be left half done."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._kept is not None:
            raise Stopped(self._kept)


class ScriptRun:
    """The script's job, from its start to its end.

    Args:
        before: the jobs of the workflow that are not this run's. ``identity``: the script and its arguments.
        earlier: the jobs that were the runs this one resumes.
    """

    def __init__(
        self, session: Session, workflow_id: str, before: Progress, screen: Screen, identity: str, earlier: list[str]
    ):
        self._client = session.client
        self._parent = session.context.job_id
        self._workflow_id = workflow_id
        self._before = before
        self._screen = screen
        self._identity = identity
        self._earlier = earlier
        self._script: Foreground | None = None
        self._finisher: threading.Thread | None = None
        self._stopped_by: str | None = None
        self._finish_error: LwfmError | None = None
        self.job_id = new_id()

    @property
    def exit_code(self) -> int:
        """The script's, as a shell gives it."""
        return self._script.exit_code if self._script is not None else 0

    def begin(self, command: list[str], environment: dict[str, str], output: Any) -> None:
        """Record the script as a job, and start it."""
        definition: JSON = {"job_id": self.job_id, "command": command, "name": Path(command[1]).name}
        definition["meta"] = {IDENTITY: self._identity}
        body = without_none(
            context=capture_context(),
            workflow=self._workflow_id,
            parent=self._parent,
            site="local",
            definition={**definition, "resources": {"cores": 0}},
            pid=os.getpid(),
        )
        self._client.post("/v1/jobs/attach", body, repeatable=True)
        own = {key: value for key, value in environment.items() if not key.startswith(_TRIGGER) and key != EARLIER_RUNS}
        if self._earlier:
            own[EARLIER_RUNS] = ",".join(self._earlier)
        own.update(LWFM_JOB_ID=self.job_id, LWFM_WORKFLOW_ID=self._workflow_id, LWFM_ATTEMPT="1")
        try:
            self._script = Foreground(command, own, self._screen, output)
        except LwfmError as error:
            self._post_finish({"cause": "not_started", "reason": error.message})
            raise
        self._finisher = threading.Thread(target=self._finish, name="lwfm-finish", daemon=True)
        self._finisher.start()

    def follow(self, quiet: bool) -> Progress:
        """Show progress until nothing is active any more; how far it came, without what was there before."""
        meter = choose_meter(self._screen, quiet=quiet)
        try:
            last = self._follow_all(meter, quiet)
        except LwfmError as error:  # the script goes on without an agent; see whether there is one again when it ends
            if self._script is None or not self._script.running:
                raise
            render.note(f"lwfm: {error.message}; the script runs on")
            self._script.wait()
            last = self._follow_all(meter, quiet)
        self._wait_finished()
        return last

    def made_workflows(self) -> list[JSON]:
        """The workflows that the script made, beside the one it runs in, which it may have described anew."""
        found = self._client.get("/v1/workflows", {"parent": self.job_id, "limit": 0})["workflows"]
        return [made for made in found if made["workflow_id"] != self._workflow_id]

    def interrupt(self, number: int) -> None:
        """Stop the script, then what it set going. A second interrupt leaves at once."""
        self._stopped_by = signal.Signals(number).name
        render.note("lwfm: stopping the script and its jobs (Ctrl-C again to leave at once)")
        if self._script is not None:
            self._script.stop(number)
        self._wait_finished()
        reason = f"lwfm run was stopped by {self._stopped_by}"
        cancelled = 0
        for workflow_id in [self._workflow_id, *(made["workflow_id"] for made in self.made_workflows())]:
            body = {"workflow": workflow_id, "reason": reason}
            cancelled += int(self._client.post("/v1/jobs/cancel", body, repeatable=True)["cancelled"])
            self._client.post(path_of("workflows", workflow_id, "close"), {"reason": reason}, repeatable=True)
        render.note(f"lwfm: stopped; {plural(cancelled, 'job')} cancelled")
        render.note(f"  → lwfm job list --workflow {short(self._workflow_id)}")

    def _follow_all(self, meter: Any, quiet: bool) -> Progress:
        """Follow the run's workflow and those its script made, in turns, until none is active."""
        last = self._follow_jobs(meter)
        while True:
            others = Progress()
            for made in self.made_workflows():
                meter = choose_meter(self._screen, quiet=quiet)
                so_far = last.plus(others)
                part = follow(
                    self._client,
                    meter,
                    _is_over,
                    workflow=made["workflow_id"],
                    baseline=so_far.plus,
                )
                others = part.less(last)
            if not others.total:
                return last
            if Progress.from_json(ask(self._client, self._workflow_id, (), None, 0)).active == 0:
                return last.plus(others)
            last = self._follow_jobs(choose_meter(self._screen, quiet=quiet))

    def _follow_jobs(self, meter: Any) -> Progress:
        return follow(
            self._client,
            meter,
            _is_over,
            workflow=self._workflow_id,
            baseline=lambda seen: seen.less(self._before).less(self._own_count()),
        )

    def _own_count(self) -> Progress:
        """The script's own job, which is not counted among the jobs."""
        if self._finisher is None or self._finisher.is_alive():
            return Progress({"RUNNING": 1}, 1)
        state = "CANCELLED" if self._stopped_by else "FAILED" if self.exit_code else "COMPLETE"
        return Progress({state: 1}, 1)

    def _finish(self) -> None:
        """In a thread: report the script's end as soon as it comes, which wakes whoever follows progress."""
        assert self._script is not None
        self._script.wait()
        outcome = self._script.outcome()
        if self._stopped_by:
            outcome.update(cause="cancel", reason=f"lwfm run was stopped by {self._stopped_by}")
        try:
            self._post_finish(outcome)
        except LwfmError as error:
            self._finish_error = error

    def _post_finish(self, outcome: JSON) -> None:
        self._client.post(path_of("jobs", self.job_id, "finish"), outcome, repeatable=True)

    def _wait_finished(self) -> None:
        if self._finisher is not None:
            self._finisher.join()
        if self._finish_error is not None:
            raise self._finish_error


def _is_over(seen: Progress) -> bool:
    return seen.active == 0
