"""A thread store with rules and service on a real file, without an agent: for tests of what is recorded.

::

    thread = Thread(tmp_path)
    job = thread.submit("true")
    thread.status(job, "COMPLETE")
    assert thread.verify() == []
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

import pytest

from lwfm.data.outputs import OutputStore
from lwfm.models import JobDefn, Metasheet
from lwfm.notify import delivery
from lwfm.recording.events import Rules
from lwfm.recording.execution import record_ended, record_started
from lwfm.recording.recorder import Effects, Recorder
from lwfm.recording.sealing import Vault
from lwfm.recording.service import Service
from lwfm.states import JobState
from lwfm.store import Record, Store, log, maintenance, projections, queries, schema
from lwfm.store.connection import Connection, connect

JSON = dict[str, Any]
T = TypeVar("T")
HOST = "node1"


class Thread:
    """A store and those who write it.

    Args:
        directory: where it lies; what is there already is opened.
        durable: whether a transaction waits for the disk, as the agent's do.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self.directory = directory
        self._durable = durable
        if not (directory / "thread.db").exists():
            made = connect(str(directory / "thread.db"))
            _empty().backup(made)
            made.close()
        self.open()

    def open(self) -> None:
        """Open the store, with rules and a service that know nothing yet."""
        self.store = Store.open(self.directory / "thread.db", host=HOST, user="ada", home=str(self.directory))
        if not self._durable:
            self.store.connection.execute("pragma synchronous = off")
        self.vault = Vault(self.directory / "sealed")
        (self.directory / "sealed").mkdir(exist_ok=True)
        self.service = Service(self.vault, delivery)
        self.rules = Rules()
        self.outputs = OutputStore(self.directory / "outputs")
        self.effects = Effects()

    def crash(self) -> None:
        """Go without closing anything in order, and come again."""
        self.store.connection.close()
        self.open()

    @property
    def connection(self) -> Connection:
        return self.store.connection

    def unit(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """One unit of work in a transaction of its own, undone when it raises; as the writer does it."""
        with self.store.transaction() as transaction:
            recorder = Recorder(transaction, self.rules)
            try:
                with transaction.step():
                    result = work(recorder, *arguments, **options)
            except BaseException:
                self.rules.reset()
                self.service.reset()
                raise
        self.effects = recorder.effects
        return result

    def batch(self, *works: Callable[[Recorder], Any]) -> list[Optional[Exception]]:
        """Several units of work in one transaction; what each raised, which undid it alone."""
        raised: list[Optional[Exception]] = []
        with self.store.transaction() as transaction:
            for work in works:
                recorder = Recorder(transaction, self.rules)
                try:
                    with transaction.step():
                        work(recorder)
                    raised.append(None)
                except Exception as error:
                    self.rules.reset()
                    self.service.reset()
                    raised.append(error)
        return raised

    def workflow(self, name: str = "study", **body: Any) -> str:
        return str(self.unit(self.service.put_workflow, {"name": name, **body})["workflow_id"])

    def submit(self, command: Any = "true", workflow: Optional[str] = None, **defn: Any) -> str:
        """A new job's id."""
        body = {"workflow": workflow, "context": {"host": HOST, "cwd": "/", "env": {"PATH": "/bin"}}}
        answer = self.unit(self.service.submit, body, [JobDefn(command, **defn)])
        return str(answer["jobs"][0]["job_id"])

    def status(self, job_id: str, state: str, **facts: Any) -> Optional[Record]:
        """Record a status, as a site that tells of it."""

        def work(recorder: Recorder) -> Optional[Record]:
            job = recorder.job_now(job_id)
            assert job is not None
            return recorder.record_status(job, JobState(state), **facts)

        return self.unit(work)

    def run(self, job_id: str, code: int = 0, **message: Any) -> None:
        """A worker has run the job's current attempt."""
        attempt = self.job(job_id)["attempt"]
        self.unit(record_started, job_id, attempt, {"pid": 7, "time": "2025-01-01T00:00:00.000000Z"}, HOST)
        end = {"cause": "exit", "exit_code": code, "time": "2025-01-01T00:00:01.000000Z", **message}
        self.unit(record_ended, job_id, attempt, end, HOST, self.outputs, [])

    def on_jobs(self, jobs: Iterable[str], command: Any = "true", workflow: Optional[str] = None, **event: Any) -> JSON:
        """A handler for jobs."""
        body = {
            "kind": "job",
            "event": {"jobs": list(jobs), "defn": {"command": command}, **event},
            "workflow": workflow,
        }
        return self.unit(self.service.set_handler, body)

    def on_data(self, match: Mapping[str, Any], workflow: Optional[str] = None, **event: Any) -> JSON:
        """A handler for data."""
        defn = {} if "defn" in event or "notify" in event else {"defn": {"command": "true"}}
        body = {"kind": "data", "event": {"match": dict(match), **defn, **event}, "workflow": workflow}
        return self.unit(self.service.set_handler, body)

    def put(self, **sheet: Any) -> str:
        """A new metasheet's id."""
        return str(self.unit(self.service.put_data, Metasheet(**sheet))["data_id"])

    def job(self, job_id: str) -> JSON:
        return queries.job_details(self.connection, job_id)

    def state(self, job_id: str) -> str:
        return str(queries.job(self.connection, job_id)["state"])

    def handler(self, handler_id: str) -> JSON:
        return queries.handler(self.connection, handler_id)

    def records(self) -> list[Record]:
        return [log.parsed(row) for row in log.read_rows(self.connection)]

    def verify(self) -> list[str]:
        """What is wrong with the store."""
        return list(maintenance.check(self.connection)["problems"])

    def close(self) -> None:
        self.store.close()


def tables(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """The projected tables as they are, without the text index, whose rows have no order."""
    found = {}
    for table in schema.PROJECTIONS:
        where = " where jobs <> 0" if table == "job_counts" else ""
        if table != "search":
            found[table] = sorted(connection.execute(f"select * from {table}{where}"), key=repr)
    return found


@lru_cache(maxsize=1)
def _empty() -> Connection:
    """A store in memory in which nothing has been recorded: making one each time would take most of the time."""
    connection = connect(":memory:")
    schema.migrate(connection)
    return connection


def empty_store() -> Connection:
    """A store of its own in memory, in which nothing has been recorded."""
    connection = connect(":memory:")
    _empty().backup(connection)
    return connection


def folded(records: Iterable[Record]) -> dict[str, list[tuple[Any, ...]]]:
    """The tables that records fold to, in the order they come."""
    scratch = empty_store()
    scratch.execute("begin")
    for record in records:
        projections.project(scratch, record)
    scratch.write_counts()
    scratch.execute("commit")
    result = tables(scratch)
    scratch.close()
    return result


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    """A thread of its own for each test, whose store must be well at the end."""
    made = Thread(tmp_path)
    yield made
    assert made.verify() == []
    made.close()
