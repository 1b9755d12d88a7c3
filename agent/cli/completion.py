"""``completion``: the shell's completion of commands and options, printed or installed."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from ..errors import ConfigError
from . import render
from .groups import Group, example
from .main import COMPLETION_VARIABLE, cli, program_name

SHELLS = ("bash", "zsh", "fish")


@click.group(cls=Group, short_help="Shell completion.")
def completion() -> None:
    """Completion of commands and options in bash, zsh and fish."""


@completion.command("print", epilog=example('eval "$(lwfm completion print bash)"'))
@click.argument("shell", metavar="[bash|zsh|fish]", type=click.Choice(SHELLS), required=False)
def print_script(shell: str | None) -> None:
    """Print what the shell has to read."""
    render.say(_source(shell or _shell()))


@completion.command(short_help="Put it where the shell looks for it.", epilog=example("lwfm completion install"))
@click.argument("shell", metavar="[bash|zsh|fish]", type=click.Choice(SHELLS), required=False)
def install(shell: str | None) -> None:
    """Put it where the shell looks for it, and say what else there is to do."""
    chosen = shell or _shell()
    path = _target(chosen)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_source(chosen), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="lwfm completion print") from error
    render.say(f"written: {path}")
    if chosen == "zsh":
        render.say(
            f"if it is not yet there, add to ~/.zshrc: fpath=({path.parent} $fpath); autoload -U compinit; compinit"
        )
    render.say("it is there in the next shell you open")


def _target(shell: str) -> Path:
    name = program_name()
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / name,
        "zsh": data / "zsh" / "site-functions" / f"_{name}",
        "fish": settings / "fish" / "completions" / f"{name}.fish",
    }[shell]


def _shell() -> str:
    name = os.path.basename(os.environ.get("SHELL", ""))
    if name not in SHELLS:
        raise ConfigError(f"no completion for the shell {name!r}", hint=f"name one of {', '.join(SHELLS)}")
    return name


def _source(shell: str) -> str:
    kind = get_completion_class(shell)
    assert kind is not None
    instance = kind(cli, {}, program_name(), COMPLETION_VARIABLE)
    return str(kind.source_template % instance.source_vars()) + "\n"
