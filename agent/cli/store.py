"""``store``: the thread store, verified and rebuilt by the agent that owns it."""

from __future__ import annotations

import click

from ..client.connection import NO_TIMEOUT
from . import render
from .groups import Group, example
from .housekeeping import compact, prune, store_size
from .options import json_option
from .session import Session
from .text import harmless, plural

EXIT_NOT_VERIFIED = 8


@click.group(cls=Group, short_help="The thread store.")
def store() -> None:
    """The thread store: the SQLite file that holds the digital thread of this instance."""


@store.command(epilog=example("lwfm store verify"))
@json_option
@click.pass_obj
def verify(session: Session, as_json: bool) -> int:
    """Check the chain of records, and that the tables are what the records say. The exit code is 8 if not."""
    answer = session.client.post("/v1/store/verify", {}, repeatable=True, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(answer)
    else:
        for problem in answer.get("problems", ()):
            render.say(harmless(str(problem)))
        origins = answer.get("origins", 0)
        count = origins if isinstance(origins, int) else len(origins)
        verdict = "all is well" if answer["ok"] else plural(len(answer["problems"]), "problem")
        pruned = f", {answer['pruned']} of them pruned" if answer.get("pruned") else ""
        render.say(f"{plural(int(answer.get('records', 0)), 'record')} of {plural(count, 'origin')}{pruned}: {verdict}")
    return 0 if answer["ok"] else EXIT_NOT_VERIFIED


@store.command(epilog=example("lwfm store rebuild"))
@json_option
@click.pass_obj
def rebuild(session: Session, as_json: bool) -> None:
    """Make the tables anew from the records."""
    answer = session.client.post("/v1/store/rebuild", {}, repeatable=True, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(answer)
    else:
        render.say(f"{plural(int(answer['records']), 'record')} in {answer['seconds']:.2f} s")


@store.command(epilog=example('datasette "$(lwfm store path)"'))
@json_option
@click.pass_obj
def path(session: Session, as_json: bool) -> None:
    """Where the store is. Open it with other programs as much as you like; write to it with none."""
    where = str(session.instance.database)
    if as_json:
        render.print_json({"path": where, "exists": session.instance.database.exists()})
    else:
        render.say(where)


for command in (store_size, compact, prune):
    store.add_command(command)
