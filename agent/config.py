"""The configuration a person writes: ``sites.toml`` in the instance's home. Reads it; changes nothing.

Each section is a site: ``driver`` names what drives it (a built-in name, an entry point of the group ``lwfm.sites``, or
a dotted path ``package.module:Class``), the other keys are that driver's options. The sites ``local`` and ``allocation`` are
always there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import hostlist
from .errors import ConfigError, InvalidRecord
from .limits import KEYS, NO_LIMITS, Limits, limits_of

LOCAL_SITE, ALLOCATION_SITE = "local", "allocation"
"""The sites that are always there, with drivers of the same names."""


@dataclass(frozen=True)
class SiteConfig:
    """One section of ``sites.toml``.

    Args:
        name: the site's name.
        driver: what drives it.
        options: the other keys of the section.
        limits: those of them that say how much is asked of it.
    """

    name: str
    driver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = NO_LIMITS


def seconds_option(options: Mapping[str, Any], name: str, default: float, *, zero: bool = False) -> float:
    """An option of ``[local]`` that is a number of seconds: more than 0, or with ``zero`` from 0.

    Raises:
        ConfigError: it is not.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 or (zero and value == 0)):
        raise ConfigError(f"sites.toml: {name} of [local] must be a number of seconds, not {value!r}")
    return float(value)


def choice_option(options: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """An option of ``[local]`` that is one of several words; the first when it is not given.

    Raises:
        ConfigError: it is not.
    """
    value = options.get(name, choices[0])
    if value not in choices:
        raise ConfigError(f"sites.toml: {name} of [local] must be one of {', '.join(choices)}, not {value!r}")
    return str(value)


def labels_option(options: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The option ``labels`` of ``[local]``: by label, the hosts that have it, as ``bigmem = ["n1", "n[5-8]"]``.

    Raises:
        ConfigError: it is not a table of such lists.
    """
    given = options.get("labels", {})
    if not isinstance(given, Mapping):
        raise ConfigError('sites.toml: labels of [local] must be a table, as {bigmem = ["n1", "n[5-8]"]}')
    labels: dict[str, frozenset[str]] = {}
    for label, hosts in given.items():
        listed = [hosts] if isinstance(hosts, str) else hosts
        if not isinstance(listed, list) or not all(isinstance(host, str) for host in listed):
            raise ConfigError(f"sites.toml: the label {label} of [local] must have a list of hosts, not {hosts!r}")
        try:
            labels[label] = frozenset(host for text in listed for host in hostlist.expand(text))
        except InvalidRecord as error:
            raise ConfigError(f"sites.toml: the label {label} of [local]: {error.message}") from None
    return labels


def signature(path: Path) -> tuple[int, int, int]:
    """Tells a file from a changed one; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def read_sites(path: Path) -> dict[str, SiteConfig]:
    """The configured sites by name; ``local`` and ``allocation`` among them even where there is no file.

    Raises:
        ConfigError: the file cannot be read or is malformed; the message names the file and the line or section.
    """
    sites = {name: SiteConfig(name, name) for name in (LOCAL_SITE, ALLOCATION_SITE)}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return sites
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    for name, section in _parse(text, path).items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name!r} stands outside a section", hint="begin each site with [name]")
        if "/" in name or not name.strip():
            raise ConfigError(f"{path}: {name!r} cannot be a site's name", hint="a name without slashes")
        options = dict(section)
        driver = options.pop("driver", name if name in (LOCAL_SITE, ALLOCATION_SITE) else None)
        if not isinstance(driver, str) or not driver:
            raise ConfigError(f"{path}: section [{name}] names no driver", hint='add a line: driver = "..."')
        if driver in (LOCAL_SITE, ALLOCATION_SITE):
            for key in (key for key in KEYS if key in options):
                raise ConfigError(
                    f"{path}: {key} of [{name}] has no meaning: its jobs go to the agent's own nodes",
                    hint="it is for sites that are asked how their jobs are",
                )
        sites[name] = SiteConfig(name, driver, options, limits_of(name, options))
    return sites


def _parse(text: str, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="correct the line it names") from None
