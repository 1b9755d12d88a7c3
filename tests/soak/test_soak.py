"""A short soak, and what judges it: a plan is made from its seed alone, growth is noticed, and what is wrong is found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from soak.load import ANY, Ledger
from soak.measures import Series
from soak.plan import FAULTS, LOADS, make_plan
from soak.run import main, report, soak
from soak.verdict import judge

from support.journals import Journal
from support.slurm import Cluster

SEED = int(os.environ.get("LWFM_TEST_SEED", "7"))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.root
@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_or_falsely_complete() -> None:
    reason = Cluster.why_not()
    if reason:
        pytest.skip(reason)
    outcome = soak(make_plan(2.0, SEED))
    assert outcome.verdict.good, report(outcome)
    assert len(outcome.faults) >= 12, outcome.faults
    assert sum(outcome.faults.values()) >= 40, outcome.faults
    assert outcome.verdict.states["COMPLETE"] > 100


def test_the_same_seed_has_the_same_plan() -> None:
    assert make_plan(3, 5) == make_plan(3, 5)
    assert make_plan(3, 5).faults != make_plan(3, 6).faults
    plan = make_plan(3, 5)
    assert {step.what for step in plan.faults} == set(FAULTS)
    assert {step.what for step in plan.loads} == set(LOADS)
    times = [step.at_s for step in plan.faults]
    assert times == sorted(times)
    assert times[-1] < 180


def test_the_plan_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "1", "--seed", "3", "--plan"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(make_plan(1, 3).loads) + len(make_plan(1, 3).faults)


def test_growth_is_the_slope_after_the_beginning() -> None:
    begins_high = Series("MiB", [(t, 10.0 + (t * 5 if t < 20 else 100)) for t in map(float, range(100))])
    assert abs(begins_high.growth()) < 0.01
    grows = Series("MiB", [(t, 10 + t / 2) for t in map(float, range(100))])
    assert grows.growth() == pytest.approx(34.5, abs=1)
    assert len(grows.chart()) >= 40


class Records:
    """What a store answers, made by hand."""

    def __init__(self, **jobs: tuple[str, int]) -> None:
        self.jobs = jobs
        self.ended = [(job, state) for job, (state, _) in jobs.items()]
        self.data: list[tuple[str, str]] = []
        self.firings: list[str] = []

    def query(self, statement: str) -> Sequence[Sequence[Any]]:
        if "from jobs" in statement:
            return [(job, state, attempt, "why") for job, (state, attempt) in self.jobs.items()]
        if "from statuses" in statement:
            return self.ended
        if "from log" in statement:
            return [(text,) for text in self.firings]
        if "from metasheets" in statement:
            return self.data
        if "from firings" in statement:
            return [(row[0],) for row in self.data]
        return []


def written(path: Path, *lines: str) -> Journal:
    journal = Journal(path / "journal")
    journal.path.write_text("".join(f"{line}\n" for line in lines))
    return journal


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    journal = written(
        tmp_path, "start good 1 5", "end good 1 5", "start twice 1 6", "start twice 1 7", "end twice 1 7",
        "start lies 1 8", "start again 1 9", "end again 1 9", "start again 2 9", "end again 2 9", "start stranger 1 3",
    )  # fmt: skip
    records = Records(
        good=("COMPLETE", 1), twice=("COMPLETE", 1), lies=("COMPLETE", 1), again=("COMPLETE", 2), waits=("RUNNING", 1)
    )
    records.ended.append(("good", "FAILED"))
    records.data = [("d1", json.dumps({"number": 1})), ("d2", json.dumps({"number": 1}))]
    records.firings = [json.dumps({"handler_id": "h", "trigger_id": "d1"})] * 2
    ledger = Ledger(jobs=dict.fromkeys(("good", "gone"), ANY), data=[1, 2])
    wrong = judge(journal, [ledger], records.query).wrong
    doubled = "\n".join(wrong["doubled"])
    for part in ("'twice', 1) was started 2", "good ended as", "again ran again", "'d1') fired 2", "data 1 is there 2"):
        assert part in doubled, part
    lost = "\n".join(wrong["lost"])
    for part in ("job gone was acknowledged", "stranger ran", "waits has not ended", "data 2 was acknowledged"):
        assert part in lost, part
    assert [item.split(",")[0] for item in wrong["false COMPLETE"]] == ["job lies"]


def test_what_is_well_is_well(tmp_path: Path) -> None:
    journal = written(tmp_path, "start good 1 5", "end good 1 5")
    verdict = judge(journal, [Ledger(jobs={"good": ANY})], Records(good=("COMPLETE", 1)).query)
    assert verdict.good, verdict.wrong
