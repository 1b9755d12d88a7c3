"""From ``sites.toml`` to sites: finds a driver by its name, makes it when it is first needed, remembers what became of that."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ..config import SiteConfig
from ..errors import ConfigError, LwfmError, NotSupported, SiteError, UnknownSite
from .base import SiteContext, SiteDriver

BUILT_IN = {
    "local": "lwfm.sites.local:LocalSite",
    "allocation": "lwfm.sites.allocation:AllocationSite",
    "slurm": "lwfm.sites.batch_site:SlurmSite",
    "pbs": "lwfm.sites.batch_site:PbsSite",
    "sge": "lwfm.sites.batch_site:GridEngineSite",
}
ENTRY_POINT_GROUP = "lwfm.sites"
PILLARS = ("auth", "run", "repo", "spin")
_logger = logging.getLogger(__name__)


@dataclass
class _Entry:
    config: SiteConfig
    driver: Optional[SiteDriver] = None
    error: Optional[LwfmError] = None


class Registry:
    """The configured sites.

    Args:
        configs: by name.
        context_of: makes the context of a site's driver.
    """

    def __init__(self, configs: Mapping[str, SiteConfig], context_of: Callable[[SiteConfig], SiteContext]):
        self._entries = {name: _Entry(config) for name, config in configs.items()}
        self._context_of = context_of

    def configure(self, configs: Mapping[str, SiteConfig]) -> None:
        """Take a changed configuration: sites that are as they were keep their drivers."""
        for name in [name for name in self._entries if configs.get(name) != self._entries[name].config]:
            self._close(name, self._entries.pop(name))
        for name, config in configs.items():
            self._entries.setdefault(name, _Entry(config))

    def names(self) -> list[str]:
        """The names of the sites."""
        return list(self._entries)

    def driver(self, name: str) -> SiteDriver:
        """The driver of a site.

        Raises:
            UnknownSite: there is none of that name. ConfigError: its driver cannot be found or made.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries))
            raise UnknownSite(f"there is no site {name!r}", hint=f"known sites: {known}; others go into sites.toml")
        if entry.driver is None:
            try:
                entry.driver = _load(entry.config.driver)(self._context_of(entry.config))
                entry.error = None
            except LwfmError as error:
                entry.error = error
                raise
            except Exception as error:
                _logger.exception("site %s", name)
                entry.error = ConfigError(f"the driver of site {name!r} failed: {type(error).__name__}: {error}")
                raise entry.error from error
        return entry.driver

    def pillar(self, name: str, pillar: str) -> Any:
        """One pillar of a site.

        Raises:
            NotSupported: the site does not have it. Else as :meth:`driver`.
        """
        found = getattr(self.driver(name), pillar)
        if found is None:
            raise NotSupported(f"site {name!r} has no {pillar} pillar")
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """A site as the API shows it."""
        config = self._entries[name].config if name in self._entries else None
        answer: dict[str, Any] = {
            "name": name,
            "driver": config.driver if config else None,
            "options": dict(config.options) if config else {},
        }
        try:
            driver = self.driver(name)
        except UnknownSite:
            raise
        except LwfmError as error:
            return {**answer, "pillars": [], "state": "failed", "reason": error.message}
        return {
            **answer,
            "pillars": [pillar for pillar in PILLARS if getattr(driver, pillar) is not None],
            "state": "ready",
        }

    def close(self) -> None:
        """Close every driver that was made."""
        for name, entry in self._entries.items():
            self._close(name, entry)

    def _close(self, name: str, entry: _Entry) -> None:
        if entry.driver is not None:
            try:
                entry.driver.close()
            except Exception:
                _logger.exception("closing site %s", name)


def called(site: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a driver: what it raises that is not ours becomes a SiteError, at this one seam."""
    try:
        return function(*arguments)
    except LwfmError:
        raise
    except Exception as error:
        _logger.exception("site %s", site)
        raise SiteError(
            f"site {site!r} failed: {type(error).__name__}: {error}", hint="the agent's log has the details"
        ) from error


def _load(name: str) -> type[SiteDriver]:
    """The driver class that ``name`` means: a built-in, an entry point, or ``package.module:Class``."""
    target = BUILT_IN.get(name)
    if target is None and ":" in name:
        target = name
    if target is None:
        return _from_entry_point(name)
    module_name, _, class_name = target.partition(":")
    if module_name.startswith("lwfm."):
        module = importlib.import_module("." + module_name[len("lwfm.") :], __package__.rpartition(".")[0])
    else:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(
                f"driver {name!r} cannot be imported: {error}", hint="is its package installed beside lwfm?"
            ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, SiteDriver):
        raise ConfigError(
            f"driver {name!r} is not a SiteDriver", hint="write package.module:Class of a subclass of lwfm's SiteDriver"
        )
    return found


def _from_entry_point(name: str) -> type[SiteDriver]:
    from importlib.metadata import entry_points

    found = entry_points()
    group = found.select(group=ENTRY_POINT_GROUP) if hasattr(found, "select") else found.get(ENTRY_POINT_GROUP, [])
    for point in group:
        if point.name == name:
            loaded: type[SiteDriver] = point.load()
            return loaded
    known = ", ".join(sorted(BUILT_IN))
    raise ConfigError(f"there is no driver {name!r}", hint=f"built in: {known}; others as package.module:Class")
