"""Finding a driver's class by its name: a built-in, an entry point, a class of a module or of a file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError
from .base import SiteDriver

BUILT_IN = {
    "local": "lwfm.sites.local:LocalSite",
    "allocation": "lwfm.sites.allocation:AllocationSite",
    "slurm": "lwfm.sites.batch_site:SlurmSite",
    "pbs": "lwfm.sites.batch_site:PbsSite",
    "sge": "lwfm.sites.batch_site:GridEngineSite",
    "ssh": "lwfm.sync.site:SshSite",
}
IN_AGENT = ("local", "allocation")
"""The drivers that use the agent's nodes, and so cannot be in a process of their own."""
ENTRY_POINT_GROUP = "lwfm.sites"


LEADS_ON = frozenset({"ssh"})
"""Drivers of sites that have sites themselves, which are named as ``NAME/SITE``."""


def load(name: str, directory: Path) -> type[SiteDriver]:
    """The driver class that ``name`` means: a built-in, an entry point, ``package.module:Class`` or ``FILE.py:Class``.

    Args:
        directory: what the path of a file is relative to.

    Raises:
        ConfigError: there is none. Whatever its module raises when it is imported.
    """
    target = BUILT_IN.get(name, name)
    module_name, colon, class_name = target.rpartition(":")
    if not colon:
        return _checked(_from_entry_point(name), name)
    if module_name.endswith(".py"):
        module = _from_file(directory / os.path.expanduser(module_name))
    elif module_name.startswith("lwfm."):
        module = importlib.import_module("." + module_name[len("lwfm.") :], __package__.rpartition(".")[0])
    else:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(
                f"driver {name!r} cannot be imported: {error}",
                hint="is its package installed beside lwfm? A file is named as /path/to/FILE.py:Class",
            ) from error
    return _checked(getattr(module, class_name, None), name)


def _checked(found: object, name: str) -> type[SiteDriver]:
    if isinstance(found, type) and issubclass(found, SiteDriver):
        return found
    raise ConfigError(
        f"driver {name!r} is not a SiteDriver", hint="write package.module:Class of a subclass of lwfm's SiteDriver"
    )


def _from_file(path: Path) -> ModuleType:
    """The module in a file; what lies beside it can be imported too."""
    name = f"lwfm_driver_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(
            f"there is no driver {path}", hint="driver = FILE.py:Class; a relative path is seen from home"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise ConfigError(f"driver {path} cannot be imported: {error}") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_entry_point(name: str) -> object:
    from importlib.metadata import entry_points

    found = entry_points()
    group = found.select(group=ENTRY_POINT_GROUP) if hasattr(found, "select") else found.get(ENTRY_POINT_GROUP, [])
    for point in group:
        if point.name == name:
            loaded: object = point.load()
            return loaded
    known = ", ".join(sorted(BUILT_IN))
    raise ConfigError(
        f"there is no driver {name!r}",
        hint=f"built in: {known}; others as package.module:Class, FILE.py:Class or an entry point of {ENTRY_POINT_GROUP}",
    )
