"""The store as an open database: its file, how it is opened and closed, and under which origin it writes.

One process owns a store. On a local disk it uses a write-ahead log; on a shared file system a rollback journal under an
exclusive lock, because the write-ahead log needs memory that hosts do not share (https://sqlite.org/wal.html). That memory is a
mapped file: where a full disk makes those fatal, SQLite has it for itself (its VFS ``unix-excl``), and no other process can read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Optional

from ..clock import HybridClock, utc_now
from ..host.filesystems import is_shared, mapped_writes_fail
from ..ids import new_origin
from . import identity, log, schema, settings
from .connection import Connection, connect
from .failures import mapped_errors, refused
from .jobrow import JobRows
from .transaction import Transaction

PAGE_CACHE_KIB = 8 * 1024
WAL_CHECKPOINT_PAGES = 16_000
"""A write-ahead log of more pages is folded in by the commit that finds it so, which waits for that; see
:meth:`Store.fold_journal`."""
ROOM_BYTES = 64 * 1024
FOLDING_PASSES = 3
"""A pass leaves what was written during it; the next one takes the less time."""
RENEWAL = "renew"
"""The setting that says why the store has to go on under a new origin when it is opened next."""
MARKED = "marked"
"""The setting that says that there is a mark beside the database, see :mod:`.identity`."""
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
            schema.migrate(connection)
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
                settings.put(transaction.connection, "room", value)

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
            settings.put(transaction.connection, "opened", utc_now())

    def setting(self, key: str) -> Optional[str]:
        """A setting of this instance that is not history."""
        return settings.get(self.connection, key)

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
                raise refused(error, f"cannot write beside {self.path}") from error
            self._marked = (origin, seq)

    def _identify(self, host: str, user: str, home: str) -> None:
        """Find out under which origin to write: a new store gets one, and so does one that is not what it was."""
        self._maker = {"host": host, "user": user, "home": home}
        found = self.setting(settings.ORIGIN)
        head = log.read_head(self.connection, found or "")
        last = self.connection.execute(
            "select hlc from log where origin = ? order by seq desc limit 1", (found or "",)
        ).fetchone()
        self.clock = HybridClock(last[0] if last else "")
        self.origin = found or new_origin()
        if found is None:
            with self.transaction() as transaction:
                settings.put(transaction.connection, settings.ORIGIN, self.origin)
                settings.put(transaction.connection, settings.STORE_ID, new_origin())
                transaction.append("instance", self.instance())
        elif self.setting(MARKED) is not None:
            noted = identity.read(self.path)
            reason = self.setting(RENEWAL) or identity.difference(noted, identity.mark_of(self.path, found, head.seq))
            if reason is not None:
                with self.transaction() as transaction:
                    settings.remove(transaction.connection, RENEWAL)
                    for table in ("local_claims", "local_workers", "local_attached"):
                        transaction.execute(f"delete from {table}")
                    transaction.renew_origin(reason)
        self._marked = ("", 0)
        self.mark()
        if self.setting(MARKED) is None:  # it is from now on: who dies before has not lost it
            with self.transaction() as transaction:
                settings.put(transaction.connection, MARKED, "1")

    def instance(self) -> dict[str, Any]:
        """What an origin of this store says of itself in its first record."""
        return {"store_id": self.setting(settings.STORE_ID), **self._maker, "time": utc_now()}
