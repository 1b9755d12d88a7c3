"""Repairing a damaged store: no record that can be read is lost, what is missing is said exactly, and no origin forks."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Optional

import pytest

from lwfm.errors import Conflict, StoreCorrupt, StoreTooNew
from lwfm.store import identity, replacing, snapshots
from lwfm.store.repair import FILE, KEPT, NOTHING, TABLES, Repaired, repair

from support.damage import overwrite, pages_of_log, roots_of, rows
from support.pruned import prune
from support.replicas import StoreReplica, sync
from support.threads import HOST, Thread, tables

MAKER = {"host": HOST, "user": "ada", "home": "/home/ada"}
JOBS = 60


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    """A store with a history, closed."""
    made = Thread(tmp_path)
    workflow = made.workflow(meta={"who": "ada"})
    for number in range(JOBS):
        job = made.submit(["prog", str(number), "x" * random.Random(number).choice([0, 200, 3000])], workflow)
        if number % 3 == 0:
            made.run(job)
    made.unit(lambda recorder: made.outputs.keep(recorder.transaction, b"a small output"))
    made.close()
    yield made
    made.connection.close()


def mend(thread: Thread, *snapshots: Path) -> Repaired:
    return repair(thread.store.path, snapshots, MAKER)


def settled(thread: Thread, before: str, done: Repaired) -> None:
    """Opened, it is sound, and has the origin that was told."""
    thread.open()
    assert thread.verify() == []
    assert (thread.store.origin != before) is bool(done.renewed)
    assert (thread.store.notice is not None) is bool(done.renewed)
    if done.renewed:
        assert str(thread.store.notice).startswith(done.renewed)


def origin_of(thread: Thread) -> str:
    mark = identity.read(thread.store.path)
    assert mark is not None
    return mark.origin


def test_a_sound_store_is_left_alone(thread: Thread) -> None:
    content = thread.store.path.read_bytes()
    done = mend(thread)
    assert (done.changed, done.problems, done.missing) == (NOTHING, [], [])
    assert thread.store.path.read_bytes() == content
    assert sorted(path.name for path in thread.directory.iterdir()) == ["identity.json", "sealed", "thread.db"]
    settled(thread, origin_of(thread), done)


def test_tables_that_differ_are_made_anew(thread: Thread) -> None:
    thread.open()
    right = tables(thread.connection)
    thread.connection.execute("update jobs set state = 'FAILED'")
    thread.close()
    done = mend(thread)
    assert done.changed == TABLES
    assert any("table jobs differs from the log" in problem for problem in done.problems)
    settled(thread, origin_of(thread), done)
    assert tables(thread.connection) == right
    assert not (thread.directory / KEPT).exists()


def test_damage_outside_the_log_loses_nothing(thread: Thread) -> None:
    """All of it is read, the tables are made anew, and it goes on under its origin: nobody has seen more than it has."""
    before, origin = rows(thread.store.path), origin_of(thread)
    with closing(sqlite3.connect(thread.store.path)) as connection:
        roots = [
            row[0]
            for row in connection.execute("select rootpage from sqlite_master where tbl_name in ('jobs', 'statuses')")
        ]
    overwrite(thread.store.path, *roots)
    damaged = thread.store.path.read_bytes()
    done = mend(thread)
    assert (done.changed, done.missing, done.renewed, done.loose, done.tables_lost) == (FILE, [], "", 0, [])
    assert done.kept is not None
    assert (done.kept / "thread.db").read_bytes() == damaged
    assert rows(thread.store.path) == before
    assert rows(thread.store.path, "local_blobs") != set()
    settled(thread, origin, done)
    assert thread.store.path.stat().st_mode & 0o077 == 0


def test_records_are_found_where_nothing_refers_to_them_any_more(thread: Thread) -> None:
    """The root of the log is gone: every page of it is looked at by itself."""
    root, *_ = roots_of(thread.store.path, "log")
    before, inside = rows(thread.store.path), pages_of_log(thread.store.path).get(root, set())
    overwrite(thread.store.path, root)
    origin = origin_of(thread)
    done = mend(thread)
    assert done.places["pages"] > JOBS
    assert before - rows(thread.store.path) - rows(thread.store.path, "fragments") == inside
    settled(thread, origin, done)


def test_what_is_missing_is_said_and_what_is_behind_it_is_kept(thread: Thread) -> None:
    path, origin = thread.store.path, origin_of(thread)
    before = rows(path)
    number, lost = sorted(pages_of_log(path).items())[4]
    overwrite(path, number)
    done = mend(thread)
    after, loose = rows(path), rows(path, "fragments")
    assert before - after - loose == lost
    assert not after & loose
    seqs = {row[1] for row in before - after - loose}
    assert {seq for gap in done.missing for seq in range(gap.first, gap.last + 1)} == seqs
    assert {gap.origin for gap in done.missing} == {origin}
    assert done.loose == len(loose) > 0
    assert "that others may have seen are missing" in done.renewed
    settled(thread, origin, done)
    states = thread.connection.execute("select count(*) from jobs").fetchone()[0]
    assert states >= JOBS - len(lost)  # those behind the gap are shown too


def test_a_snapshot_gives_back_what_is_missing(thread: Thread, tmp_path: Path) -> None:
    path, origin = thread.store.path, origin_of(thread)
    thread.open()
    snapshot = tmp_path / "snapshot.db"
    snapshots.write(thread.store, snapshot, lambda: False)
    thread.submit("later")
    thread.close()
    before = rows(path)
    overwrite(path, *sorted(pages_of_log(path))[3:6])
    done = mend(thread, tmp_path / "no store", snapshot)
    assert (done.missing, done.loose, done.renewed) == ([], 0, "")
    assert done.places["snapshots"] > 0
    assert rows(path) == before
    settled(thread, origin, done)


def test_a_snapshot_that_is_found_later_closes_the_gap(thread: Thread, tmp_path: Path) -> None:
    path = thread.store.path
    thread.open()
    snapshots.write(thread.store, tmp_path / "snapshot.db", lambda: False)
    thread.close()
    before = rows(path)
    overwrite(path, sorted(pages_of_log(path))[4])
    assert mend(thread).missing
    thread.open()
    renewed = thread.store.origin
    thread.submit("meanwhile")
    thread.close()
    assert mend(thread).changed == NOTHING
    done = mend(thread, tmp_path / "snapshot.db")
    assert (done.changed, done.missing, done.loose, done.renewed) == (FILE, [], 0, "")
    assert before < rows(path)
    settled(thread, renewed, done)


def test_a_file_that_was_cut_off(thread: Thread) -> None:
    path, origin = thread.store.path, origin_of(thread)
    before = rows(path)
    held = pages_of_log(path)
    end = sorted(held)[len(held) * 2 // 3]
    gone = {row for number, some in held.items() if number >= end for row in some}
    with path.open("r+b") as file:
        file.truncate((end - 1) * 4096 + 100)
    done = mend(thread)
    kept = rows(path) | rows(path, "fragments")
    with_more = {row for row in before - kept - gone if len(row[8]) > 800}  # what does not fit lies on further pages
    assert before - kept - gone == with_more
    known = {row[1] for row in kept}
    assert {seq for gap in done.missing for seq in range(gap.first, gap.last + 1)} == {row[1] for row in before} - known
    assert done.renewed
    settled(thread, origin, done)


def test_a_file_without_its_head(thread: Thread) -> None:
    """SQLite takes it for no database at all: whose it was is known by the mark beside it."""
    path, origin = thread.store.path, origin_of(thread)
    before = rows(path)
    overwrite(path, 1)
    done = mend(thread)
    assert rows(path) == before
    assert (done.missing, done.changed) == ([], FILE)
    assert "what it knew of running work is missing" in done.renewed
    settled(thread, origin, done)
    first = next(record for record in thread.records() if record.origin == thread.store.origin)
    assert first.body["succeeds"]["origin"] == origin


def test_a_store_that_is_gone_comes_back_from_a_snapshot(thread: Thread, tmp_path: Path) -> None:
    path, origin = thread.store.path, origin_of(thread)
    thread.open()
    snapshots.write(thread.store, tmp_path / "snapshot.db", lambda: False)
    thread.submit("later")
    thread.close()
    before = rows(path)
    path.unlink()
    done = mend(thread, tmp_path / "snapshot.db")
    later = {row[1] for row in before - rows(path)}
    assert {seq for gap in done.missing for seq in range(gap.first, gap.last + 1)} == later
    assert (done.kept, bool(done.renewed)) == (None, True)
    settled(thread, origin, done)


def test_a_torn_end_of_the_write_ahead_log(thread: Thread) -> None:
    """What was committed there and can be read counts, also when the frames behind it cannot."""
    thread.open()
    for number in range(30):
        thread.submit(["late", str(number)])
    thread.store.mark()
    path, origin = thread.store.path, thread.store.origin
    before = rows(path)
    copy = thread.directory / "copy"
    copy.mkdir()
    for name in ("thread.db", "thread.db-wal", "identity.json"):
        shutil.copy2(thread.directory / name, copy / name)
    wal = copy / "thread.db-wal"
    content = bytearray(wal.read_bytes())
    middle = 32 + (4096 + 24) * ((len(content) // (4096 + 24)) // 3)
    content[middle : middle + 24] = bytes(24)  # SQLite reads no further
    wal.write_bytes(content)
    done = repair(copy / "thread.db", [], MAKER)
    after = rows(copy / "thread.db")
    assert done.changed == FILE
    assert done.missing == []
    assert before <= after | rows(copy / "thread.db", "fragments")
    assert "what it knew of running work is missing" in done.renewed
    again = Thread(copy)
    assert again.verify() == []
    assert again.store.origin != origin
    again.connection.close()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_damaged_all_that_is_on_other_pages_is_kept(thread: Thread, seed: int) -> None:
    path, origin = thread.store.path, origin_of(thread)
    before, held = rows(path), pages_of_log(path)
    chance = random.Random(seed)
    count = path.stat().st_size // 4096
    numbers = chance.sample(range(1, count + 1), chance.choice([1, 3, 10]))
    overwrite(path, *numbers)
    hit = {row for number in numbers for row in held.get(number, ())}
    done = mend(thread)
    kept = rows(path) | rows(path, "fragments")
    assert kept <= before, "nothing was made up"
    for row in before - kept - hit:
        assert len(row[8]) > 800, "only what lies on several pages can be lost with another one"
    told = {seq for gap in done.missing for seq in range(gap.first, gap.last + 1)}
    assert told == {row[1] for row in before - kept}
    settled(thread, origin, done)
    thread.submit("goes on")


def test_what_is_missing_comes_back_from_a_peer_and_nothing_forks(thread: Thread, tmp_path: Path) -> None:
    peer_home = tmp_path / "peer"
    peer_home.mkdir()
    peer = Thread(peer_home)
    thread.open()
    sync(StoreReplica(thread), StoreReplica(peer))
    thread.submit("that the peer does not know")
    thread.close()
    before, origin = rows(thread.store.path), origin_of(thread)
    overwrite(thread.store.path, *sorted(pages_of_log(thread.store.path))[2:5])
    done = mend(thread)
    assert done.missing
    settled(thread, origin, done)
    thread.submit("afterwards")
    for _ in range(2):  # what was behind the gap is known to be there only when that is closed
        sync(StoreReplica(thread), StoreReplica(peer))
    assert before <= set(thread.connection.execute("select * from log"))
    assert thread.connection.execute("select count(*) from fragments").fetchone() == (0,)
    ours, theirs = (set(one.connection.execute("select * from log")) for one in (thread, peer))
    assert ours == theirs
    assert tables(thread.connection) == tables(peer.connection)
    assert thread.verify() == peer.verify() == []
    peer.close()


def test_what_is_not_what_its_hash_says_is_left_out(thread: Thread) -> None:
    path, origin = thread.store.path, origin_of(thread)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update log set body = replace(body, 'ada', 'eve') where kind = 'workflow'")
        connection.commit()
    done = mend(thread)
    assert "record 2 was changed after it was written" in done.problems[0]
    assert [(gap.first, gap.last) for gap in done.missing] == [(2, 2)]
    settled(thread, origin, done)


@pytest.mark.parametrize("step", ["keep", "wait", "finish", "mark"])
def test_one_that_is_killed_leaves_a_store_that_can_be_repaired_or_is(
    thread: Thread, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path, origin = thread.store.path, origin_of(thread)
    before = rows(path)
    overwrite(path, *roots_of(path, "jobs"))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        where = {"keep": "lwfm.store.repair._keep", "wait": "os.replace", "finish": "lwfm.store.replacing.finish"}
        patched.setattr(where.get(step, "lwfm.store.identity.write"), die)
        with pytest.raises(KeyboardInterrupt):
            mend(thread)
    assert not (thread.directory / "thread.db.repair").exists()
    replacing.finish(path)
    mend(thread)
    assert rows(path) == before
    thread.open()
    assert thread.verify() == []
    assert step in ("finish", "mark") or thread.store.origin == origin
    assert not replacing.waiting(path).exists()


@pytest.mark.parametrize("where", ["tables", "log"])
def test_what_was_pruned_stays_so(thread: Thread, where: str) -> None:
    """Stubs have no hash of their own that could be proven: the record behind them proves it."""
    thread.open()
    for (job,) in thread.connection.execute("select id from jobs where state = 'PENDING'").fetchall():
        thread.run(job)
    thread.submit("the last")
    assert prune(thread, unsynced=True) > 3
    thread.close()
    path, origin = thread.store.path, origin_of(thread)
    before, held = rows(path), pages_of_log(path)
    assert [row for row in before if row[2] == ""]
    number = sorted(held)[2]
    overwrite(path, *(roots_of(path, "jobs") if where == "tables" else [number]))
    done = mend(thread)
    kept = rows(path) | rows(path, "fragments")
    assert kept <= before
    lost = before - kept
    if where == "tables":
        assert (lost, done.missing) == (set(), [])
    assert {seq for gap in done.missing for seq in range(gap.first, gap.last + 1)} == {row[1] for row in lost}
    assert {row for row in lost if row[2]} <= held[number]
    settled(thread, origin, done)


def test_nothing_at_all_is_not_called_repaired(thread: Thread) -> None:
    thread.store.path.write_bytes(b"\xa5" * 40960)
    with pytest.raises(StoreCorrupt, match="no record can be read"):
        mend(thread)
    assert thread.store.path.read_bytes() == b"\xa5" * 40960
    assert not (thread.directory / KEPT).exists()
    thread.store.path.unlink()
    thread.open()


def test_a_store_of_a_newer_lwfm_is_left_alone(thread: Thread) -> None:
    with closing(sqlite3.connect(thread.store.path)) as connection:
        connection.execute("pragma user_version = 9999")
    with pytest.raises(StoreTooNew):
        mend(thread)


class TestSnapshots:
    def test_one_is_a_whole_store_of_its_own(self, thread: Thread, tmp_path: Path) -> None:
        thread.open()
        target = tmp_path / "backup.db"
        told = snapshots.write(thread.store, target, lambda: False)
        assert rows(target) == rows(thread.store.path)
        assert (told["records"], told["origins"], told["bytes"]) == (len(rows(target)), 1, target.stat().st_size)
        assert target.stat().st_mode & 0o777 == 0o600
        with pytest.raises(Conflict, match="is there already"):
            snapshots.write(thread.store, target, lambda: False)
        thread.submit("more")
        snapshots.write(thread.store, target, lambda: False, replace=True)
        assert rows(target) == rows(thread.store.path)

    def test_in_the_place_of_a_store_it_goes_on_under_a_new_origin(self, thread: Thread, tmp_path: Path) -> None:
        thread.open()
        snapshots.write(thread.store, tmp_path / "backup.db", lambda: False)
        origin = thread.store.origin
        thread.submit("lost")
        thread.close()
        shutil.copy(tmp_path / "backup.db", thread.store.path)
        thread.open()
        assert thread.store.origin != origin
        assert "restored" in str(thread.store.notice)
        assert thread.verify() == []

    def test_one_that_is_given_up_leaves_nothing(self, thread: Thread, tmp_path: Path) -> None:
        thread.open()
        with pytest.raises(Conflict, match="given up"):
            snapshots.write(thread.store, tmp_path / "backup.db", lambda: True)
        assert not [path.name for path in tmp_path.iterdir() if "backup" in path.name]

    def test_of_a_damaged_store_there_is_none(self, thread: Thread, tmp_path: Path) -> None:
        overwrite(thread.store.path, sorted(pages_of_log(thread.store.path))[4])
        thread.open()
        with pytest.raises(StoreCorrupt):
            snapshots.write(thread.store, tmp_path / "backup.db", lambda: False)
        assert not [path.name for path in tmp_path.iterdir() if "backup" in path.name]


def test_a_waiting_file_is_put_in_place(tmp_path: Path) -> None:
    place: Optional[Path] = tmp_path / "thread.db"
    assert place is not None
    place.write_bytes(b"old")
    (tmp_path / "thread.db-wal").write_bytes(b"of the old one")
    replacing.waiting(place).write_bytes(b"new")
    replacing.finish(place)
    replacing.finish(place)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"thread.db": b"new"}
