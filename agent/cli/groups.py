"""Command groups that load a command's module only when that command is asked for, and suggest near names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are named here and imported when used.

    Args:
        entries: sections of commands for the help; each command with ``module:attribute`` below ``lwfm.cli`` and one
            line of help.
    """

    def __init__(self, *args: Any, entries: Mapping[str, Mapping[str, tuple[str, str]]], **kwargs: Any):
        super().__init__(*args, invoke_without_command=True, **kwargs)
        self._sections = entries
        self._entries = {name: entry for section in entries.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names, in the order of the help."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; an unknown one is answered with those that are near."""
        check_name(ctx, args[0], self.list_commands(ctx))
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(ctx, args)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Without a command, show the help."""
        return invoke_or_help(self, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The sections, without importing anything."""
        for title, section in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in section.items()])


class Group(click.Group):
    """A group of commands of one module."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"invoke_without_command": True, **kwargs})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As :meth:`LazyGroup.resolve_command`."""
        check_name(ctx, args[0], self.list_commands(ctx))
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(ctx, args)
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names, as they were defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Without a command, show the help."""
        return invoke_or_help(self, ctx)


def invoke_or_help(group: click.Group, ctx: click.Context) -> Any:
    """Run the command that was named, or show the group's help where none was."""
    held = getattr(ctx, "_protected_args", None)  # click 8.1 has it under its plain name, which 8.2 warns of
    words = [*(ctx.protected_args if held is None else held), *ctx.args]
    if not words:
        click.echo(ctx.get_help())
        return 0
    return click.Group.invoke(group, ctx)


def check_name(ctx: click.Context, word: str, names: list[str]) -> None:
    """Raise a usage error with the nearest names, unless ``word`` is one of ``names`` or an option."""
    if word in names or word.startswith("-"):
        return
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    meant = f": did you mean {' or '.join(near)}?" if near else ""
    raise click.UsageError(f"no such command {word!r}{meant}", ctx=ctx)


def example(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
