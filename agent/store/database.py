"""The store as an open database: its file, its identity, and transactions that append to the log.

One process owns a store. On a local disk it uses a write-ahead log; on a shared file system a rollback journal under an
exclusive lock, because the write-ahead log needs memory that hosts do not share (https://sqlite.org/wal.html). That memory is a
mapped file: where a full disk makes those fatal, SQLite has it for itself (its VFS ``unix-excl``), and no other process can read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from ..clock import HybridClock, utc_now
from ..errors import InvalidRecord, LwfmError, StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreUnwritable
from ..host.filesystems import is_shared, mapped_writes_fail
from ..host.shortages import FULL, shortage_of
from ..ids import new_id, new_origin
from . import identity, log, projections, schema
from .connection import Connection, connect
from .engine import sqlite_utils
from .fresh import Fresh
from .jobrow import JobRow, JobRows
from .log import Record

PAGE_CACHE_KIB = 8 * 1024
WAL_CHECKPOINT_PAGES = 16_000
"""A write-ahead log of more pages is folded in by the commit that finds it so, which waits for that; see
:meth:`Store.fold_journal`."""
ROOM_BYTES = 64 * 1024
FOLDING_PASSES = 3
"""A pass leaves what was written during it; the next one takes the less time."""
RENEWAL = "renew"
"""The setting that says why the store has to go on under a new origin when it is opened next."""
ANALYSIS_LIMIT = 400
"""Rows per index that are looked at for statistics, so that leaving takes no longer with a large store."""


class Store:
    """An open thread store. Construct with :meth:`open`; use from one thread at a time."""

    def __init__(
        self, connection: Connection, address: str, path: Path, journal_mode: str, confirm: Callable[[], None]
    ):
        self.connection = connection
        self._address = address
        self.confirm = confirm
        self.path = path
        self.journal_mode = journal_mode
        self.origin = ""
        self.notice: Optional[str] = None
        """What whoever opened it should be told: that it writes under a new origin, and why."""
        self.compacting = False
        """Whether it is being written anew, which may be stopped."""
        self.clock = HybridClock()
        self.rows = JobRows()
        self._maker: dict[str, str] = {}
        self._marked = ("", 0)

    @classmethod
    def open(cls, path: Path, *, host: str, user: str, home: str, confirm: Callable[[], None] = lambda: None) -> Store:
        """Open the store at ``path`` for writing; make it, or bring its schema up to date, where needed.

        Args:
            confirm: called after each commit, before anybody hears of it: comes back only while this process owns the store.

        Raises:
            StoreTooNew: a newer lwfm wrote it.
            StoreLocked: another process owns it. StoreFull, StoreCorrupt, StoreError: as they say.
        """
        shared = is_shared(path.parent)
        address = f"{path.absolute().as_uri()}?vfs={'unix-excl' if mapped_writes_fail(path.parent) else 'unix'}"
        with mapped_errors(path):
            existed = path.exists()
            connection = connect(address, uri=True, check_same_thread=False, timeout=5.0)
            if not existed:
                os.chmod(path, 0o600)
            if shared:
                connection.execute("pragma locking_mode = exclusive")
            mode = "delete" if shared else "wal"
            connection.execute(f"pragma journal_mode = {mode}")
            connection.execute("pragma synchronous = full")
            connection.execute(f"pragma cache_size = -{PAGE_CACHE_KIB}")
            connection.execute("pragma temp_store = memory")
            connection.execute(f"pragma wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
            schema.migrate(sqlite_utils.Database(connection))
            store = cls(connection, address, path, mode, confirm)
            store._identify(host, user, home)
            if shared:
                store._open_journal()
        return store

    def reader(self) -> Optional[Connection]:
        """A second connection that only reads and does not wait for writers; None where the store does not allow one."""
        if self.journal_mode != "wal":
            return None
        connection = connect(f"{self._address}&mode=ro", uri=True, check_same_thread=False, timeout=5.0)
        connection.execute("pragma query_only = on")
        connection.execute(f"pragma cache_size = -{PAGE_CACHE_KIB}")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: durable when the block has ended, as if never begun when it raises."""
        with mapped_errors(self.path):
            transaction = self.begin()
            try:
                yield transaction
                transaction.commit()
            except BaseException:
                transaction.rollback()
                raise

    def begin(self) -> Transaction:
        """Begin a transaction that is ended by its ``commit`` or its ``rollback``. The store has one at a time."""
        with mapped_errors(self.path):
            if self.connection.in_transaction:  # the disk refused even the end of the one before
                self.connection.execute("rollback")
            self.connection.execute("begin immediate")
            return Transaction(self)

    def try_room(self) -> None:
        """See whether the disk takes writes again, and a little more than the next record.

        Raises:
            StoreError: it does not.
        """
        for value in ("x" * ROOM_BYTES, ""):
            with self.transaction() as transaction:
                transaction.execute("insert or replace into local_settings values ('room', ?)", (value,))

    def fold_journal(self) -> None:
        """Copy what the write-ahead log holds into the database, while transactions go on. May be called from any thread."""
        if self.journal_mode != "wal":
            return
        with mapped_errors(self.path), closing(connect(self._address, uri=True, timeout=0.0)) as connection:
            for _ in range(FOLDING_PASSES):
                _, logged, folded = connection.execute("pragma wal_checkpoint(passive)").fetchone()
                if logged == folded:
                    return  # the next transaction begins the log anew

    def _open_journal(self) -> None:
        """Have the journal's file open from now on, as it stays under an exclusive lock: whoever is ousted while it stands still
        must not come to open that of the next owner. Source: https://sqlite.org/pragma.html#pragma_locking_mode"""
        with self.transaction() as transaction:
            self._settle(transaction, {"opened": utc_now()})

    def setting(self, key: str) -> Optional[str]:
        """A setting of this instance that is not history."""
        row = self.connection.execute("select value from local_settings where key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def close(self) -> None:
        """Close the file, its journal folded in."""
        with mapped_errors(self.path):
            self.mark()
            if self.journal_mode == "wal":
                self.connection.execute(f"pragma analysis_limit = {ANALYSIS_LIMIT}")
                self.connection.execute("pragma optimize")
                self.connection.execute("pragma wal_checkpoint(truncate)")
            self.connection.close()

    def mark(self) -> None:
        """Note beside the database how far it has come. Whoever gives its records away does so first; see :mod:`.identity`."""
        origin, seq = self.origin, log.read_head(self.connection, self.origin).seq
        if (origin, seq) != self._marked:
            self.confirm()
            try:
                identity.write(self.path, identity.mark_of(self.path, origin, seq))
            except OSError as error:
                raise _refused(error, f"cannot write beside {self.path}") from error
            self._marked = (origin, seq)

    def _identify(self, host: str, user: str, home: str) -> None:
        """Find out under which origin to write: a new store gets one, and so does one that is not what it was."""
        self._maker = {"host": host, "user": user, "home": home}
        found = self.setting("origin")
        head = log.read_head(self.connection, found or "")
        last = self.connection.execute(
            "select hlc from log where origin = ? order by seq desc limit 1", (found or "",)
        ).fetchone()
        self.clock = HybridClock(last[0] if last else "")
        self.origin = found or new_origin()
        if found is None:
            with self.transaction() as transaction:
                self._settle(transaction, {"origin": self.origin, "store_id": new_origin()})
                transaction.append("instance", transaction.instance())
        elif self.setting("marked") is not None:
            noted = identity.read(self.path)
            reason = self.setting(RENEWAL) or identity.difference(noted, identity.mark_of(self.path, found, head.seq))
            if reason is not None:
                with self.transaction() as transaction:
                    transaction.execute("delete from local_settings where key = ?", (RENEWAL,))
                    for table in ("local_claims", "local_workers", "local_attached"):
                        transaction.execute(f"delete from {table}")
                    transaction.renew_origin(reason)
        self._marked = ("", 0)
        self.mark()
        if self.setting("marked") is None:  # it is from now on: who dies before has not lost it
            with self.transaction() as transaction:
                self._settle(transaction, {"marked": "1"})

    def _settle(self, transaction: Transaction, settings: dict[str, str]) -> None:
        for key, value in settings.items():
            transaction.execute("insert or replace into local_settings values (?, ?)", (key, value))

    def instance(self, store_id: str) -> dict[str, Any]:
        """What an origin says of itself in its first record."""
        return {"store_id": store_id, **self._maker, "time": utc_now()}


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
            head, facts = projections.split_status(body)
            return self.append_status(head, facts, self.job(head["job_id"]), uid)
        if kind == "job":
            encoded, definition = log.encode_job(body)
            record = self._logged(kind, body, encoded, uid)
            projections.project_job(self.connection, record, self._rows, definition)
        else:
            record = self._logged(kind, body, log.encode_body(body), uid)
            projections.project(self.connection, record, new=True)
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
        if not projections.project_status(self.connection, record, job, facts, written):
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

    def instance(self) -> dict[str, Any]:
        """What this store's origin says of itself in its first record."""
        (store_id,) = self.execute("select value from local_settings where key = 'store_id'").fetchone()
        return self._store.instance(store_id)

    def renew_origin(self, reason: str) -> str:
        """Go on under a new origin: what is recorded under the present one is from now on as another instance's.

        Args:
            reason: why, for people.

        Returns:
            A sentence that says so.
        """
        before, seq = self.origin, self._head.seq
        self.take_origin(new_origin())
        self.append("instance", {**self.instance(), "succeeds": {"origin": before, "seq": seq}, "reason": reason})
        notice = f"{reason}; what is recorded from now on has a new origin, and what was waiting or running is not gone on with"
        self.append("log", {"level": "WARNING", "message": notice})
        self._notice = notice
        return notice

    def take_origin(self, origin: str) -> None:
        """Append under ``origin`` from now on."""
        self.connection.flush()
        self.origin = origin
        self._head = log.read_head(self.connection, origin)
        self.execute("update local_settings set value = ? where key = 'origin'", (origin,))

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


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: the one seam between the two."""
    try:
        yield
    except sqlite3.Error as error:
        raise _mapped(error, path) from error


def _mapped(error: sqlite3.Error, path: Path) -> LwfmError:
    text = str(error)
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return LwfmError(f"internal error: the store refused a record: {text}")
    if "disk is full" in text or "No space left" in text:
        return StoreFull(f"no space left for {path}", hint="free some space or quota; nothing acknowledged was lost")
    if "locked" in text:
        return StoreLocked(f"another process uses {path}", hint="only the agent may open it: lwfm agent status")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return StoreCorrupt(f"{path} is damaged: {text}", hint="lwfm store repair keeps the file beside")
    if "I/O error" in text or "readonly" in text or "unable to open" in text:
        return _unwritable(path, text)
    return StoreError(f"{path}: {text}")


def _unwritable(path: Path, text: str) -> StoreError:
    """SQLite does not say what the system said to it (a quota is an I/O error for it): a small file beside the store tells."""
    said = _said_to_a_probe(path)
    if said is not None and shortage_of(said) is not None:
        return _refused(said, f"cannot write {path}")
    if "I/O error" in text:
        hint = (
            "its disk or file server fails, or did at that moment: see the system's log; nothing acknowledged was lost"
        )
        return StoreUnwritable(f"cannot write {path}: {text}", hint=hint)
    return StoreError(f"cannot write {path}: {text}", hint="check its permissions and those of its directory")


def _refused(said: OSError, what: str) -> StoreError:
    """What the system has said when something was written for the store."""
    short = shortage_of(said)
    if short is None:
        return StoreError(f"{what}: {said.strerror}")
    kind = StoreFull if said.errno in FULL else StoreUnwritable
    return kind(f"{what}: {short.message}", hint=short.hint)


def _said_to_a_probe(path: Path) -> Optional[OSError]:
    """What the system says when a small file is written beside ``path``; None: it can be."""
    probe = path.with_name(f".{path.name}.probe")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            probe.unlink()
    return None
