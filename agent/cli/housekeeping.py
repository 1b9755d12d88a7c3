"""``store size``, ``store compact`` and ``store prune``: keeping an instance small."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

import click

from ..client.calls import NO_TIMEOUT
from ..clock import utc_text
from ..errors import InvalidRecord, LwfmError
from . import render
from .asker import terminal_asker
from .groups import example
from .options import json_option
from .session import Session
from .text import duration, harmless, moment, plural, size
from .typed import Duration, Memory

if TYPE_CHECKING:
    from ..records import JSON

HISTORY = ("jobs", "handlers", "workflows", "logs")
"""What of the history is pruned, in this order: handlers and workflows when nothing is left of their jobs."""
_NAMES = {
    "outputs": "outputs of jobs",
    "copies": "copies of data",
    "log files": "old log files",
    "logs": "log lines",
    "jobs": "jobs, with their statuses and log lines",
    "handlers": "handlers that nothing is left of",
    "workflows": "workflows that nothing is left of",
}
_LATER = ("handlers", "workflows")
"""How many of these there are is seen when the jobs are gone."""


@click.command("size", short_help="What takes how much room.", epilog=example("lwfm store size"))
@json_option
@click.pass_obj
def store_size(session: Session, as_json: bool) -> None:
    """What takes how much room: the store, part by part and by kinds of records, and what lies beside it.

    Reads the whole store, which takes some seconds for a large one.
    """
    answer = session.client.get("/v1/store/size", timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(answer)
        return
    rows = [
        (part["what"], size(part["bytes"]) or "?", str(part.get("files") or ""), part["where"])
        for part in answer["parts"]
    ]
    render.table(("PART", "SIZE", "FILES", "WHERE"), rows)
    render.say()
    kinds = [
        (kind["kind"], str(kind["count"]), size(kind["bytes"]), str(kind["pruned"] or "")) for kind in answer["records"]
    ]
    render.table(("RECORDS", "COUNT", "TEXT", "PRUNED"), kinds)
    render.say()
    total = sum(part["bytes"] or 0 for part in answer["parts"])
    render.say(f"{size(total)} in all; lwfm store prune and lwfm store compact make it less")


@click.command(short_help="Give room back that nothing needs any more.", epilog=example("lwfm store compact"))
@json_option
@click.pass_obj
def compact(session: Session, as_json: bool) -> None:
    """Write the store anew, without the room that nothing needs any more, and give that back.

    The agent goes on answering questions meanwhile; whoever wants to record something waits. It takes up to twice the room of the
    store for as long as it goes on, and is not begun where there is less. Ctrl-C stops it; the store is as before then.
    """
    try:
        with _waiting("compacting"):
            answer = session.client.post("/v1/store/compact", {}, repeatable=False, timeout_s=NO_TIMEOUT)
    except KeyboardInterrupt:
        session.client.post("/v1/store/compact/stop", {}, repeatable=True)
        render.note("stopped; the store is as before")
        raise
    if as_json:
        render.print_json(answer)
    else:
        gained = int(answer["before"]) - int(answer["after"])
        said = f"{size(gained)} gained" if gained > 0 else "nothing to gain"
        render.say(f"{size(answer['before'])} → {size(answer['after'])}, {said}, in {duration(answer['seconds'])}")


@click.command(epilog=example("lwfm store prune --outputs --older-than 90d --dry-run"))
@click.option("--outputs", is_flag=True, help="What jobs printed.")
@click.option("--logs", is_flag=True, help="Log lines, and log files that have made way for newer ones.")
@click.option("--copies", is_flag=True, help="Copies of data, under contents/, that other hosts have too.")
@click.option("--history", is_flag=True, help="Jobs that have ended, with all that is recorded of them.")
@click.option("--older-than", type=Duration(), help="Only what is older, as 90d or 12h: jobs by their end.")
@click.option("--larger-than", type=Memory(), help="Of outputs and copies only those of at least this size, as 10M.")
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="Do not wait for this instance to have the history; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be pruned.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def prune(
    session: Session,
    outputs: bool,
    logs: bool,
    copies: bool,
    history: bool,
    older_than: float | None,
    larger_than: int | None,
    without: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove what is old or large. Say what: --outputs, --logs, --copies, --history.

    Nothing that is open is pruned: jobs that have not ended, what they need, what handlers wait for, and of the history what an
    instance that syncs with this one does not have yet. What is recorded of data stays, so that its lineage can be asked for.

    Of pruned history there remains that it was there: the chain of records can be verified as before, pruned records do not come
    back with a later sync, and other instances keep theirs. The room is used again; lwfm store compact gives it back.

    It first says what would go, and asks. Ctrl-C stops it at any time; what is gone by then is gone.
    """
    whats = _whats(outputs, logs, copies, history)
    if not whats:
        raise InvalidRecord("nothing is chosen", hint="add --outputs, --logs, --copies or --history")
    of_sizes = not (logs or history)
    if older_than is None and (larger_than is None or not of_sizes):
        raise InvalidRecord("how old must it be to go?", hint="add --older-than, as in --older-than 90d")
    if larger_than is not None and not of_sizes:
        raise InvalidRecord("--larger-than is for --outputs and --copies alone", hint="prune the rest in another call")
    body: JSON = {"before": utc_text(time.time() - (older_than or 0.0)), "without": list(without)}
    if larger_than is not None:
        body["min_bytes"] = larger_than
    preview = [_all_of(session, what, {**body, "dry_run": True}) for what in whats if what not in _LATER]
    if dry_run:
        _show(preview, body["before"], as_json, "would go", dry=True)
        return
    if not any(part["things"] for part in preview) and not history:
        _show(preview, body["before"], as_json, "gone", dry=False)
        return
    if not yes:
        _ask(preview, body["before"], as_json)
    done = [_all_of(session, what, body) for what in whats]
    _show(done, body["before"], as_json, "gone", dry=False)


def _whats(outputs: bool, logs: bool, copies: bool, history: bool) -> list[str]:
    """What is to be pruned, in order."""
    chosen = ["outputs"] * outputs + ["copies"] * copies
    if history:
        chosen += HISTORY
    elif logs:
        chosen.append("logs")
    return chosen + ["log files"] * logs


def _all_of(session: Session, what: str, body: JSON) -> JSON:
    """Prune all of something, part by part; what came of it, or would."""
    told: JSON = {"what": what, "things": 0, "bytes": 0, "kept": {}}
    after: Any = None
    with _waiting(f"{'looking at' if body.get('dry_run') else 'pruning'} {_NAMES[what]}") as show:
        while True:
            part = session.client.post(
                "/v1/store/prune", {**body, "what": what, "after": after}, repeatable=False, timeout_s=NO_TIMEOUT
            )
            for name in ("things", "bytes", "records"):
                if name in part:
                    told[name] = told.get(name, 0) + part[name]
            for why, count in part["kept"].items():
                told["kept"][why] = told["kept"].get(why, 0) + count
            show(told["things"])
            after = part["after"]
            if after is None:
                return told


def _show(parts: list[JSON], before: str, as_json: bool, word: str, *, dry: bool) -> None:
    if as_json:
        render.print_json({"before": before, "dry_run": dry, "pruned": parts})
        return
    rows = [(_NAMES[part["what"]], str(part["things"]), size(part["bytes"]), _kept(part["kept"])) for part in parts]
    render.table(("WHAT", word.upper(), "SIZE", "STAYS"), rows)
    if any("records" in part for part in parts) and not dry:
        render.say("the room in the store is used again; lwfm store compact gives it back")


def _kept(kept: JSON) -> str:
    return ", ".join(f"{count} {harmless(why)}" for why, count in kept.items())


def _ask(preview: list[JSON], before: str, as_json: bool) -> None:
    """Have the person confirm it.

    Raises:
        InvalidRecord: there is nobody to ask. LwfmError: the answer was no.
    """
    asker = terminal_asker()
    if asker is None:
        raise InvalidRecord("this removes things for good, and there is nobody to ask", hint="add --yes, or --dry-run")
    if not as_json:
        _show(preview, before, False, "to go", dry=True)
    total = sum(part["things"] for part in preview)
    if not asker.confirm(f"Prune {plural(total, 'thing')} from before {moment(before)}?"):
        raise LwfmError("nothing was pruned")


@contextmanager
def _waiting(text: str) -> Iterator[Callable[[int], None]]:
    """Say on a terminal that something goes on, and how far it is."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield lambda count: status.update(f"{text}: {count}" if count else text)
