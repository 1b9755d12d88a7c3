"""Whether a store is still the one it was: copies, restored backups and moves are told apart, and what follows from each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.host import processes
from lwfm.host.filesystems import birth_time_ns
from lwfm.recording.recovery import unplaced
from lwfm.store import identity, log
from lwfm.store.connection import connect
from lwfm.store.identity import FILE, Mark, difference

from support.replicas import StoreReplica, sync
from support.threads import Thread

MARK = Mark("a" * 32, 7, "/home/thread.db", 42, "machine1")


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    """A store that is closed; open it to have it looked at."""
    (tmp_path / "home").mkdir()
    made = Thread(tmp_path / "home")
    made.submit("true")
    made.close()
    yield made
    made.open()
    assert made.verify() == []
    made.close()


def opened(directory: Path) -> Thread:
    return Thread(directory)


def mark_of(directory: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((directory / FILE).read_text())
    return told


def origin_of(thread: Thread) -> str:
    return str(mark_of(thread.directory)["origin"])


def renewed(directory: Path, before: str, *words: str) -> Thread:
    """Opened, it goes on under a new origin, which says of which it goes on and why; opened again, that is all."""
    made = opened(directory)
    origin, notice = made.store.origin, made.store.notice
    assert origin != before
    assert notice is not None
    assert notice.endswith("has a new origin, and what was waiting or running is not gone on with")
    assert all(word in notice for word in words), notice
    first, line = (record for record in made.records() if record.origin == origin)
    assert (first.kind, first.body["succeeds"]["origin"]) == ("instance", before)
    assert first.body["reason"] in notice
    assert (line.kind, line.body["level"], line.body["message"]) == ("log", "WARNING", notice)
    assert made.verify() == []
    made.close()
    made.open()
    assert (made.store.origin, made.store.notice) == (origin, None)
    return made


def untouched(directory: Path, origin: str) -> None:
    """Opened, it is the one it was."""
    made = opened(directory)
    assert (made.store.origin, made.store.notice) == (origin, None)
    made.close()


class TestDifferences:
    @pytest.mark.parametrize(
        ("now", "reason"),
        [
            (MARK, None),
            (Mark("a" * 32, 9, "/home/thread.db", 42, "machine1"), None),
            (Mark("a" * 32, 7, "/other/thread.db", 42, "machine1"), None),
            (Mark("a" * 32, 7, "/home/thread.db", 42, ""), None),
            (Mark("a" * 32, 7, "/home/thread.db", 0, "machine1"), None),
            (Mark("b" * 32, 7, "/home/thread.db", 42, "machine1"), "does not belong to the directory"),
            (Mark("a" * 32, 6, "/home/thread.db", 42, "machine1"), "ends at record 6, but had come to 7"),
            (Mark("a" * 32, 7, "/home/thread.db", 42, "machine2"), "from another machine"),
            (Mark("a" * 32, 7, "/home/thread.db", 43, "machine1"), "another file than before"),
            (Mark("a" * 32, 7, "/other/thread.db", 0, "machine1"), "copied from /home/thread.db, or moved"),
        ],
    )
    def test_what_tells_a_store_from_another(self, now: Mark, reason: Optional[str]) -> None:
        found = difference(MARK, now)
        assert (found is None) is (reason is None)
        assert reason is None or reason in str(found)

    def test_a_mark_that_is_gone(self) -> None:
        assert "is gone" in str(difference(None, MARK))

    @pytest.mark.parametrize(
        "content",
        [b"", b"x", b"[]", b"{}", b"\xff", b"null", b'{"origin":"x","seq":"y","path":"","inode":1,"machine":""}'],
    )
    def test_a_mark_that_cannot_be_read_is_none(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / FILE).write_bytes(content)
        assert identity.read(tmp_path / "thread.db") is None

    def test_it_is_its_owners_alone(self, thread: Thread) -> None:
        assert (thread.directory / FILE).stat().st_mode & 0o777 == 0o600
        told = mark_of(thread.directory)
        assert told["inode"] == (thread.directory / "thread.db").stat().st_ino
        assert told["path"] == os.path.realpath(thread.directory / "thread.db")


class TestOpening:
    def test_it_stays_what_it_is(self, thread: Thread) -> None:
        untouched(thread.directory, origin_of(thread))

    def test_a_crash_is_no_difference(self, thread: Thread) -> None:
        origin = origin_of(thread)
        made = opened(thread.directory)
        made.submit("true")
        made.store.mark()
        made.submit("true")
        made.store.connection.close()
        untouched(thread.directory, origin)

    def test_a_directory_that_is_moved(self, thread: Thread, tmp_path: Path) -> None:
        origin = origin_of(thread)
        os.rename(thread.directory, tmp_path / "elsewhere")
        untouched(tmp_path / "elsewhere", origin)
        assert mark_of(tmp_path / "elsewhere")["path"] == str(tmp_path / "elsewhere" / "thread.db")
        os.rename(tmp_path / "elsewhere", thread.directory)

    def test_a_directory_that_is_copied(self, thread: Thread, tmp_path: Path) -> None:
        origin = origin_of(thread)
        shutil.copytree(thread.directory, tmp_path / "copy")
        copy = renewed(tmp_path / "copy", origin, "another file than before", str(thread.directory))
        copy.close()
        untouched(thread.directory, origin)

    def test_a_database_alone_in_a_new_home(self, thread: Thread, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        shutil.copyfile(thread.directory / "thread.db", tmp_path / "new" / "thread.db")
        renewed(tmp_path / "new", origin_of(thread), "is gone", "without it").close()

    def test_a_database_in_the_home_of_another(self, thread: Thread, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        Thread(tmp_path / "other").close()
        os.replace(tmp_path / "other" / "thread.db", tmp_path / "aside")
        shutil.copyfile(thread.directory / "thread.db", tmp_path / "other" / "thread.db")
        renewed(tmp_path / "other", origin_of(thread), "does not belong").close()

    def test_a_database_that_is_restored(self, thread: Thread, tmp_path: Path) -> None:
        origin = origin_of(thread)
        shutil.copyfile(thread.directory / "thread.db", tmp_path / "backup.db")
        made = opened(thread.directory)
        made.submit("true")
        made.close()
        content = (tmp_path / "backup.db").read_bytes()
        (thread.directory / "thread.db").write_bytes(content)  # into the same file: its inode stays
        renewed(thread.directory, origin, "ends at record", "restored from a backup").close()

    def test_a_home_that_is_restored_with_its_mark(
        self, thread: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file that is brought back is often given the number of the inode that has just been removed."""
        born = [7]
        monkeypatch.setattr(identity, "birth_time_ns", lambda _: born[0])
        origin = origin_of(thread)
        (thread.directory / FILE).write_text(json.dumps({**mark_of(thread.directory), "born_ns": 7}))
        untouched(thread.directory, origin)
        assert mark_of(thread.directory)["born_ns"] == 7
        untouched(thread.directory, origin)
        shutil.copytree(thread.directory, tmp_path / "backup")
        shutil.rmtree(thread.directory)
        shutil.copytree(tmp_path / "backup", thread.directory)
        noted = {**mark_of(thread.directory), "inode": os.stat(thread.directory / "thread.db").st_ino}
        (thread.directory / FILE).write_text(json.dumps(noted))
        born[0] = 8
        renewed(thread.directory, origin, "another file than before").close()

    def test_a_file_that_takes_the_place_of_one(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        seen = []
        for _ in range(20):
            path.write_text("x")
            seen.append((os.stat(path).st_ino, birth_time_ns(path)))
            assert seen[-1][1] == birth_time_ns(path)
            path.unlink()
        assert len(set(seen)) == len(seen) or not any(born for _, born in seen), "no two are the same"
        assert birth_time_ns(path) == 0, "it is gone"

    def test_a_mark_without_a_birth(self, thread: Thread) -> None:
        """As an older lwfm has written it, or where the file system tells none."""
        origin = origin_of(thread)
        noted = mark_of(thread.directory)
        noted.pop("born_ns", None)
        (thread.directory / FILE).write_text(json.dumps(noted))
        untouched(thread.directory, origin)

    def test_a_mark_that_is_lost(self, thread: Thread) -> None:
        (thread.directory / FILE).unlink()
        renewed(thread.directory, origin_of_store(thread), "is gone").close()

    def test_another_machine(self, thread: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the inode that it has by chance there too."""
        origin = origin_of(thread)
        machine = tmp_path / "machine-id"
        machine.write_text("another\n")
        monkeypatch.setattr(processes, "_MACHINE", machine)
        renewed(thread.directory, origin, "another machine").close()
        machine.unlink()  # a machine without a name is not known to be another
        untouched(thread.directory, mark_of(thread.directory)["origin"])

    def test_a_home_that_several_machines_share(
        self, thread: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(identity, "is_shared", lambda _: True)
        origin = origin_of(thread)
        untouched(thread.directory, origin)
        assert mark_of(thread.directory)["machine"] == ""
        (tmp_path / "machine-id").write_text("another\n")
        monkeypatch.setattr(processes, "_MACHINE", tmp_path / "machine-id")
        untouched(thread.directory, origin)

    def test_where_inodes_are_made_up_the_path_tells(
        self, thread: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(identity, "filesystem_type", lambda _: "fuse.sshfs")
        origin = origin_of(thread)
        untouched(thread.directory, origin)
        assert mark_of(thread.directory)["inode"] == 0
        untouched(thread.directory, origin)
        shutil.copytree(thread.directory, tmp_path / "copy")
        renewed(tmp_path / "copy", origin, "or moved", str(thread.directory)).close()
        untouched(thread.directory, origin)

    def test_a_store_of_an_older_lwfm(self, thread: Thread) -> None:
        """It was never marked: from now on it is, and goes on as it was."""
        origin = origin_of(thread)
        thread.open()
        thread.connection.execute("delete from local_settings where key = 'marked'")
        thread.store.connection.close()
        (thread.directory / FILE).unlink()
        untouched(thread.directory, origin)
        assert mark_of(thread.directory)["origin"] == origin
        (thread.directory / FILE).unlink()
        renewed(thread.directory, origin, "is gone").close()

    def test_a_death_before_the_first_mark_is_no_difference(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(identity, "write", die)
        with pytest.raises(KeyboardInterrupt):
            Thread(tmp_path)
        monkeypatch.undo()
        made = Thread(tmp_path)
        assert made.store.notice is None
        assert [record.kind for record in made.records()] == ["instance"]
        made.close()


def origin_of_store(thread: Thread) -> str:
    """The same, from the database."""
    with closing(connect(f"{(thread.directory / 'thread.db').as_uri()}?mode=ro", uri=True)) as connection:
        (origin,) = connection.execute("select value from local_settings where key = 'origin'").fetchone()
    return str(origin)


class TestAfterwards:
    """What a copy does with what its original was about to do."""

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Iterator[tuple[Thread, Thread]]:
        """An original with things under way, and its copy."""
        (tmp_path / "original").mkdir()
        original = Thread(tmp_path / "original")
        self.pending = original.submit("true")
        self.running = original.submit("true")
        original.status(self.running, "RUNNING")
        self.cause = original.submit("true")
        self.handler = original.on_jobs([self.cause])
        self.data = original.on_data({"T": 1}, repeat=True)
        original.unit(lambda recorder: recorder.transaction.execute(
            "insert into local_claims (job_id, attempt, worker_id) values (?, 1, 'w')", (self.running,)))  # fmt: skip
        original.close()
        shutil.copytree(original.directory, tmp_path / "copy")
        copy = Thread(tmp_path / "copy")
        original.open()
        yield original, copy
        for thread in (original, copy):
            assert thread.verify() == []
            thread.close()

    def test_what_waits_or_runs_there_is_not_run_or_ended(self, pair: tuple[Thread, Thread]) -> None:
        original, copy = pair
        assert copy.unit(unplaced, ["local"]) == []
        assert set(original.unit(unplaced, ["local"])) >= {self.pending, self.cause}
        assert copy.connection.execute("select count(*) from local_claims").fetchone() == (0,)
        assert original.connection.execute("select count(*) from local_claims").fetchone() == (1,)
        assert copy.status(self.pending, "CANCELLED") is None
        assert [copy.state(job) for job in (self.pending, self.running)] == ["PENDING", "RUNNING"]
        assert copy.job(self.pending)["elsewhere"]

    def test_its_handlers_do_not_fire_in_the_copy(self, pair: tuple[Thread, Thread]) -> None:
        original, copy = pair
        copy.put(op="event", properties={"T": 1})
        assert copy.handler(self.data["handler_id"])["fired"] == 0
        original.run(self.cause)
        (ready,) = self.handler["job_ids"]
        assert original.state(ready) == "PENDING"
        sync(StoreReplica(copy), StoreReplica(original))
        assert copy.state(ready) == "PENDING"
        assert copy.unit(unplaced, ["local"]) == []
        sync(StoreReplica(copy), StoreReplica(original))
        assert original.handler(self.data["handler_id"])["fired"] == 1, "data that was put in the copy came home"
        firings = copy.connection.execute("select handler_id, count(*), min(origin) from firings group by 1").fetchall()
        assert len(firings) == 2
        assert {(count, origin) for _, count, origin in firings} == {(1, original.store.origin)}

    def test_what_the_original_records_of_its_jobs_counts_in_the_copy(self, pair: tuple[Thread, Thread]) -> None:
        original, copy = pair
        original.run(self.running)
        assert copy.state(self.running) == "RUNNING"
        sync(StoreReplica(copy), StoreReplica(original))
        assert copy.state(self.running) == "COMPLETE"


class TestWhileItRuns:
    def test_a_peer_knows_more_of_this_instance_than_it_does(self, tmp_path: Path) -> None:
        """A machine was set back as a whole: nothing at hand tells, until a sync brings what was lost."""
        for name in ("home", "peer"):
            (tmp_path / name).mkdir()
        home, peer = Thread(tmp_path / "home"), Thread(tmp_path / "peer")
        before = home.submit("true")
        home.close()
        shutil.copytree(home.directory, tmp_path / "snapshot")
        home.open()
        lost = home.submit("true")
        handler = home.on_data({"T": 1})["handler_id"]
        sync(StoreReplica(home), StoreReplica(peer))
        home.close()
        origin = origin_of(home)
        for name in ("thread.db", FILE):
            (home.directory / name).write_bytes((tmp_path / "snapshot" / name).read_bytes())
        inode = (home.directory / "thread.db").stat().st_ino
        (home.directory / FILE).write_text(json.dumps({**mark_of(home.directory), "inode": inode}))
        home.open()
        assert home.store.origin == origin
        sync(StoreReplica(home), StoreReplica(peer))
        assert home.store.origin != origin
        assert home.store.notice is not None
        assert "others know" in home.store.notice
        assert home.state(lost) == home.state(before) == "PENDING"
        assert home.unit(unplaced, ["local"]) == []
        home.put(op="event", properties={"T": 1})
        assert home.handler(handler)["fired"] == 0
        new = home.submit("true")
        assert home.unit(unplaced, ["local"]) == [new]
        sync(StoreReplica(home), StoreReplica(peer))
        for thread in (home, peer):
            assert thread.verify() == []
            thread.close()
        untouched(home.directory, origin_of(home))

    def test_a_new_origin_of_as_many_records_is_marked_too(self, tmp_path: Path) -> None:
        """The mark says whose records it counts: a store that has renewed its origin is not taken for a copy."""
        thread = Thread(tmp_path)
        thread.unit(thread.service.log, [{"message": "the second record", "level": "INFO"}])
        thread.store.mark()
        assert log.read_head(thread.connection, thread.store.origin).seq == 2
        with thread.store.transaction() as transaction:
            transaction.renew_origin("it was restored")
        assert log.read_head(thread.connection, thread.store.origin).seq == 2
        thread.store.mark()
        assert mark_of(tmp_path)["origin"] == thread.store.origin
        origin = thread.store.origin
        thread.crash()
        assert (thread.store.origin, thread.store.notice) == (origin, None)
        thread.close()

    def test_a_death_behind_a_renewal_is_no_difference(self, tmp_path: Path) -> None:
        """Before anybody has asked for its records again."""
        thread = Thread(tmp_path)
        thread.submit("true")
        thread.store.mark()
        with thread.store.transaction() as transaction:
            transaction.renew_origin("it was restored")
        job, origin = thread.submit("true"), thread.store.origin
        thread.crash()
        assert (thread.store.origin, thread.store.notice) == (origin, None)
        assert thread.unit(unplaced, ["local"]) == [job]
        thread.close()
