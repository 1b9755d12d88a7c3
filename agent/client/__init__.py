"""Speaking with the agent (``client``), and starting it when it is not there (``startup``).

Everybody but the agent itself comes through here. Owns no state on disk and never opens the store.
"""

from __future__ import annotations

from .client import Client
from .endpoint import Endpoint, find_endpoint

__all__ = ["Client", "Endpoint", "find_endpoint"]
