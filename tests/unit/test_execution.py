"""What a worker tells, and what is recorded of it: verdicts, reasons, retries, losses, and news that comes twice or late."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from lwfm.models import Metasheet
from lwfm.recording import recovery
from lwfm.recording.execution import record_ended, record_lost, record_started
from lwfm.recording.recorder import Recorder
from lwfm.store import queries

from support.threads import HOST, Thread, thread

__all__ = ["thread"]

STARTED = {"pid": 4711, "time": "2025-01-01T00:00:00.000000Z", "cores": [2, 3]}


def end(thread: Thread, job: str, attempt: int = 1, sheets: Any = (), **message: Any) -> None:
    thread.unit(record_ended, job, attempt, {"cause": "exit", **message}, HOST, thread.outputs, list(sheets))


def test_the_allocation_of_its_node_is_recorded(thread: Thread) -> None:
    job = thread.submit()
    thread.unit(record_started, job, 1, STARTED, HOST, "slurm-4711")
    end(thread, job, exit_code=0)
    assert queries.job(thread.connection, job)["allocation"] == "slurm-4711"


@pytest.mark.parametrize(
    ("message", "state", "reason"),
    [
        ({"exit_code": 0}, "COMPLETE", None),
        ({"exit_code": 3}, "FAILED", "exit code 3"),
        ({"exit_code": None}, "FAILED", "exit code None"),
        ({"exit_code": 127}, "FAILED", "exit code 127: the shell did not find a command"),
        ({"exit_code": 126}, "FAILED", "exit code 126: the shell could not run a command"),
        ({"exit_code": 137}, "FAILED", "exit code 137: a command in it was ended by SIGKILL"),
        ({"exit_code": 190}, "FAILED", "exit code 190"),
        ({"signal": "SIGSEGV"}, "FAILED", "ended by SIGSEGV"),
        (
            {"signal": "SIGKILL"}, "FAILED",
            "ended by SIGKILL: killed from outside lwfm, for instance by the system when memory ran out",
        ),
        ({"cause": "cancel", "exit_code": 0}, "CANCELLED", "cancelled"),
        ({"cause": "cancel", "signal": "SIGTERM", "reason": "no need"}, "CANCELLED", "no need"),
        ({"cause": "time_limit", "signal": "SIGTERM"}, "FAILED", "time limit"),
        ({"cause": "memory_limit", "reason": "took 2 GiB"}, "FAILED", "took 2 GiB"),
        ({"cause": "not_started", "reason": "no such file"}, "FAILED", "no such file"),
        ({"exit_code": 0, "missing_outputs": ["a", "b"]}, "FAILED", "exit code 0, but it did not write its declared output a, b"),
    ],
)  # fmt: skip
def test_verdicts(thread: Thread, message: dict[str, Any], state: str, reason: Any) -> None:
    job = thread.submit()
    thread.unit(record_started, job, 1, STARTED, HOST)
    end(thread, job, **message)
    found = thread.job(job)
    assert (found["state"], found.get("reason")) == (state, reason)


def test_everything_that_is_known_is_recorded(thread: Thread) -> None:
    workflow = thread.workflow()
    job = thread.submit("true", workflow)
    thread.unit(record_started, job, 1, STARTED, HOST)
    assert (thread.job(job)["native_id"], thread.job(job)["host"]) == ("4711", HOST)
    printed = {"size": 5, "data": base64.b64encode(b"hello").decode()}
    end(
        thread, job, exit_code=0, cpu_seconds=1.5, peak_rss_bytes=1000, read_bytes=1, write_bytes=2, stdout=printed,
        stderr={"size": 0},
        time="2025-01-01T00:00:02.000000Z", started="2025-01-01T00:00:00.000000Z",
        sheets=[Metasheet(op="put", path="/x", properties={"declared": True})],
    )  # fmt: skip
    found = thread.job(job)
    told = {
        "exit_code": 0,
        "cpu_seconds": 1.5,
        "peak_rss_bytes": 1000,
        "read_bytes": 1,
        "write_bytes": 2,
        "stdout_bytes": 5,
    }
    assert told.items() <= found.items()
    assert (found["started_at"], found["ended_at"]) == ("2025-01-01T00:00:00.000000Z", "2025-01-01T00:00:02.000000Z")
    assert thread.outputs.read(thread.connection, found["stdout"], 1, 3) == b"ell"
    assert "stderr" not in found
    (sheet,) = queries.list_data(thread.connection, job=job)
    assert (sheet["workflow_id"], sheet["path"]) == (workflow, "/x")
    history = queries.statuses(thread.connection, job)
    assert [status["state"] for status in history] == ["PENDING", "RUNNING", "COMPLETE"]
    assert history[1]["cores_used"] == [2, 3]


def test_a_retry_is_a_new_attempt_of_the_same_job_and_keeps_what_became_of_the_last(thread: Thread) -> None:
    job = thread.submit(retries=2)
    for attempt in (1, 2):
        thread.unit(record_started, job, attempt, STARTED, HOST)
        end(thread, job, attempt, exit_code=attempt, peak_rss_bytes=attempt)
        found = thread.job(job)
        assert (found["state"], found["attempt"]) == ("PENDING", attempt + 1)
        assert found["reason"] == f"attempt {attempt} of 3 failed: exit code {attempt}; trying again"
        assert "exit_code" not in found
        assert "started_at" not in found
        assert job in thread.effects.pending
    end(thread, job, 3, exit_code=9)
    assert (thread.job(job)["state"], thread.job(job)["reason"]) == ("FAILED", "exit code 9")
    ends = [status["ended_attempt"] for status in queries.statuses(thread.connection, job) if "ended_attempt" in status]
    assert [(item["attempt"], item["exit_code"]) for item in ends] == [(1, 1), (2, 2)]


def test_a_job_that_is_to_stop_is_not_tried_again(thread: Thread) -> None:
    job = thread.submit(retries=5)
    thread.unit(record_started, job, 1, STARTED, HOST)
    thread.unit(thread.service.cancel, job, "enough", placed=True)
    assert thread.state(job) == "FINISHING"
    end(thread, job, signal="SIGTERM", exit_code=None)
    assert thread.state(job) == "FAILED"


def test_news_that_comes_again_or_late_or_of_nobody_changes_nothing(thread: Thread) -> None:
    job = thread.submit(retries=1)
    thread.unit(record_started, job, 1, STARTED, HOST)
    thread.unit(record_started, job, 1, STARTED, HOST)
    end(thread, job, exit_code=1)
    count = len(thread.records())
    end(thread, job, 1, exit_code=0)
    thread.unit(record_started, job, 1, STARTED, HOST)
    thread.unit(record_started, "nobody", 1, STARTED, HOST)
    end(thread, "nobody", exit_code=0)
    thread.unit(record_lost, job, 1, "gone", HOST, thread.outputs)
    assert len(thread.records()) == count
    end(thread, job, 2, exit_code=0)
    count = len(thread.records())
    end(thread, job, 2, exit_code=1)
    thread.unit(record_started, job, 2, STARTED, HOST)
    assert len(thread.records()) == count
    assert thread.state(job) == "COMPLETE"


def test_a_start_and_an_end_in_one_unit_are_both_recorded(thread: Thread) -> None:
    job = thread.submit()
    after = thread.on_jobs([job], states=["RUNNING"])

    def both(recorder: Recorder) -> None:
        record_started(recorder, job, 1, STARTED, HOST)
        record_ended(recorder, job, 1, {"cause": "exit", "exit_code": 0}, HOST, thread.outputs, [])

    thread.unit(both)
    found = thread.job(job)
    assert (found["state"], found["native_id"], found["started_at"]) == ("COMPLETE", "4711", STARTED["time"])
    assert thread.state(after["job_ids"][0]) == "PENDING"
    assert [status["state"] for status in queries.statuses(thread.connection, job)] == [
        "PENDING",
        "RUNNING",
        "COMPLETE",
    ]


def test_a_job_whose_fate_is_not_known_is_unknown_then_counts_as_failed(thread: Thread) -> None:
    job = thread.submit()
    thread.unit(record_started, job, 1, STARTED, HOST)
    thread.unit(record_lost, job, 1, "the node is gone", HOST, thread.outputs)
    states = [(status["state"], status.get("reason")) for status in queries.statuses(thread.connection, job)[-2:]]
    assert states == [
        ("UNKNOWN", "the node is gone"),
        ("FAILED", "counted as failed, since it did not prove success: the node is gone"),
    ]


@pytest.mark.parametrize(("placed", "state", "told"), [(False, "CANCELLED", False), (True, "FINISHING", True)])
def test_cancelling(thread: Thread, placed: bool, state: str, told: bool) -> None:
    job = thread.submit()
    for again in (False, True):
        answer = thread.unit(thread.service.cancel, job, "no", placed=placed)
        assert (answer is not None) == told
        assert thread.state(job) == state, again
    statuses = queries.statuses(thread.connection, job)
    assert len(statuses) == 2
    end(thread, job, cause="cancel")
    assert thread.state(job) == "CANCELLED"
    assert thread.unit(thread.service.cancel, job, "no", placed=placed) is None


class TestReconciling:
    """After a restart: the store's word against the worker's."""

    @pytest.fixture
    def jobs(self, thread: Thread) -> list[str]:
        jobs = [thread.submit() for _ in range(4)]
        thread.unit(recovery.claim, "w1", [(job, 1) for job in jobs])
        return jobs

    def reconcile(
        self, thread: Thread, known: dict[tuple[str, int], str], worker: str = "w1"
    ) -> recovery.Reconciliation:
        return thread.unit(recovery.reconcile, worker, HOST, known, thread.outputs)

    def test_what_the_worker_has_stays_with_it(self, thread: Thread, jobs: list[str]) -> None:
        thread.unit(record_started, jobs[1], 1, STARTED, HOST)
        found = self.reconcile(
            thread, {(jobs[0], 1): "queued", (jobs[1], 1): "running", (jobs[2], 1): "ended", (jobs[3], 1): "running"}
        )
        assert found.held == {jobs[0]: False, jobs[1]: True, jobs[2]: True, jobs[3]: True}
        assert (found.again, found.stop) == ([], [])

    def test_what_never_came_there_goes_again_and_what_was_lost_there_is_lost(
        self, thread: Thread, jobs: list[str]
    ) -> None:
        thread.unit(record_started, jobs[1], 1, STARTED, HOST)
        thread.unit(thread.service.cancel, jobs[2], "no", placed=True)
        thread.unit(record_started, jobs[3], 1, STARTED, HOST)
        thread.unit(thread.service.cancel, jobs[3], "no", placed=True)
        found = self.reconcile(thread, {})
        assert found.again == [jobs[0]]
        assert [thread.state(job) for job in jobs] == ["PENDING", "FAILED", "CANCELLED", "FAILED"]
        assert thread.connection.execute("select count(*) from local_claims").fetchone() == (0,)

    def test_what_another_worker_had_is_lost_once(self, thread: Thread, jobs: list[str]) -> None:
        found = self.reconcile(thread, {}, worker="w2")
        assert found.again == []
        assert {thread.state(job) for job in jobs} == {"FAILED"}
        count = len(thread.records())
        self.reconcile(thread, {}, worker="w2")
        assert len(thread.records()) == count

    def test_a_worker_of_another_allocation_on_the_same_host_is_none_of_its_business(
        self, thread: Thread, jobs: list[str]
    ) -> None:
        """Two allocations may have shares of one node: neither worker can answer for the other."""

        def come(worker: str, place: str, known: dict[tuple[str, int], str]) -> None:
            thread.unit(recovery.reconcile, worker, HOST, known, thread.outputs, place)

        come("w1", "created-a", {(job, 1): "running" for job in jobs})
        come("w2", "created-b", {})
        come("w3", "", {})
        assert {thread.state(job) for job in jobs} == {"PENDING"}
        assert recovery.workers_at(thread.connection, "created-a") == ["w1"]
        assert recovery.workers_at(thread.connection, "created-b") == ["w2"]
        come("w4", "created-a", {})  # the same allocation: w1's spool is gone
        assert {thread.state(job) for job in jobs} == {"FAILED"}
        thread.unit(recovery.lose, "w4", "it has ended", thread.outputs)
        assert recovery.workers_at(thread.connection, "created-a") == ["w1"]

    def test_what_the_agent_does_not_want_there_is_stopped(self, thread: Thread, jobs: list[str]) -> None:
        thread.unit(thread.service.cancel, jobs[0], "no", placed=False)
        thread.unit(thread.service.cancel, jobs[1], "no", placed=True)
        known = {(jobs[0], 1): "running", (jobs[1], 1): "running", ("stranger", 1): "running", ("old", 1): "ended"}
        found = self.reconcile(thread, known)
        assert {job for job, _, _ in found.stop} == {jobs[0], jobs[1], "stranger"}

    def test_a_claim_is_only_made_on_what_still_waits(self, thread: Thread) -> None:
        waits, cancelled, runs = (thread.submit() for _ in range(3))
        thread.unit(thread.service.cancel, cancelled, "no", placed=False)
        thread.status(runs, "RUNNING")
        asked = [(waits, 1), (cancelled, 1), (runs, 1), (waits, 2), ("nobody", 1)]
        assert thread.unit(recovery.claim, "w", asked) == [waits]
        assert thread.unit(recovery.unplaced, ["local"]) == []
        fresh = thread.submit()
        assert thread.unit(recovery.unplaced, ["local"]) == [fresh]
        assert thread.unit(recovery.unplaced, ["elsewhere"]) == []
        assert thread.unit(recovery.unplaced, []) == []
