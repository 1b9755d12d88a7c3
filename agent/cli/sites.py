"""``site`` and ``spin``: the places, and what they compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..client.connection import NO_TIMEOUT, path_of
from ..library.manager import LwfManager
from . import render
from .groups import Group, example
from .options import json_option, parse_properties
from .session import Session
from .text import properties, shown, size

if TYPE_CHECKING:
    from ..records import JSON


@click.group(cls=Group, short_help="Sites.")
def site() -> None:
    """Sites: places that run jobs and hold data, configured in sites.toml of the instance."""


@site.command("list", epilog=example("lwfm site list"))
@json_option
@click.pass_obj
def list_sites(session: Session, as_json: bool) -> None:
    """List the sites."""
    found = session.client.get("/v1/sites")["sites"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (item["name"], item.get("driver"), ", ".join(item.get("pillars", ())), item.get("state"), item.get("reason"))
        for item in found
    )
    render.table(("SITE", "DRIVER", "PILLARS", "STATE", "WHY"), rows)


@site.command(epilog=example("lwfm site show local"))
@json_option
@click.argument("name", default="local")
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """A site and its options."""
    found = session.client.get(path_of("sites", name))
    if as_json:
        render.print_json(found)
        return
    render.pairs(
        [
            ("site", found["name"]),
            ("driver", found.get("driver")),
            ("pillars", ", ".join(found.get("pillars", ()))),
            ("state", found.get("state")),
            ("why", found.get("reason")),
            *((key, shown(value)) for key, value in (found.get("options") or {}).items()),
        ]
    )


@site.command(epilog=example("lwfm site check local"))
@json_option
@click.argument("name", default="local")
@click.pass_obj
def check(session: Session, name: str, as_json: bool) -> int:
    """Try each pillar of a site. The exit code is 6 unless all are well."""
    answer = session.client.post(path_of("sites", name, "check"), {}, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(answer)
    else:
        rows = ((item["pillar"], "ok" if item["ok"] else "failure", item.get("message")) for item in answer["checks"])
        render.table(("PILLAR", "RESULT", "MESSAGE"), rows)
    return 0 if all(item["ok"] for item in answer["checks"]) else 6


@site.command(epilog=example("lwfm site login cluster"))
@click.argument("name")
@click.pass_obj
def login(session: Session, name: str) -> None:
    """Log in to a site; asks what the site asks."""

    def ask(prompt: str, secret: bool) -> str:
        answer: str = click.prompt(prompt, hide_input=secret, default="", show_default=False, err=True)
        return answer

    LwfManager(session.home).get_site(name).auth.login(ask)
    render.say(f"logged in to {name}")


@click.group(cls=Group, short_help="Resources.")
def spin() -> None:
    """What a site computes on: nodes, partitions, allocations."""


_site_option = click.option("--site", "site_name", default="local", show_default=True, help="The site.")


@spin.command("list", epilog=example("lwfm spin list", "lwfm spin list --site cluster --json"))
@_site_option
@json_option
@click.pass_obj
def list_resources(session: Session, site_name: str, as_json: bool) -> None:
    """List the resources of a site."""
    found = session.client.get(path_of("sites", site_name, "resources"))["resources"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (item["resource_id"], item.get("kind"), item.get("state"), _facts(item.get("facts") or {})) for item in found
    )
    render.table(("RESOURCE", "KIND", "STATE", "FACTS"), rows)


def _facts(facts: JSON) -> str:
    readable = {
        key[: -len("_bytes")] if key.endswith("_bytes") else key: size(value) if key.endswith("_bytes") else value
        for key, value in facts.items()
    }
    return properties(readable)


@spin.command(epilog=example("lwfm spin create allocation nodes=4 time=3600 --site cluster"))
@_site_option
@json_option
@click.argument("kind")
@click.argument("items", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def create(session: Session, site_name: str, as_json: bool, kind: str, items: tuple[str, ...]) -> None:
    """Make a resource, and print its id."""
    body = {"kind": kind, "spec": parse_properties(items)}
    made = session.client.post(path_of("sites", site_name, "resources"), body, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(made)
    else:
        render.say(made["resource_id"])


@spin.command(epilog=example("lwfm spin destroy 4711 --site cluster"))
@_site_option
@click.argument("resource_id", metavar="RESOURCE")
@click.pass_obj
def destroy(session: Session, site_name: str, resource_id: str) -> None:
    """Give a resource back."""
    session.client.delete(path_of("sites", site_name, "resources", resource_id))
