"""What can still be had of a damaged store: every record of its log that proves itself, wherever it is found.

A record carries the hash of all it says and of the record before it. So it does not matter whether it comes from the log, from a
page that nothing refers to any more, or from a snapshot: what has its right hash, and continues what is before it, is genuine. Of
each origin the unbroken beginning becomes the log again; what lies behind a gap is kept by itself, until a sync fills the gap.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from . import log
from .connection import Connection, connect, connect_reading
from .log import Head
from .pages import Pages

LOG, FRAGMENTS, SNAPSHOT, PAGES = range(4)
"""Where a record was found: in the damaged store's tables, in a snapshot, on its pages. What comes first goes before."""
_COLUMNS = "origin, seq, prev, hash, uid, kind, hlc, wall_utc, body"
_FOUND = (
    "create table found (origin text, seq integer, prev text, hash text, uid text, kind text, hlc text, wall_utc text, body text,"
    " place integer, primary key (origin, seq, hash)) without rowid"
)
_NEXT = f"select {_COLUMNS}, place from found where origin = ? and seq = ? and prev in (?, '') order by place, prev = '', hash"
_REST = f"select {_COLUMNS} from found where origin = ? and seq > ? and prev <> '' order by seq, place, hash"
_TOGETHER = 500


class Gap(NamedTuple):
    """Records of an origin that are not to be had: from ``first`` to ``last``."""

    origin: str
    first: int
    last: int


class Found:
    """The records found so far, in a scratch database."""

    def __init__(self, scratch: Path):
        self._connection = connect(str(scratch))
        self._connection.execute("pragma journal_mode = off")
        self._connection.execute("pragma synchronous = off")
        self._connection.execute(_FOUND)
        self.unproven: set[tuple[str, int]] = set()
        """Rows of the log, by origin and number, whose content does not have the hash that they say."""

    def close(self) -> None:
        """Forget them."""
        self._connection.close()

    def take(self, rows: Iterable[tuple[Any, ...]], place: int) -> None:
        """Take those of these rows that prove themselves."""
        portion: list[tuple[Any, ...]] = []
        try:
            for row in rows:
                if _is_genuine(row):
                    portion.append((*row, place))
                elif place == LOG:
                    self.unproven.add((str(row[0]), int(row[1]) if isinstance(row[1], int) else 0))
                if len(portion) >= _TOGETHER:
                    self._insert(portion)
        finally:  # those from before a page that cannot be read count
            self._insert(portion)

    def _insert(self, portion: list[tuple[Any, ...]]) -> None:
        self._connection.execute("begin")
        self._connection.executemany(f"insert or ignore into found values ({','.join('?' * 10)})", portion)
        self._connection.execute("commit")
        portion.clear()

    def has_gaps(self) -> bool:
        """Whether the chain of any origin is broken."""
        query = (
            "select 1 from (select origin, max(seq) m, count(distinct seq) n from found group by origin) where m <> n"
        )
        return self._connection.execute(query).fetchone() is not None

    def reaches(self, origin: str, seq: int) -> bool:
        """Whether a record of the origin with this number, or a higher one, was found."""
        query = "select 1 from found where origin = ? and seq >= ? limit 1"
        return self._connection.execute(query, (origin, seq)).fetchone() is not None

    def origins(self) -> list[str]:
        """The origins of which there is anything."""
        return [row[0] for row in self._connection.execute("select distinct origin from found order by origin")]

    def counts(self) -> dict[int, int]:
        """How many records were found where."""
        return dict(self._connection.execute("select place, count(*) from found group by place").fetchall())

    def rebuild_log(self, target: Connection) -> tuple[dict[str, int], list[Gap]]:
        """Write all of it into an empty store: the unbroken beginnings as its log, the rest as fragments; in the open transaction.

        Returns:
            How far the log of each origin goes, and the gaps behind that.
        """
        ends: dict[str, int] = {}
        gaps: list[Gap] = []
        for origin in self.origins():
            head = self._rebuild_chain(target, origin)
            ends[origin] = head.seq
            gaps += self._keep_rest(target, origin, head)
        return ends, gaps

    def _rebuild_chain(self, target: Connection, origin: str) -> Head:
        head = Head()
        while True:
            following = self._connection.execute(_NEXT, (origin, head.seq + 1, head.hash)).fetchall()
            if not following:
                return head
            best = following[0]
            if len(following) > 1 and best[9] > FRAGMENTS:  # neither is in the log itself: the one that goes on
                best = next((row for row in following if self._goes_on(row)), best)
            target.later(log.INSERT, best[:9])
            head = Head(best[1], best[3])
            if head.seq % _TOGETHER == 0:
                target.flush()

    def _goes_on(self, row: tuple[Any, ...]) -> bool:
        return self._connection.execute(_NEXT, (row[0], row[1] + 1, row[3])).fetchone() is not None

    def _keep_rest(self, target: Connection, origin: str, head: Head) -> list[Gap]:
        gaps = []
        last = head.seq
        for row in self._connection.execute(_REST, (origin, head.seq)):
            if row[1] > last + 1:
                gaps.append(Gap(origin, last + 1, row[1] - 1))
            if row[1] > last:
                target.execute(f"insert into fragments values ({','.join('?' * 9)})", row)
            last = row[1]
        return gaps


def read_log(found: Found, path: Path) -> bool:
    """Take what SQLite can read of the log in the store ``path``; whether it could read all of it."""
    return all(
        [
            read_rows(path, "log", lambda rows: found.take(rows, LOG)),
            read_rows(path, "fragments", lambda rows: found.take(rows, FRAGMENTS)),
        ]
    )


def read_rows(path: Path, table: str, take: Callable[[Iterator[tuple[Any, ...]]], None]) -> bool:
    """Give all rows of a table that SQLite can read to ``take``, from the front, and where that ends early from the back too.

    Returns:
        Whether these are all.
    """
    for direction in ("", " desc"):
        try:
            with closing(connect(str(path))) as connection:
                take(_all_rows(connection, table, direction))
        except sqlite3.DatabaseError:
            continue
        return not direction
    return False


def read_pages(found: Found, path: Path) -> None:
    """Take what the pages of the store ``path`` hold, and of its write-ahead log."""
    with Pages(path) as pages:
        found.take((row for row in pages.rows(9) if _has_form(row)), PAGES)


def read_snapshot(found: Found, path: Path) -> bool:
    """Take what a snapshot holds; whether it is a store."""
    with suppress(sqlite3.DatabaseError), closing(connect_reading(path)) as connection:
        if connection.execute("select 1 from sqlite_master where name = 'log'").fetchone():
            found.take(_all_rows(connection, "log"), SNAPSHOT)
            return True
    return False


def find_offers(connection: Connection, snapshots: Iterable[Path]) -> dict[str, Head]:
    """The origins of which records lie behind a gap, where a snapshot has the next one: by origin, the last before the gap."""
    found: dict[str, Head] = {}
    origins = [row[0] for row in connection.execute("select distinct origin from fragments")]
    for snapshot in snapshots if origins else ():
        with suppress(sqlite3.DatabaseError), closing(connect_reading(snapshot)) as source:
            for origin in origins:
                head = log.read_head(connection, origin)
                query = "select 1 from log where origin = ? and seq = ? and prev = ?"
                if source.execute(query, (origin, head.seq + 1, head.hash)).fetchone():
                    found[origin] = head
    return found


def is_blob(row: tuple[Any, ...]) -> bool:
    """Whether a row of ``local_blobs`` holds what it says."""
    with suppress(zlib.error, TypeError):
        return bool(sha256(zlib.decompress(row[2])).hexdigest() == row[0])
    return False


def columns_of(connection: sqlite3.Connection, table: str) -> list[tuple[str, bool]]:
    """The columns of a table, and whether each is of its key."""
    return [(row[1], bool(row[5])) for row in connection.execute(f"pragma table_info({table})")]


def _all_rows(connection: Connection, table: str, direction: str = "") -> Iterator[tuple[Any, ...]]:
    columns = columns_of(connection, table)
    keys = ", ".join(name + direction for name, is_key in columns if is_key)
    yield from connection.execute(f"select {', '.join(name for name, _ in columns)} from {table} order by {keys}")


def _has_form(row: Sequence[object]) -> bool:
    origin, seq, prev, digest, *texts = row
    return (
        isinstance(origin, str) and len(origin) == 32 and isinstance(seq, int) and seq > 0
        and isinstance(prev, str) and isinstance(digest, str) and len(prev) in (0, 64) and len(digest) == 64
        and all(isinstance(text, str) for text in texts)
    )  # fmt: skip


def _is_genuine(row: tuple[Any, ...]) -> bool:
    origin, seq, prev, digest, *fields = row
    if prev == "":  # the stub of a pruned record: the one behind it proves its hash
        return _has_form(row) and fields[2:4] == ["", ""] and fields[4] in log.STUB_BODY.values()
    try:
        return _has_form(row) and str(log.row_hash(origin, seq, prev, *fields)) == str(digest)
    except UnicodeError:
        return False
