"""The options of all commands that reach another host over ssh, and the address that they make."""

from __future__ import annotations

import os
from functools import wraps
from typing import Any, Callable, TypeVar

import click

from ..sync.address import FABRIC, TRANSPORTS, parse
from .typed import Number

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("user", "port", "identity", "transport", "remote_path", "remote_python", "remote_home", "ssh_config")
_FILES_HERE = ("identity", "ssh_config")


def ssh_options(function: F) -> F:
    """The argument HOST and the options of ssh; the command gets them as ``address``."""

    @wraps(function)
    def with_address(*args: Any, host: str, **options: Any) -> Any:
        return function(*args, address=parse(host, **_taken(options)), **options)

    decorated: Any = with_address
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def ssh_settings(function: F) -> F:
    """The options of ssh alone; the command gets those that were given as ``ssh``, for :func:`~lwfm.sync.address.parse`."""

    @wraps(function)
    def with_settings(*args: Any, **options: Any) -> Any:
        return function(*args, ssh=_taken(options), **options)

    decorated: Any = with_settings
    for option in reversed(_OPTIONS[1:]):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    """Those of ssh that were given, out of ``options``; files of this host as others find them too, from other directories."""
    given = {name: value for name in _NAMES for value in [options.pop(name)] if value is not None}
    return {
        name: os.path.abspath(os.path.expanduser(value)) if name in _FILES_HERE and value else value
        for name, value in given.items()
    }


_OPTIONS = (
    click.argument("host", metavar="HOST"),
    click.option("-p", "--port", type=Number(1, 65535), metavar="PORT", help="The port of its sshd."),
    click.option("-l", "--user", metavar="USER", help="The user to log in as."),
    click.option("-i", "--identity", metavar="FILE", help="A private key to try first."),
    click.option(
        "--transport",
        type=click.Choice(TRANSPORTS),
        help=f"Reach it with the library that comes with lwfm, or with your own ssh. [default: {FABRIC}]",
    ),
    click.option("--remote-path", metavar="PATH", help="Where lwfm is there, if in none of the usual places."),
    click.option("--remote-python", metavar="PYTHON", help="The Python to run it with there."),
    click.option("--remote-home", metavar="DIR", help="The instance there. [default: as its environment there says]"),
    click.option("-F", "--ssh-config", metavar="FILE", help="Read this instead of ~/.ssh/config."),
)
