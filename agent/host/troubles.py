"""What keeps this agent from part of its work at the moment, such as a full disk: told once when it begins and when it is over.

Whoever meets it says so, and says when it has worked again. ``lwfm agent status`` lists what is left.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Optional

from ..clock import utc_now

STORE = "store"
"""The name of the one that keeps the agent from accepting anything."""
_logger = logging.getLogger(__name__)


@dataclass
class _Trouble:
    message: str
    hint: Optional[str]
    since: str
    began: float


class Troubles:
    """All that there are, by what they are about."""

    def __init__(self) -> None:
        self._met: dict[str, _Trouble] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._met

    def __bool__(self) -> bool:
        return bool(self._met)

    def meet(self, name: str, message: str, hint: Optional[str] = None) -> None:
        """Something does not work now; told once, and again when the reason is another.

        Args:
            name: what does not. ``message``: why. ``hint``: what to do about it.
        """
        known = self._met.get(name)
        if known is not None and known.message == message:
            return
        since, began = (utc_now(), time.monotonic()) if known is None else (known.since, known.began)
        self._met[name] = _Trouble(message, hint, since, began)
        _logger.error("%s: %s%s", name, message, f" ({hint})" if hint else "")

    def over(self, name: str) -> None:
        """It works."""
        known = self._met.pop(name, None)
        if known is not None:
            _logger.warning("%s: over after %.0f s: %s", name, time.monotonic() - known.began, known.message)

    def listed(self) -> list[dict[str, Any]]:
        """They as the API shows them, the oldest first."""
        return [
            {"about": name, "message": item.message, "hint": item.hint, "since": item.since}
            for name, item in self._met.items()
        ]
