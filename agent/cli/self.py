"""``self``: the one file that lwfm is, and its way to other machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import click

from .. import paths
from ..errors import NotFound
from ..sync import deploy
from . import render
from .asker import terminal_asker
from .groups import Group, example
from .options import json_option
from .ssh_options import ssh_options
from .text import harmless, size

if TYPE_CHECKING:
    from ..sync.address import Address


@click.group("self", cls=Group, short_help="The one file.")
def self_() -> None:
    """The one file that lwfm is: lwfm.pyz."""


@self_.command(
    epilog=example(
        "lwfm self copy cluster",
        "lwfm self copy me@login.example.org --to bin/",
        "lwfm self copy cluster --transport openssh",
    )
)
@ssh_options
@click.option("--to", metavar="PATH", help=f"Where to there. [default: --remote-path, else {deploy.DEFAULT_PLACE}]")
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Copy this lwfm.pyz instead of this one.")
@click.option("--force", is_flag=True, help="Send it even when it is there already.")
@json_option
def copy(address: Address, to: str | None, file: Path | None, force: bool, as_json: bool) -> int:
    """Copy this file to another machine, and see whether it runs there. The exit code is 3 or 6 if it does not.

    HOST is what ssh knows it by: [USER@]HOST[:PORT], or a name from your ~/.ssh/config.
    """
    source = file or paths.running_archive()
    if source is None:
        raise NotFound("this lwfm is not run from a lwfm.pyz", hint="name one: --file dist/lwfm.pyz")
    place = to or address.remote_path or deploy.DEFAULT_PLACE
    with _progress(source) as progress:
        copied = deploy.copy(address, source, place, terminal_asker(), force=force, progress=progress)
    problem = deploy.refused(copied, address)
    if as_json:
        render.print_json({"host": str(address), **asdict(copied)})
        return problem.exit_code if problem else 0
    done = f"copied, {size(copied.size)}" if copied.sent else "was there already"
    render.say(f"{address}:{harmless(copied.path)}  {done}")
    if problem is not None:
        raise problem
    render.say(f"It runs there: {harmless(str(copied.version))}, with {harmless(str(copied.python))}")
    return 0


@contextmanager
def _progress(source: Path) -> Iterator[Callable[[int], object] | None]:
    """How much has been sent, on a terminal, from the first piece on: before that the terminal is for questions."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: list[TaskID] = []

    def show(sent: int) -> None:
        if not tasks:
            tasks.append(bar.add_task("", total=source.stat().st_size))
            bar.start()
        bar.update(tasks[0], completed=sent)

    try:
        yield show
    finally:
        bar.stop()
