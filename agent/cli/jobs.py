"""``job``: what there is, how it stands, what it printed, why it waits; and ending it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ..client.calls import path_of
from ..errors import InvalidRecord, LwfmError
from ..ids import short
from ..library.bodies import without_none
from ..states import parse_state
from . import render
from .errors import EXIT_FAILED_JOBS
from .groups import Group, example
from .logs import show_lines
from .options import json_option, limit_option, origin_option, workflow_option
from .session import Session
from .text import duration, harmless, harmless_lines, job_time_s, moment, plural, properties, size, whence, why
from .typed import Duration, Number

if TYPE_CHECKING:
    from ..records import JSON

OUTPUT_PIECE_BYTES = 1024 * 1024
FOLLOW_CALL_S = 30.0
FOLLOW_AGAIN_S = 2.0
FOLLOW_PATIENCE_S = 900.0


@click.group(cls=Group, short_help="Jobs.")
def job() -> None:
    """Jobs: what there is, how it stands, what it printed; and ending it.

    A JOB is named by its id, by a prefix of it that fits no other, or by 'last'.
    """


@job.command(
    "list",
    epilog=example(
        "lwfm job list --state running --state pending",
        "lwfm job list --match 'T>=0.7' --match kind=sim --json",
    ),
)
@click.option("--state", multiple=True, metavar="STATE", help="Only jobs in this state; may be repeated.")
@workflow_option
@click.option("--site", metavar="SITE", help="Only jobs of this site.")
@click.option("--name", metavar="GLOB", help="Only jobs of this name.")
@click.option("--parent", metavar="JOB", help="Only jobs that this job started.")
@click.option("--text", metavar="WORDS", help="Only jobs with these words in name or command.")
@click.option("--match", multiple=True, metavar="KEY=VALUE", help="Only jobs with this property; = > >= < <= != ~.")
@origin_option
@limit_option(50)
@json_option
@click.pass_obj
def list_jobs(
    session: Session,
    state: tuple[str, ...],
    workflow: str | None,
    site: str | None,
    name: str | None,
    parent: str | None,
    text: str | None,
    match: tuple[str, ...],
    origin: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first. ORIGIN is the instance that has a job, where that is not this one."""
    if match:
        from ..matching import parse_terms

        parse_terms(match)
    query = {
        "state": [parse_state(word).value for word in state],
        "workflow": session.workflow_id(workflow) if workflow else None,
        "site": site,
        "name": name,
        "parent": parent,
        "text": text,
        "match": list(match),
        "origin": origin,
        "limit": limit,
    }
    jobs = session.client.get("/v1/jobs", query)["jobs"]
    if as_json:
        render.print_json(jobs)
        return
    rows = (
        (
            render.identifier(item["job_id"]),
            item.get("name", ""),
            item["state"],
            item.get("elsewhere"),
            item.get("site", "") if item.get("site") != "local" else "",
            moment(item.get("submitted_at")),
            duration(job_time_s(item)),
            why(item),
        )
        for item in jobs
    )
    titles = ("JOB", "NAME", "STATE", "ORIGIN", "SITE", "SUBMITTED", "TIME", "WHY")
    render.table(titles, rows, empty="lwfm: no jobs found")


@job.command(epilog=example("lwfm job show last"))
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def show(session: Session, job_id: str, as_json: bool) -> None:
    """All that is known of a job."""
    body = session.client.get(path_of("jobs", job_id))
    if as_json:
        render.print_json(body)
        return
    definition, context = body.get("definition") or {}, body.get("context") or {}
    resources = definition.get("resources") or {}
    render.pairs(
        [
            ("job", body["job_id"]),
            ("name", body.get("name")),
            ("state", body["state"] + (f" ({body['native_status']})" if body.get("native_status") else "")),
            ("why", why(body)),
            ("attempt", str(body["attempt"]) if body.get("attempt", 1) > 1 else None),
            ("command", body.get("command")),
            ("directory", definition.get("cwd") or context.get("cwd")),
            ("workflow", body.get("workflow_id")),
            ("parent", body.get("parent_id")),
            ("triggered by", _trigger(body.get("trigger"))),
            ("origin", whence(body)),
            ("site", body.get("site")),
            ("host", body.get("host")),
            ("nodes", body.get("hosts")),
            ("native id", body.get("native_id")),
            ("allocation", body.get("allocation")),
            ("asked for", properties({key: value for key, value in resources.items() if value is not None})),
            ("submitted", _by(body, context)),
            ("started", moment(body.get("started_at"))),
            ("ended", moment(body.get("ended_at"))),
            ("time", duration(job_time_s(body))),
            ("exit code", None if body.get("exit_code") is None else str(body["exit_code"])),
            ("signal", body.get("signal")),
            ("cpu", duration(body.get("cpu_seconds"))),
            ("memory", size(body.get("peak_rss_bytes"))),
            ("read, written", _moved(body)),
            ("printed", _printed(body)),
            ("git", _git(context.get("git"))),
            ("reads", ", ".join(definition.get("inputs") or ())),
            ("writes", ", ".join(definition.get("outputs") or ())),
            ("properties", properties(body.get("meta"))),
        ]
    )


def _trigger(trigger: Any) -> str:
    return properties(trigger) if isinstance(trigger, dict) else str(trigger or "")


def _by(body: JSON, context: JSON) -> str:
    who = f" by {context['user']} on {context.get('host', '?')}" if context.get("user") else ""
    return moment(body.get("submitted_at")) + who


def _moved(body: JSON) -> str:
    if not body.get("read_bytes") and not body.get("write_bytes"):
        return ""
    return f"{size(body.get('read_bytes') or 0)}, {size(body.get('write_bytes') or 0)}"


def _printed(body: JSON) -> str:
    streams = [(name, body.get(f"{name}_bytes")) for name in ("stdout", "stderr")]
    return ", ".join(f"{size(count)} on {name}" for name, count in streams if count)


def _git(git: Any) -> str:
    return str(git["commit"]) + (" with changes" if git.get("dirty") else "") if isinstance(git, dict) else ""


@job.command(epilog=example('while [ "$(lwfm job status last)" = PENDING ]; do sleep 1; done'))
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def status(session: Session, job_id: str, as_json: bool) -> None:
    """The state of a job, in one word."""
    body = session.client.get(path_of("jobs", job_id))
    if as_json:
        for key in ("definition", "context"):
            body.pop(key, None)
        render.print_json(body)
    else:
        render.say(render.coloured_state(body["state"]))


@job.command(epilog=example("lwfm job statuses last"))
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def statuses(session: Session, job_id: str, as_json: bool) -> None:
    """Every status a job has had, oldest first."""
    found = session.client.get(path_of("jobs", job_id, "statuses"))["statuses"]
    if as_json:
        render.print_json(found)
        return
    rows = (
        (
            moment(item.get("time")),
            str(item.get("attempt", 1)),
            item["state"],
            item.get("native_status"),
            item.get("host"),
            why(item),
        )
        for item in found
    )
    render.table(("TIME", "ATTEMPT", "STATE", "SITE SAYS", "HOST", "WHY"), rows)


@job.command(epilog=example("lwfm job output last --follow", "lwfm job output --stderr 019aab12 > errors.txt"))
@click.option("--stderr", "stream", flag_value="stderr", help="What it printed on standard error.")
@click.option("--stdout", "stream", flag_value="stdout", default=True, help="On standard output. [default]")
@click.option("--follow", "-f", is_flag=True, help="Print what comes, until the job ends.")
@click.option("--attempt", type=Number(min=1), help="Of this attempt. [default: the newest]")
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def output(session: Session, job_id: str, stream: str, follow: bool, attempt: int | None) -> None:
    """What a job has printed.

    The bytes as they were; on a terminal, control characters are shown instead of obeyed.
    """
    offset = 0
    path = path_of("jobs", job_id, "output")
    trouble = _Trouble()
    while True:
        query = {
            "stream": stream or "stdout",
            "offset": offset,
            "limit": OUTPUT_PIECE_BYTES,
            "wait_s": FOLLOW_CALL_S if follow else None,
            "attempt": attempt,
        }
        try:
            answer = session.client.get_bytes(path, query)
        except LwfmError as error:
            if not follow:
                raise
            trouble.wait(error)
            continue
        trouble = _Trouble()
        _print_bytes(answer.body)
        offset = int(answer.headers.get("lwfm-offset", offset + len(answer.body)))
        all_there = offset >= int(answer.headers.get("lwfm-size", offset))
        if all_there and (answer.headers.get("lwfm-ended") == "1" or not follow):
            return


class _Trouble:
    """What keeps a job's output from being followed for a while, as a site that is down: said once, and waited for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said = ""

    def wait(self, error: LwfmError) -> None:
        """Wait a moment.

        Raises:
            LwfmError: ``error``, when it will not pass by itself, or has not done so for long.
        """
        if not error.transient or time.monotonic() - self._began > FOLLOW_PATIENCE_S:
            raise error
        if error.message != self._said:
            self._said = error.message
            render.note(f"lwfm: {error.message}; it goes on when that is over")
        time.sleep(FOLLOW_AGAIN_S)


def _print_bytes(data: bytes) -> None:
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(harmless_lines(data.decode("utf-8", "surrogateescape")))
    else:
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


@job.command(epilog=example("lwfm job log last --level warning"))
@click.option("--level", metavar="LEVEL", help="At least this: DEBUG, INFO, WARNING, ERROR.")
@limit_option(0)
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def log(session: Session, job_id: str, level: str | None, limit: int, as_json: bool) -> None:
    """The lines of log that belong to a job, oldest first."""
    query = {"job": job_id, "level": level and level.upper(), "limit": limit}
    lines = session.client.get("/v1/logs", query)["logs"]
    if as_json:
        render.print_json(lines)
    else:
        show_lines(lines, with_origin=False)


@job.command(epilog=example("lwfm job wait last --timeout 1h", "lwfm job wait --any 019aab12 019aab34"))
@click.option("--timeout", "timeout_s", type=Duration(), help="Give up after this time, with exit code 10.")
@click.option("--any", "any_of", is_flag=True, help="Until one of them has ended.")
@json_option
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@click.pass_obj
def wait(session: Session, jobs: tuple[str, ...], timeout_s: float | None, any_of: bool, as_json: bool) -> int:
    """Wait until jobs have ended. The exit code is 11 unless all are COMPLETE."""
    if not any_of:
        from .waiting import wait_for

        return wait_for(session.client, jobs, as_json=as_json, timeout_s=timeout_s)
    from ..library.waiting import wait_until

    ended = [record for record in wait_until(session.client, list(jobs), "any", timeout_s) if record.terminal]
    if as_json:
        render.print_json([record.to_json() for record in ended])
    else:
        render.table(
            ("JOB", "NAME", "STATE"),
            ((render.identifier(record.job_id), record.name, str(record.state)) for record in ended),
        )
    return 0 if all(str(record.state) == "COMPLETE" for record in ended) else EXIT_FAILED_JOBS


@job.command(epilog=example("lwfm job cancel last", "lwfm job cancel --workflow melt --reason 'wrong potential'"))
@click.option("--reason", default="", help="Why, for the record.")
@workflow_option
@json_option
@click.argument("jobs", metavar="JOB...", nargs=-1)
@click.pass_obj
def cancel(session: Session, jobs: tuple[str, ...], workflow: str | None, reason: str, as_json: bool) -> None:
    """End jobs, in whatever state they are. Harmless for those that have ended.

    Jobs of other instances are cancelled there: of a workflow they are left out.
    """
    if not jobs and workflow is None:
        raise InvalidRecord("which jobs?", hint="name them, or a workflow with --workflow")
    chosen = session.workflow_id(workflow) if workflow is not None else None
    body = without_none(jobs=list(jobs) or None, workflow=chosen, reason=reason or None)
    answer = session.client.post("/v1/jobs/cancel", body, repeatable=True)
    if as_json:
        render.print_json(answer)
    else:
        render.say(f"{plural(int(answer['cancelled']), 'job')} cancelled")
        for host, count in (answer.get("elsewhere") or {}).items():
            render.note(
                f"lwfm: {plural(int(count), 'job')} of the workflow cannot be cancelled from here, only on {host}"
            )


@job.command(epilog=example("lwfm job tree last"))
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def tree(session: Session, job_id: str, as_json: bool) -> None:
    """A job and the jobs it started or triggered, and theirs."""
    body = session.client.get(path_of("jobs", job_id, "tree"))
    if as_json:
        render.print_json(body)
        return
    for line in render.tree(body, _tree_label):
        render.say(line)


def _tree_label(node: JSON) -> str:
    item = node["job"]
    state = render.coloured_state(item["state"])
    place = f"  on {harmless(item['elsewhere'])}" if item.get("elsewhere") else ""
    return f"{short(item['job_id'])}  {state}  {harmless(item.get('name', ''))}{place}"


@job.command("why", short_help="Why a job is in its state.", epilog=example("lwfm job why last"))
@json_option
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def why_job(session: Session, job_id: str, as_json: bool) -> None:
    """Why a job is in its state: what it waits for, or how it came to its end."""
    body = session.client.get(path_of("jobs", job_id, "why"))
    if as_json:
        render.print_json(body)
        return
    reason = f": {harmless(body['reason'])}" if body.get("reason") else ""
    render.say(render.coloured_state(body["state"]) + reason)
    for line in body.get("explanation") or ():
        render.say("  " + harmless(str(line)))
    if body["state"] == "FAILED":
        render.note(f"  → lwfm job output --stderr {short(body['job_id'])}")
