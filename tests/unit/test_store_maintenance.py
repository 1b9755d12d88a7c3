"""Verifying names what is wrong; rebuilding makes the tables anew, or changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm.errors import StoreCorrupt, StoreFull
from lwfm.store import log, maintenance

from support.threads import Thread, folded, tables


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    thread = Thread(tmp_path)
    workflow = thread.workflow(meta={"who": "ada"})
    job = thread.submit(["prog", "a"], workflow, meta={"T": 0.7}, retries=1)
    after = thread.on_jobs([job], workflow=workflow)
    thread.on_data({"kind": "thermo"}, workflow=workflow, repeat=True)
    thread.run(job, code=1)
    thread.put(properties={"kind": "thermo"}, workflow_id=workflow, job_id=job)
    thread.run(job)
    thread.unit(thread.service.log, [{"message": "hello", "job_id": job}])
    assert thread.handler(after["handler_id"])["state"] == "done"
    assert thread.verify() == []
    yield thread
    thread.connection.close()


def problems_after(thread: Thread, statement: str, *values: Any) -> list[str]:
    assert thread.connection.execute(statement, values).rowcount == 1
    return thread.verify()


def test_a_sound_store(thread: Thread) -> None:
    found = maintenance.check(thread.connection)
    assert found == {"ok": True, "origins": 1, "records": len(thread.records()), "pruned": 0, "problems": []}


def test_a_changed_body_is_named(thread: Thread) -> None:
    problems = problems_after(thread, "update log set body = replace(body, 'ada', 'eve') where kind = 'workflow'")
    assert f"origin {thread.store.origin}: record 2 was changed after it was written" in problems
    assert any(problem.startswith("table workflows differs from the log") for problem in problems)


@pytest.mark.parametrize("column", ["uid", "kind", "hlc", "wall_utc", "hash", "prev"])
def test_a_change_of_any_field_is_named(thread: Thread, column: str) -> None:
    problems = problems_after(thread, f"update log set {column} = {column} || 'x' where seq = 4")
    assert any("record 4 was changed" in problem or "does not continue" in problem for problem in problems)


def test_a_missing_record_is_named(thread: Thread) -> None:
    problems = problems_after(thread, "delete from log where seq = 4")
    assert f"origin {thread.store.origin}: record 4 is missing before 5" in problems


def test_a_record_put_in_between_is_named(thread: Thread) -> None:
    """Also one whose own hash is right: it does not continue the one before it."""
    thread.connection.execute(
        "insert into log select origin, seq + 1000, prev, hash, uid, kind, hlc, wall_utc, body from log where seq = 4"
    )
    assert any("is missing before 1004" in problem for problem in thread.verify())


def test_a_body_that_is_no_json_is_named_not_a_crash(thread: Thread) -> None:
    problems = problems_after(thread, "update log set body = '{' where seq = 4")
    assert any("record 4 was changed" in problem for problem in problems)
    assert any("record 4 " in problem and "cannot be folded" in problem for problem in problems)


def test_a_body_without_what_its_kind_needs_is_named(thread: Thread) -> None:
    problems = problems_after(
        thread,
        "update log set body = '{}' where kind = 'status' and seq = (select min(seq) from log where kind = 'status')",
    )
    assert any("cannot be folded into the tables: KeyError" in problem for problem in problems)


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("jobs", "update jobs set state = 'FAILED' where state = 'COMPLETE'"),
        ("statuses", "delete from statuses where id = (select max(id) from statuses where state = 'COMPLETE')"),
        ("properties", "delete from properties where key = 'T'"),
        ("handlers", "update handlers set fired = 7 where kind = 'job'"),
        ("firings", "update firings set job_id = 'x' where trigger_data is null"),
        ("job_counts", "update job_counts set jobs = 9 where state = 'COMPLETE'"),
        ("logs", "update logs set message = 'bye'"),
        ("origins", "update origins set host = 'elsewhere'"),
    ],
)
def test_a_table_that_is_not_what_the_log_says_is_named_and_made_anew(
    thread: Thread, table: str, statement: str
) -> None:
    right = tables(thread.connection)
    problems = problems_after(thread, statement)
    assert [problem.split(" at ")[0] for problem in problems] == [f"table {table} differs from the log"]
    assert maintenance.rebuild(thread.store)["records"] == len(thread.records())
    assert thread.verify() == []
    assert tables(thread.connection) == right


def test_rebuilding_keeps_what_is_not_history(thread: Thread) -> None:
    local = "select * from local_settings"
    before = thread.connection.execute(local).fetchall()
    thread.connection.execute("insert into local_claims values ('j', 1, 'w', null)")
    maintenance.rebuild(thread.store)
    assert thread.connection.execute(local).fetchall() == before
    assert thread.connection.execute("select * from local_claims").fetchall() == [("j", 1, "w", None)]


def test_rebuilding_finds_the_same_texts(thread: Thread) -> None:
    query = "select kind, id, text from search order by 1, 2, 3"
    before = thread.connection.execute(query).fetchall()
    maintenance.rebuild(thread.store)
    assert thread.connection.execute(query).fetchall() == before


def test_rebuilding_a_log_that_cannot_be_folded_changes_nothing(thread: Thread) -> None:
    before = tables(thread.connection)
    thread.connection.execute("update log set body = '[' where seq = 5")
    with pytest.raises(StoreCorrupt, match=r"record 5 .*cannot be folded"):
        maintenance.rebuild(thread.store)
    assert tables(thread.connection) == before
    thread.submit("true")


def test_records_of_an_unknown_kind_are_kept_and_not_projected(thread: Thread) -> None:
    before = tables(thread.connection)
    with thread.store.transaction() as transaction:
        transaction.append("hologram", {"of": "ada", "later": [1]})
    assert tables(thread.connection) == before
    assert thread.verify() == []
    maintenance.rebuild(thread.store)
    assert thread.records()[-1].body == {"of": "ada", "later": [1]}


def test_unknown_keys_are_kept_in_the_log_and_shown_where_there_is_room(thread: Thread) -> None:
    with thread.store.transaction() as transaction:
        transaction.append("workflow", {"workflow_id": "w", "name": "n", "colour": "red"}, "w")
    (extra,) = thread.connection.execute("select extra from workflows where id = 'w'").fetchone()
    assert extra == '{"colour":"red"}'
    assert thread.verify() == []


def test_many_problems_are_cut_off(thread: Thread) -> None:
    for number in range(80):
        thread.unit(thread.service.log, [{"message": str(number)}])
    thread.connection.execute("update log set wall_utc = wall_utc || 'x' where kind = 'log'")
    assert len(thread.verify()) == 50


def test_verifying_sees_one_moment_while_others_write(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = thread.store.reader()
    assert reader is not None
    chain = log.chain_problems

    def write_meanwhile(connection: sqlite3.Connection) -> Iterator[str]:
        yield from chain(connection)
        thread.submit("true")

    monkeypatch.setattr(log, "chain_problems", write_meanwhile)
    compare = maintenance._compare

    def and_again(connection: sqlite3.Connection, scratch: sqlite3.Connection, table: str) -> Iterator[str]:
        thread.submit("true")
        return compare(connection, scratch, table)

    monkeypatch.setattr(maintenance, "_compare", and_again)
    assert maintenance.check(reader)["problems"] == []
    assert not reader.in_transaction
    reader.close()


def test_pages_that_were_overwritten_are_named_not_a_crash(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    for number in range(60):
        thread.submit(["prog", "x" * 500, str(number)])
    thread.close()
    path = tmp_path / "thread.db"
    data = bytearray(path.read_bytes())
    data[4096 * 20 : 4096 * (len(data) // 4096 - 4)] = b"\xa5" * (4096 * (len(data) // 4096 - 24))
    path.write_bytes(data)
    connection = sqlite3.connect(path, isolation_level=None)
    found = maintenance.check(connection)
    connection.close()
    assert not found["ok"]
    assert any("damaged" in problem for problem in found["problems"])


def test_no_room_to_verify_is_not_a_damaged_store(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[str]:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(maintenance, "_fold", full)
    with pytest.raises(StoreFull, match="to check"):
        maintenance.check(thread.connection)


def test_the_order_of_the_records_does_not_matter(thread: Thread) -> None:
    """A status before its job, a firing before its handler, everything twice, the edit of a workflow before the workflow."""
    workflow = thread.workflow("before")
    thread.unit(thread.service.put_workflow, {"workflow_id": workflow, "name": "after", "meta": {"v": 2}})
    lone = thread.on_data({"kind": "plot"}, workflow=workflow, repeat=2)
    thread.put(properties={"kind": "plot"}, workflow_id=workflow)
    thread.unit(thread.service.unset_handler, lone["handler_id"], "enough")
    records, now = thread.records(), tables(thread.connection)
    by_kind = sorted(records, key=lambda record: record.kind, reverse=True)
    for order in (records, records[::-1], records + records, by_kind, records[1::2] + records[::2]):
        assert folded(order) == now


def test_two_instances_unset_one_handler(thread: Thread) -> None:
    handler = thread.on_data({"kind": "plot"}, repeat=2)["handler_id"]
    for reason in ("first", "second"):
        with thread.store.transaction() as transaction:
            transaction.append("unset", {"handler_id": handler, "reason": reason})
    records = thread.records()
    assert thread.handler(handler)["reason"] == "first"
    assert folded(records[::-1]) == folded(records) == tables(thread.connection)
