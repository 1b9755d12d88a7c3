"""Jobs that another instance runs: whose word counts, in whatever order records come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from lwfm.errors import Conflict
from lwfm.models import JobDefn
from lwfm.recording import recovery, runners
from lwfm.recording.bodies import Adopted
from lwfm.states import JobState
from lwfm.store import queries

from support.foreign import Elsewhere
from support.replicas import StoreReplica, sync
from support.threads import Thread, tables


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[list[Thread]]:
    made = []
    for name in ("near", "far", "third"):
        (tmp_path / name).mkdir()
        made.append(Thread(tmp_path / name))
    yield made
    for thread in made:
        assert thread.verify() == []
        thread.close()


def hand(near: Thread, far: Thread, job: str) -> None:
    near.unit(near.service.hand_over, [(job, 1)], far.store.origin, "far")
    adopt(near, far, job)


def adopt(near: Thread, far: Thread, job: str) -> None:
    far.unit(far.service.adopt, near.store.origin, [Adopted(job, "local", JobDefn("true"), "w1", "a name")])


def at(near: Thread, site: str) -> str:
    """A new job's id, at a site."""
    body = {"site": site, "context": {"host": "here", "cwd": "/", "env": {}}}
    return str(near.unit(near.service.submit, body, [JobDefn("true")])["jobs"][0]["job_id"])


def pull(near: Thread, far: Thread) -> None:
    sync(StoreReplica(near), StoreReplica(far), pull=True, push=False)


def test_it_runs_there_and_ends_here(threads: list[Thread]) -> None:
    near, far, _ = threads
    job = near.submit("true")
    hand(near, far, job)
    assert far.effects.pending == {job: None}
    assert far.state(job) == "PENDING"
    far.status(job, "RUNNING", host="n1")
    far.status(job, "COMPLETE", exit_code=0)
    assert near.state(job) == "PENDING"
    pull(near, far)
    told = queries.job(near.connection, job)
    assert (told["state"], told["exit_code"], told["runner"]) == ("COMPLETE", 0, far.store.origin)
    assert told["origin"] == near.store.origin
    assert [change.after for change in near.effects.changes if change.job_id == job] == [JobState.COMPLETE]


def test_an_adoption_is_made_once(threads: list[Thread]) -> None:
    near, far, _ = threads
    job = near.submit("true")
    hand(near, far, job)
    before = far.connection.execute("select count(*) from log").fetchone()
    far.effects.pending.clear()
    adopt(near, far, job)
    assert far.connection.execute("select count(*) from log").fetchone() == before
    assert far.effects.pending == {}


def test_a_job_that_is_here_already_is_not_taken_for_another(threads: list[Thread]) -> None:
    near, far, _ = threads
    job = far.submit("true")
    with pytest.raises(Conflict, match="already"):
        adopt(near, far, job)


def test_nobody_decides_who_was_not_asked(threads: list[Thread]) -> None:
    """Whoever says that it runs a job is believed only as long as the job's own instance has not spoken."""
    near, far, third = threads
    job = near.submit("true")
    adopt(near, third, job)
    third.status(job, "COMPLETE")
    pull(near, third)
    assert near.state(job) == "PENDING"
    hand(near, far, job)
    far.status(job, "FAILED", reason="no")
    pull(near, far)
    assert near.state(job) == "FAILED"
    pull(third, near)
    assert third.state(job) == "FAILED"


def test_it_may_be_handed_on(threads: list[Thread]) -> None:
    near, far, third = threads
    job = near.submit("true")
    hand(near, far, job)
    hand(near, third, job)
    far.status(job, "COMPLETE")
    pull(near, far)
    assert near.state(job) == "PENDING", "it is not the one's any more"
    third.status(job, "RUNNING")
    pull(near, third)
    assert near.state(job) == "RUNNING"


def test_the_order_in_which_records_come_makes_no_difference(threads: list[Thread], tmp_path: Path) -> None:
    near, far, third = threads
    job = near.submit("true", meta={"kind": "x"})
    near.status(job, "INFO")
    hand(near, far, job)
    far.status(job, "RUNNING")
    adopt(near, third, job)
    third.status(job, "COMPLETE")
    far.status(job, "FAILED", reason="its own")
    found = []
    for number, order in enumerate(permutations([near, far, third])):
        (tmp_path / f"reader{number}").mkdir()
        reader = Thread(tmp_path / f"reader{number}")
        for source in order:
            pull(reader, source)
        assert reader.state(job) == "FAILED"
        folded = tables(reader.connection)
        found.append(
            {name: folded[name] for name in ("workflows", "jobs", "statuses", "adoptions", "job_counts", "properties")}
        )
        assert reader.verify() == []
        reader.close()
    assert all(other == found[0] for other in found)


def test_what_is_adopted_is_run_after_a_restart(threads: list[Thread]) -> None:
    from lwfm.recording.recovery import unplaced

    near, far, _ = threads
    job = near.submit("true")
    hand(near, far, job)
    far.crash()
    assert far.unit(unplaced, ["local"]) == [job]
    assert near.unit(unplaced, ["cluster"]) == []
    sync(StoreReplica(near), StoreReplica(far))
    assert far.unit(unplaced, ["local"]) == [job], "its own record has come as well"
    far.status(job, "COMPLETE")
    assert far.unit(unplaced, ["local"]) == []


def test_a_part_of_what_its_owner_recorded_undoes_no_end(threads: list[Thread]) -> None:
    """The record of the job comes after it has ended here, by a sync that is cut before the one that it was handed over."""
    _, far, _ = threads
    near = Elsewhere("near")
    job = near.job()
    far.unit(far.service.adopt, near.origin, [Adopted(job, "local", JobDefn("true"), None, None)])
    far.status(job, "RUNNING", host="n1")
    far.status(job, "COMPLETE", exit_code=0)
    near.bring(far.store)
    assert far.state(job) == "COMPLETE"
    assert far.unit(recovery.unplaced, ["local"]) == [], "it would be run again when the agent is started again"
    near.status(job, "PENDING", runner=far.store.origin)
    near.bring(far.store)
    assert far.state(job) == "COMPLETE"


def test_the_record_of_the_job_may_be_here_before_it_is_adopted(threads: list[Thread]) -> None:
    _, far, _ = threads
    near = Elsewhere("near")
    job = near.job()
    near.bring(far.store)
    far.unit(far.service.adopt, near.origin, [Adopted(job, "local", JobDefn("true"), None, None)])
    far.status(job, "RUNNING", host="n1")
    assert far.state(job) == "RUNNING"
    far.status(job, "COMPLETE", exit_code=0)
    assert far.unit(recovery.unplaced, ["local"]) == []
    near.status(job, "PENDING", runner="another")
    near.bring(far.store)
    assert far.state(job) == "PENDING", "its own instance has handed it to another one"


class TestWhoAnswersAtTheSite:
    def meet(self, near: Thread, there: Thread) -> tuple[list[str], list[str]]:
        answer = near.unit(runners.meet, "cluster", there.store.origin, "there")
        return answer["lost"], answer["found"]

    def given(self, near: Thread, far: Thread) -> dict[str, str]:
        """Jobs at the site ``cluster``, by what has become of them at ``far``."""
        jobs = {}
        for state in ("PENDING", "RUNNING", "COMPLETE"):
            jobs[state] = at(near, "cluster")
            hand(near, far, jobs[state])
            if state != "PENDING":
                far.status(jobs[state], "RUNNING", host="n1")
        far.status(jobs["COMPLETE"], "COMPLETE", exit_code=0)
        pull(near, far)
        return jobs

    def test_the_same_one_changes_nothing(self, threads: list[Thread]) -> None:
        near, far, _ = threads
        self.given(near, far)
        before = near.records()
        assert self.meet(near, far) == ([], [])
        assert near.records() == before

    def test_what_another_one_has_is_unknown_until_that_one_is_back(self, threads: list[Thread]) -> None:
        near, far, third = threads
        jobs = self.given(near, far)
        elsewhere, new = at(near, "other"), at(near, "cluster")
        hand(near, far, elsewhere)
        assert self.meet(near, third) == ([jobs["PENDING"], jobs["RUNNING"]], [])
        assert [near.state(job) for job in jobs.values()] == ["UNKNOWN", "UNKNOWN", "COMPLETE"]
        assert (near.state(elsewhere), near.state(new)) == ("PENDING", "PENDING")
        assert "another instance answers at site cluster" in queries.job(near.connection, jobs["RUNNING"])["reason"]
        assert self.meet(near, third) == ([], []), "it is said once"
        given = [(job, 1) for job in (*jobs.values(), new)]
        handed = near.unit(near.service.hand_over, given, third.store.origin, "third")
        assert handed["withheld"] == list(jobs.values()), "they may run where they were"
        assert self.meet(near, far) == ([new], [jobs["PENDING"], jobs["RUNNING"]])
        assert [near.state(job) for job in jobs.values()] == ["PENDING", "RUNNING", "COMPLETE"]
        far.status(jobs["RUNNING"], "COMPLETE", exit_code=0)
        pull(near, far)
        assert near.state(jobs["RUNNING"]) == "COMPLETE"

    def test_what_it_was_before_it_was_copied_is_the_same_one(self, threads: list[Thread], tmp_path: Path) -> None:
        near, far, _ = threads
        jobs = self.given(near, far)
        far.store.mark()
        shutil.copytree(far.directory, tmp_path / "copy")
        copy = Thread(tmp_path / "copy")
        assert copy.store.origin != far.store.origin
        pull(near, copy)
        assert self.meet(near, copy) == ([], [])
        assert near.state(jobs["RUNNING"]) == "RUNNING"
        copy.close()

    def test_an_end_that_came_late_counts(self, threads: list[Thread]) -> None:
        near, far, third = threads
        jobs = self.given(near, far)
        self.meet(near, third)
        far.status(jobs["RUNNING"], "FAILED", reason="no")
        pull(near, far)
        assert near.state(jobs["RUNNING"]) == "FAILED"
        assert self.meet(near, far) == ([], [jobs["PENDING"]])
