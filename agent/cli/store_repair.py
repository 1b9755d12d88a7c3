"""``store repair``: done by the command itself, as the owner of the store, while no agent has it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..paths import self_command, user_name
from . import render
from .agent_control import stop_agent
from .groups import example
from .options import json_option
from .session import Session
from .text import harmless, plural

EXIT_MISSING = 8
_PULL_TIMEOUT_S = 3600.0


@click.command(
    short_help="Repair a damaged store.",
    epilog=example("lwfm store repair", "lwfm store repair --from /backup/thread.db"),
)
@click.option(
    "--from", "sources", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="A snapshot to look into too; may be repeated.",
)  # fmt: skip
@click.option("--no-pull", is_flag=True, help="Do not ask the peers for what is missing.")
@json_option
@click.pass_obj
def repair(session: Session, sources: Sequence[str], no_pull: bool, as_json: bool) -> int:
    """Repair a damaged store: keep every record that can still be read, and say exactly what is missing.

    The agent is stopped; its jobs go on. If only the tables are not what the records say, they are made anew. Otherwise the
    records are looked for in the log, on every page of the file, and in the snapshots; each proves itself by its hash. They
    become a new store, and the damaged file is kept in damaged/. What is missing then is asked of the peers (lwfm peer list). If
    records of this instance are missing, or what it knew of running work, it goes on under a new origin, and what was waiting or
    running is not gone on with. The exit code is 8 if records are missing in the end.
    """
    from ..config import LOCAL_SITE, read_sites
    from ..housekeeping.snapshots import listed, policy_of
    from ..ownership.owning import owned
    from ..store.repair import FILE
    from ..store.repair import repair as mend

    home = session.instance
    policy = policy_of(read_sites(home.sites_file)[LOCAL_SITE].options, home)
    home.create()
    stop_agent(session)
    maker = {"host": socket.gethostname(), "user": user_name(), "home": str(home.root)}
    with owned(home):
        snapshots = [*map(Path, sources), *listed(policy.directory)]
        done = mend(home.database, snapshots, maker, lambda text: render.note(f"{harmless(text)} …"))
    answer = done.to_json()
    pulled = [] if no_pull or done.changed != FILE else _pull(session)
    answer["pulled"] = pulled
    if pulled:
        answer["missing"] = _still_missing(session, answer["missing"])
    if as_json:
        render.print_json(answer)
    else:
        _show(answer)
    return EXIT_MISSING if answer["missing"] else 0


def _pull(session: Session) -> list[dict[str, Any]]:
    """Ask each peer for what it has; what came of it."""
    found = []
    for peer in session.client.get("/v1/peers")["peers"]:
        name = str(peer["name"])
        render.note(f"asking {harmless(name)} …")
        words = [*self_command(), "--home", str(session.instance.root), "sync", "pull", name, "--batch", "--json"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_PULL_TIMEOUT_S, check=False)
            error = done.stderr.strip().splitlines()[0] if done.returncode and done.stderr.strip() else ""
            failed = error or (f"exit code {done.returncode}" if done.returncode else "")
        except (OSError, subprocess.TimeoutExpired) as problem:
            failed = str(problem)
        found.append({"peer": name, "error": failed or None})
    return found


def _still_missing(session: Session, gaps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of the gaps no peer had."""
    vector = session.client.get("/v1/sync")["vector"]
    left = []
    for gap in gaps:
        end = int(vector.get(gap["origin"], [0])[0])
        if end < gap["last"]:
            left.append({**gap, "first": max(gap["first"], end + 1)})
    return left


def _show(answer: dict[str, Any]) -> None:
    for problem in answer["problems"]:
        render.say(harmless(problem))
    if answer["changed"] == "nothing":
        render.say(f"{plural(answer['records'], 'record')}: all is well, nothing was changed")
        return
    if answer["changed"] == "tables":
        render.say(f"the tables were made anew from {plural(answer['records'], 'record')}")
        return
    where = ", ".join(f"{count} from the {place}" for place, count in answer["from"].items())
    render.say(f"a new store was made: {plural(answer['records'], 'record')} ({where})")
    if answer["kept"]:
        render.say(f"the damaged file is kept in {harmless(answer['kept'])}")
    if answer["loose"]:
        lone = plural(answer["loose"], "record")
        render.say(
            f"{lone} more lie behind a gap: shown as all others, but given to no other instance before a sync closes it"
        )
    if answer["outputs_lost"]:
        render.say(f"{plural(answer['outputs_lost'], 'output')} of jobs cannot be read any more")
    if answer["tables_lost"]:
        render.say(f"not whole: {', '.join(answer['tables_lost'])}")
    for peer in answer["pulled"]:
        render.say(f"peer {harmless(peer['peer'])}: {harmless(peer['error']) if peer['error'] else 'asked'}")
    for gap in answer["missing"]:
        render.say(f"missing: records {gap['first']} to {gap['last']} of origin {gap['origin']}")
    if answer["renewed"]:
        render.say(f"{answer['renewed']}: what is recorded from now on has a new origin")
    if not answer["missing"]:
        render.say("no record is known to be missing")
