"""``report``: a page that tells what became of a workflow, to keep or to give to others."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import ConfigError
from ..ids import short
from . import render
from .groups import example
from .session import Session

MARK_WITHIN_BYTES = 1024
"""How far into a file its mark may stand."""


@click.command(epilog=example("lwfm report last", "lwfm report melt --output melt.html --force"))
@click.option("--output", "-o", metavar="FILE", help="Write to this file. [default: report-ID.html, in this directory]")
@click.option("--force", is_flag=True, help="Overwrite FILE even when it is not a report.")
@click.argument("name", metavar="WORKFLOW")
@click.pass_obj
def report(session: Session, output: str | None, force: bool, name: str) -> None:
    """Write a report on a workflow: one HTML page that needs nothing else.

    It shows what ran where and when, how many cores and how much memory were in use, the slowest and the failed jobs
    with what they printed, data and handlers. WORKFLOW is an id, a prefix of it, a name, or 'last'. A report that is
    there already is replaced; any other file is not, without --force. Prints the path of the page.
    """
    workflow = session.workflow(name)
    path = Path(output if output is not None else f"report-{short(workflow['workflow_id'])}.html").absolute()
    check_target(path, force)

    from .report_facts import collect
    from .report_page import page

    write(path, page(collect(session.client, workflow)))
    render.say(os.fspath(path))


def check_target(path: Path, force: bool) -> None:
    """See whether a report may be written there, before any work is done.

    Raises:
        ConfigError: it is a directory, or a file that is not a report and ``force`` is not set.
    """
    from .report_page import MARK

    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a directory", hint="name a file in it with --output")
    if force:
        return
    try:
        with path.open("rb") as stream:
            beginning = stream.read(MARK_WITHIN_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot look at {str(path)!r}: {error.strerror}", hint="name another file") from error
    if MARK.encode() not in beginning:
        raise ConfigError(
            f"{str(path)!r} is there, and is not a report of lwfm",
            hint="name another file, or overwrite it with --force",
        )


def write(path: Path, text: str) -> None:
    """Write a page whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}", hint="name another file") from error
