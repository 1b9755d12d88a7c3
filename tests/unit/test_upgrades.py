"""Stores that earlier releases wrote are opened, brought up to date, gone on with, and synced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from lwfm.store import identity, log, queries, schema
from lwfm.store.connection import connect

from support import earlier_stores
from support.pruned import chains, prune, stubs
from support.replicas import StoreReplica, sync
from support.threads import Thread, folded, tables

VERSIONS = earlier_stores.versions()
STATES = {"good": "COMPLETE", "bad": "FAILED", "echo": "COMPLETE"}
"""The jobs of each of these stores; a further ``echo`` waits for data."""
Upgraded = Callable[[int], Thread]


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Upgraded]:
    """Opens the store of a version, as this release does."""
    threads: list[Thread] = []

    def opened(version: int) -> Thread:
        directory = tmp_path / f"schema-{version}"
        directory.mkdir()
        database = directory / "thread.db"
        earlier_stores.make(version, database)
        connection = connect(str(database))
        assert schema.schema_version(connection) == version
        (origin,) = connection.execute("select value from local_settings where key = 'origin'").fetchone()
        identity.write(database, identity.mark_of(database, origin, log.read_head(connection, origin).seq))
        connection.close()
        threads.append(Thread(directory))
        return threads[-1]

    yield opened
    for thread in threads:
        assert thread.verify() == []
        thread.close()


def test_there_is_one_of_every_schema() -> None:
    """Whoever raises the schema adds a store of the one before: see support/earlier_stores.py."""
    assert list(range(1, schema.SCHEMA_VERSION)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
class TestOneStore:
    def test_it_is_what_it_was(self, version: int, upgraded: Upgraded) -> None:
        thread = upgraded(version)
        assert schema.schema_version(thread.connection) == schema.SCHEMA_VERSION
        assert thread.store.notice is None
        listed = queries.list_jobs(thread.connection, limit=0)
        assert {(job["name"], job["state"]) for job in listed} == {*STATES.items(), ("echo", "READY")}
        (failed,) = (job for job in listed if job["name"] == "bad")
        assert (failed["attempt"], failed["exit_code"]) == (2, 3)
        assert [row["message"] for row in queries.list_logs(thread.connection, job=failed["job_id"])] == ["a line"]
        (sheet,) = queries.list_data(thread.connection, match={"kind": "thermo", "T": 0.7})
        assert sheet["path"].endswith("out.dat")
        assert queries.search(thread.connection, "good")
        assert {row["state"] for row in queries.list_handlers(thread.connection)} == {"done", "waiting"}
        assert tables(thread.connection) == folded(thread.records())

    def test_its_tables_are_those_of_a_new_store(self, version: int, upgraded: Upgraded, tmp_path: Path) -> None:
        new = connect(str(tmp_path / "new.db"))
        schema.migrate(new)
        found = upgraded(version).connection
        for (table,) in new.execute("select name from sqlite_master where type in ('table', 'view')").fetchall():
            columns = f"select name, type, pk from pragma_table_info('{table}') order by name"
            assert found.execute(columns).fetchall() == new.execute(columns).fetchall(), table
        indexes = "select name, sql from sqlite_master where type = 'index' order by name"
        assert found.execute(indexes).fetchall() == new.execute(indexes).fetchall()
        new.close()

    def test_it_goes_on(self, version: int, upgraded: Upgraded) -> None:
        thread = upgraded(version)
        (waiting,) = queries.list_jobs(thread.connection, states=["READY"])
        thread.put(op="event", properties={"kind": "never"})
        assert thread.state(waiting["job_id"]) == "PENDING"
        thread.run(waiting["job_id"])
        thread.run(thread.submit("true"))
        assert thread.state(waiting["job_id"]) == "COMPLETE"

    def test_it_syncs_with_a_new_one_and_is_pruned(self, version: int, upgraded: Upgraded, tmp_path: Path) -> None:
        thread = upgraded(version)
        (tmp_path / "new").mkdir()
        new = Thread(tmp_path / "new")
        new.run(new.submit("true"))
        for near, far in ((new, thread), (thread, new)):
            sync(StoreReplica(near), StoreReplica(far))
        assert chains(new) == chains(thread)
        assert tables(new.connection) == tables(thread.connection)
        thread.put(op="event", properties={"kind": "never"})
        for (job,) in thread.connection.execute("select id from jobs where state = 'PENDING'").fetchall():
            thread.run(job)
        sync(StoreReplica(thread), StoreReplica(new))
        assert prune(thread) > len(STATES)
        outcome, _ = sync(StoreReplica(new), StoreReplica(thread))
        assert outcome.sent == 0
        assert chains(new) == chains(thread)
        assert (bool(stubs(thread, "here")), stubs(new, "elsewhere"), new.verify()) == (True, set(), [])
        new.close()

    def test_a_copy_without_its_mark_goes_on_under_a_new_origin(
        self, version: int, upgraded: Upgraded, tmp_path: Path
    ) -> None:
        database = tmp_path / "thread.db"
        earlier_stores.make(version, database)
        connection = connect(str(database))
        (before,) = connection.execute("select value from local_settings where key = 'origin'").fetchone()
        known = connection.execute("select 1 from local_settings where key = 'marked'").fetchone() is not None
        connection.close()
        thread = Thread(tmp_path)
        assert (thread.store.origin != before) is known  # before schema 7 there were no marks
        assert thread.verify() == []
        thread.close()


def test_all_of_them_become_one(upgraded: Upgraded) -> None:
    threads = [upgraded(version) for version in VERSIONS]
    for _ in range(2):
        for near, far in zip(threads, [*threads[1:], threads[0]]):
            sync(StoreReplica(near), StoreReplica(far))
    for thread in threads[1:]:
        assert chains(thread) == chains(threads[0])
        assert tables(thread.connection) == tables(threads[0].connection)
    assert sum(queries.job_counts(threads[0].connection).values()) == 5 * len(threads)
