"""How processes get to the nodes of an allocation: which nodes those are, and by which command. Knows schedulers; no agent."""
