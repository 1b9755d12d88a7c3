"""Variables, numbers and lists of hosts as several schedulers write them.

What is missing or malformed is a ConfigError that names the variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from ... import hostlist
from ...errors import ConfigError, InvalidRecord
from .model import Read


def first_set(environment: Mapping[str, str], *names: str, told: str) -> str:
    """The first of ``names`` that is set."""
    for name in names:
        if environment.get(name):
            return name
    raise ConfigError(
        f"{told} is set, but {names[0]} is not",
        hint=f"unset {told} if this is no job, or pass the scheduler's other variables on too",
    )


def expand_hosts(text: str, name: str) -> list[str]:
    """The hosts in a list such as ``n[1-3],m7`` that the variable ``name`` tells."""
    try:
        return hostlist.expand(text)
    except InvalidRecord as error:
        raise ConfigError(f"{name}: {error.message}", hint=error.hint) from None


def check_host(text: str, name: str) -> str:
    """``text``, where it can be the name of a host; ``name`` is the variable that tells it."""
    try:
        return hostlist.check_name(text)
    except InvalidRecord as error:
        raise ConfigError(f"{name}: {error.message}") from None


def check_unique(hosts: list[str], name: str) -> list[str]:
    """``hosts``, where none comes twice."""
    if len(set(hosts)) != len(hosts):
        raise ConfigError(f"{name} has a host twice")
    return hosts


def read_named(environment: Mapping[str, str], name: str, read: Read) -> str:
    """The text of the file that the variable names."""
    try:
        return read(environment[name])
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {environment[name]}: {error}") from None


def read_hosts(environment: Mapping[str, str], name: str, read: Read, *, told: str) -> list[str]:
    """The hosts in the file that the variable names, one in a line, with repeats."""
    first_set(environment, name, told=told)
    hosts = [
        check_host(line.strip(), name) for line in read_named(environment, name, read).splitlines() if line.strip()
    ]
    if not hosts:
        raise ConfigError(f"{name}: the file {environment[name]} names no host")
    return hosts


def whole_number(environment: Mapping[str, str], name: str) -> Optional[int]:
    """The whole number that a variable holds; None where it is not set."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise malformed(environment, name)
    return int(text)


def expand_ids(text: str, name: str) -> list[int]:
    """The numbers in ``0,2-5`` or ``[0,2-5]`` (RFC 22 of Flux; Slurm writes sets of devices alike)."""
    if not text:
        return []
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return list(dict.fromkeys(map(int, expand_hosts(f"[{bare}]", name))))


def malformed(environment: Mapping[str, str], name: str) -> ConfigError:
    """The error that a variable holds what it cannot."""
    return ConfigError(f"{name} is malformed: {environment[name][:200]!r}")
