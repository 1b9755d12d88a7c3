"""``sync export``, ``import`` and ``vector``: the thread by a file, where no ssh reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import ConfigError, Conflict
from . import render
from .errors import EXIT_NOT_ALL
from .groups import example
from .options import json_option
from .session import Session
from .sync_view import files_moved, progress, say_missing
from .text import harmless, plural, size


@click.command(
    short_help="Write the thread to a file.",
    epilog=example(
        "lwfm sync export thread.lwfm --since desktop", "lwfm sync export study.lwfm --workflow melt --data all"
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--since", metavar="PEER|VECTOR", help="Only what a peer, or who wrote VECTOR with 'sync vector', does not know."
)
@click.option("--workflow", metavar="ID|NAME", help="Only what belongs to one workflow.")
@click.option("--data", multiple=True, metavar="all|none|KEY=VALUE", help="Also files, as with 'sync pull'.")
@click.option("--max-size", metavar="SIZE", help="No file larger than this.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@click.pass_obj
def export(
    session: Session, file: Path, since: str | None, workflow: str | None, data: tuple[str, ...], max_size: str | None,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the thread to a file, to be carried to where no ssh reaches; 'sync import' takes it in there."""
    from ..sync.bundle import export as write
    from ..sync.bundle import parse_since
    from ..sync.wanted import DataRequest

    if since and workflow:
        raise click.UsageError("--since and --workflow do not go together: a workflow is always written whole")
    if file.exists() and not force:
        raise Conflict(f"{str(file)!r} is there already", hint="--force writes over it")
    client = session.client
    known = parse_since(since, client.get("/v1/peers")["peers"]) if since else None
    chosen = str(session.workflow(workflow)["workflow_id"]) if workflow else None
    request = DataRequest.parse(data, max_size=max_size)
    with progress(file.name) as shown, _written(file):
        written = write(client, file, since=known, workflow=chosen, request=request, count=shown.count)
    if as_json:
        render.print_json({"file": str(file), "size_bytes": file.stat().st_size, **written.to_json()})
    else:
        files = f", {plural(written.files, 'file')}" if written.files else ""
        render.say(f"{harmless(str(file))}: {plural(written.records, 'record')}{files}; {size(file.stat().st_size)}")
        _say_notices(written.notices)


@click.command(
    "import",
    short_help="Take in what 'sync export' has written.",
    epilog=example("lwfm sync import thread.lwfm", "lwfm sync import study.lwfm --data none"),
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", multiple=True, metavar="all|none|KEY=VALUE", help="Which of its files to take. [default: all]")
@click.option("--max-size", metavar="SIZE", help="No file larger than this.")
@json_option
@click.pass_obj
def import_(session: Session, file: Path, data: tuple[str, ...], max_size: str | None, as_json: bool) -> int:
    """Take in what 'sync export' has written elsewhere. Everything in it is verified; what is here already is passed over."""
    from ..sync.bundle import take_in
    from ..sync.wanted import DataRequest

    request = DataRequest.parse(data or ("all",), max_size=max_size)
    with progress(file.name) as shown, _written(file):
        taken = take_in(session.client, session.instance, file, request=request, count=shown.count, tell=shown.contents)
    if as_json:
        render.print_json({"file": str(file), **taken.to_json()})
    else:
        files = f", {files_moved(taken.moved)}" if taken.moved else ""
        source = f" of {taken.source.user}@{taken.source.host}" if taken.source else ""
        render.say(f"{harmless(str(file))}{harmless(source)}: {plural(taken.records, 'new record')}{files}")
        if taken.moved:
            say_missing(taken.moved)
        _say_notices(taken.notices)
    return EXIT_NOT_ALL if taken.moved and not taken.moved.complete else 0


@click.command(
    short_help="What this instance knows, for 'sync export --since'.",
    epilog=example("lwfm sync vector > here.json   (there: lwfm sync export for-me.lwfm --since here.json)"),
)
@click.pass_obj
def vector(session: Session) -> None:
    """What this instance knows, as 'sync export --since' takes it elsewhere: of each origin the number of its last record."""
    render.print_json(session.client.get("/v1/sync")["vector"])


@contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot use {harmless(str(file))}: {error.strerror or error}") from error


def _say_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        render.note(f"lwfm: {notice}")
