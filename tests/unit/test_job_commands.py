"""Commands on jobs: what they record, what they refuse, and that a call made twice does not count twice."""

from __future__ import annotations

import os
from typing import Any

import pytest

from lwfm.errors import Conflict, InvalidRecord
from lwfm.ids import new_id
from lwfm.models import JobDefn
from lwfm.store import queries

from support.threads import HOST, Thread, thread

__all__ = ["thread"]


def test_a_submission_with_known_ids_is_recorded_once(thread: Thread) -> None:
    ids = [new_id() for _ in range(3)]
    definitions = [JobDefn.from_json({"command": "true", "job_id": job}) for job in ids]
    body = {"context": {"cwd": "/"}}
    first = thread.unit(thread.service.submit, body, definitions[:2])
    count = len(thread.records())
    again = thread.unit(thread.service.submit, body, definitions)
    assert [job["job_id"] for job in again["jobs"]] == ids
    assert [job["job_id"] for job in first["jobs"]] == ids[:2]
    assert len(thread.records()) == count + 1
    assert list(thread.effects.pending) == ids[2:]
    thread.run(ids[0])
    assert thread.unit(thread.service.submit, body, definitions)["jobs"][0]["state"] == "COMPLETE"
    assert "job_id" not in thread.job(ids[0])["definition"]


def test_the_same_id_twice_in_one_call_is_one_job(thread: Thread) -> None:
    defn = JobDefn.from_json({"command": "true", "job_id": new_id()})
    thread.unit(thread.service.submit, {}, [defn, defn])
    assert thread.connection.execute("select count(*) from jobs").fetchone() == (1,)
    assert sum(record.kind == "job" for record in thread.records()) == 1


@pytest.mark.parametrize("job_id", ["x", 5, "", "../../../../../../../../../../etc/pass", "A" * 36, [1]])
def test_what_is_no_id_is_refused(thread: Thread, job_id: Any) -> None:
    with pytest.raises(InvalidRecord, match="is not a job id"):
        thread.unit(thread.service.submit, {}, [JobDefn.from_json({"command": "true", "job_id": job_id})])


def test_a_job_knows_its_workflow_its_parent_and_where_it_was_submitted(thread: Thread) -> None:
    workflow = thread.workflow()
    parent = thread.submit("true", workflow)
    body = {
        "parent": parent,
        "context": {
            "host": HOST,
            "cwd": "/here",
            "env": {"PATH": "/b", "SECRET_KEY": "x"},
            "git": {"commit": "c", "dirty": True},
        },
    }
    (child,) = thread.unit(thread.service.submit, body, [JobDefn(["p", "a b"], meta={"T": 1})])["jobs"]
    found = thread.job(child["job_id"])
    assert (found["workflow_id"], found["parent_id"], found["command"]) == (workflow, parent, "p a b")
    assert found["definition"]["cwd"] == "/here"
    assert found["context"]["env"] == {"PATH": "/b"}
    assert found["context"]["git"] == {"commit": "c", "dirty": True}
    assert queries.children(thread.connection, parent) == [child["job_id"]]


def test_one_context_is_recorded_once_also_after_a_unit_that_failed(thread: Thread) -> None:
    def fail(recorder: Any) -> None:
        thread.service.submit(recorder, {"context": {"cwd": "/a"}}, [JobDefn("true")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        thread.unit(fail)
    for _ in range(3):
        thread.unit(thread.service.submit, {"context": {"cwd": "/a"}}, [JobDefn("true")])
    assert thread.connection.execute("select count(*) from contexts").fetchone() == (1,)
    jobs = thread.connection.execute("select count(*) from jobs j join contexts c on c.id = j.context_id").fetchone()
    assert jobs == (3,)


def test_arguments_that_are_no_unicode(thread: Thread) -> None:
    raw = os.fsdecode(b"\xff\xfe")
    job = thread.submit(["prog", raw], cwd="/" + raw, name=raw, env={"A": raw}, meta={raw: raw})
    found = thread.job(job)
    assert found["definition"]["command"] == ["prog", raw]
    assert found["definition"]["env"] == {"A": raw}
    assert found["command"] == "prog \\udcff\\udcfe"
    assert found["meta"] == {"\\udcff\\udcfe": "\\udcff\\udcfe"}
    assert [job["job_id"] for job in queries.list_jobs(thread.connection, name="\\udcff*")] == [job]


def test_a_directory_and_variables_of_the_submitter_that_are_no_unicode(thread: Thread) -> None:
    raw = os.fsdecode(b"/w\xff")
    body = {"context": {"cwd": raw, "env": {"PATH": raw}, "host": "h"}}
    (job,) = thread.unit(thread.service.submit, body, [JobDefn("true")])["jobs"]
    found = thread.job(job["job_id"])
    assert found["definition"]["cwd"] == raw
    assert found["context"]["env"]["PATH"] == raw


def test_what_is_emitted(thread: Thread) -> None:
    job = thread.submit()
    thread.status(job, "RUNNING")
    emit = thread.service.emit_status
    thread.unit(emit, job, {"state": "info", "reason": "half way", "unknown": "left out"})
    assert thread.state(job) == "RUNNING"
    answer = thread.unit(emit, job[:30], {"state": "COMPLETE", "exit_code": 0, "native_status": "DONE"})
    assert (answer["state"], answer["exit_code"], answer["native_status"]) == ("COMPLETE", 0, "DONE")
    with pytest.raises(Conflict, match="has ended"):
        thread.unit(emit, job, {"state": "FAILED"})
    assert thread.state(job) == "COMPLETE"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"state": "x"},
        {"state": "FAILED", "exit_code": {}},
        {"state": "FAILED", "exit_code": 2**80},
        {"state": "FAILED", "reason": ["x"]},
    ],
)
def test_what_cannot_be_emitted(thread: Thread, body: dict[str, Any]) -> None:
    job = thread.submit()
    with pytest.raises(InvalidRecord):
        thread.unit(thread.service.emit_status, job, body)
    assert thread.state(job) == "PENDING"


def test_an_attached_job_is_the_callers_and_an_id_is_used_once(thread: Thread) -> None:
    body = {
        "definition": {"command": ["python", "x.py"], "job_id": new_id()},
        "pid": 5,
        "context": {"host": HOST, "cwd": "/"},
    }
    job = thread.unit(thread.service.attach, body)
    assert (job["state"], job["native_id"]) == ("RUNNING", "5")
    assert thread.effects.pending == {}
    count = len(thread.records())
    assert thread.unit(thread.service.attach, body)["job_id"] == job["job_id"]
    assert len(thread.records()) == count
