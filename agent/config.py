"""The configuration a person writes: ``sites.toml`` in the instance's home. Reads it; changes nothing.

Each section is a site: ``driver`` names what drives it (a built-in name, an entry point of the group ``lwfm.sites``, a dotted
path ``package.module:Class``, or ``FILE.py:Class``), ``pillars`` which of its pillars another drives, ``process`` and ``venv``
where they run; the other keys are the drivers' options. The sites ``local`` and ``allocation`` are always there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from . import hostlist
from .errors import ConfigError, InvalidRecord
from .limits import KEYS, NO_LIMITS, Limits, limits_of

PILLARS = ("auth", "run", "repo", "spin")
"""What a site may offer."""
LOCAL_SITE, ALLOCATION_SITE = "local", "allocation"
"""The sites that are always there, with drivers of the same names."""
SITE_KEYS = ("driver", "pillars", "process")
VENV_KEYS = ("venv", "requirements", "python")
"""The last two are the driver's own where there is no ``venv``. All else in a section are limits, and options of its driver."""
LOCAL_KEYS = (
    "cores", "memory_bytes", "gpus", "nice", "labels", "channel", "node_lost_s", "end_notice_s",
    "snapshot_every_s", "snapshots_kept", "snapshot_directory",
)  # fmt: skip
"""The options of ``[local]``."""


@dataclass(frozen=True)
class VenvConfig:
    """The virtual environment that a site's driver runs in. Paths are relative to the instance's home.

    Args:
        path: where it is; made if it is not there.
        requirements: the file that lists what is installed in it. None: nothing.
        python: the version, as ``3.12``, or the path of the Python it is made with. None: that of the agent.
    """

    path: str
    requirements: Optional[str] = None
    python: Optional[str] = None


@dataclass(frozen=True)
class SiteConfig:
    """One section of ``sites.toml``.

    Args:
        name: the site's name.
        driver: what drives it, but for ``pillars``; None: it has only those.
        options: the other keys of the section.
        process: whether the driver is to run in a process of its own. ``venv``: in which virtual environment, which needs one.
        pillars: by name, the drivers of single pillars.
        limits: those of them that say how much is asked of it.
    """

    name: str
    driver: Optional[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    process: bool = False
    venv: Optional[VenvConfig] = None
    pillars: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = NO_LIMITS

    def driver_of(self, pillar: str) -> Optional[str]:
        """What drives one pillar; None: the site does not have it."""
        return self.pillars.get(pillar, self.driver)

    @property
    def drivers(self) -> tuple[str, ...]:
        """What drives it, each once."""
        return tuple(dict.fromkeys(name for name in map(self.driver_of, PILLARS) if name is not None))


def seconds_option(options: Mapping[str, Any], name: str, default: float, *, zero: bool = False) -> float:
    """An option of ``[local]`` that is a number of seconds: more than 0, or with ``zero`` from 0.

    Raises:
        ConfigError: it is not.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 or (zero and value == 0)):
        raise ConfigError(f"sites.toml: {name} of [local] must be a number of seconds, not {value!r}")
    return float(value)


def nice_option(options: Mapping[str, Any]) -> int:
    """The option ``nice`` of ``[local]``: how far the agent and what runs on its node step back for others, 0 to 19; 0 without.

    Raises:
        ConfigError: it is not such a number.
    """
    value = options.get("nice", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 19:
        raise ConfigError(f"sites.toml: nice of [local] must be a whole number from 0 to 19, not {value!r}")
    return int(value)


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
        said = {key: options.pop(key) for key in SITE_KEYS if key in options}
        pillars = _pillars_option(said, f"{path}: [{name}]")
        driver = said.get("driver", name if name in (LOCAL_SITE, ALLOCATION_SITE) else None)
        if (driver is not None or not pillars) and (not isinstance(driver, str) or not driver):
            raise ConfigError(f"{path}: section [{name}] names no driver", hint='add a line: driver = "..."')
        process = said.get("process", False)
        if not isinstance(process, bool):
            raise ConfigError(f"{path}: process of [{name}] must be true or false, not {process!r}")
        venv = _venv_option(options, f"{path}: [{name}]")
        if driver in (LOCAL_SITE, ALLOCATION_SITE):
            for key in (key for key in KEYS if key in options):
                raise ConfigError(
                    f"{path}: {key} of [{name}] has no meaning: its jobs go to the agent's own nodes",
                    hint="it is for sites that are asked how their jobs are",
                )
        sites[name] = SiteConfig(name, driver, options, process, venv, pillars, limits_of(name, options))
        if name == driver and not pillars:
            _check_own_nodes(name, options, f"{path}: [{name}]")
    return sites


def _check_own_nodes(name: str, options: Mapping[str, Any], where: str) -> None:
    """Refuse a key of ``[local]`` or ``[allocation]`` that means nothing: it would be taken for set."""
    if name not in (LOCAL_SITE, ALLOCATION_SITE):
        return
    for key in options:
        if name == ALLOCATION_SITE:
            raise ConfigError(
                f"{where} has no options, as {key}", hint=f"what is said of nodes stands in [{LOCAL_SITE}]"
            )
        if key not in LOCAL_KEYS:
            import difflib

            near = difflib.get_close_matches(key, LOCAL_KEYS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"it knows {', '.join(LOCAL_KEYS)}"
            raise ConfigError(f"{where} knows no {key!r}", hint=meant)


def _pillars_option(said: Mapping[str, Any], where: str) -> dict[str, str]:
    """``pillars`` of what is said of a site: the drivers of single pillars, as ``pillars.repo = "local"``."""
    given = said.get("pillars", {})
    if not isinstance(given, dict) or not all(isinstance(name, str) and name for name in given.values()):
        raise ConfigError(f"{where}: pillars must name drivers, not {given!r}", hint='as in pillars.repo = "local"')
    for pillar in given:
        if pillar not in PILLARS:
            raise ConfigError(f"{where}: there is no pillar {pillar!r}", hint=f"pillars: {', '.join(PILLARS)}")
    return given


def _venv_option(options: dict[str, Any], where: str) -> Optional[VenvConfig]:
    """Take ``venv`` out of the options of a site, and with it ``requirements`` and ``python``."""
    if "venv" not in options:
        return None
    given = {key: options.pop(key) for key in VENV_KEYS if key in options}
    for key, value in given.items():
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ConfigError(f"{where}: {key} must be text, not {value!r}", hint='as in python = "3.12"')
    return VenvConfig(given["venv"], given.get("requirements"), given.get("python"))


def _parse(text: str, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="correct the line it names") from None
