"""The commands of ``lwfm`` as a tree, for tests that go through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from lwfm.cli.main import cli


def every_command(command: Any = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command and group below ``command`` with the words that name it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every_command(command.get_command(context, name), (*words, name))


def options_of(command: Any) -> list[click.Option]:
    """The options of a command without ``--help``."""
    found = command.get_params(click.Context(command))
    return [option for option in found if isinstance(option, click.Option) and "--help" not in option.opts]
