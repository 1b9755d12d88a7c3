"""The names of the variables by which a job finds its agent. What else a job is told is named where it is made."""

from __future__ import annotations

SOCKET_VARIABLE = "LWFM_SOCKET"
"""The agent's socket."""
RENDEZVOUS_VARIABLE = "LWFM_RENDEZVOUS"
"""The file that tells where the agent is, for a job whose node need not be that of the agent."""
