"""Processes that believe to be on another host, so that what one has recorded is not at once seen by the other."""

from __future__ import annotations

import os
from pathlib import Path

from support.agents import LINK

HOSTNAME = """\
import os, socket
if os.environ.get("PRETENDED_HOST"):
    socket.gethostname = lambda: os.environ["PRETENDED_HOST"]
"""


def make_hostname(directory: Path) -> Path:
    """A directory for PYTHONPATH that makes a process believe that it is on ``$PRETENDED_HOST``."""
    made = directory / "hostname"
    made.mkdir()
    (made / "sitecustomize.py").write_text(HOSTNAME)
    return made


def on_host(name: str, hostname: Path) -> dict[str, str]:
    """The variables of a process on host ``name``."""
    return {"PRETENDED_HOST": name, "PYTHONPATH": f"{LINK}{os.pathsep}{hostname}"}
