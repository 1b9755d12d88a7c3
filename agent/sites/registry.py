"""From ``sites.toml`` to sites: makes a driver when it is first needed, remembers what became of that.

A driver that the agent runs itself is imported and made in the thread that first asks for it, which may take long: off the event
loop, :meth:`Registry.make` comes first. One in a process of its own is there at once; see :mod:`.process`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ..config import PILLARS, SiteConfig
from ..errors import ConfigError, LwfmError, NotSupported, SiteError, UnknownSite
from ..limits import Limits
from .base import SiteContext, SiteDriver, in_turn
from .loading import IN_AGENT, LEADS_ON, load
from .process import ProcessSite, log_of
from .sandbox import Venv

CLOSE_LIMIT_S = 15.0
"""How long drivers may take to close when the agent leaves."""
_logger = logging.getLogger(__name__)


_STATES = ("failed", "starting", "not started", "closed", "ready")
"""A site whose drivers are in different states is in the first of them."""


@dataclass
class _Entry:
    """A site: its drivers by their names, once they are made."""

    config: SiteConfig
    drivers: Optional[Mapping[str, SiteDriver]] = None
    making: threading.Lock = field(default_factory=threading.Lock)


class Registry:
    """The configured sites. Any thread may use it.

    Args:
        configs: by name.
        context_of: makes the context of a site's driver.
    """

    def __init__(self, configs: Mapping[str, SiteConfig], context_of: Callable[[SiteConfig], SiteContext]):
        self._entries = {name: _Entry(config) for name, config in configs.items()}
        self._context_of = context_of
        self._closing: list[threading.Thread] = []

    def configure(self, configs: Mapping[str, SiteConfig]) -> None:
        """Take a changed configuration: sites that are as they were keep their drivers."""
        kept = {name: entry for name, entry in self._entries.items() if configs.get(name) == entry.config}
        gone = [entry for name, entry in self._entries.items() if name not in kept]
        self._entries = {name: kept.get(name) or _Entry(config) for name, config in configs.items()}
        self._close(gone)

    def names(self) -> list[str]:
        """The names of the sites."""
        return list(self._entries)

    def is_made(self, name: str) -> bool:
        """Whether asking for a pillar of this site takes no time."""
        try:
            return self._entry(name).drivers is not None
        except UnknownSite:
            return True

    def make(self, name: str) -> Mapping[str, SiteDriver]:
        """The drivers of a site by their names, made if need be. May block.

        Raises:
            UnknownSite: there is none of that name. ConfigError: a driver cannot be found or made.
        """
        return self._make(self._entry(name))

    def make_all(self) -> None:
        """Make the drivers of all sites, as far as they can be made. May block."""
        for name in self.names():
            try:
                self.make(name)
            except LwfmError as error:
                _logger.error("site %s: %s", name, error)

    def start(self, name: str, *, at_once: bool = False) -> None:
        """As :meth:`make`; a driver in a process of its own then has its process and has told its pillars, too. Blocks.

        Args:
            at_once: try now, although the process has died several times.
        """
        for driver in self.make(name).values():
            if isinstance(driver, ProcessSite):
                driver.start(at_once=at_once)

    def pillar(self, name: str, pillar: str) -> Any:
        """One pillar of a site.

        Raises:
            NotSupported: the site does not have it. Else as :meth:`make`.
        """
        entry = self._entry(name)
        found = _pillar(entry.config, self._make(entry) if entry.drivers is None else entry.drivers, pillar)
        if found is None:
            raise NotSupported(f"site {name!r} has no {pillar} pillar")
        return found

    def offered(self, name: str, pillar: str) -> Any:
        """The same, or None."""
        try:
            return self.pillar(name, pillar)
        except NotSupported:
            return None

    def limits(self, name: str) -> Limits:
        """What is asked of a site at most.

        Raises:
            UnknownSite: there is none of that name.
        """
        return self._entry(name).config.limits

    def describe(self, name: str) -> dict[str, Any]:
        """A site as the API shows it. May block, but waits for no process: ``state`` says that it is not there yet."""
        entry = self._entry(name)
        config = entry.config
        try:
            drivers = self._make(entry)
        except LwfmError as error:
            return {**_configured(config), "pillars": [], "state": "failed", "reason": error.message}
        state, trouble = min(
            (_state_of(driver) for driver in drivers.values()), key=lambda told: _STATES.index(told[0])
        )
        known = {driver for driver in drivers if _state_of(drivers[driver])[0] == "ready"}
        offered = [
            pillar
            for pillar in PILLARS
            if config.driver_of(pillar) in known and _pillar(config, drivers, pillar) is not None
        ]
        return {**_configured(config), "pillars": offered, "state": state, **({"reason": trouble} if trouble else {})}

    def close(self) -> None:
        """Close every driver that was made. Blocks for ``CLOSE_LIMIT_S`` at most."""
        self._close(list(self._entries.values()))
        until = time.monotonic() + CLOSE_LIMIT_S
        for thread in self._closing:
            thread.join(max(0.0, until - time.monotonic()))

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None and "/" in name:
            entry = self._entries.get(name.partition("/")[0])
            if entry is not None and entry.config.driver not in LEADS_ON:
                raise UnknownSite(f"site {entry.config.name!r} leads to no other sites: there is no {name!r}")
        if entry is None:
            known = ", ".join(sorted(self._entries))
            raise UnknownSite(f"there is no site {name!r}", hint=f"known sites: {known}; others go into sites.toml")
        return entry

    def _make(self, entry: _Entry) -> Mapping[str, SiteDriver]:
        with entry.making:
            if entry.drivers is None:
                entry.drivers = self._made_all(entry.config)
            return entry.drivers

    def _made_all(self, config: SiteConfig) -> dict[str, SiteDriver]:
        if (config.process or config.venv is not None) and all(name in IN_AGENT for name in config.drivers):
            raise ConfigError(
                f"site {config.name!r}: the driver {config.drivers[0]!r} uses the agent's nodes: it cannot have its own process"
            )
        made: dict[str, SiteDriver] = {}
        try:
            for name in config.drivers:
                made[name] = self._made(config, name)
        except BaseException:
            for driver in made.values():
                _close(config.name, driver)
            raise
        return made

    def _made(self, config: SiteConfig, driver: str) -> SiteDriver:
        try:
            context = self._context_of(config)
            if driver in IN_AGENT or not (config.process or config.venv is not None):
                kind = load(driver, context.home)
                if not kind.own_process:
                    return kind(context)
            log = log_of(context)
            sandbox = None if config.venv is None else Venv(config.name, config.venv, context.home, log)
            return ProcessSite(replace(context, nodes=None, allocations=None), driver, sandbox)
        except LwfmError:
            raise
        except Exception as error:
            _logger.exception("site %s", config.name)
            raise ConfigError(f"the driver of site {config.name!r} failed: {type(error).__name__}: {error}") from error

    def _close(self, entries: list[_Entry]) -> None:
        """Close drivers, each in a thread: it may take its time."""
        for entry in entries:
            for driver in (entry.drivers or {}).values():
                thread = threading.Thread(target=_close, args=(entry.config.name, driver), daemon=True)
                thread.start()
                self._closing = [*(known for known in self._closing if known.is_alive()), thread]


def _pillar(config: SiteConfig, drivers: Mapping[str, SiteDriver], pillar: str) -> Any:
    name = config.driver_of(pillar)
    return None if name is None else getattr(drivers[name], pillar)


def _state_of(driver: SiteDriver) -> tuple[str, str]:
    return (driver.state, driver.trouble) if isinstance(driver, ProcessSite) else ("ready", "")


def _configured(config: SiteConfig) -> dict[str, Any]:
    """What the configuration says of a site."""
    drivers = [config.driver or "", *(f"{pillar}: {name}" for pillar, name in config.pillars.items())]
    return {"name": config.name, "driver": ", ".join(filter(None, drivers)), "options": dict(config.options)}


def _close(name: str, driver: SiteDriver) -> None:
    try:
        driver.close()
    except Exception:
        _logger.exception("closing site %s", name)


def called(site: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a pillar's method when it is its turn: what it raises that is not ours becomes a SiteError, at this one seam."""
    try:
        with in_turn(function):
            return function(*arguments)
    except LwfmError:
        raise
    except Exception as error:
        _logger.exception("site %s", site)
        raise SiteError(
            f"site {site!r} failed: {type(error).__name__}: {error}", hint="the agent's log has the details"
        ) from error
