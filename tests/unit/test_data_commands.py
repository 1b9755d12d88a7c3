"""Commands on workflows, data and log lines: what they record, and what they refuse."""

from __future__ import annotations

import pytest

from lwfm.errors import InvalidRecord, NotFound
from lwfm.models import Metasheet
from lwfm.store import queries

from support.threads import Thread, thread

__all__ = ["thread"]


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


def test_data_keeps_keys_it_does_not_know(thread: Thread) -> None:
    sheet = Metasheet.from_json(
        {"properties": {"a": 1}, "path": "/x", "colour": "red", "data_id": "forged", "origin": "forged"}
    )
    found = thread.unit(thread.service.put_data, sheet)
    assert found["colour"] == "red"
    assert "forged" not in (found["data_id"], found["origin"])
