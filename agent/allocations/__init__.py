"""The allocations that the agent is in, has asked for, or was in once: their nodes, their workers, their end."""
