"""``submit``: one job, or many that differ in a word.

Many jobs share one template, checked once; what differs is put in as text, so that thousands cost next to nothing. They
go to the agent in calls of some hundred, the next being made while the agent works on the last.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from ..errors import InvalidRecord, NotFound
from ..ids import new_id
from ..jsontext import compact_ascii
from ..library.bodies import without_none
from ..library.submission import capture_context
from ..models import JobDefn
from ..records import JSON
from . import render
from .groups import example
from .options import definition_fields, definition_options, json_option, workflow_option
from .session import Session
from .text import plural
from .typed import parse_value
from .waiting import wait_for

MARK = "{}"
FIRST_CHUNK = 100
"""Jobs in the first call: few, so that the site has work while the rest is made."""
CHUNK = 250
LISTED_IDS = 20
"""So many ids are listed on a terminal; of more jobs only the number is told."""
READ_BYTES = 1024 * 1024
FLUSH_S = 0.05
"""How long to wait for more lines of a slow pipe before those that have come are submitted."""
SHOWN_IN_DRY_RUN = 5
SHOWN_REASONS = 3
"""Of what is said of where jobs go, or what they wait for, so much is shown."""


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog=example(
        "lwfm submit --cores 4 --mem 8G --time 2:00:00 -- ./solve input.dat",
        "lwfm submit --array 1-1000 --name 'sim-{}' --out 'out-{}.csv' -- python sim.py --seed {}",
        "lwfm submit --site cluster,local -- ./solve input.dat",
        "lwfm submit --each-line files.txt --wait -- gzip -k {}",
        "lwfm submit --each-line commands.txt           (each line is a command for the shell)",
    ),
)
@click.option(
    "--site",
    metavar="SITE",
    default="local",
    show_default=True,
    help="Where to run; a,b: on the first that accepts it.",
)
@workflow_option
@definition_options
@click.option("--each-line", metavar="FILE|-", help="One job per line of a file; {} is the line.")
@click.option("--array", metavar="FIRST-LAST[:STEP]", help="One job per number; {} is the number.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 11 unless all complete.")
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, and submit nothing.")
@json_option
@click.argument("words", metavar="[--] COMMAND [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def submit(
    session: Session,
    site: str,
    workflow: str | None,
    each_line: str | None,
    array: str | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    words: tuple[str, ...],
    **described: Any,
) -> int:
    """Submit a command as a job; print the job's id.

    The command's words are given to the program as they are, no shell looks at them; for a shell say: sh -c '...'. With
    --each-line or --array, {} stands for the line or the number in the command, and in --name, --in, --out and --meta.
    --on, --env, --in, --out, --meta and --option may be given several times. Ids of many jobs are only counted on a terminal, but
    printed to a pipe or with --json.
    """
    if each_line is not None and array is not None:
        raise InvalidRecord("--each-line and --array cannot both be given")
    template = Template(words, definition_fields(**described), lines_are_commands=each_line is not None and not words)
    values: Iterable[list[str]]
    if each_line is not None:
        values = chunks_of_lines(each_line)
    elif array is not None:
        values = chunks_of_numbers(array)
    else:
        values = iter([[MARK]])  # left as it is
    if dry_run:
        return _show_only(template, values, as_json)
    common = without_none(
        context=capture_context(),
        site=site,
        workflow=session.workflow_id(workflow),
        parent=session.context.job_id,
    )
    recorded: list[JSON] = []
    for answer in session.client.post_each("/v1/jobs", _bodies(template, values, common)):
        recorded += answer["jobs"]
    ids = [job["job_id"] for job in recorded]
    if not as_json:
        _show_ids(ids, single=each_line is None and array is None)
        for reason in list(dict.fromkeys(job["reason"] for job in recorded if job.get("reason")))[:SHOWN_REASONS]:
            render.note(f"lwfm: {reason}")
    if wait and ids:
        return wait_for(session.client, ids, as_json=as_json)
    if as_json:
        render.print_json(recorded if each_line is not None or array is not None else recorded[0])
    return 0


class Template:
    """What all jobs of one submission have in common.

    Args:
        words: the command. fields: the definition's other keys.
        lines_are_commands: each value is a command for the shell by itself.

    Raises:
        InvalidRecord: there is no command.
    """

    def __init__(self, words: tuple[str, ...], fields: JSON, *, lines_are_commands: bool):
        if not words and not lines_are_commands:
            raise InvalidRecord("there is no command to run", hint="lwfm submit [OPTIONS] -- COMMAND [ARGS]")
        self._words = None if lines_are_commands else list(words)
        self._fields = fields
        varying = {key for key in ("name", "inputs", "outputs", "meta") if MARK in json.dumps(fields.get(key))}
        self._varying = {key: fields[key] for key in varying}
        fixed = {key: value for key, value in fields.items() if key not in varying}
        self._fixed = compact_ascii(fixed)[1:-1]

    def check(self, value: str) -> JobDefn:
        """The definition for one value, looked at in all detail.

        Raises:
            InvalidRecord: something about it is wrong.
        """
        return JobDefn.from_json({**self._fields, **_fill(self._varying, value), "command": self.command(value)})

    def command(self, value: str) -> Any:
        """The command for one value."""
        return value if self._words is None else [word.replace(MARK, value) for word in self._words]

    def job_text(self, value: str) -> str:
        """The definition for one value as JSON text, with a new id."""
        own: JSON = {"job_id": new_id(), "command": self.command(value)}
        if self._varying:
            own.update(_fill(self._varying, value))
        text = compact_ascii(own)
        return f"{text[:-1]},{self._fixed}}}" if self._fixed else text


def _fill(fields: JSON, value: str) -> JSON:
    """The keys of a definition with the value in place of its mark."""
    filled: JSON = {}
    for key, item in fields.items():
        if key == "meta":
            filled[key] = {name: _fill_property(held, value) for name, held in item.items()}
        elif isinstance(item, list):
            filled[key] = [text.replace(MARK, value) for text in item]
        else:
            filled[key] = item.replace(MARK, value)
    return filled


def _fill_property(held: Any, value: str) -> Any:
    if held == {}:  # as KEY={} reads
        return parse_value(value)
    return parse_value(held.replace(MARK, value)) if isinstance(held, str) and MARK in held else held


def _bodies(template: Template, values: Iterable[list[str]], common: JSON) -> Iterator[bytes]:
    head = compact_ascii(common)[:-1] + ',"jobs":['
    checked = False
    for chunk in values:
        if not checked:
            template.check(chunk[0])
            checked = True
        yield (head + ",".join(map(template.job_text, chunk)) + "]}").encode("ascii")


def chunks_of_numbers(array: str) -> Iterator[list[str]]:
    """The numbers of ``FIRST-LAST[:STEP]`` as text, in chunks.

    Raises:
        InvalidRecord: it is not such a range.
    """
    found = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?", array.strip())
    if not found or int(found[3] or 1) < 1 or int(found[1]) > int(found[2]):
        raise InvalidRecord(f"--array {array}: not a range", hint="write FIRST-LAST or FIRST-LAST:STEP, as 1-1000")
    numbers = range(int(found[1]), int(found[2]) + 1, int(found[3] or 1))

    def chunks() -> Iterator[list[str]]:
        start, length = 0, FIRST_CHUNK
        while start < len(numbers):
            yield [str(number) for number in numbers[start : start + length]]
            start, length = start + length, CHUNK

    return chunks()


def chunks_of_lines(name: str) -> Iterator[list[str]]:
    """The lines of a file (``-``: standard input) that are not empty, in chunks, as they come.

    Raises:
        NotFound: it cannot be read. InvalidRecord: a line holds a NUL character.
    """
    try:
        descriptor = 0 if name == "-" else os.open(name, os.O_RDONLY)
        if os.path.isdir(name):
            raise IsADirectoryError(21, "is a directory")
    except OSError as error:
        raise NotFound(f"cannot read {name!r}: {error.strerror}", hint="--each-line needs a file with lines") from error
    return _regrouped(_lines(descriptor, close=name != "-"))


def _lines(descriptor: int, *, close: bool) -> Iterator[list[str]]:
    """Lines in the pieces in which they arrive; an empty piece when no more are coming just now."""
    rest, number = b"", 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        while True:
            if not poll.poll(FLUSH_S * 1000):
                yield []
            piece = os.read(descriptor, READ_BYTES)
            complete = (rest + piece).split(b"\n")
            rest = b"" if not piece else complete.pop()
            lines = []
            for line in complete:
                number += 1
                if b"\0" in line:
                    raise InvalidRecord(f"line {number} holds a NUL character, which no program can be given")
                line = line.rstrip(b"\r")
                if line.strip():
                    lines.append(os.fsdecode(line))
            if lines:
                yield lines
            if not piece:
                return
    finally:
        if close:
            os.close(descriptor)


def _regrouped(pieces: Iterator[list[str]]) -> Iterator[list[str]]:
    waiting: list[str] = []
    length = FIRST_CHUNK
    for piece in pieces:
        waiting += piece
        while len(waiting) >= length or (not piece and waiting):
            yield waiting[:length]
            waiting, length = waiting[length:], CHUNK
    while waiting:
        yield waiting[:length]
        waiting = waiting[length:]


def _show_ids(ids: list[str], *, single: bool) -> None:
    if not single and len(ids) > LISTED_IDS and render.on_terminal():
        render.say(f"{plural(len(ids), 'job')} submitted: {ids[0]} ... {ids[-1]}")
    elif ids:
        sys.stdout.write("\n".join(ids) + "\n")
        sys.stdout.flush()
    else:
        render.note("lwfm: there was no line to make a job of")


def _show_only(template: Template, values: Iterable[list[str]], as_json: bool) -> int:
    started = time.monotonic()
    definitions = [template.check(value) for chunk in values for value in chunk]
    if as_json:
        render.print_json([definition.to_json() for definition in definitions])
        return 0
    for definition in definitions[:SHOWN_IN_DRY_RUN]:
        render.pairs(
            [
                ("command", definition.command_line),
                ("name", definition.name),
                ("cwd", definition.cwd or os.getcwd()),
                *((key, json.dumps(value)) for key, value in definition.to_json().items() if key in _DESCRIBED),
            ]
        )
        render.say()
    render.say(f"{plural(len(definitions), 'job')} would be submitted ({time.monotonic() - started:.2f} s to look at).")
    return 0


_DESCRIBED = ("resources", "env", "inputs", "outputs", "meta", "retries", "options")
