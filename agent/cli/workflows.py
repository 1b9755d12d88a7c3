"""``workflow``: create, list, show, dump."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..client.calls import path_of
from ..errors import ConfigError
from ..library.bodies import without_none
from ..matching import parse_terms
from . import render
from .groups import Group, example
from .options import json_option, limit_option, origin_option
from .session import Session
from .tally import counts_text, own_counts
from .text import moment, properties, whence
from .typed import parse_properties

if TYPE_CHECKING:
    from ..records import JSON


@click.group(cls=Group, short_help="Workflows.")
def workflow() -> None:
    """Workflows: what jobs and data belong to.

    A WORKFLOW is named by its id, a prefix of it that fits no other, its name (the newest of that name), or 'last'.
    """


@workflow.command(epilog=example("w=$(lwfm workflow create melt --meta potential=lj)"))
@click.option("--description", default="", help="For people.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="A property it can be found by.")
@json_option
@click.argument("name")
@click.pass_obj
def create(session: Session, name: str, description: str, meta: tuple[str, ...], as_json: bool) -> None:
    """Record a new workflow, and print its id."""
    body = without_none(
        name=name,
        description=description or None,
        meta=parse_properties(meta) or None,
        parent_job=session.context.job_id,
    )
    made = session.client.post("/v1/workflows", body)
    if as_json:
        render.print_json(made)
    else:
        render.say(made["workflow_id"])


@workflow.command("list", epilog=example("lwfm workflow list --name 'melt*'"))
@click.option("--name", metavar="GLOB", help="Only workflows of this name.")
@click.option("--match", multiple=True, metavar="KEY=VALUE", help="Only workflows with this property.")
@origin_option
@limit_option(50)
@json_option
@click.pass_obj
def list_workflows(
    session: Session, name: str | None, match: tuple[str, ...], origin: str | None, limit: int, as_json: bool
) -> None:
    """List workflows, newest first. ORIGIN is the instance that has recorded one, where that is not this one."""
    parse_terms(match)
    query = {"name": name, "match": list(match), "origin": origin, "limit": limit}
    found = session.client.get("/v1/workflows", query)["workflows"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            render.identifier(item["workflow_id"]),
            item["name"],
            item.get("elsewhere"),
            moment(item.get("created_at")),
            _all_counts(item),
            item.get("description"),
            properties(item.get("meta")),
        )
        for item in found
    )
    titles = ("WORKFLOW", "NAME", "ORIGIN", "CREATED", "JOBS", "DESCRIPTION", "PROPERTIES")
    render.table(titles, rows, empty="lwfm: no workflows found")


@workflow.command(short_help="A workflow, and how its jobs stand.", epilog=example("lwfm workflow show last"))
@json_option
@click.argument("name", metavar="WORKFLOW")
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """A workflow, and how many of its jobs are in which state: here, and as far as is known at other instances."""
    found = session.client.get(path_of("workflows", str(session.workflow_id(name))))
    if as_json:
        render.print_json(found)
        return
    render.pairs(
        [
            ("workflow", found["workflow_id"]),
            ("name", found["name"]),
            ("description", found.get("description")),
            ("created", moment(found.get("created_at"))),
            ("by job", found.get("parent_job")),
            ("origin", whence(found)),
            ("jobs", counts_text(own_counts(found))),
            ("elsewhere", counts_text(found.get("jobs_elsewhere") or {})),
            ("properties", properties(found.get("meta"))),
        ]
    )


@workflow.command(epilog=example("lwfm workflow dump melt --output melt.json"))
@click.option("--output", "-o", metavar="FILE", help="Write to this file. [default: standard output]")
@click.option("--json", "as_json", is_flag=True, expose_value=False, help="JSON is what it is in any case.")
@click.argument("name", metavar="WORKFLOW")
@click.pass_obj
def dump(session: Session, name: str, output: str | None) -> None:
    """All that is recorded of a workflow, as JSON."""
    found = session.client.get(path_of("workflows", str(session.workflow_id(name)), "dump"))
    text = json.dumps(found, indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    unfinished = Path(output + ".part")
    try:
        unfinished.write_text(text, encoding="ascii")
        unfinished.replace(output)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {output!r}: {error.strerror}", hint="name another file") from error


def _all_counts(workflow: JSON) -> str:
    elsewhere = counts_text(workflow.get("jobs_elsewhere") or {})
    parts = (counts_text(own_counts(workflow)), f"elsewhere {elsewhere}" if elsewhere else "")
    return "; ".join(part for part in parts if part)
