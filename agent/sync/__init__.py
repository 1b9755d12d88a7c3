"""Sync: how the stores of two instances become equal, and how data follow. ``docs/decisions/0007-sync.md`` has the design."""
