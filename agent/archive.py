"""The one file that this process was started from, if it was: its parts, and those that are unpacked only when needed.

The modules ``lwfm_start`` and ``lwfm_unpack`` come with the file (``build/onefile/``); they have done their work before this
package was imported. In an installed lwfm there are none, and nothing is to be done.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Optional

from .errors import ConfigError


@dataclass(frozen=True)
class Unpacked:
    """What of the one file is in use.

    Args:
        archive: the file. ``build``: the name of its build. ``target``: for which interpreter its parts are.
        directory: where they are unpacked. ``groups``: which.
        damage: what is wrong with them, one sentence; None when nothing is.
    """

    archive: Path
    build: str
    target: str
    directory: Path
    groups: tuple[str, ...]
    damage: Optional[str]


def provide(group: str) -> None:
    """Make the packages of ``group`` importable: those that not every process needs are unpacked only now.

    Raises:
        ConfigError: they do not run here, or there is no place for them.
    """
    start = _start()
    if start is None:
        return
    try:
        directory = start.provide(group)
    except start.Refused as error:
        raise ConfigError(str(error)) from None
    if directory not in sys.path:
        own = [index for index, entry in enumerate(sys.path) if entry.startswith(os.path.dirname(directory))]
        sys.path.insert(max(own, default=-1) + 1, directory)


def unpacked() -> Optional[Unpacked]:
    """What is in use; None when this process was not started from the one file. Looks at the content of every file."""
    start = _start()
    if start is None:
        return None
    import lwfm_unpack

    here = Path(__file__).absolute().parents[2]
    groups = tuple(sorted(path.stem for path in here.glob("*.files") if not path.name.startswith(".")))
    damages = (lwfm_unpack.damage(str(here / group)) for group in groups)
    damage = next((found for found in damages if found), None)
    return Unpacked(Path(start.archive), start.BUILD, start.target(), here, groups, damage)


def keep_over_exec() -> None:
    """The program that takes this process over will use what is unpacked: hold it on."""
    start = _start()
    for descriptor in start._in_use if start is not None else ():
        os.set_inheritable(descriptor, True)


def _start() -> Optional[ModuleType]:
    start = sys.modules.get("lwfm_start")
    return start if start is not None and start.in_charge() else None
