"""``run`` and ``python``: a user's script, followed to the end of all it set going, or just run."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from .. import archive
from ..client.connection import path_of
from ..errors import LwfmError
from ..ids import new_id, short
from ..library.bodies import without_none
from ..library.resuming import VARIABLE as EARLIER_RUNS
from ..library.submission import capture_context
from ..records import JSON
from . import render
from .agent_control import stop_agent, wait_for_all_nodes
from .errors import EXIT_FAILED_JOBS, EXIT_INTERRUPTED
from .foreground import Foreground
from .groups import example
from .node_view import missing_nodes
from .options import json_option, workflow_option
from .progress import Progress, Screen, ask, choose_meter, follow
from .resume import IDENTITY, find_earlier
from .scripts import active_environment, check_script, choose_python, script_environment
from .session import Session
from .signals import ending_signals
from .summary import collect, show
from .text import plural

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_TRIGGER = "LWFM_TRIGGER_"


class _Stopped(KeyboardInterrupt):
    """A signal that asks us to leave."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class _Stops:
    """INT, TERM and HUP as exceptions; while they are held, the first is kept and raised afterwards."""

    def __init__(self) -> None:
        self._held = False
        self._kept: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """A signal has come."""
        if not self._held:
            raise _Stopped(number)
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
            raise _Stopped(self._kept)


@click.command(
    context_settings=PASS_ON,
    epilog=example("lwfm run study.py", "lwfm run --venv ~/env study.py --temperature 0.7"),
)
@workflow_option
@click.option("--name", help="The new workflow's name. [default: the script's]")
@click.option("--python", metavar="PATH", help="The Python to run it with.")
@click.option(
    "--venv", metavar="DIR", help="The virtual environment to run it in. [default, for lwfm.pyz: the active one]"
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the last run of this script with these arguments; what it finished stays.",
)
@click.option("--require-all", is_flag=True, help="In an allocation: run only if all its nodes come up.")
@click.option("--keep-handlers", is_flag=True, help="Leave handlers that still wait for data as they are.")
@click.option("--quiet", "-q", is_flag=True, help="Show neither progress nor summary.")
@json_option
@click.argument("script", type=click.Path())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    session: Session,
    workflow: str | None,
    name: str | None,
    python: str | None,
    venv: str | None,
    resume: bool,
    require_all: bool,
    keep_handlers: bool,
    quiet: bool,
    as_json: bool,
    script: str,
    args: tuple[str, ...],
) -> int:
    """Run a Python script as a workflow, and follow it to its end.

    It has ended when the script, its jobs and all they trigger have ended. ARGS go to the script. The exit code is the
    script's own if that is not 0, else 11 if a job failed, else 0. In an allocation it runs on all nodes that come up, and
    the agent ends with it if it was started for it. With --resume the script runs again in the workflow of its last run, and gets
    what that has made wherever it asks for the same: only what failed, was cancelled or had not been asked for is run. With --json
    the summary is printed as JSON, and what the script prints goes to standard error.
    """
    venv = venv or active_environment(python)
    command = [choose_python(python, venv), check_script(script), *args]
    try:
        if require_all:
            wait_for_all_nodes(session.client)
        identity = shlex.join([os.path.abspath(script), *args])
        earlier = find_earlier(session, identity, workflow) if resume else None
        if resume and earlier is None:
            render.note("lwfm: there is no earlier run of this script to resume; starting anew")
        flow = earlier.flow if earlier else _start_workflow(session, workflow, name or Path(script).stem, script)
        before = (
            earlier.before if earlier else Progress.from_json(ask(session.client, flow["workflow_id"], (), None, 0))
        )
        running = _Run(session, flow["workflow_id"], before, Screen(), identity, earlier.runs if earlier else [])
        return _follow(session, command, running, flow, venv, keep_handlers, quiet, as_json)
    finally:
        _leave_allocation(session)


def _show_missing(session: Session) -> None:
    missing = missing_nodes(session.client.get("/v1/agent"))
    if missing:
        render.note(f"lwfm: without {plural(len(missing), 'node')} that did not come up: {', '.join(missing)}")


def _leave_allocation(session: Session) -> None:
    """In an allocation, the agent that this run has started ends with it, and with it the workers of all nodes."""
    if session.client.has_started_agent:
        with suppress(LwfmError):
            if session.client.get("/v1/agent").get("allocation"):
                stop_agent(session)


def _follow(
    session: Session,
    command: list[str],
    running: _Run,
    flow: JSON,
    venv: str | None,
    keep_handlers: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    stops = _Stops()
    with ending_signals(stops.note):  # TERM and HUP end a run as Ctrl-C does
        try:
            with stops.held():
                running.begin(
                    command, script_environment(session, command[0], venv), sys.stderr if as_json else sys.stdout
                )
            last = running.follow(quiet)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, _Stopped) else signal.SIGINT
            running.interrupt(number)
            return EXIT_INTERRUPTED if number == signal.SIGINT else 128 + number
    made = running.made_workflows()
    unset = 0 if keep_handlers else sum(_close(session, item["workflow_id"]) for item in [flow, *made])
    failed = last.failed > 0
    if as_json or not quiet:
        summary = collect(session.client, [flow, *made], running.job_id, unset)
        summary["script_exit_code"] = running.exit_code
        if as_json:
            render.print_json(summary)
        else:
            show(summary)
            _show_missing(session)
    return running.exit_code or (EXIT_FAILED_JOBS if failed else 0)


class _Run:
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


def _start_workflow(session: Session, given: str | None, name: str, script: str) -> JSON:
    if given is not None:
        known: JSON = session.workflow(given)
        return known
    body = without_none(
        name=name, description=f"lwfm run {os.path.basename(script)}", parent_job=session.context.job_id
    )
    made: JSON = session.client.post("/v1/workflows", body)
    return made


def _close(session: Session, workflow_id: str) -> int:
    """Unset the handlers that still wait for data; how many there were."""
    body = {"reason": "the workflow has ended"}
    answer = session.client.post(path_of("workflows", workflow_id, "close"), body, repeatable=True)
    return len(answer.get("unset", []))


@click.command(
    context_settings=PASS_ON,
    epilog=example("lwfm python look_at_results.py --day 1", "lwfm python -m pytest test_mine.py"),
)
@click.option("--python", metavar="PATH", help="The Python to run it with.")
@click.option(
    "--venv", metavar="DIR", help="The virtual environment to run it in. [default, for lwfm.pyz: the active one]"
)
@click.option("-m", "module", metavar="MODULE", help="Run a module of that Python instead of a script, as pytest.")
@click.argument("words", metavar="[SCRIPT] [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def python(session: Session, python: str | None, venv: str | None, module: str | None, words: tuple[str, ...]) -> None:
    """Run a Python script that can import lwfm. It is not recorded, and nothing is waited for."""
    venv = venv or active_environment(python)
    if module is None:
        if not words:
            raise click.UsageError("Missing argument 'SCRIPT'.")
        words = (check_script(words[0]), *words[1:])
    command = [choose_python(python, venv), *(("-m", module) if module else ()), *words]
    environment = script_environment(session, command[0], venv)
    sys.stdout.flush()
    archive.keep_over_exec()
    os.execve(command[0], command, environment)  # noqa: S606 (no shell, and this is what is asked for)
