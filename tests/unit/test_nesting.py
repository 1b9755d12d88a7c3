"""An instance within a job of another: what it is told to belong to, and what becomes of its jobs when its work is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwfm.errors import NotFound
from lwfm.recording import recovery
from lwfm.store import nesting

from support.threads import Thread

JOB = "01a205d5-8dca-7001-8892-e77ca2afdb1c"
FLOW = "01a205d5-0000-7001-8892-e77ca2afdb1c"


@pytest.fixture
def thread(tmp_path: Path) -> Thread:
    return Thread(tmp_path)


def test_what_is_made_within_a_job_belongs_to_it(thread: Thread) -> None:
    with pytest.raises(NotFound):
        thread.unit(thread.service.put_workflow, {"name": "inner", "parent_job": JOB})
    thread.unit(lambda recorder: nesting.note_outer(recorder.transaction, JOB, FLOW))
    made = thread.unit(thread.service.put_workflow, {"name": "inner", "parent_job": JOB})
    assert made["parent_job"] == JOB
    belonging = thread.unit(thread.service.belonging, {"job": JOB})
    assert belonging == {"job_id": JOB, "workflow_id": FLOW}
    thread.crash()
    assert thread.unit(thread.service.belonging, {"job": JOB, "workflow": FLOW}) == belonging
    with pytest.raises(NotFound):  # no other id is believed, nor a beginning of this one
        thread.unit(thread.service.belonging, {"job": JOB[:12]})
    with pytest.raises(NotFound):
        thread.unit(thread.service.belonging, {"job": FLOW})


def test_one_within_a_job_of_no_workflow(thread: Thread) -> None:
    thread.unit(lambda recorder: nesting.note_outer(recorder.transaction, JOB, None))
    assert thread.unit(thread.service.belonging, {"job": JOB}) == {"job_id": JOB}


def test_laid_to_rest(thread: Thread) -> None:
    """What was with a worker is not known, what was not has ended; what that starts is not run either."""
    waits, claimed, running, done = (thread.submit("true") for _ in range(4))
    (follows,) = thread.on_jobs([waits], states=["CANCELLED"])["job_ids"]
    thread.unit(recovery.claim, "w", [(claimed, 1), (running, 1)])
    thread.status(running, "RUNNING")
    thread.status(done, "COMPLETE")
    thread.unit(recovery.lay_to_rest)
    states = dict(thread.connection.execute("select id, state from jobs").fetchall())
    assert states == {
        waits: "CANCELLED", claimed: "UNKNOWN", running: "UNKNOWN", done: "COMPLETE", follows: "CANCELLED",
    }  # fmt: skip
    assert thread.connection.execute("select count(*) from local_claims").fetchone()[0] == 0
    before = thread.connection.execute("select count(*) from log").fetchone()
    thread.unit(recovery.lay_to_rest)
    assert thread.connection.execute("select count(*) from log").fetchone() == before, "once"
    assert thread.verify() == []


def test_the_outer_one_remembers_those_within(thread: Thread) -> None:
    for _ in range(2):
        thread.unit(lambda recorder: nesting.note_inner(recorder.transaction, "0" * 32, "/scratch/x.home"))
    assert nesting.inner_origins(thread.connection) == {"0" * 32}
