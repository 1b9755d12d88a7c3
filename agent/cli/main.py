"""The root of the command line: global options, the list of commands, and the way out with an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from .errors import report
from .groups import LazyGroup
from .session import Session

COMPLETION_VARIABLE = "_LWFM_COMPLETE"

ENTRIES = {
    "Run": {
        "run": ("run:run", "Run a workflow script to its end: the script, its jobs, what they trigger."),
        "submit": ("submit:submit", "Submit a command as a job, or many at once."),
        "python": ("run:python", "Run a Python script with the library; wait for nothing."),
        "on": ("events:on", "When a job reaches a state or data appears, run something."),
        "emit": ("events:emit", "Report a job's status, or data without a file."),
    },
    "Look": {
        "job": ("jobs:job", "Jobs: list, show, output, wait, cancel, why ..."),
        "workflow": ("workflows:workflow", "Workflows: create, list, show, dump."),
        "handler": ("events:handler", "What has been set with 'on': list, unset."),
        "log": ("logs:log", "Write a line of log, or show the lines."),
        "search": ("logs:search", "Find words in names, commands and logs."),
        "report": ("report:report", "Write a report on a workflow, as one HTML page."),
        "top": ("top:top", "Watch nodes and jobs live."),
    },
    "Data": {
        "put": ("data:put", "Record or store a file with its metadata."),
        "get": ("data:get", "Fetch data to a file."),
        "find": ("data:find", "Find data by its metadata."),
        "lineage": ("data:lineage", "What made this, from what; what used it."),
        "data": ("copies:data", "Copies of data: verify, missing."),
    },
    "Other instances": {
        "sync": ("sync:sync", "Bring the thread and data of instances together, over ssh."),
        "peer": ("peers:peer", "The instances to sync with: add, list, remove."),
    },
    "Places": {
        "site": ("sites:site", "Sites: list, show, check, login, new."),
        "spin": ("sites:spin", "Resources of a site: list, create, destroy."),
        "node": ("nodes:node", "Nodes: list, history."),
        "agent": ("agent:agent", "The agent: start, stop, status, logs."),
        "self": ("self:self_", "The one file, lwfm.pyz: copy it to another machine."),
        "store": ("store:store", "The thread store: check, repair, snapshot, size, prune ..."),
        "doctor": ("doctor:doctor", "Look for what is wrong here, and say what to do."),
        "completion": ("completion:completion", "Completion of commands in the shell."),
    },
}


@click.command(
    cls=LazyGroup,
    entries=ENTRIES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 well, 2 usage, 3 not found, 7 no agent, 10 time over, 11 a job failed; all in docs/cli.md.",
)
@click.option("--home", metavar="DIR", help="The instance. [default: $LWFM_HOME, else ~/.lwfm]")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@click.version_option(__version__, prog_name="lwfm", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, home: str | None, debug: bool) -> None:
    """The lightweight workflow manager that fits in one file.

    \b
    lwfm run study.py                      run a workflow script, follow it to its end
    lwfm submit --cores 4 -- ./solve in.dat
    lwfm job list                          what became of it
    lwfm find kind=thermo                  the data, by its metadata
    """
    ctx.obj = Session(home=home, debug=debug)


def run(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` asks for; the exit code. Reports errors instead of raising them."""
    debug = "--debug" in argv[:4] or bool(os.environ.get("LWFM_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may hold any byte
    try:
        code = _invoke(list(argv))
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return int(leave.exit_code)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except BaseException as error:  # the last seam: whatever it is, a person is told
        return report(error, debug=debug)
    return code


def _invoke(words: list[str]) -> int:
    name = program_name()
    if COMPLETION_VARIABLE in os.environ:
        cli.main(words, prog_name=name, complete_var=COMPLETION_VARIABLE)
    with cli.make_context(name, words) as context:
        result = cli.invoke(context)
    return result if isinstance(result, int) else 0


def program_name() -> str:
    """What the person calls us."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name if name.startswith("lwfm") else "lwfm"
