"""What a batch site says of jobs: from exit records and from what a scheduler lists. Tables; nothing runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest

from lwfm.sites.batch.record import ExitRecord
from lwfm.sites.batch.scheduler import BatchJob
from lwfm.sites.batch.slurm import JOB_PHASES, OUTCOMES, Slurm
from lwfm.sites.batch.verdict import of_ended, of_gone, of_listed, of_record
from lwfm.states import JobState

DONE = ExitRecord("7", 0, host="n1", started_at=1.0, ended_at=2.5, cpu_seconds=0.5)


def listed(native: str) -> BatchJob:
    (job,) = Slurm().read_jobs(f"7|{native}|2|1:00|1700000100|1700000000|n[1-2]|None|lwfm-job-x\n", 0.0)
    return job


@pytest.mark.parametrize(
    ("native", "state"),
    [
        ("PENDING", "PENDING"), ("CONFIGURING", "PENDING"), ("REQUEUED", "PENDING"), ("REQUEUE_HOLD", "PENDING"),
        ("SPECIAL_EXIT", "PENDING"), ("RUNNING", "RUNNING"), ("SUSPENDED", "RUNNING"), ("STOPPED", "RUNNING"),
        ("DREAMING", "UNKNOWN"),
    ],
)  # fmt: skip
def test_states_of_slurm_that_are_not_the_end(native: str, state: str) -> None:
    said = of_listed(listed(native), "7", "slurm")
    assert said is not None
    assert (said.state, said.native_status, said.native_id) == (JobState(state), native, "7")
    assert (said.reason is not None) == (state == "UNKNOWN")
    if state == "RUNNING":
        assert said.facts == {"host": "n1", "hosts": "n[1-2]", "started_at": "2023-11-14T22:13:20.000000Z"}


@pytest.mark.parametrize(
    ("native", "state", "words"),
    [
        ("CANCELLED", "CANCELLED", "was cancelled"), ("TIMEOUT", "FAILED", "reached its time limit"),
        ("OUT_OF_MEMORY", "FAILED", "more memory"), ("NODE_FAIL", "FAILED", "lost one of its nodes"),
        ("PREEMPTED", "FAILED", "make way"), ("DEADLINE", "FAILED", "deadline"), ("BOOT_FAIL", "FAILED", "boot"),
        ("LAUNCH_FAILED", "FAILED", "started"), ("RECONFIG_FAIL", "FAILED", "configured"), ("REVOKED", "UNKNOWN", "not tell"),
    ],
)  # fmt: skip
def test_ends_that_the_scheduler_knows_about(native: str, state: str, words: str) -> None:
    """A record of a job that was stopped adds what it knows, and does not contradict."""
    for record in (None, replace(DONE, status=143, caught="TERM"), replace(DONE, caught="TERM")):
        said = of_ended(listed(native), "7", "slurm", record, waited=False)
        assert said is not None
        assert said.state is JobState(state)
        assert words in str(said.reason)
        assert said.facts.get("host") == (record and "n1")


def test_every_end_of_slurm_has_a_meaning() -> None:
    ended = {word for word, phase in JOB_PHASES.items() if phase == "ended"}
    assert ended - {"REVOKED"} == set(OUTCOMES)


@pytest.mark.parametrize(
    ("native", "record", "waited", "state", "reason"),
    [
        ("COMPLETED", None, False, None, None),
        ("COMPLETED", None, True, "COMPLETE", "slurm says COMPLETED; its script's exit record has not been seen here"),
        ("COMPLETED", replace(DONE, caught="TERM"), False, "COMPLETE", None),
        ("FAILED", None, False, None, None),
        (
            "FAILED",
            None,
            True,
            "FAILED",
            "slurm says FAILED; its script has left no exit record",
        ),
        ("FAILED", replace(DONE, status=3, caught="TERM"), False, "FAILED", "exit code 3"),
    ],
)
def test_ends_of_the_script_itself_wait_for_its_record(
    native: str, record: Optional[ExitRecord], waited: bool, state: Optional[str], reason: Optional[str]
) -> None:
    said = of_ended(listed(native), "7", "slurm", record, waited=waited)
    assert (said and (said.state.value, said.reason)) == (state and (state, reason))


@pytest.mark.parametrize(
    ("record", "state", "reason"),
    [
        (DONE, "COMPLETE", None),
        (replace(DONE, status=3), "FAILED", "exit code 3"),
        (replace(DONE, status=137), "FAILED", "exit code 137: it, or a command in it, was ended by SIGKILL"),
        (replace(DONE, status=127), "FAILED", "exit code 127: the shell did not find a command"),
        (replace(DONE, status=255), "FAILED", "exit code 255"),
        (replace(DONE, missing=("a", "b")), "FAILED", "exit code 0, but it did not write its declared output a, b"),
        (replace(DONE, status=143, cause="time_limit"), "FAILED", "its time limit was reached"),
        (replace(DONE, cause="time_limit"), "FAILED", "its time limit was reached"),
        (replace(DONE, status=126, cause="not_started"), "FAILED", "its directory cannot be entered on n1"),
    ],
)
def test_what_a_record_says(record: ExitRecord, state: str, reason: Optional[str]) -> None:
    said = of_record(record, "7")
    assert (said.state, said.reason) == (JobState(state), reason)
    assert said.facts["ended_at"] == "1970-01-01T00:00:02.500000Z"
    assert ("exit_code" in said.facts) == (record.cause is None)


def test_of_several_nodes_not_all_cpu_time_is_known() -> None:
    facts = of_record(replace(DONE, hosts="n1,n2,n3"), "7").facts
    assert facts["hosts"] == "n[1-3]"
    assert "cpu_seconds" not in facts


@pytest.mark.parametrize(
    ("record", "cancelled", "state"),
    [
        (DONE, False, "COMPLETE"), (DONE, True, "COMPLETE"), (replace(DONE, status=1), True, "FAILED"),
        (replace(DONE, status=143, caught="TERM"), False, "FAILED"), (replace(DONE, caught="TERM"), True, "CANCELLED"),
        (None, True, "CANCELLED"), (None, False, "UNKNOWN"),
    ],
)  # fmt: skip
def test_where_nothing_is_kept(record: Optional[ExitRecord], cancelled: bool, state: str) -> None:
    said = of_gone("7", "slurm", record, "/there", cancelled=cancelled, waited=True)
    assert said is not None
    assert said.state is JobState(state)
    early = of_gone("7", "slurm", record, "/there", cancelled=cancelled, waited=False)
    assert (early == said) if record is not None and record.caught is None else (early is None)
