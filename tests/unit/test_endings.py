"""Allocations that have ended: what of a scheduler's answer counts as that. The real thing is in integration/test_allocation.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest

from lwfm.errors import SiteError
from lwfm.ownership import endings
from lwfm.sites.batch.scheduler import ENDED, RUNNING, BatchJob


class Answers:
    """Stands in for the commands of a scheduler."""

    name = "slurm"

    def __init__(self, listed: Sequence[BatchJob], kept: Sequence[BatchJob] = (), error: Optional[str] = None):
        self._listed, self._kept, self._error = listed, kept, error

    def jobs(self, _user: str) -> Sequence[BatchJob]:
        if self._error:
            raise SiteError(self._error)
        return self._listed

    def ended(self, job_ids: Sequence[str]) -> dict[str, BatchJob]:
        return {job.job_id: job for job in self._kept if job.job_id in job_ids}


def answer(monkeypatch: pytest.MonkeyPatch, answers: Optional[Answers]) -> None:
    monkeypatch.setattr(endings, "find_scheduler", lambda: answers)


def test_what_the_scheduler_no_longer_lists_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    running, failed = BatchJob("1", RUNNING, "RUNNING"), BatchJob("2", ENDED, "TIMEOUT")
    answer(monkeypatch, Answers([running, failed], [BatchJob("3", ENDED, "CANCELLED")]))
    names = ["slurm-1", "slurm-2", "slurm-3", "slurm-4", "pbs-5", "hostfile-abc"]
    assert endings.askable(names) == {"slurm-1", "slurm-2", "slurm-3", "slurm-4"}
    assert endings.ended(names) == {"slurm-2": ": TIMEOUT", "slurm-3": ": CANCELLED", "slurm-4": ""}


def test_without_an_answer_nothing_is_concluded(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, None)
    assert endings.askable(["slurm-1"]) == set()
    assert endings.ended(["slurm-1"]) == {}
    answer(monkeypatch, Answers([], error="squeue did not answer"))
    with pytest.raises(SiteError):
        endings.ended(["slurm-1"])
