"""The journal and the memory built on it: what was noted is there again, and nothing is doubled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lwfm.jsontext import compact_ascii
from lwfm.worker.jobs import ENDED, QUEUED, RUNNING, STARTING, Job
from lwfm.worker.journal import Journal
from lwfm.worker.ledger import Grant
from lwfm.worker.log import Log
from lwfm.worker.spool import EVENT_TEXT_BYTES, Spool


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path / "log"), "test")


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "spool").mkdir()
    return str(tmp_path / "spool")


def taken(spool: Spool, name: str, **keys: Any) -> Job:
    job = Job({"t": "run", "job": name, "attempt": 1, "argv": ["true"], **keys})
    spool.take(job)
    return job


def started(spool: Spool, name: str, pid: int = 1) -> Job:
    job = taken(spool, name)
    job.grant, job.slot, job.start_s = Grant(2, (0, 1), 5, (1,)), 3, 12.5
    assert spool.start(job)
    job.pid, job.state, job.started_at = pid, RUNNING, "2026-01-01T00:00:00.000000Z"
    spool.started(job)
    return job


def ended(spool: Spool, name: str, stdout: str = '{"size":0}') -> Job:
    job = started(spool, name)
    spool.exited(job, 256)
    spool.ended(job, f'"cause":"exit","stdout":{stdout},"stderr":{{"size":0}}')
    return job


def events(spool: Spool) -> list[tuple[int, str, str]]:
    texts, _ = spool.event_texts(0, 1 << 30)
    return [(event["n"], event["t"], event["job"]) for event in map(json.loads, texts)]


# ------------------------------------------------------------------------------------------------- journal


def test_journal_gives_back_what_was_written(tmp_path: Path, log: Log) -> None:
    journal = Journal(str(tmp_path / "j"), log)
    places = [journal.append(compact_ascii({"n": n, "ü": "ü\ud800"})) for n in range(3)]
    assert list(journal.load()) == []
    assert journal.flush()
    assert [line["n"] for _, _, line in journal.load()] == [0, 1, 2]
    assert [(offset, length) for offset, length, _ in journal.load()] == places
    assert json.loads(journal.read(*places[1])) == {"n": 1, "ü": "ü\ud800"}
    assert journal.size == (tmp_path / "j").stat().st_size


@pytest.mark.parametrize("torn", [b"{", b'{"n":9}', b"\xff\xfe"])
def test_journal_drops_a_torn_line(torn: bytes, tmp_path: Path, log: Log) -> None:
    (tmp_path / "j").write_bytes(b'{"n":0}\nno json\n[1]\n{"n":1}\n' + torn)
    journal = Journal(str(tmp_path / "j"), log)
    assert [line["n"] for _, _, line in journal.load()] == [0, 1]
    journal.append('{"n":2}')
    journal.flush()
    assert [line["n"] for _, _, line in Journal(str(tmp_path / "j"), log).load()] == [0, 1, 2]


def test_journal_on_a_full_disk_keeps_order_and_loses_nothing(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path / "j"), log)
    room, write = 0, os.write

    def limited(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        done = write(fd, data[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", limited)
    places = []
    for n in range(20):
        places.append(journal.append(compact_ascii({"n": n, "pad": "x" * n})))
        room += n  # never as much as would be needed
        assert not journal.flush()
        assert journal.blocked
    room = 10_000
    assert journal.flush()
    assert not journal.blocked
    monkeypatch.undo()
    assert [line["n"] for _, _, line in journal.load()] == list(range(20))
    assert [(offset, length) for offset, length, _ in journal.load()] == places


def test_rewrite_is_all_or_nothing(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path / "j"), log)
    journal.append('{"n":0}')
    journal.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert journal.rewrite(['{"n":1}']) is None
    assert [line["n"] for _, _, line in journal.load()] == [0]
    assert journal.rewrite(['{"n":2}', '{"n":3}']) == [(0, 7), (8, 7)]
    journal.append('{"n":4}')
    journal.flush()
    assert [line["n"] for _, _, line in journal.load()] == [2, 3, 4]


# ------------------------------------------------------------------------------------------------- spool


def test_jobs_come_back_as_they_were(place: str, log: Log) -> None:
    spool = Spool(place, "keeper", log)
    context = spool.context({"A": "1"})
    queued = taken(spool, "queued", cores=2, outputs=["x"])
    doubtful = taken(spool, "doubtful")
    doubtful.slot, doubtful.start_s = 1, 3.25
    assert spool.start(doubtful)
    back = taken(spool, "back")
    back.slot = 2
    spool.start(back)
    spool.put_back(back)
    runs = started(spool, "runs", 77)
    runs.cause, runs.reason = "cancel", 'be"cause'
    spool.stopping(runs)
    ended(spool, "ended")
    for _ in range(2):  # the second time from the journal that the first has rewritten
        assert spool.flush()
        spool = Spool(place, "other", log)
        states = {key[0]: job.state for key, job in spool.jobs.items()}
        assert states == {
            "queued": QUEUED, "doubtful": STARTING, "back": QUEUED, "runs": RUNNING, "ended": ENDED,
        }  # fmt: skip
        assert {**spool.jobs["queued", 1].message, "context": None} == {**queued.message, "context": None}
        again = spool.jobs["runs", 1]
        assert (again.pid, again.slot, again.grant, again.start_s) == (77, 3, Grant(2, (0, 1), 5, (1,)), 12.5)
        assert (again.cause, again.reason, again.keeper) == ("cancel", 'be"cause', "keeper")
        assert spool.jobs["doubtful", 1].slot == 1
        assert events(spool) == [(1, "started", "runs"), (2, "started", "ended"), (3, "ended", "ended")]
    assert context == 1


def test_numbers_go_on_and_acknowledged_events_are_gone(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    worker = spool.worker
    ended(spool, "a")
    spool.flush()
    assert spool.ack(1) == []
    assert spool.ack(2) == [("a", 1)]
    assert not spool.unacked
    assert spool.ack(10**9) == []
    assert spool.event_texts(0, 1) == (
        [],
        2,
    )  # acknowledged before it was sent: nothing to send, and no end without end
    ended(spool, "b")
    assert [n for n, _, _ in events(spool)] == [3]  # nothing is told before the journal has it
    spool.flush()
    assert [n for n, _, _ in events(spool)] == [3, 4]
    spool.compact()
    spool = Spool(place, "k", log)
    assert spool.worker == worker
    assert [n for n, _, _ in events(spool)] == [3, 4]
    assert spool.acked == 2
    ended(spool, "c")
    spool.flush()
    assert [n for n, _, _ in events(spool)] == [3, 4, 5, 6]


def test_an_exit_that_was_not_told_comes_back(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    spool.exited(started(spool, "a"), 9)
    found = Spool(place, "k", log).jobs["a", 1]
    assert found.state == RUNNING
    assert found.exit is not None
    assert found.exit.status == 9


def test_contexts_are_kept_as_long_as_they_are_used(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    one, two = spool.context({"A": "1"}), spool.context({"A": "2"})
    assert spool.context({"A": "1"}) == one != two
    job = Job({"job": "j", "attempt": 1, "argv": ["true"]})
    job.context = two
    spool.take(job)
    spool.compact()
    again = Spool(place, "k", log)
    assert again.contexts == {two: {"A": "2"}}
    assert again.jobs["j", 1].context == two
    assert again.context({"A": "2"}) == two


def test_large_output_is_kept_until_forgotten(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    job = ended(spool, "a", '{"size":99,"path":"/o/a"}')
    job.output_paths = {"stdout": "/o/a"}
    spool.flush()
    spool.ack(2)
    for _ in range(2):
        spool.compact()
        spool = Spool(place, "k", log)
        assert spool.jobs["a", 1].output_paths == {"stdout": "/o/a"}
        assert spool.jobs["a", 1].state == ENDED
    spool.forget(spool.jobs["a", 1])
    spool.flush()
    assert not Spool(place, "k", log).jobs


def test_many_events_do_not_stay_in_memory(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    big = "x" * 100_000
    for n in range(50):
        ended(spool, f"j{n}", f'{{"size":1,"data":"{big}"}}')
    spool.flush()
    assert spool._text_bytes <= EVENT_TEXT_BYTES
    assert len(events(spool)) == 100
    spool.compact()
    assert len(events(spool)) == 100
    texts, last = spool.event_texts(0, 150_000)
    assert 2 <= len(texts) < 10
    assert spool.event_texts(last, 1 << 30)[1] == 100
    assert json.loads(spool.end_text(("j7", 1)) or "")["job"] == "j7"
    for n in range(1, 101):
        spool.ack(n)
    assert spool._text_bytes == 0


def test_the_journal_does_not_grow_without_end(place: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwfm.worker import spool as module

    monkeypatch.setattr(module, "COMPACT_BYTES", 20_000)
    spool = Spool(place, "k", log)
    stays = taken(spool, "stays")
    for n in range(500):
        job = ended(spool, f"j{n}")
        spool.flush()
        for key in spool.ack(spool.durable):
            del spool.jobs[key]
        del job
        spool.compact_when_due(idle=False)
        assert os.path.getsize(os.path.join(place, "journal")) < 25_000
    assert list(Spool(place, "k", log).jobs) in ([stays.key], [stays.key, ("j499", 1)])


def test_another_boot_gives_another_name(place: str, log: Log) -> None:
    spool = Spool(place, "k", log)
    started(spool, "a")
    ended(spool, "b")
    spool.flush()
    spool.ack(1)
    spool.compact()
    journal = Path(place) / "journal"
    header, _, rest = journal.read_text().partition("\n")
    journal.write_text(compact_ascii({**json.loads(header), "boot": "another"}) + "\n" + rest)
    again = Spool(place, "k", log)
    assert again.rebooted
    assert again.worker != spool.worker
    assert again.acked == 0
    assert [n for n, _, _ in events(again)] == list(range(1, len(events(again)) + 1))
    assert ("ended", "b") in [(kind, job) for _, kind, job in events(again)]
    assert not Spool(place, "k", log).rebooted
