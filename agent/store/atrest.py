"""Jobs at rest, as conditions in SQL: that have ended, and that nobody has any more."""

from __future__ import annotations

from ..states import TERMINAL

ENDED = "(" + ",".join(sorted(f"'{state}'" for state in TERMINAL)) + ")"
"""The states in which a job has ended."""


def at_rest(jobs: str) -> str:
    """That a job has ended, and no worker, no process and no site has it; ``jobs``: what the table of jobs is called there."""
    return (
        f"{jobs}.state in {ENDED} and not exists (select 1 from local_claims where job_id = {jobs}.id)"
        f" and not exists (select 1 from local_attached where job_id = {jobs}.id)"
        f" and not exists (select 1 from local_settings where key = 'polled:' || {jobs}.id)"
    )
