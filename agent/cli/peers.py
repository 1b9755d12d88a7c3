"""``peer``: the instances that this one syncs with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..client.calls import path_of
from ..errors import Conflict
from . import render
from .groups import Group, example
from .options import json_option
from .session import Session
from .ssh_options import ssh_settings
from .sync_view import peer_rows
from .text import harmless
from .typed import Duration

if TYPE_CHECKING:
    from ..records import JSON


@click.group(cls=Group, short_help="The instances to sync with.")
def peer() -> None:
    """The instances that this one syncs with, by name. A host is remembered by its first sync."""


@peer.command(epilog=example("lwfm peer add cluster me@login.example.org", "lwfm peer add cluster login --every 10m"))
@click.argument("name")
@click.argument("host", metavar="[HOST]", required=False)
@click.option("--every", type=Duration(), metavar="TIME", help="Sync with it so often, by the agent.")
@click.option("--data", multiple=True, metavar="all|KEY=VALUE", help="The files to bring along then.")
@click.option("--outputs", is_flag=True, help="And what jobs printed.")
@ssh_settings
@json_option
@click.pass_obj
def add(
    session: Session, name: str, host: str | None, every: float | None, data: tuple[str, ...], outputs: bool, ssh: JSON,
    as_json: bool,
) -> None:  # fmt: skip
    """Remember a peer, without syncing. HOST is what ssh knows it by, where that is not NAME."""
    from ..sync.address import parse
    from ..sync.wanted import DataRequest

    if any(known["name"] == name for known in session.client.get("/v1/peers")["peers"]):
        raise Conflict(f"there is a peer {name!r} already", hint=f"lwfm peer remove {name}")
    body: JSON = {"name": name, "address": parse(host or name, **ssh).to_json(), "every_s": every}
    request = DataRequest.parse(data, outputs=outputs)
    if not request.empty:
        body["data"] = request.to_json()
    answer = session.client.post("/v1/peers", body)
    if as_json:
        render.print_json(answer)
    else:
        render.note(f"lwfm: peer {name} is remembered: lwfm sync both {name}")


@peer.command("list", epilog=example("lwfm peer list", "lwfm peer list --json"))
@json_option
@click.pass_obj
def list_peers(session: Session, as_json: bool) -> None:
    """List the peers, and when each was last synced with."""
    found = session.client.get("/v1/peers")["peers"]
    if as_json:
        render.print_json(found)
    else:
        titles = ("PEER", "HOST", "INSTANCE", "LAST SYNC", "EVERY", "CLOCK", "PROBLEM")
        render.table(titles, peer_rows(found), empty="lwfm: no peers yet: lwfm sync both HOST")


@peer.command(epilog=example("lwfm peer remove cluster"))
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a peer. What came from it stays."""
    session.client.delete(path_of("peers", name))
    render.note(f"lwfm: peer {harmless(name)} is forgotten; its records stay")
