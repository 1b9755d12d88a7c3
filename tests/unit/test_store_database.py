"""The store as a file: made, opened again, refused, damaged, full."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lwfm.clock import HybridClock
from lwfm.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreTooNew
from lwfm.store import Store, queries, schema
from lwfm.store.connection import connect
from lwfm.store.log import GENESIS

from support.threads import Thread


def open_store(path: Path) -> Store:
    return Store.open(path, host="h", user="u", home=str(path.parent))


def test_a_new_store_is_its_owners_alone_and_knows_where_it_was_made(tmp_path: Path) -> None:
    store = open_store(tmp_path / "thread.db")
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
    assert store.journal_mode == "wal"
    (origin,) = store.connection.execute("select id, host, user from origins").fetchall()
    assert origin == (store.origin, "h", "u")
    head = store.connection.execute("select seq, prev, kind from log").fetchall()
    assert head == [(1, GENESIS, "instance")]
    store.close()


def test_opened_again_it_is_the_same_and_its_chain_goes_on(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    origin = thread.store.origin
    job = thread.submit("true")
    last = thread.records()[-1].hlc
    thread.close()
    thread.open()
    assert thread.store.origin == origin
    assert thread.state(job) == "PENDING"
    thread.submit("true")
    assert thread.records()[-1].hlc > last
    assert thread.verify() == []
    thread.close()


def test_the_clock_goes_on_from_the_last_record_even_when_the_wall_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = Thread(tmp_path)
    last = thread.records()[-1].hlc
    monkeypatch.setattr("lwfm.clock.time.time_ns", lambda: 1_000_000)
    thread.crash()
    thread.submit("true")
    assert all(record.hlc > last for record in thread.records()[1:])
    assert HybridClock(last).tick() > last
    thread.close()


def test_opening_looks_at_the_end_of_the_log_only(tmp_path: Path) -> None:
    store = open_store(tmp_path / "thread.db")
    plan = store.connection.execute(
        "explain query plan select hlc from log where origin = ? order by seq desc limit 1", ("o",)
    ).fetchall()
    assert "SEARCH log USING PRIMARY KEY" in str(plan)
    assert "SCAN" not in str(plan)
    assert "TEMP" not in str(plan)
    store.close()


def test_a_store_of_a_newer_lwfm_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "thread.db"
    open_store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"pragma user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreTooNew, match=f"has schema {schema.SCHEMA_VERSION + 1}") as raised:
        open_store(path)
    assert raised.value.hint


def test_a_migration_that_dies_half_way_is_made_again(tmp_path: Path) -> None:
    """Killed while it makes the tables, the next start must find either none of them or all."""
    path = tmp_path / "thread.db"
    code = (
        "import os, sys; from pathlib import Path; from lwfm.store import schema, Store\n"
        "schema._VIEWS = {'dying': \"select 1 as one'\"} if sys.argv[2] == 'raise' else schema._VIEWS\n"
        "if sys.argv[2] == 'kill':\n"
        "    schema._TABLES = schema._TABLES.replace('create table logs', 'select die();\\ncreate table logs')\n"
        "    import lwfm.store.connection as c\n"
        "    old = c.Connection.__init__\n"
        "    def init(self, *a, **k):\n"
        "        old(self, *a, **k); self.create_function('die', 0, lambda: os.kill(os.getpid(), 9))\n"
        "    c.Connection.__init__ = init\n"
        "Store.open(Path(sys.argv[1]), host='h', user='u', home='x')\n"
    )
    for how in ("raise", "kill"):
        made = subprocess.run([sys.executable, "-c", code, str(path), how], capture_output=True, text=True)
        assert made.returncode == (-9 if how == "kill" else 1), made.stderr
    store = open_store(path)
    assert schema.schema_version(store.connection) == schema.SCHEMA_VERSION
    store.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but quite long" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_what_is_no_database_is_named_as_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thread.db"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"thread\.db is damaged"):
        open_store(path)
    assert path.read_bytes()[:100] == content[:100]


def test_a_place_where_nothing_can_be_made_is_named() -> None:
    with pytest.raises(StoreError, match=r"cannot write /proc/thread\.db") as raised:
        open_store(Path("/proc/thread.db"))
    assert raised.value.hint


def test_a_directory_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "thread.db").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*thread\.db"):
        open_store(tmp_path / "thread.db")


def test_a_store_that_another_process_writes_is_locked(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    other = sqlite3.connect(thread.store.path, isolation_level=None)
    other.execute("begin immediate")
    thread.connection.execute("pragma busy_timeout = 1")
    with pytest.raises(StoreLocked):
        thread.submit("true")
    other.execute("rollback")
    other.close()
    thread.submit("true")
    assert thread.verify() == []
    thread.close()


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    jobs = [thread.submit("true") for _ in range(3)]
    (pages,) = thread.connection.execute("pragma page_count").fetchone()
    thread.connection.execute(f"pragma max_page_count = {pages + 20}")
    accepted = list(jobs)

    def fill() -> None:
        for number in range(1000):
            accepted.append(thread.submit(["true", "x" * 2000, str(number)]))

    with pytest.raises(StoreFull, match="no space left"):
        fill()
    assert len(accepted) > len(jobs)
    assert [row[0] for row in thread.connection.execute("select id from jobs order by id")] == accepted
    assert thread.verify() == []
    thread.connection.execute(f"pragma max_page_count = {10 * pages + 10_000}")
    accepted.append(thread.submit("true"))
    thread.crash()
    assert [row[0] for row in thread.connection.execute("select id from jobs order by id")] == accepted
    assert thread.verify() == []
    thread.close()


def test_a_reader_sees_what_is_committed_and_cannot_write(tmp_path: Path) -> None:
    place = tmp_path / "ünïcode ?#%20"
    place.mkdir()
    thread = Thread(place)
    reader = thread.store.reader()
    assert reader is not None
    with thread.store.transaction() as transaction:
        transaction.append("log", {"message": "not yet"})
        assert queries.list_logs(reader) == []
    assert len(queries.list_logs(reader)) == 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("delete from logs")
    reader.close()
    thread.close()


def test_a_home_whose_name_is_no_unicode(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    home.mkdir()
    store = Store.open(home / "thread.db", host="h\udcff", user="u\udcfe", home=str(home))
    assert store.connection.execute("select host, user from origins").fetchall() == [("h\\udcff", "u\\udcfe")]
    reader = store.reader()
    assert reader is not None
    assert reader.execute("select count(*) from log").fetchone() == (1,)
    reader.close()
    store.close()


def test_where_a_full_disk_ends_who_writes_to_mapped_files_none_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwfm.store.database.mapped_writes_fail", lambda path: True)
    thread = Thread(tmp_path)
    assert thread.store.journal_mode == "wal"
    reader = thread.store.reader()
    assert reader is not None
    job = thread.submit("true")
    assert reader.execute("select id from jobs").fetchall() == [(job,)]
    thread.store.fold_journal()
    assert "-shm" not in Path("/proc/self/maps").read_text()
    outside = [
        sys.executable,
        "-c",
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('select * from log')",
    ]
    refused = subprocess.run([*outside, str(thread.store.path)], capture_output=True, text=True)
    assert "database is locked" in refused.stderr
    reader.close()
    thread.run(job)
    assert thread.verify() == []
    thread.close()
    subprocess.run([*outside, str(thread.store.path)], check=True)


def test_on_a_shared_file_system_there_is_no_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwfm.store.database.is_shared", lambda path: True)
    thread = Thread(tmp_path)
    assert thread.store.journal_mode == "delete"
    assert thread.store.reader() is None
    (mode,) = thread.connection.execute("pragma journal_mode").fetchone()
    assert mode == "delete"
    job = thread.submit("true")
    monkeypatch.setattr(
        "lwfm.store.database.connect", lambda path, **options: connect(path, **{**options, "timeout": 0.01})
    )
    with pytest.raises(StoreLocked):
        Store.open(thread.store.path, host="h", user="u", home="x")
    thread.run(job)
    assert thread.verify() == []
    thread.close()


def test_closing_folds_the_journal_in_and_leaves_one_file(tmp_path: Path) -> None:
    thread = Thread(tmp_path)
    thread.submit("true")
    thread.close()
    assert sorted(path.name for path in tmp_path.glob("thread.db*")) == ["thread.db"]


def test_settings_are_those_of_this_instance(tmp_path: Path) -> None:
    store = open_store(tmp_path / "thread.db")
    assert store.setting("origin") == store.origin
    assert store.setting("nothing") is None
    store.close()


def test_the_write_ahead_log_is_folded_in_while_transactions_go_on(tmp_path: Path) -> None:
    store = open_store(tmp_path / "thread.db")
    with store.transaction() as transaction:
        transaction.append("log", {"message": "first"}, "l1")
    open_one = store.begin()
    open_one.append("log", {"message": "second"}, "l2")
    store.fold_journal()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        (tmp_path / "copy.db").write_bytes(store.path.read_bytes())  # the file alone, without its journal
        assert copy.execute("select id from logs").fetchall() == [("l1",)]
    open_one.commit()
    assert [row[0] for row in store.connection.execute("select id from logs order by id")] == ["l1", "l2"]
    store.close()
