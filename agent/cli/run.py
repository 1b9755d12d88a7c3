"""``run`` and ``python``: a user's script, followed to the end of all it set going, or just run."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import click

from .. import archive
from ..client.calls import path_of
from ..errors import LwfmError
from ..library.bodies import without_none
from ..records import JSON
from . import render
from .agent_control import stop_agent, wait_for_all_nodes
from .errors import EXIT_FAILED_JOBS, EXIT_INTERRUPTED
from .groups import example
from .node_view import missing_nodes
from .options import json_option, workflow_option
from .progress import Progress, ask
from .resume import find_earlier
from .screen import Screen
from .script_run import ScriptRun, Stopped, Stops
from .scripts import active_environment, check_script, choose_python, script_environment
from .session import Session
from .signals import ending_signals
from .summary import collect, show
from .text import plural

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


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
        running = ScriptRun(session, flow["workflow_id"], before, Screen(), identity, earlier.runs if earlier else [])
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
    running: ScriptRun,
    flow: JSON,
    venv: str | None,
    keep_handlers: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    stops = Stops()
    with ending_signals(stops.note):  # TERM and HUP end a run as Ctrl-C does
        try:
            with stops.held():
                running.begin(
                    command, script_environment(session, command[0], venv), sys.stderr if as_json else sys.stdout
                )
            last = running.follow(quiet)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
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
