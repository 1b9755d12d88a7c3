"""What is typed on the command line turned into values: sizes, times, numbers, properties. Asks nobody anything."""

from __future__ import annotations

import json
import math
import os
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from ..clock import utc_text
from ..errors import InvalidRecord
from ..quantities import bytes_of, seconds_of

if TYPE_CHECKING:
    from ..records import JSON

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
