"""``log`` and ``search``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..clock import utc_now
from ..errors import InvalidRecord
from ..ids import short
from ..library.bodies import without_none
from . import render
from .groups import example
from .options import json_option, limit_option, origin_option, workflow_option
from .session import Session
from .text import harmless, moment

if TYPE_CHECKING:
    from ..records import JSON

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.command(
    epilog=example('lwfm log "converged after 312 steps"', "lwfm log --workflow melt --level warning --limit 20")
)
@click.option(
    "--level",
    type=click.Choice(LEVELS, case_sensitive=False),
    metavar="[debug|info|warning|error|critical]",
    help="Of the line; or, to show, at least.",
)
@click.option("--job", "job_id", metavar="JOB", help="Whose line. [default: the job this is run in]")
@workflow_option
@click.option("--text", metavar="WORDS", help="Show lines with these words.")
@origin_option
@limit_option(50)
@json_option
@click.argument("message", nargs=-1)
@click.pass_obj
def log(
    session: Session,
    level: str | None,
    job_id: str | None,
    workflow: str | None,
    text: str | None,
    origin: str | None,
    limit: int,
    as_json: bool,
    message: tuple[str, ...],
) -> None:
    """Write MESSAGE to the log; without a message, show the newest lines, oldest first."""
    if message:
        if text is not None or origin is not None:
            option = "--origin" if text is None else "--text"
            raise InvalidRecord(f"{option} looks for lines; it does not go with a message to write")
        line = without_none(
            level=(level or "INFO").upper(),
            message=" ".join(message),
            time=utc_now(),
            job=job_id or session.context.job_id,
            workflow=session.workflow_id(workflow) if workflow or job_id is None else None,
        )
        session.client.post("/v1/logs", {"lines": [line]})
        return
    query = {
        "job": job_id,
        "workflow": session.workflow_id(workflow) if workflow else None,
        "level": level and level.upper(),
        "text": text,
        "origin": origin,
        "limit": limit,
    }
    lines = session.client.get("/v1/logs", query)["logs"]
    if as_json:
        render.print_json(lines)
    else:
        show_lines(lines, with_origin=True)


def show_lines(lines: Sequence[JSON], *, with_origin: bool) -> None:
    """Lines of log for a person; with their job, and with their instance where some are not of this one."""
    instances = [harmless(str(line.get("elsewhere") or "")) for line in lines] if with_origin else []
    width = max(map(len, instances), default=0)
    for number, line in enumerate(lines):
        origin = f"{instances[number]:<{width}}  " if width else ""
        origin += f"{short(line['job_id'])}  " if with_origin and line.get("job_id") else ""
        render.say(
            f"{moment(line.get('time'))}  {line.get('level', ''):<7}  {origin}{harmless(line.get('message', ''))}"
        )


@click.command(epilog=example("lwfm search lennard jones", "lwfm search 'out of memory' --json"))
@origin_option
@limit_option(50)
@json_option
@click.argument("words", nargs=-1, required=True)
@click.pass_obj
def search(session: Session, origin: str | None, limit: int, as_json: bool, words: tuple[str, ...]) -> None:
    """Find words in the names of things, in commands and in the log."""
    found = session.client.get("/v1/search", {"q": " ".join(words), "origin": origin, "limit": limit})["results"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            str(hit.get("kind", "")),
            render.identifier(str(hit.get("id", ""))),
            hit.get("elsewhere"),
            moment(hit.get("time")),
            str(hit.get("text", "")),
        )
        for hit in found
    )
    render.table(("KIND", "ID", "ORIGIN", "TIME", "TEXT"), rows, empty="lwfm: nothing found")
