"""Options that several commands take, and what is typed there turned into values. Asks nobody anything."""

from __future__ import annotations

import json
import math
import os
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import click

from ..clock import utc_text
from ..errors import InvalidRecord
from ..quantities import bytes_of, seconds_of

if TYPE_CHECKING:
    from ..records import JSON

F = TypeVar("F", bound=Callable[..., Any])

SMALLEST_MEMORY_BYTES = 1024 * 1024


class Memory(click.ParamType):
    """A size: ``4G``, ``512M``, ``1.5GiB`` (powers of 1024), ``4GB`` (powers of 1000), or bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        count = bytes_of(str(value))
        if count is None:
            raise click.BadParameter(f"{value!r} is not a size: write 4G, 512M or 1.5GiB", ctx, param)
        if count < SMALLEST_MEMORY_BYTES:
            raise click.BadParameter(
                f"{value!r} is {count} bytes, too little for any program: write 4G or 512M", ctx, param
            )
        return count


class Duration(click.ParamType):
    """A time: ``90`` (seconds), ``10m``, ``1h30m``, ``2d``, ``10:00`` (minutes), ``1:30:00``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        seconds = seconds_of(str(value))
        if seconds is None or seconds <= 0:
            raise click.BadParameter(f"{value!r} is not a time: write 90, 10m, 1h30m, 2d or 1:30:00", ctx, param)
        return seconds


class Moment(click.ParamType):
    """A time of the calendar, in UTC unless it names a zone: ``2026-05-01``, ``2026-05-01T08:00``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The time as records have it."""
        try:
            found = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", str(value)))
        except ValueError:
            told = f"{value!r} is not a time: write 2026-05-01 or 2026-05-01T08:00"
            raise click.BadParameter(told, ctx, param) from None
        return utc_text((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp())


class Number(click.IntRange):
    """A whole number, within bounds where they are given."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """How the help calls it, instead of by the name of a Python type. click 8.1 gives no context."""
        return "N"


class Gpus(click.ParamType):
    """A whole number of GPUs."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).strip()
        if not text.isdecimal():
            share = "; a GPU is given to one job at a time, whole" if re.fullmatch(r"\d*\.\d+", text) else ""
            raise click.BadParameter(f"{value!r} is not a whole number{share}", ctx, param)
        return int(text)


def parse_properties(items: tuple[str, ...]) -> JSON:
    """``KEY=VALUE`` items as metadata.

    A value that reads as JSON is that: a number, ``true``, ``false``, ``null``, a list, an object, quoted text.
    Everything else is text.

    Raises:
        InvalidRecord: an item without ``=`` or without a name.
    """
    return {key: parse_value(value) for key, value in (_pair(item, "KEY=VALUE") for item in items)}


def parse_repeated(items: tuple[str, ...]) -> JSON:
    """``KEY=VALUE`` items whose values are text; a key that is given several times has a list of them.

    Raises:
        InvalidRecord: an item without ``=`` or without a name.
    """
    values: JSON = {}
    for key, value in (_pair(item, "KEY=VALUE") for item in items):
        values[key] = value if key not in values else [*_several(values[key]), value]
    return values


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def parse_value(text: str) -> Any:
    """A value as typed; see :func:`parse_properties`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return text if value in (math.inf, -math.inf) else value  # 1e999


def _refuse(word: str) -> Any:
    raise ValueError(word)  # NaN and Infinity are words, not JSON


def parse_environment(items: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` items, or ``NAME`` to take over the current value.

    Raises:
        InvalidRecord: a variable that is to be taken over but is not set.
    """
    values = {}
    for item in items:
        if "=" in item:
            name, value = _pair(item, "NAME=VALUE")
        elif item in os.environ:
            name, value = item, os.environ[item]
        else:
            raise InvalidRecord(f"--env {item}: this variable is not set", hint="write NAME=VALUE, or set it first")
        values[name] = value
    return values


def _pair(item: str, form: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise InvalidRecord(f"{item!r} has no name or no value", hint=f"write {form}")
    return name, value


class WordsAfterDashes(click.Command):
    """A command whose last words, after ``--``, are a command to run: they arrive as ``words``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the words aside before click sees the rest."""
        words: list[str] = []
        if "--" in args:
            at = args.index("--")
            args, words = args[:at], args[at + 1 :]
        rest: list[str] = super().parse_args(ctx, args)
        ctx.params["words"] = tuple(words)
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show the words in the usage line."""
        pieces: list[str] = super().collect_usage_pieces(ctx)
        return [*pieces, "[-- COMMAND...]"]


def json_option(function: F) -> F:
    """``--json``."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    decorated: F = option(function)
    return decorated


def workflow_option(function: F) -> F:
    """``--workflow``."""
    text = "The workflow, by id, prefix of it, name, or 'last'."
    decorated: F = click.option("--workflow", metavar="ID|NAME", help=text)(function)
    return decorated


def origin_option(function: F) -> F:
    """``--origin``."""
    text = "Only what comes from this instance: its host, how its id begins, or 'here'."
    decorated: F = click.option("--origin", metavar="HOST|ID|here", help=text)(function)
    return decorated


def limit_option(default: int) -> Callable[[F], F]:
    """``--limit``."""
    number = Number(min=0)
    option: Callable[[F], F] = click.option(
        "--limit", type=number, default=default, show_default=True, help="At most so many; 0: all."
    )
    return option


def definition_options(function: F) -> F:
    """What describes a job: resources, environment, files, properties."""
    options = (
        click.option("--name", default="", help="A name for people; the program's when not given."),
        click.option("--cores", type=Number(min=0), help="Cores, which the job is pinned to. [default: one]"),
        click.option("--gpus", type=Gpus(), default=0, help="GPUs."),
        click.option("--mem", type=Memory(), help="Memory, as 4G or 512M; the job is stopped when it takes more."),
        click.option("--nodes", type=Number(min=1), help="Nodes, each with these cores, GPUs and memory."),
        click.option("--tasks-per-node", type=Number(min=1), help="Start it so many times on each node, as MPI tasks."),
        click.option("--starter", metavar="COMMAND", help="What starts the tasks. [default: mpiexec, else srun]"),
        click.option("--on", "labels", multiple=True, metavar="LABEL", help="Only on nodes with this label or name."),
        click.option("--time", "time_limit_s", type=Duration(), help="Time limit, as 90, 10m or 1:30:00."),
        click.option("--priority", type=Number(), default=0, help="Of waiting jobs, higher numbers are served first."),
        click.option("--retries", type=Number(min=0), default=0, help="New attempts when one fails."),
        click.option("--cwd", type=click.Path(), help="The directory to run in. [default: this one]"),
        click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or take over its value."),
        click.option("--in", "inputs", multiple=True, metavar="FILE", help="A file the job reads; recorded."),
        click.option("--out", "outputs", multiple=True, metavar="FILE", help="A file the job must write; recorded."),
        click.option("--meta", multiple=True, metavar="KEY=VALUE", help="A property the job can be found by."),
        click.option(
            "--option", "site_options", multiple=True, metavar="KEY=VALUE", help="For its site alone, as partition=gpu."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def definition_fields(
    *,
    name: str,
    cores: int | None,
    gpus: int,
    mem: int | None,
    nodes: int | None,
    tasks_per_node: int | None,
    starter: str | None,
    labels: tuple[str, ...],
    time_limit_s: float | None,
    priority: int,
    retries: int,
    cwd: str | None,
    env: tuple[str, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    meta: tuple[str, ...],
    site_options: tuple[str, ...],
) -> JSON:
    """The options of :func:`definition_options` as keys of a definition; what is not given is left out."""
    resources: JSON = {
        "cores": cores,
        "gpus": gpus or None,
        "memory_bytes": mem,
        "time_limit_s": time_limit_s,
        "nodes": nodes,
        "tasks_per_node": tasks_per_node,
        "starter": starter,
        "labels": list(labels) or None,
    }
    fields: JSON = {
        "name": name,
        "resources": {key: value for key, value in resources.items() if value is not None},
        "retries": retries,
        "priority": priority,
        "cwd": os.path.abspath(os.path.expanduser(cwd)) if cwd else None,
        "env": parse_environment(env),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "meta": parse_properties(meta),
        "options": parse_repeated(site_options),
    }
    return {key: value for key, value in fields.items() if value}
