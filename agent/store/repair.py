"""Repairing a store that nobody has open: what proves itself becomes a new file, and the damaged one is kept beside.

The damaged file is never written to, nor opened by SQLite: a copy is. If only the tables differ from the log, they are made anew in
place. A log that is whole goes on under its origin. Where records of this instance are missing that others may have seen, or
what it knew of running work, it goes on under a new origin, as a restored backup does: never two stories under one number.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..errors import StoreCorrupt, StoreError, StoreFull
from ..ids import new_origin
from . import files, identity, log, maintenance, origins, replacing, salvage, schema, settings
from .connection import Connection, connect, connect_reading
from .database import MARKED, RENEWAL, Store
from .failures import mapped_errors
from .salvage import Found, Gap

KEPT = "damaged"
"""The directory beside the store in which damaged files are kept, each in one of its own."""
NOTHING, TABLES, FILE = "nothing", "tables", "file"
"""What a repair has changed."""
_OUTPUTS_LOST = """
    select count(*) from (
        select json_extract(stdout, '$.sha256') as content, json_extract(stdout, '$.file') as file
            from jobs where stdout is not null and coalesce(runner, origin) = ?1
        union select json_extract(stderr, '$.sha256'), json_extract(stderr, '$.file')
            from jobs where stderr is not null and coalesce(runner, origin) = ?1
    ) where file is null and content is not null and content not in (select sha256 from local_blobs)
"""


@dataclass
class Repaired:
    """What came of a repair.

    Args:
        changed: nothing, the ``tables``, or the whole ``file``. ``problems``: that were found, one sentence each.
        records: in the log now. ``places``: how many were found where.
        missing: records that are not to be had.
        loose: how many records are kept without those before them.
        outputs_lost: small outputs of jobs that cannot be read.
        tables_lost: local tables that could not be read whole.
        renewed: why it goes on under a new origin; empty when it does not.
        kept: where the damaged file is; None when it was not damaged.
    """

    changed: str = NOTHING
    problems: list[str] = field(default_factory=list)
    records: int = 0
    places: dict[str, int] = field(default_factory=dict)
    missing: list[Gap] = field(default_factory=list)
    loose: int = 0
    outputs_lost: int = 0
    tables_lost: list[str] = field(default_factory=list)
    renewed: str = ""
    kept: Optional[Path] = None

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it for scripts."""
        return {
            "changed": self.changed, "problems": self.problems, "records": self.records, "from": self.places,
            "missing": [gap._asdict() for gap in self.missing], "loose": self.loose, "outputs_lost": self.outputs_lost,
            "tables_lost": self.tables_lost, "renewed": self.renewed or None,
            "kept": None if self.kept is None else str(self.kept),
        }  # fmt: skip


def repair(
    path: Path, snapshots: Sequence[Path], maker: Mapping[str, str], say: Callable[[str], None] = lambda _: None
) -> Repaired:
    """Repair the store at ``path``. Its owner alone may do so, and nobody has it open.

    Args:
        snapshots: where records are looked for that it lacks, newest first.
        maker: ``host``, ``user`` and ``home``, of this instance.
        say: told what is being done.

    Raises:
        StoreTooNew: a newer lwfm wrote it. StoreCorrupt: nothing of it can be read. StoreFull, StoreError: as they say.
            The store is as it was then.
    """
    with _workshop(path) as work:
        say("looking for what is wrong")
        copy = work / path.name
        for source in (path, *files.beside(path)):
            if source.exists():
                shutil.copyfile(source, work / source.name)
        noted = identity.read(path)
        done, sound = _diagnose(path, copy, snapshots, noted)
        if not done.problems:
            return done
        if sound:
            say("making the tables anew")
            store = Store.open(path, host=maker["host"], user=maker["user"], home=maker["home"])
            try:
                done.records = int(maintenance.rebuild(store)["records"])
            finally:
                store.close()
            done.changed = TABLES
            return done
        with closing(Found(work / "found.db")) as found:
            is_old = _search(found, path, copy, snapshots, noted, say)
            if not found.origins():
                raise StoreCorrupt(
                    f"no record can be read, in {path} or a snapshot",
                    hint="move it away; a sync brings what others have",
                )
            say("making the store anew")
            whole = work / "whole.db"
            origin = _make(whole, copy, found, snapshots, (noted, is_old), done)
        goes_on = None if done.renewed else _mark_of(path, origin)
        done.kept = _keep(path)
        os.replace(whole, replacing.waiting(path))
        replacing.finish(path)
        if goes_on is not None:
            identity.write(path, identity.mark_of(path, goes_on.origin, goes_on.seq))
        done.changed = FILE
        return done


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """A directory beside the store, removed at the end."""
    work = path.with_name(f"{path.name}.repair")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        with mapped_errors(work):
            yield work
    except OSError as error:
        kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(f"cannot repair {path}: {error.strerror}", hint="it takes twice the room of the store") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _diagnose(
    path: Path, copy: Path, snapshots: Sequence[Path], noted: Optional[identity.Mark]
) -> tuple[Repaired, bool]:
    """What is wrong; and whether the file and its log are sound all the same."""
    done = Repaired()
    if not copy.exists():
        done.problems.append(f"{path} is not there")
        return done, False
    try:
        with closing(connect(str(copy))) as connection:
            schema.migrate(connection)
            (integrity,) = connection.execute("pragma integrity_check(1)").fetchone()
            chained = next(log.chain_problems(connection), None) is None
            told = maintenance.check(connection)
            own = origins.own(connection)
            head = log.read_head(connection, own).seq
            done.records = int(told["records"])
            offers = salvage.find_offers(connection, snapshots)
    except sqlite3.DatabaseError as error:
        done.problems.append(f"the file is damaged: {error}")
        return done, False
    done.problems = list(told["problems"])
    if integrity != "ok" and not any(integrity in problem for problem in done.problems):
        done.problems.append(f"the file is damaged: {integrity}")
    cut = noted is not None and noted.origin == own and head < noted.seq
    if noted is not None and cut:
        done.problems.append(f"the log of this instance ends at record {head}, but had come to {noted.seq}")
    done.problems += [
        f"records behind {head.seq} of origin {origin} are missing here" for origin, head in offers.items()
    ]
    return done, integrity == "ok" and chained and not cut and not offers


def _mark_of(path: Path, origin: str) -> Optional[identity.Mark]:
    """The mark beside the damaged store, if that is the very file that it tells of."""
    noted = identity.read(path)
    if noted is None or not path.exists():
        return None
    return None if identity.difference(noted, identity.mark_of(path, origin, noted.seq)) else noted


def _search(
    found: Found,
    path: Path,
    copy: Path,
    snapshots: Sequence[Path],
    noted: Optional[identity.Mark],
    say: Callable[[str], None],
) -> bool:
    """Find all records that can be had; whether what SQLite reads of the file is older than the mark beside it."""
    say("reading the log")
    whole = copy.exists() and salvage.read_log(found, copy)
    is_old = noted is not None and not found.reaches(noted.origin, noted.seq)
    if not whole or found.unproven or is_old:
        say("looking at every page")
        for file in (path, copy):
            if file.exists():
                salvage.read_pages(found, file)
    if not whole or found.unproven or is_old or found.has_gaps():
        for snapshot in snapshots:
            say(f"reading {snapshot}")
            if not salvage.read_snapshot(found, snapshot):
                say(f"{snapshot} is not a sound store: left out")
    return is_old


def _make(
    whole: Path,
    copy: Path,
    found: Found,
    snapshots: Sequence[Path],
    before: tuple[Optional[identity.Mark], bool],
    done: Repaired,
) -> str:
    """Write the new store, complete and on the disk; under which origin the damaged one wrote, empty when nothing tells.

    Args:
        before: the mark beside the damaged store, and whether that is older than its mark.
    """
    with closing(connect(str(whole))) as connection:
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        schema.migrate(connection)
        connection.execute("begin")
        _, done.missing = found.rebuild_log(connection)
        done.tables_lost = _copy_local(connection, copy, snapshots)
        origin = _settle(connection, *before, done)
        maintenance.fold_again(connection)
        connection.execute("commit")
        (done.records,) = connection.execute("select count(*) from log").fetchone()
        (done.loose,) = connection.execute("select count(*) from fragments").fetchone()
        (done.outputs_lost,) = connection.execute(_OUTPUTS_LOST, (origin,)).fetchone()
    names = {salvage.LOG: "log", salvage.FRAGMENTS: "log", salvage.SNAPSHOT: "snapshots", salvage.PAGES: "pages"}
    for place, count in found.counts().items():
        done.places[names[place]] = done.places.get(names[place], 0) + count
    os.chmod(whole, 0o600)
    files.sync(whole)
    return origin


def _settle(connection: Connection, noted: Optional[identity.Mark], is_old: bool, done: Repaired) -> str:
    """Say under which origin it goes on; under which it wrote."""
    origin = origins.own(connection) or ("" if noted is None else noted.origin)
    if not origin:
        return ""  # nothing tells whose it was: it is a new instance, with the records of others
    last = log.read_head(connection, origin).seq
    query = "select max(seq) from fragments where origin = ?"
    last = max(last, connection.execute(query, (origin,)).fetchone()[0] or 0)
    if noted is not None and noted.origin == origin and noted.seq > last:
        done.missing.append(Gap(origin, last + 1, noted.seq))
    if any(gap.origin == origin for gap in done.missing):
        done.renewed = "the store was damaged, and records of this instance that others may have seen are missing"
    elif done.tables_lost or is_old:
        done.renewed = "the store was damaged, and what it knew of running work is missing"
    for key, value in ((settings.ORIGIN, origin), (settings.STORE_ID, new_origin()), (MARKED, "1")):
        connection.execute("insert or ignore into local_settings values (?, ?)", (key, value))
    if done.renewed:
        settings.put(connection, RENEWAL, done.renewed)
    return origin


def _copy_local(connection: Connection, copy: Path, snapshots: Sequence[Path]) -> list[str]:
    """Copy what is not history; which of its tables could not be read whole. Of these, snapshots may have what does not age."""
    lost = []
    names = connection.execute(
        "select name from sqlite_master where type = 'table' and name like 'local\\_%' escape '\\'"
    )
    for (table,) in names.fetchall():
        width = len(salvage.columns_of(connection, table))
        insert = f"insert or ignore into {table} values ({','.join('?' * width)})"

        def take(rows: Iterator[tuple[Any, ...]], table: str = table, width: int = width, insert: str = insert) -> None:
            for row in rows:
                if len(row) != width:
                    raise sqlite3.DatabaseError("it is of another schema")
                if table != "local_blobs" or salvage.is_blob(row):
                    connection.execute(insert, row)

        if copy.exists() and salvage.read_rows(copy, table, take):
            continue
        if table in ("local_blobs", "local_peers", "local_settings"):
            for snapshot in snapshots:
                with suppress(sqlite3.DatabaseError), closing(connect_reading(snapshot)) as source:
                    take(source.execute(f"select * from {table}"))
        lost.append(table)
    return lost


def _keep(path: Path) -> Optional[Path]:
    """Have the damaged files under a name of their own too: nothing writes to them any more."""
    if not path.exists():
        return None
    (path.parent / KEPT).mkdir(mode=0o700, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()), dir=path.parent / KEPT))
    for source in (path, *files.beside(path)):
        if source.exists():
            try:
                os.link(source, directory / source.name)
            except OSError:
                shutil.copyfile(source, directory / source.name)
    files.sync_directory(directory)
    return directory
