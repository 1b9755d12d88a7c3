"""``put``, ``get``, ``find`` and ``lineage``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..client.calls import NO_TIMEOUT, path_of
from ..errors import Conflict, InvalidRecord
from ..ids import short
from ..library.bodies import absolute, without_none
from ..matching import parse_terms
from . import render
from .groups import example
from .options import json_option, limit_option, origin_option, workflow_option
from .session import Session
from .text import harmless, moment, properties, size, some_properties
from .typed import Number, parse_properties

if TYPE_CHECKING:
    from ..records import JSON


@click.command(
    epilog=example(
        "lwfm put log.lammps --meta kind=thermo --meta T=0.7",
        "lwfm put result.csv study/result.csv --meta kind=result   (a copy, kept by the site)",
    )
)
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="A property; JSON values keep their type.")
@click.option("--site", metavar="SITE", default="local", show_default=True, help="Where to.")
@click.option("--job", "job_id", metavar="JOB", help="Who made it. [default: the job this is run in]")
@workflow_option
@json_option
@click.argument("local", type=click.Path())
@click.argument("site_path", required=False)
@click.pass_obj
def put(
    session: Session,
    meta: tuple[str, ...],
    site: str,
    job_id: str | None,
    workflow: str | None,
    as_json: bool,
    local: str,
    site_path: str | None,
) -> None:
    """Record a file or directory with its metadata, and print the id of the record.

    With SITE_PATH a copy is stored there on the site; without, the file stays where it is, if the site can see it.
    Inside a job it is recorded as that job's. KEY=VALUE: numbers, true, false, null, lists and objects are taken as
    JSON, everything else as text.
    """
    body = without_none(
        op="put",
        site=site,
        path=absolute(local),
        site_path=site_path,
        properties=parse_properties(meta),
        job=job_id or session.context.job_id,
        workflow=session.workflow_id(workflow) if workflow or job_id is None else None,
    )
    with _gone_on_with("it is recorded when it is there"):
        sheet = session.client.post("/v1/data", body, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(sheet)
    else:
        render.say(sheet["data_id"])


@click.command(epilog=example("lwfm get 019aab12 result.csv", "lwfm get file://node1/scratch/result.csv ."))
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@click.argument("data", metavar="DATA|URL")
@click.argument("local", required=False, type=click.Path())
@click.pass_obj
def get(session: Session, force: bool, as_json: bool, data: str, local: str | None) -> None:
    """Fetch data to a file, checked against its checksum, and print where it is.

    Without LOCAL it goes to this directory, under its own name.
    """
    target = absolute(local or ".")
    if os.path.isdir(target):
        target = os.path.join(target, _file_name(session, data))
    if os.path.lexists(target) and not force:
        raise Conflict(f"{target!r} is there already", hint="--force writes over it, or name another file")
    body = without_none(data=data, path=target, job=session.context.job_id)
    with _gone_on_with(f"{target} appears when all of it is there"):
        sheet = session.client.post("/v1/data/fetch", body, timeout_s=NO_TIMEOUT)
    if as_json:
        render.print_json(sheet)
    else:
        render.say(harmless(str(sheet.get("path") or target)))


@contextmanager
def _gone_on_with(what: str) -> Iterator[None]:
    """Tell who interrupts what the agent is doing that it goes on with it."""
    try:
        yield
    except KeyboardInterrupt:
        render.note(f"lwfm: the agent goes on with this: {what}")
        raise


def _file_name(session: Session, data: str) -> str:
    if "://" not in data:
        sheet = session.client.get(path_of("data", data))
        data = str(sheet.get("path") or sheet.get("url") or "")
    name = os.path.basename(data.rstrip("/"))
    if not name:
        raise InvalidRecord("this data has no file name", hint="give the name of the file to write")
    return name


@click.command(epilog=example("lwfm find kind=thermo 'T>=0.7'", "lwfm find 'name~^run-[0-9]+$' --workflow melt --json"))
@workflow_option
@click.option("--job", "job_id", metavar="JOB", help="Only what this job put or got.")
@click.option("--site", metavar="SITE", help="Only data of this site.")
@click.option("--op", type=click.Choice(["put", "get", "event"]), help="Only what was done so.")
@origin_option
@limit_option(50)
@json_option
@click.argument("terms", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def find(
    session: Session,
    workflow: str | None,
    job_id: str | None,
    site: str | None,
    op: str | None,
    origin: str | None,
    limit: int,
    as_json: bool,
    terms: tuple[str, ...],
) -> None:
    """Find data by its metadata, newest first. ORIGIN is the instance that has recorded it, where that is not this one.

    KEY=VALUE is equal (numbers compare as numbers), KEY=GLOB* fits a pattern, KEY~REGEX a regular expression; KEY>N,
    KEY>=N, KEY<N, KEY<=N and KEY!=VALUE compare. All must hold. Quote what the shell would take for itself.
    """
    parse_terms(terms)
    query = {
        "match": list(terms),
        "workflow": session.workflow_id(workflow) if workflow else None,
        "job": job_id,
        "site": site,
        "op": op,
        "origin": origin,
        "limit": limit,
    }
    found = session.client.get("/v1/data", query)["data"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            render.identifier(sheet["data_id"]),
            sheet.get("op") if sheet.get("op") != "put" else "",
            sheet.get("elsewhere"),
            str(sheet.get("path") or sheet.get("url") or ""),
            size(sheet.get("size_bytes")),
            moment(sheet.get("time")),
            properties(sheet.get("properties")),
        )
        for sheet in found
    )
    titles = ("DATA", "OP", "ORIGIN", "PATH", "SIZE", "RECORDED", "PROPERTIES")
    render.table(titles, rows, empty="lwfm: no such data")


@click.command(epilog=example("lwfm lineage summary.csv", "lwfm lineage 019aab12 --down"))
@click.option("--up", "direction", flag_value="up", help="Only what it came from.")
@click.option("--down", "direction", flag_value="down", help="Only what came of it.")
@click.option("--depth", type=Number(min=1), help="So many steps at most.")
@json_option
@click.argument("of", metavar="FILE|URL|ID")
@click.pass_obj
def lineage(session: Session, direction: str | None, depth: int | None, as_json: bool, of: str) -> None:
    """What made this, from what; and what used it.

    Of a file, a URL, a checksum, data or a job. What other instances have recorded is shown with where that was.
    """
    if os.path.lexists(of):
        of = absolute(of)
    ways = [direction] if direction else ["up", "down"]
    if as_json:
        query = {"of": of, "direction": direction or "both", "depth": depth}
        render.print_json(session.client.get("/v1/lineage", query))
        return
    for way in ways:
        graph = session.client.get("/v1/lineage", {"of": of, "direction": way, "depth": depth})
        if len(ways) > 1:
            render.say("came from" if way == "up" else "\nled to")
        for line in _lineage_lines(graph, way):
            render.say("  " + line if len(ways) > 1 else line)


def _lineage_lines(graph: JSON, way: str) -> list[str]:
    """The graph as trees below its roots; a node met again is named, not repeated."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    ahead: dict[str, list[tuple[str, str]]] = {}
    for edge in graph["edges"]:
        here, there = (edge["to"], edge["from"]) if way == "up" else (edge["from"], edge["to"])
        ahead.setdefault(here, []).append((there, edge["relation"]))
    seen: set[str] = set()

    def grown(identifier: str, relation: str) -> JSON:
        again = identifier in seen
        seen.add(identifier)
        below = [] if again else [grown(there, word) for there, word in ahead.get(identifier, [])]
        return {
            "node": nodes.get(identifier, {"id": identifier}),
            "relation": relation,
            "again": again,
            "children": below,
        }

    return [line for root in graph["root"] for line in render.tree(grown(root, ""), lambda item: _label(item, way))]


def _label(item: Any, way: str) -> str:
    node, relation = item["node"], item["relation"]
    word = {"up": _UP, "down": _DOWN}[way].get(relation, relation)
    identifier = str(node["id"])
    name = harmless(str(node.get("label") or ""))
    text = (
        f"{node.get('kind', '')} {short(identifier) if len(identifier) == 36 else harmless(identifier)}  {name}".strip()
    )
    more = some_properties(node.get("properties"))
    state = node.get("state")
    text += (f"  {harmless(more)}" if more else "") + (f"  {render.coloured_state(str(state))}" if state else "")
    text += f"  on {harmless(str(node['elsewhere']))}" if node.get("elsewhere") else ""
    return (f"{word} " if word else "") + text + ("  (see above)" if item["again"] else "")


_UP = {
    "wrote": "written by",
    "read": "which read",
    "started": "started by",
    "triggered": "triggered by",
    "same": "same as",
}
_DOWN = {"wrote": "wrote", "read": "read by", "started": "started", "triggered": "triggered", "same": "same as"}
