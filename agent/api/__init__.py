"""The agent's HTTP interface, as ``docs/api.md`` describes it."""
