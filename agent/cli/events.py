"""``on``, ``handler`` and ``emit``: when something happens, then run or tell; and saying that it has happened."""

from __future__ import annotations

import os
from typing import Any

import click

from ..client.calls import path_of
from ..errors import InvalidRecord
from ..ids import short
from ..library.bodies import without_none
from ..library.submission import capture_context
from ..matching import parse_terms
from ..models import JobDefn, JobEvent, MetadataEvent, Notification
from ..records import JSON
from ..states import parse_state
from . import render
from .groups import Group, example
from .options import (
    WordsAfterDashes,
    definition_fields,
    definition_options,
    json_option,
    limit_option,
    origin_option,
    workflow_option,
)
from .session import Session
from .text import moment, properties
from .typed import parse_properties


@click.group(cls=Group, short_help="Set what is to happen when.")
def on() -> None:
    """When a job reaches a state, or data with certain metadata is put: run a job, or tell somebody.

    The id of the job that will run is known, and printed, at once.
    """


def _action_options(function: Any) -> Any:
    options = (
        click.option(
            "--site",
            metavar="SITE",
            default="local",
            show_default=True,
            help="Where to run it; a,b: on the first that accepts.",
        ),
        workflow_option,
        click.option("--notify", metavar="COMMAND", help="Instead of a job: a command line that tells somebody."),
        click.option("--notify-url", metavar="URL", help="Instead of a job: an address that gets the event by POST."),
        definition_options,
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def _action(words: tuple[str, ...], notify: str | None, notify_url: str | None, described: JSON) -> JSON:
    if sum((bool(words), notify is not None, notify_url is not None)) != 1:
        raise InvalidRecord(
            "one thing to do is needed: a command after --, --notify, or --notify-url",
            hint="lwfm on ... -- COMMAND [ARGS]",
        )
    if words:
        return {"defn": JobDefn.from_json({**definition_fields(**described), "command": list(words)})}
    return {"notify": Notification(command=notify, url=notify_url)}


@on.command(
    "job",
    cls=WordsAfterDashes,
    epilog=example(
        "lwfm on job last -- python analyse.py",
        "lwfm on job 019aab12 019aab34 --mode any --state failed --notify 'mail -s failed me'",
    ),
)
@click.option(
    "--state",
    multiple=True,
    metavar="STATE",
    default=("COMPLETE",),
    show_default=True,
    help="The state; may be repeated.",
)
@click.option("--mode", type=click.Choice(["all", "any"]), default="all", show_default=True, help="Of several jobs.")
@click.option("--keep", is_flag=True, help="Do not cancel the job to run when this can no longer happen.")
@_action_options
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@click.pass_obj
def on_job(
    session: Session,
    state: tuple[str, ...],
    mode: str,
    keep: bool,
    site: str,
    workflow: str | None,
    notify: str | None,
    notify_url: str | None,
    as_json: bool,
    jobs: tuple[str, ...],
    words: tuple[str, ...],
    **described: Any,
) -> None:
    """When JOBs reach a state, run a command as a job."""
    states = tuple(parse_state(word) for word in state)
    action = _action(words, notify, notify_url, described)
    event = JobEvent(jobs=jobs, states=states, site=site, mode=mode, keep=keep, **action)
    _set(session, "job", event, workflow, as_json)


@on.command(
    "data",
    cls=WordsAfterDashes,
    epilog=example(
        "lwfm on data kind=thermo --repeat forever -- python analyse.py",
        "lwfm on data kind=result --notify-url https://example.org/hook",
    ),
)
@click.option("--repeat", default="1", show_default=True, metavar="N|forever", help="How often.")
@click.option("--any-workflow", is_flag=True, help="Data of all workflows counts.")
@_action_options
@click.argument("terms", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.pass_obj
def on_data(
    session: Session,
    repeat: str,
    any_workflow: bool,
    site: str,
    workflow: str | None,
    notify: str | None,
    notify_url: str | None,
    as_json: bool,
    terms: tuple[str, ...],
    words: tuple[str, ...],
    **described: Any,
) -> None:
    """When data is put whose metadata matches, run a command as a job.

    KEY=VALUE as for 'lwfm find'. The job finds the data in LWFM_TRIGGER_PATH and LWFM_TRIGGER_PROPERTIES.
    """
    action = _action(words, notify, notify_url, described)
    event = MetadataEvent(
        match=parse_terms(terms),
        site=site,
        repeat=_repeat(repeat),
        workflow="any" if any_workflow else None,
        **action,
    )
    _set(session, "data", event, workflow, as_json)


def _repeat(text: str) -> bool | int:
    if text == "forever":
        return True
    if not text.isdecimal() or int(text) < 1:
        raise InvalidRecord(f"--repeat {text}: not a number from 1", hint="write a number, or forever")
    return int(text)


def _set(session: Session, kind: str, event: JobEvent | MetadataEvent, workflow: str | None, as_json: bool) -> None:
    body = without_none(
        kind=kind,
        event=event.to_json(),
        workflow=session.workflow_id(workflow),
        parent=session.context.job_id,
        context=capture_context(),
    )
    made = session.client.post("/v1/handlers", body)
    if as_json:
        render.print_json(made)
        return
    render.pairs([("handler", made["handler_id"]), *(("job", identifier) for identifier in made.get("job_ids", ()))])


@click.group(cls=Group, short_help="Handlers.")
def handler() -> None:
    """What has been set with 'lwfm on'."""


@handler.command("list", epilog=example("lwfm handler list --state waiting"))
@workflow_option
@click.option("--state", type=click.Choice(["waiting", "done", "unset"]), help="Only those.")
@origin_option
@limit_option(50)
@json_option
@click.pass_obj
def list_handlers(
    session: Session, workflow: str | None, state: str | None, origin: str | None, limit: int, as_json: bool
) -> None:
    """List handlers, newest first. ORIGIN is the instance where one was set, and alone fires, if that is not this one."""
    chosen = session.workflow_id(workflow) if workflow else None
    query = {"workflow": chosen, "state": state, "origin": origin, "limit": limit}
    found = session.client.get("/v1/handlers", query)["handlers"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            render.identifier(item["handler_id"]),
            item.get("state"),
            item.get("elsewhere"),
            str(item.get("fired", 0)),
            moment(item.get("created_at")),
            _when(item),
            _then(item.get("event") or {}),
        )
        for item in found
    )
    titles = ("HANDLER", "STATE", "ORIGIN", "FIRED", "SET", "WHEN", "THEN")
    render.table(titles, rows, empty="lwfm: no such handlers")


def _when(item: JSON) -> str:
    event = item.get("event") or {}
    if item.get("kind") == "data":
        return properties(event.get("match"))
    jobs = [short(job) for job in event.get("jobs", ())]
    which = jobs[0] if len(jobs) == 1 else f"{event.get('mode', 'all')} of {len(jobs)} jobs"
    return f"{which} {'/'.join(event.get('states', ()))}"


def _then(event: JSON) -> str:
    if event.get("notify"):
        return "tell " + str(event["notify"].get("url") or event["notify"].get("command"))
    command = (event.get("defn") or {}).get("command", "")
    return command if isinstance(command, str) else " ".join(command)


@handler.command(epilog=example("lwfm handler unset 019aab12 --reason 'no longer needed'"))
@click.option("--reason", help="Why, for the record.")
@json_option
@click.argument("handlers", metavar="HANDLER...", nargs=-1, required=True)
@click.pass_obj
def unset(session: Session, handlers: tuple[str, ...], reason: str | None, as_json: bool) -> None:
    """Take handlers back. Their jobs that have not been triggered are cancelled."""
    done = [session.client.delete(path_of("handlers", item), {"reason": reason}) for item in handlers]
    if as_json:
        render.print_json(done)
    else:
        for item in done:
            render.say(f"{item['handler_id']}  {item.get('state', 'unset')}")


@click.group(cls=Group, short_help="Report what has happened.")
def emit() -> None:
    """Report what has happened: a job's status, or data without a file."""


@emit.command("job", epilog=example("lwfm emit job $LWFM_JOB_ID info 'half way'", "lwfm emit job 019aab12 complete"))
@click.option("--native-status", help="The site's own word.")
@json_option
@click.argument("job_id", metavar="JOB")
@click.argument("state")
@click.argument("reason", required=False)
@click.pass_obj
def emit_job(
    session: Session, native_status: str | None, as_json: bool, job_id: str, state: str, reason: str | None
) -> None:
    """Record a status of a job. INFO records a message, and changes no state."""
    body = without_none(state=parse_state(state).value, reason=reason, native_status=native_status)
    answer = session.client.post(path_of("jobs", job_id, "emit"), body)
    if as_json:
        render.print_json(answer)
    else:
        render.say(render.coloured_state(answer["state"]))


@emit.command("data", epilog=example("lwfm emit data kind=checkpoint step=1000"))
@workflow_option
@click.option("--job", "job_id", metavar="JOB", help="Whose it is. [default: the job this is run in]")
@json_option
@click.argument("items", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.pass_obj
def emit_data(
    session: Session, workflow: str | None, job_id: str | None, as_json: bool, items: tuple[str, ...]
) -> None:
    """Record properties without a file. Handlers that wait for such data fire."""
    body = without_none(
        op="event",
        properties=parse_properties(items),
        job=job_id or os.environ.get("LWFM_JOB_ID"),
        workflow=session.workflow_id(workflow) if workflow or job_id is None else None,
    )
    sheet = session.client.post("/v1/data", body)
    if as_json:
        render.print_json(sheet)
    else:
        render.say(sheet["data_id"])
