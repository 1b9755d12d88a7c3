"""``site`` and ``spin``: the places, and what they compute on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import hostlist
from ..client.calls import NO_TIMEOUT, path_of
from ..config import ALLOCATION_SITE
from ..errors import ConfigError, SiteError, UnknownSite
from ..library.manager import LwfManager
from ..library.submission import capture_context
from . import new_site, render
from .groups import Group, example
from .options import json_option
from .session import Session
from .text import duration, moment, properties, shown, size
from .typed import Duration, parse_properties

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
        (
            item["name"],
            item.get("driver"),
            ", ".join(item.get("pillars", ())),
            _count(item, "jobs"),
            _count(item, "waiting"),
            item.get("state"),
            moment(item.get("since")),
            item.get("reason"),
        )
        for item in found
    )
    render.table(("SITE", "DRIVER", "PILLARS", "JOBS", "WAITING", "STATE", "SINCE", "WHY"), rows)


def _count(item: JSON, key: str) -> str | None:
    return str(item[key]) if item.get(key) else None


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
            ("since", moment(found.get("since"))),
            ("why", found.get("reason")),
            ("jobs there", _count(found, "jobs")),
            ("jobs waiting", _count(found, "waiting")),
            *((key, shown(value)) for key, value in (found.get("options") or {}).items()),
        ]
    )


@site.command(
    short_help="Try each pillar of sites.",
    epilog=example("lwfm site check", "lwfm site check cluster --run --timeout 10m"),
)
@click.option("--run", is_flag=True, help="Also run a small job, which may cost something.")
@click.option("--timeout", type=Duration(), default="60", show_default=True, metavar="TIME", help="For each pillar.")
@json_option
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.pass_obj
def check(session: Session, names: tuple[str, ...], run: bool, timeout: float, as_json: bool) -> int:
    """Try each pillar of a site, or of all sites but 'allocation', whose nodes are among those of 'local'.

    Auth: whether we are logged in. Run: whether it takes jobs and answers. Repo: a small file is put, fetched, compared and
    removed. Spin: what there is. The exit code is 6 unless all are well.
    """
    found = () if names else session.client.get("/v1/sites")["sites"]
    listed = names or tuple(item["name"] for item in found if item["name"] != ALLOCATION_SITE)
    body = {"timeout_s": timeout, **({"run": True, "context": capture_context()} if run else {})}
    answers = [_checked(session, name, body) for name in listed]
    if as_json:
        render.print_json(answers)
    else:
        rows = (
            (answer["name"], item["pillar"], _result(item), _took(item), item.get("message"))
            for answer in answers
            for item in answer["checks"]
        )
        render.table(("SITE", "PILLAR", "RESULT", "TOOK", "MESSAGE"), rows)
    return 0 if all(item["ok"] for answer in answers for item in answer["checks"]) else SiteError.exit_code


def _checked(session: Session, name: str, body: JSON) -> JSON:
    """What came of trying a site; one that cannot be tried at all has failed as a whole, if it is there."""
    try:
        answer: JSON = session.client.post(path_of("sites", name, "check"), body, timeout_s=NO_TIMEOUT)
        return answer
    except (ConfigError, SiteError) as error:
        if isinstance(error, UnknownSite):
            raise
        return {"name": name, "checks": [{"pillar": "driver", "ok": False, "message": error.message}]}


def _result(item: JSON) -> str:
    if not item.get("offered", True):
        return "not offered"
    return "ok" if item["ok"] else "failure"


def _took(item: JSON) -> str | None:
    seconds = item.get("seconds")
    return f"{seconds:.2f} s" if seconds and item.get("offered", True) else None


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


@site.command(epilog=example("lwfm site new mine"))
@click.argument("name")
@click.pass_obj
def new(session: Session, name: str) -> None:
    """Write a driver for a site of your own, to begin with.

    Two files come into this directory: NAME_site.py, a driver that works as it is, with comments on what to replace, and its test.
    """
    skeleton = new_site.write(name, Path.cwd())
    render.say(f"wrote {skeleton.driver.name} and {skeleton.test.name}")
    render.say(f"\nto try it, add to {session.endpoint.home.sites_file}:\n\n{skeleton.section}")
    render.say(
        f"then: lwfm submit --site {name} -- hostname\nits test: lwfm python -m pytest {skeleton.test.name}   (where pytest is)"
    )


@click.group(cls=Group, short_help="Resources.")
def spin() -> None:
    """What a site computes on: nodes, partitions, allocations."""


_site_option = click.option("--site", "site_name", metavar="SITE", default="local", show_default=True, help="The site.")


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
    rows = ((item["resource_id"], item.get("kind"), item.get("state"), _facts(item)) for item in _folded(found))
    render.table(("RESOURCE", "KIND", "STATE", "FACTS"), rows)


def _folded(found: list[JSON]) -> list[JSON]:
    """The nodes of a scheduler that are alike in one line."""
    alike: dict[str, list[JSON]] = {}
    for item in found:
        is_node = item.get("kind") == "batch-node"
        facts = {key: value for key, value in (item.get("facts") or {}).items() if key != "name"}
        same = json.dumps([item.get("state"), facts], sort_keys=True) if is_node else str(item["resource_id"])
        alike.setdefault(f"{item.get('kind')} {same}", []).append(item)
    return [
        {**items[0], "resource_id": hostlist.fold(list(dict.fromkeys(str(item["facts"]["name"]) for item in items)))}
        if items[0].get("kind") == "batch-node"
        else items[0]
        for items in alike.values()
    ]


def _facts(item: JSON) -> str:
    said: tuple[Any, ...] = (item.get("resource_id"), item.get("state"), None, "", [])
    hidden = ("name", "worker_id", "labels") if item.get("kind") in _OURS else ()
    readable: JSON = {}
    for key, value in (item.get("facts") or {}).items():
        if key in hidden or value in said:
            continue
        if key.endswith("_bytes"):
            readable[key[: -len("_bytes")]] = size(value)
        elif key.endswith("_s") and isinstance(value, (int, float)):
            readable[key[: -len("_s")]] = duration(value)
        else:
            readable[key] = ",".join(map(str, value)) if isinstance(value, list) else value
    return properties(readable)


_OURS = ("node", "allocation", "partition", "batch-node")
"""What the local site lists."""


@spin.command(
    epilog=example(
        "lwfm spin create allocation nodes=4 time=1:00:00",
        "lwfm spin create allocation nodes=2 time=30m partition=debug account=phys option=--constraint=ib",
    )
)
@_site_option
@json_option
@click.argument("kind")
@click.argument("items", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def create(session: Session, site_name: str, as_json: bool, kind: str, items: tuple[str, ...]) -> None:
    """Make a resource, and print its id.

    The site local makes allocations of the batch scheduler that is there: nodes (default 1) and time; if need be partition,
    account, qos, name; cores, gpus and memory of each node (whole nodes without cores); idle, after which it is given back when
    it had nothing to do (default 10m, 0: never); agent=true, to run the agent in it if none runs then; option=--any-other, as
    often as needed. A key that is given several times is a list.
    """
    body = {"kind": kind, "spec": _spec(items)}
    made = session.client.post(path_of("sites", site_name, "resources"), body, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(made)
    else:
        render.say(made["resource_id"])


def _spec(items: tuple[str, ...]) -> JSON:
    given: dict[str, list[Any]] = {}
    for item in items:
        for key, value in parse_properties((item,)).items():
            given.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in given.items()}


@spin.command(epilog=example("lwfm spin destroy 4711"))
@_site_option
@click.argument("resource_id", metavar="RESOURCE")
@click.pass_obj
def destroy(session: Session, site_name: str, resource_id: str) -> None:
    """Give a resource back. What runs there is stopped first, and recorded as cut off."""
    session.client.delete(path_of("sites", site_name, "resources", resource_id))
