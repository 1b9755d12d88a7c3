"""Transactions happen whole or not at all, and so do the units of work within them."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from lwfm.errors import InvalidRecord, LwfmError
from lwfm.models import JobDefn
from lwfm.recording.recorder import JobNow, Recorder
from lwfm.store import Transaction, queries
from lwfm.store.connection import connect
from lwfm.store.log import read_head

from support.threads import Thread, tables


def _append_and_raise(transaction: Transaction) -> None:
    transaction.append("job", {"state": "PENDING", "site": "local", "definition": {"command": "x"}}, "j1")
    raise ZeroDivisionError


def test_a_unit_that_raises_is_undone_alone(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    with thread.store.transaction() as transaction:
        transaction.append("workflow", {"workflow_id": "w1", "name": "first"})
        with pytest.raises(ZeroDivisionError), transaction.step():
            _append_and_raise(transaction)
        transaction.append("workflow", {"workflow_id": "w2", "name": "second"})
    names = thread.connection.execute("select name from workflows order by name").fetchall()
    assert names == [("first",), ("second",)]
    assert thread.connection.execute("select count(*) from jobs").fetchone() == (0,)
    assert queries.job_counts(thread.connection) == {}
    assert thread.verify() == []
    thread.close()


def test_what_comes_after_an_undone_unit_sees_nothing_of_it(tmp_path: Path) -> None:
    """Also what was remembered of a job's row within the transaction must go."""
    thread = Thread(tmp_path)
    job, workflow = thread.submit("true"), thread.workflow()
    states: list[Optional[JobNow]] = []

    def end_then_fail(recorder: Recorder) -> None:
        thread.service.emit_status(recorder, job, {"state": "COMPLETE", "exit_code": 0})
        thread.service.submit(recorder, {"workflow": workflow}, [JobDefn("true")])
        raise ZeroDivisionError

    def look(recorder: Recorder) -> None:
        states.append(recorder.job_now(job))

    def fail_it(recorder: Recorder) -> None:
        thread.service.emit_status(recorder, job, {"state": "FAILED", "reason": "really"})

    raised = thread.batch(look, end_then_fail, look, fail_it)
    assert [type(error) for error in raised] == [type(None), ZeroDivisionError, type(None), type(None)]
    assert [now.state.value for now in states if now] == ["PENDING", "PENDING"]
    found = thread.job(job)
    assert (found["state"], found["reason"]) == ("FAILED", "really")
    assert "exit_code" not in found
    assert queries.job_counts(thread.connection) == {"FAILED": 1}
    assert thread.verify() == []
    thread.close()


def test_a_transaction_that_raises_never_was(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    before, head = tables(thread.connection), read_head(thread.connection, thread.store.origin)
    with pytest.raises(ZeroDivisionError), thread.store.transaction() as transaction:
        _append_and_raise(transaction)
    assert tables(thread.connection) == before
    assert read_head(thread.connection, thread.store.origin) == head
    thread.close()


def test_what_json_cannot_say_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (float("nan"), float("inf"), object(), deep):
        with (
            pytest.raises(InvalidRecord, match="cannot be recorded as JSON"),
            thread.store.transaction() as transaction,
        ):
            transaction.append("log", {"message": "x", "value": value})
    assert len(thread.records()) == 1
    assert thread.verify() == []
    thread.close()


def test_a_record_that_the_tables_refuse_is_one_error_and_the_next_unit_goes_on(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    with thread.store.transaction() as transaction:
        with pytest.raises(LwfmError, match="the store refused a record"), transaction.step():
            transaction.append("job", {"state": "PENDING", "site": None, "definition": {"command": "x"}})
        transaction.append("log", {"message": "after"})
    assert [record.kind for record in thread.records()] == ["instance", "log"]
    assert thread.verify() == []
    thread.close()


def test_new_rows_are_written_before_what_is_changed_in_them(tmp_path: Path) -> None:
    """Also where executing a statement comes back to flushing, as with the cursors of Python 3.9 and 3.10."""
    connection = connect(str(tmp_path / "t.db"))
    connection.execute("create table jobs (id text primary key, state text, host text)")
    connection.set_trace_callback(lambda _: connection.flush())
    connection.later("insert into jobs values (?,?,?)", ("j", "PENDING", None))
    connection.update_job_later("j", {"state": "RUNNING", "host": "n1"})
    connection.flush()
    connection.set_trace_callback(None)
    assert connection.execute("select state, host from jobs").fetchall() == [("RUNNING", "n1")]
    connection.close()
