"""Placing jobs: which of the waiting jobs goes to which nodes, and when. Knows nodes and jobs; starts nothing itself."""
