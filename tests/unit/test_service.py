"""The commands behind the API: what they record, what they refuse, and that a call made twice does not count twice."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from lwfm.errors import AmbiguousId, Conflict, InvalidRecord, NotFound
from lwfm.ids import new_id
from lwfm.models import JobDefn, Metasheet
from lwfm.recording.service import active_count, definitions_of, job_ids_of
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


def test_one_bad_definition_of_many_is_named_and_none_is_recorded() -> None:
    with pytest.raises(InvalidRecord, match=r"job 2 of 3: the command is empty"):
        definitions_of({"jobs": [{"command": "a"}, {"command": ""}, {"command": "b"}]})
    bodies: list[dict[str, Any]] = [{}, {"jobs": []}, {"jobs": "x"}, {"jobs": {"command": "x"}}]
    for body in bodies:
        with pytest.raises(InvalidRecord, match="a list"):
            definitions_of(body)
    with pytest.raises(InvalidRecord, match="list of job ids"):
        job_ids_of({"jobs": [1]})


def test_definitions_that_have_much_in_common_are_what_each_says_by_itself() -> None:
    """Those that are alike are looked at once; what differs, if only in its type, is not alike."""
    ids = [new_id() for _ in range(3)]
    given: list[dict[str, Any]] = [
        {"command": ["a", "1"], "env": {"X": "1"}, "meta": {"n": 1}, "resources": {"cores": 2}, "unknown": 1},
        {"command": ["b", "2"], "env": {"X": "1"}, "meta": {"n": 1}, "resources": {"cores": 2}, "unknown": 1},
        {
            "command": "c",
            "job_id": ids[0],
            "env": {"X": "1"},
            "meta": {"n": 1},
            "resources": {"cores": 2},
            "unknown": 1,
        },
        {"command": "/bin/d", "job_id": ids[1], "meta": {"n": True}},
        {"command": ["d"], "job_id": ids[2], "name": "named", "meta": {"n": 1}},
        {"command": ["d"], "meta": {"n": 1.0}},
        {"command": ["d"], "meta": {"n": 1}},
        {"command": ["e"], "name": "named", "meta": {"n": 1}},
        {"command": ["e"], "job_id": ids[2]},
        {"command": ["e"]},
        {"command": ["f"], "site": "elsewhere"},
        {"command": ["g"], "site": "elsewhere"},
    ]
    found = definitions_of({"jobs": given})
    alone = [JobDefn.from_json(item) for item in given]
    assert [(defn, defn.to_json()) for defn in found] == [(defn, defn.to_json()) for defn in alone]
    texts = [[json.dumps(defn.to_json(), sort_keys=True) for defn in which] for which in (found, alone)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("bad", [{"command": []}, {"command": [""]}, {"command": 1}, {"command": ["a", "\0"]}, {"command": " "},
                                 {"command": ["a"], "name": 5}, {}])  # fmt: skip
def test_what_is_bad_among_definitions_that_are_alike_is_found(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord, match="job 2 of 3"):
        definitions_of({"jobs": [{"command": ["a"]}, bad, {"command": ["a"]}]})


def test_a_workflow_and_its_later_versions(thread: Thread) -> None:
    parent = thread.submit()
    body = {"name": "one", "description": "d", "meta": {"who": "ada"}, "parent_job": parent[:30], "colour": "red"}
    first = thread.unit(thread.service.put_workflow, body)
    assert (first["parent_job"], first["colour"], first["job_counts"]) == (parent, "red", {})
    second = thread.unit(
        thread.service.put_workflow, {"workflow_id": first["workflow_id"], "name": "two", "meta": {"who": "eve"}}
    )
    assert (second["name"], second["workflow_id"]) == ("two", first["workflow_id"])
    assert second["created_at"] == first["created_at"]
    connection = thread.connection
    assert queries.list_workflows(connection, match={"who": "ada"}) == []
    assert len(queries.list_workflows(connection, match={"who": "eve"}, name="t*")) == 1
    assert [found["text"] for found in queries.search(connection, "one")] == []
    assert [found["text"] for found in queries.search(connection, "two")] == ["two "]
    with pytest.raises(NotFound):
        thread.unit(thread.service.put_workflow, {"workflow_id": "zzz", "name": "x"})


def test_closing_a_workflow_ends_what_waits_for_data_but_not_while_it_is_active(thread: Thread) -> None:
    workflow = thread.workflow()
    job = thread.submit("true", workflow)
    for_data = thread.on_data({"kind": "a"}, workflow=workflow)
    kept = thread.on_jobs([thread.submit()], workflow=workflow)
    close = thread.service.close_workflow
    assert thread.unit(close, workflow, "over") == {"unset": []}
    thread.run(job)
    assert thread.unit(active_count, workflow) == 1, "a job outside it can still trigger"
    thread.run(queries.handler(thread.connection, kept["handler_id"])["event"]["jobs"][0])
    thread.run(kept["job_ids"][0])
    assert thread.unit(active_count, workflow) == 0
    assert thread.unit(close, workflow, "over") == {"unset": [for_data["handler_id"]]}
    assert thread.job(for_data["job_ids"][0])["reason"] == "over"
    assert thread.unit(close, workflow, "over") == {"unset": []}


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


def test_log_lines(thread: Thread) -> None:
    workflow = thread.workflow()
    job = thread.submit("true", workflow)
    lines = [
        {"message": "first words", "job_id": job, "workflow_id": workflow}, {"message": "a\0b \udcff", "level": "warning"},
        {"message": "", "level": "no such level"}, {"message": "x" * 200_000, "level": "ERROR"},
    ]  # fmt: skip
    thread.unit(thread.service.log, lines)
    connection = thread.connection
    listed = queries.list_logs(connection)
    assert [line["level"] for line in listed] == ["INFO", "WARNING", "NO SUCH LEVEL", "ERROR"]
    assert len(listed[3]["message"]) == 64 * 1024
    assert [line["message"] for line in queries.list_logs(connection, job=job)] == ["first words"]
    assert len(queries.list_logs(connection, workflow=workflow, words="first wor")) == 1
    assert len(queries.list_logs(connection, level_number=30)) == 2
    assert len(queries.list_logs(connection, limit=2)) == 2
    for bad in ({}, {"message": 5}, "x"):
        with pytest.raises(InvalidRecord):
            thread.unit(thread.service.log, [bad])


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


def test_data_keeps_keys_it_does_not_know(thread: Thread) -> None:
    sheet = Metasheet.from_json(
        {"properties": {"a": 1}, "path": "/x", "colour": "red", "data_id": "forged", "origin": "forged"}
    )
    found = thread.unit(thread.service.put_data, sheet)
    assert found["colour"] == "red"
    assert "forged" not in (found["data_id"], found["origin"])


def test_ids_by_prefix(thread: Thread) -> None:
    with pytest.raises(NotFound, match="there is no job yet"):
        queries.resolve(thread.connection, "job", "last")
    jobs = [thread.submit() for _ in range(7)]
    connection = thread.connection
    assert queries.resolve(connection, "job", jobs[0]) == jobs[0]
    assert queries.resolve(connection, "job", "last") == jobs[-1]
    assert queries.resolve(connection, "job", jobs[3][:-1]) == jobs[3]
    with pytest.raises(AmbiguousId, match=r"begins the ids of several: .*, …"):
        queries.resolve(connection, "job", jobs[0][:3])
    for nothing in ("zz", "", "%", "' or 1=1"):
        with pytest.raises(NotFound):
            queries.resolve(connection, "job", nothing)
