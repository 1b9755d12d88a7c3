"""``store snapshot`` and ``store snapshots``: copies of the thread store, made while the agent works."""

from __future__ import annotations

import os

import click

from ..client.calls import NO_TIMEOUT
from . import render
from .groups import example
from .options import json_option
from .session import Session
from .text import duration, harmless, plural, size


@click.command(
    short_help="Copy the store while the agent works.", epilog=example("lwfm store snapshot /backup/thread.db")
)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@json_option
@click.pass_obj
def snapshot(session: Session, file: str, force: bool, as_json: bool) -> None:
    """Copy the store into FILE, as it is at one moment, while the agent and its jobs go on.

    FILE is a whole store: checked, on the disk, and complete before it gets its name. To go back to it, stop the agent and put
    it in the place of the store (lwfm store path); what is recorded then has a new origin, and what is missing comes back from
    other instances by a sync. `lwfm store repair` takes what it needs from a snapshot by itself. Outputs over 64 KiB and data are
    files of their own, and not in it.
    """
    body = {"file": os.path.abspath(file), "replace": force}
    answer = session.client.post("/v1/store/snapshot", body, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(answer)
    else:
        told = f"{plural(int(answer['records']), 'record')}, {size(answer['bytes'])} in {answer['seconds']:.1f} s"
        render.say(f"{harmless(answer['file'])}: {told}")


@click.command(short_help="The snapshots that the agent makes by itself.", epilog=example("lwfm store snapshots"))
@json_option
@click.pass_obj
def snapshots(session: Session, as_json: bool) -> None:
    """The snapshots that the agent makes by itself: how often, where they lie, and which there are.

    How often and how many is said by snapshot_every_s, snapshots_kept and snapshot_directory of [local] in sites.toml.
    """
    answer = session.client.get("/v1/store/snapshots")
    if as_json:
        render.print_json(answer)
        return
    often = f"every {duration(answer['every_s'])}, {answer['kept']} kept" if answer["every_s"] else "none by itself"
    render.say(f"{often}, in {harmless(answer['directory'])}")
    for found in answer["snapshots"]:
        render.say(f"{found['time'][:19]}Z  {size(found['bytes'])}  {harmless(found['file'])}")
