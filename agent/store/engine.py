"""sqlite-utils, without the numpy it would load where there is one: that doubles the agent's size and start for nothing."""

from __future__ import annotations

import sys
from typing import Any

_hidden: Any = sys.modules.get("numpy")
if _hidden is None:
    sys.modules["numpy"] = None  # type: ignore[assignment]
try:
    import sqlite_utils
finally:
    if _hidden is None:
        del sys.modules["numpy"]

__all__ = ["sqlite_utils"]
