"""The command line: reads what is asked, asks the agent, shows the answer. Never opens the store."""

from __future__ import annotations

from .main import run

__all__ = ["run"]
