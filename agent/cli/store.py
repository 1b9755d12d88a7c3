"""``store``: the thread store, checked by the agent that owns it, copied, and repaired."""

from __future__ import annotations

import click

from ..client.calls import NO_TIMEOUT
from . import render
from .groups import Group, example
from .housekeeping import compact, prune, store_size
from .options import json_option
from .session import Session
from .store_repair import repair
from .store_snapshots import snapshot, snapshots
from .text import harmless, plural

EXIT_NOT_SOUND = 8


@click.group(cls=Group, short_help="The thread store.")
def store() -> None:
    """The thread store: the SQLite file that holds the digital thread of this instance."""


@store.command(short_help="Whether the store is sound.", epilog=example("lwfm store check"))
@json_option
@click.pass_obj
def check(session: Session, as_json: bool) -> int:
    """Check the chain of records, and that the tables are what the records say. The exit code is 8 if not."""
    answer = session.client.post("/v1/store/check", {}, repeatable=True, timeout_s=NO_TIMEOUT)
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
    return 0 if answer["ok"] else EXIT_NOT_SOUND


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


for _command in (repair, snapshot, snapshots, store_size, compact, prune):
    store.add_command(_command)
