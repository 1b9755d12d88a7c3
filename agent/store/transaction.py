"""Transactions: records appended to the log and folded into the tables, all of them or none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Optional

from ..clock import utc_now
from ..errors import InvalidRecord, StoreError
from ..ids import new_id, new_origin
from . import log, projections, settings
from .columns import split_status
from .failures import mapped_errors
from .fresh import Fresh
from .jobrow import JobRow
from .log import Record

if TYPE_CHECKING:
    from .database import Store


class Transaction:
    """An open transaction on the store.

    ``append`` writes a record and folds it into the tables; the query helpers see all that was written before.
    """

    def __init__(self, store: Store):
        self.connection = store.connection
        self.origin = store.origin
        self._store = store
        self._path = store.path
        self._clock = store.clock
        self._rows = store.rows
        self._head = log.read_head(store.connection, store.origin)
        self._notice: Optional[str] = None
        self._changes_before = store.connection.total_changes
        self.appended = 0
        """How many records this transaction has appended."""

    def job(self, job_id: str) -> Optional[JobRow]:
        """Where a job stands; None for an unknown one."""
        return self._rows.get(self.connection, job_id)

    def find_jobs(self, job_ids: Iterable[str]) -> set[str]:
        """Which of these jobs there are. Each can be asked for with :meth:`job` then, without a question to the database."""
        return self._rows.find(self.connection, job_ids)

    def append(self, kind: str, body: dict[str, Any], uid: Optional[str] = None) -> Record:
        """Append one record of this instance and fold it into the tables.

        Args:
            kind: what the record is about.
            body: the fact, a JSON object.
            uid: the record's id; a new one when None.
        """
        if kind == "status":
            head, facts = split_status(body)
            return self.append_status(head, facts, self.job(head["job_id"]), uid)
        if kind == "job":
            encoded, definition = log.encode_job(body)
            record = self._logged(kind, body, encoded, uid)
            projections.project_new_job(self.connection, record, self._rows, definition)
        else:
            record = self._logged(kind, body, log.encode_body(body), uid)
            projections.project(self.connection, record, fresh=True)
        return record

    def append_status(
        self, head: dict[str, Any], facts: dict[str, Any], job: Optional[JobRow], uid: Optional[str] = None
    ) -> Record:
        """Append the status of a job and fold it into the tables.

        Args:
            head: what has columns of its own in ``statuses``: job, attempt, state, reason … ``facts``: what it tells beside.
            job: the job's row, from :meth:`job`; it is kept true.
            uid: as for :meth:`append`.
        """
        encoded, written = log.encode_in_parts(head, facts)
        record = self._logged("status", {**head, **facts}, encoded, uid)
        if not projections.project_new_status(self.connection, record, job, facts, written):
            self._rows.forget()
        return record

    def _logged(self, kind: str, body: dict[str, Any], encoded: str, uid: Optional[str]) -> Record:
        """The next row of the log."""
        origin, (last, prev) = self.origin, self._head
        if len(encoded) > log.MAX_RECORD_BYTES:
            raise InvalidRecord(
                f"a record of {len(encoded)} characters; {log.MAX_RECORD_BYTES} is the most", hint="put it into a file"
            )
        seq, uid, hlc, wall_utc = last + 1, uid or new_id(), self._clock.tick(), utc_now()
        digest = log.row_hash(origin, seq, prev, uid, kind, hlc, wall_utc, encoded)
        self.connection.later(log.INSERT, (origin, seq, prev, digest, uid, kind, hlc, wall_utc, encoded))
        self._head = log.Head(seq, digest)
        self.appended += 1
        return Record(origin, seq, uid, kind, hlc, wall_utc, body)

    def commit(self) -> None:
        """Make it durable. May be called from another thread than the rest, while that waits for it."""
        with mapped_errors(self._path):
            self.connection.flush()
            self.connection.write_counts()
            self.connection.execute("commit")
            self._store.confirm()
            renewed = self._store.origin != self.origin
            self._store.origin = self.origin
            self._store.notice = self._notice or self._store.notice
        if renewed:
            with suppress(StoreError):  # it is durable all the same, and is marked again before anybody hears of it
                self._store.mark()

    @property
    def wrote(self) -> bool:
        """Whether it has changed anything in the file."""
        return self.connection.total_changes != self._changes_before

    def rollback(self) -> None:
        """As if it had never begun."""
        self.connection.forget()
        self._rows.forget()
        if self.connection.in_transaction:
            self.connection.execute("rollback")

    def renew_origin(self, reason: str) -> str:
        """Go on under a new origin: what is recorded under the present one is from now on as another instance's.

        Args:
            reason: why, for people.

        Returns:
            A sentence that says so.
        """
        before, seq = self.origin, self._head.seq
        self.take_origin(new_origin())
        self.append(
            "instance", {**self._store.instance(), "succeeds": {"origin": before, "seq": seq}, "reason": reason}
        )
        notice = f"{reason}; what is recorded from now on has a new origin, and what was waiting or running is not gone on with"
        self.append("log", {"level": "WARNING", "message": notice})
        self._notice = notice
        return notice

    def take_origin(self, origin: str) -> None:
        """Append under ``origin`` from now on."""
        self.connection.flush()
        self.origin = origin
        self._head = log.read_head(self.connection, origin)
        settings.put(self.connection, settings.ORIGIN, origin)

    def witness(self, hlc: str) -> None:
        """Take notice of another store's clock."""
        self._clock.witness(hlc)

    def fresh(self, new: Sequence[Record]) -> Fresh:
        """For folding these records of another store."""
        return Fresh(self.connection, self._rows, new)

    def forget_rows(self, job_ids: Optional[Iterable[str]] = None) -> None:
        """Forget the rows of these jobs, or of all, that are at hand: something else than :meth:`append` has changed them."""
        self._rows.forget(job_ids)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A part of the transaction that, when it raises, is undone by itself."""
        head, origin, appended = self._head, self.origin, self.appended
        self.connection.write_counts()
        self.connection.execute("savepoint step")
        try:
            with mapped_errors(self._path):
                yield
                self.connection.flush()
                self.connection.write_counts()
        except BaseException:
            self.connection.forget()
            self._rows.forget()
            if self.connection.in_transaction:
                self.connection.execute("rollback to step")
                self.connection.execute("release step")
            self._head, self.origin, self.appended = head, origin, appended
            raise
        self.connection.execute("release step")

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one statement, for the local tables."""
        return self.connection.execute(statement, parameters)

    def execute_later(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """Run one statement on a local table, with others like it, before anything else is executed."""
        self.connection.later(statement, parameters)
