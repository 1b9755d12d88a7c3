"""Options that several commands take. Asks nobody anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import click

from .typed import Duration, Gpus, Memory, Number, parse_environment, parse_properties, parse_repeated

if TYPE_CHECKING:
    from ..records import JSON

F = TypeVar("F", bound=Callable[..., Any])


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
