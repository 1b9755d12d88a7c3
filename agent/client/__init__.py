"""Speaking with the agent: the connection, and starting the agent when it is not there.

Everybody but the agent itself comes through here. Owns no state on disk and never opens the store.
"""

from __future__ import annotations

from .connection import Client, Endpoint, find_endpoint
from .startup import start_agent

__all__ = ["Client", "Endpoint", "find_endpoint", "start_agent"]
