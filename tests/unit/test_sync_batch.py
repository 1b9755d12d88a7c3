"""What comes from another store is looked at before any of it is kept: batches, vectors, and what each kind of record must hold."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.errors import InvalidRecord, StoreFull
from lwfm.ids import new_id, new_origin
from lwfm.store import exchange, foreign, queries
from lwfm.store.batch import (
    MAX_ROWS,
    Batch,
    Row,
    chain,
    check_place,
    decode,
    digest,
    encode,
    vector_from_json,
    vector_to_json,
)
from lwfm.store.columns import FACTS
from lwfm.store.log import GENESIS, MAX_RECORD_BYTES, Head, Record

from support.foreign import Elsewhere
from support.replicas import StoreReplica, sync, write_something
from support.threads import Thread, tables, thread

__all__ = ["thread"]

ORIGIN = "0123456789abcdef" * 2
HLC = "0190a0b0c0d0-0001"
WALL = "2026-01-02T03:04:05.000006Z"
HASH = "f" * 64
NASTY: list[Any] = [
    None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, "", "\0", "x", "\ud800", "WEIRD", "INFO", "../../x", "x" * 3000,
    [], [1], ["x", None], [[[]]], {}, {"a": {"b": [1, {"c": None}]}}, {"x" * 300: 1}, {"": ""}, {"a\0b": 1},
]  # fmt: skip


def row(kind: str = "log", body: Any = None, **parts: Any) -> Row:
    told = body if isinstance(body, str) else json.dumps({} if body is None else body)
    return Row(**{"uid": new_id(), "kind": kind, "hlc": HLC, "wall_utc": WALL, "body": told, **parts})


def batch_of(*rows: Row, origin: str = ORIGIN, after: int = 0, prev: str = GENESIS) -> Batch:
    return Batch(origin, after, prev, chain(origin, after, prev, list(rows))[-1], list(rows))


def take(thread: Thread, batch: Batch) -> int:
    """As the agent takes it over: everything is checked."""
    new: int = thread.unit(lambda recorder: recorder.receive(*decode(encode(batch))))
    return new


def log_of(thread: Thread) -> list[tuple[Any, ...]]:
    return thread.connection.execute("select * from log order by origin, seq").fetchall()


class TestBatches:
    def test_a_batch_comes_out_as_it_went_in(self) -> None:
        batch = batch_of(row(body={"message": 'Unicode ä € 𝄞 "\\'}), row("x.y-z_1", "[1, 2]"), row(uid="!~"))
        found, hashes = decode(encode(batch))
        assert found == batch
        assert found.last == 3
        assert hashes[-1] == batch.head

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"\0", b"null", b"[]", b"7", b'"text"', b"{", b"{}", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000,
            b'{"origin": 1, "after": 0, "prev": 2, "head": 3}',
        ],
    )  # fmt: skip
    def test_what_is_none_is_refused(self, data: bytes) -> None:
        with pytest.raises(InvalidRecord):
            decode(data)

    @pytest.mark.parametrize("key", ["origin", "after", "prev", "head", "rows"])
    def test_every_part_of_it_is_of_its_type(self, key: str) -> None:
        batch = batch_of(row(), row(), after=4, prev=HASH)
        told = json.loads(encode(batch))
        for value in [
            *NASTY,
            ORIGIN.upper(),
            ORIGIN + "\n",
            "g" * 32,
            GENESIS,
            "f" * 63,
            HASH.upper(),
            2**53,
            4.0,
            [[]],
        ]:
            if value == told[key]:
                continue
            with pytest.raises(InvalidRecord):
                decode(json.dumps({**told, key: value}).encode())
        with pytest.raises(InvalidRecord):
            decode(json.dumps({name: value for name, value in told.items() if name != key}).encode())

    @pytest.mark.parametrize("at", range(5))
    def test_every_part_of_a_record_is_of_its_type(self, at: int) -> None:
        good = list(row())
        value: Any
        for value in [None, True, 7, 1.5, [], ["x"], {}]:
            told = [*good[:at], value, *good[at + 1 :]]
            with pytest.raises(InvalidRecord, match="not text"):
                decode(self._with_rows(told))
        wrong: Any
        for wrong in (good[:at] + good[at + 1 :], [*good, "more"], "text", 7, None, {}):
            with pytest.raises(InvalidRecord):
                decode(self._with_rows(wrong))

    @pytest.mark.parametrize(
        "part",
        [
            {"uid": ""}, {"uid": "a b"}, {"uid": "ä"}, {"uid": "x" * 101}, {"uid": "a\n"}, {"uid": "\0"},
            {"kind": ""}, {"kind": "Job"}, {"kind": "9"}, {"kind": "a b"}, {"kind": "x" * 65}, {"kind": "job\n"},
            {"hlc": ""}, {"hlc": HLC.upper()}, {"hlc": HLC + "0"}, {"hlc": "0190a0b0c0d0_0001"}, {"hlc": HLC + "\n"},
            {"wall_utc": ""}, {"wall_utc": "yesterday"}, {"wall_utc": WALL[:-1]}, {"wall_utc": WALL + "\n"},
            {"wall_utc": "٢٠٢٦-01-02T03:04:05.000006Z"}, {"wall_utc": "2026-13-02T03:04:05.000006Z"},
            {"wall_utc": "2026-02-30T03:04:05.000006Z"}, {"wall_utc": "2026-01-02T25:04:05.000006Z"},
            {"wall_utc": "0000-01-02T03:04:05.000006Z"},
        ],
    )  # fmt: skip
    def test_ids_kinds_and_times_are_such(self, part: dict[str, str]) -> None:
        with pytest.raises(InvalidRecord, match="id, kind or time"):
            decode(encode(batch_of(row(**part))))

    def test_text_that_is_not_unicode_is_refused(self) -> None:
        with pytest.raises(InvalidRecord, match="not Unicode"):
            decode(self._with_rows(list(row(body='"\ud800"'))))

    def test_a_body_that_is_too_large_is_refused_and_the_largest_is_not(self) -> None:
        largest = '"' + "x" * (MAX_RECORD_BYTES - 2) + '"'
        assert len(decode(encode(batch_of(row(body=largest))))[0].rows[0][-1]) == MAX_RECORD_BYTES
        with pytest.raises(InvalidRecord, match="is the most"):
            decode(encode(batch_of(row(body=largest + " "))))

    def test_as_many_records_as_may_come_together_and_no_more(self) -> None:
        rows = [row(body="{}", uid="same")] * MAX_ROWS
        assert len(decode(encode(batch_of(*rows)))[0].rows) == MAX_ROWS
        for count in (0, MAX_ROWS + 1):
            batch = batch_of(*rows, *rows[:1])._replace(rows=[*rows, rows[0]][:count])
            with pytest.raises(InvalidRecord, match="may come together"):
                decode(encode(batch))

    def test_whatever_is_changed_on_the_way_is_found(self) -> None:
        draw = random.Random(1)
        batch = batch_of(*(row(body={"message": f"line {number}"}) for number in range(5)), after=7, prev=HASH)
        data = encode(batch)
        for _ in range(300):
            at = draw.randrange(len(data))
            changed = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
            if json_or_none(changed) == json.loads(data):
                continue  # what stands in it is the same
            with pytest.raises(InvalidRecord):
                decode(changed)

    def test_records_that_are_left_out_or_change_places_are_found(self) -> None:
        rows = [row(body={"n": number}) for number in range(3)]
        batch = batch_of(*rows)
        for wrong in (rows[:2], rows[1:], [rows[1], rows[0], rows[2]], [*rows, rows[2]]):
            with pytest.raises(InvalidRecord, match="changed on the way"):
                decode(encode(batch._replace(rows=wrong)))

    def test_what_it_continues_must_fit_its_place(self) -> None:
        for after, prev in ((0, HASH), (3, GENESIS)):
            with pytest.raises(InvalidRecord, match="does not say what it continues"):
                decode(encode(batch_of(row(), after=after, prev=prev)))

    def _with_rows(self, *rows: Any) -> bytes:
        told = {"origin": ORIGIN, "after": 0, "prev": GENESIS, "head": HASH, "rows": list(rows)}
        return json.dumps(told).encode()


def json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


class TestVectors:
    def test_a_vector_comes_out_as_it_went_in(self) -> None:
        vector = {ORIGIN: Head(7, HASH), "f" * 32: Head(2**53 - 1, GENESIS)}
        assert vector_from_json(json.loads(json.dumps(vector_to_json(vector)))) == vector
        assert vector_from_json({}) == {}

    @pytest.mark.parametrize("told", [None, 7, "text", [], [[ORIGIN, [1, HASH]]]])
    def test_what_is_none_is_refused(self, told: Any) -> None:
        with pytest.raises(InvalidRecord):
            vector_from_json(told)

    @pytest.mark.parametrize(
        "head",
        [*NASTY, [1], [1, HASH, 2], [1, None], [None, HASH], [True, HASH], ["1", HASH], [-1, HASH], [2**53, HASH],
         [1.0, HASH], [1, "x"], [1, HASH.upper()], [1, HASH + "\n"]],
    )  # fmt: skip
    def test_every_part_of_it_is_of_its_type(self, head: Any) -> None:
        with pytest.raises(InvalidRecord):
            vector_from_json({ORIGIN: head})

    @pytest.mark.parametrize("origin", ["", "x", ORIGIN[:-1], ORIGIN.upper(), ORIGIN + "\n", None, 7])
    def test_origins_are_such(self, origin: Any) -> None:
        with pytest.raises(InvalidRecord, match="origin"):
            vector_from_json({origin: [1, HASH]})
        with pytest.raises(InvalidRecord):
            check_place(origin, 1)

    def test_the_digest_names_what_is_known(self) -> None:
        one, other = Head(7, HASH), Head(8, "e" * 64)
        vector = {ORIGIN: one, "f" * 32: other}
        assert digest(vector) == digest(dict(reversed(list(vector.items()))))
        different = [{}, {ORIGIN: one}, {ORIGIN: other, "f" * 32: one}, {**vector, "e" * 32: one},
                     {**vector, ORIGIN: Head(7, "e" * 64)}, {**vector, ORIGIN: Head(8, HASH)}]  # fmt: skip
        assert len({digest(vector), *map(digest, different)}) == len(different) + 1


DEFINITION = {
    "command": ["prog", "1"], "name": "n", "cwd": "/", "env": {"A": "b"}, "retries": 1, "meta": {"T": 0.7, "l": [1, "x"]},
    "resources": {"cores": 2, "memory_bytes": 10, "time_limit_s": 60}, "inputs": ["in"], "outputs": ["out"],
}  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "instance": {"store_id": "s", "host": "h", "user": "u", "home": "/h", "time": WALL,
                 "succeeds": {"origin": ORIGIN, "seq": 3}, "reason": "r"},
    "fork": {"origin": ORIGIN, "seq": 3, "hash": HASH, "instance": {"store_id": "s", "host": "h"}, "reason": "r"},
    "context": {"host": "h", "user": "u", "cwd": "/", "git": {"commit": "c", "dirty": True}, "python": "3", "version": "1",
                "env": {"A": "b"}},
    "workflow": {"workflow_id": "w1", "name": "n", "description": "d", "parent_job": "j1", "meta": {"k": 1}},
    "job": {"state": "PENDING", "site": "local", "definition": DEFINITION, "workflow_id": "w1", "parent_id": "p",
            "context_id": "c", "handler_id": "h", "trigger_job": "t", "trigger_data": "d", "reason": "r"},
    "status": {"job_id": "j1", "attempt": 2, "state": "COMPLETE", "reason": "r", "native_status": "n", "time": WALL,
               "started_at": WALL, "ended_at": WALL, "exit_code": 0, "signal": "SIGKILL", "cpu_seconds": 1.5, "host": "n1",
               "hosts": "n[1-4]", "allocation": "a", "native_id": "7", "peak_rss_bytes": 1, "read_bytes": 1,
               "write_bytes": 1, "stdout_bytes": 1, "stderr_bytes": 1, "stdout": {"size": 1, "sha256": HASH},
               "stderr": {"size": 1}, "ended_attempt": 1},
    "metasheet": {"op": "put", "site": "local", "url": "file://h/p", "path": "/p", "host": "h", "size_bytes": 5,
                  "sha256": HASH, "source_url": "u", "job_id": "j1", "workflow_id": "w1", "source_job": "j",
                  "properties": {"T": 1, "box": {"x": [1, 2]}}},
    "handler": {"kind": "job", "event": {"jobs": ["j1"], "states": ["COMPLETE"], "mode": "all", "name": "n", "site": "local",
                                         "defn": DEFINITION, "notify": {"x": 1}},
                "job_ids": ["j2"], "workflow_id": "w1", "parent_id": "p", "context_id": "c", "fire_limit": 1},
    "unset": {"handler_id": "h1", "reason": "r"},
    "firing": {"handler_id": "h1", "trigger_id": "t1", "job_id": "j1", "trigger_job": "t", "trigger_data": "d"},
    "log": {"level": "INFO", "message": "m", "job_id": "j1", "workflow_id": "w1", "time": WALL},
    "node": {"worker_id": "w", "host": "h", "state": "up", "cores": 1, "memory_bytes": 1, "gpus": 1, "allocation": "a",
             "reason": "r"},
}  # fmt: skip
DATA_HANDLER = {"kind": "data", "event": {"match": {"T": 1}, "defn": DEFINITION, "workflow": "any", "repeat": 1}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("instance", {"succeeds": "x"}, "succeeds must be an object"),
    ("instance", {"succeeds": {"origin": 7}}, "origin must be text"),
    ("instance", {"succeeds": {"seq": 2**63}}, "seq must be a whole number"),
    ("fork", {"origin": None}, "origin must be text"),
    ("fork", {"instance": [1]}, "instance must be an object"),
    ("context", {"git": ["x"]}, "git must be an object"),
    ("context", {"env": "x"}, "env must be an object"),
    ("workflow", {"workflow_id": None}, "workflow_id must be text"),
    ("workflow", {"name": 7}, "name must be text"),
    ("workflow", {"meta": [1]}, "meta must be an object"),
    ("job", {"site": ["local"]}, "site must be text"),
    ("job", {"site": None}, "site must be text"),
    ("job", {"state": "WEIRD"}, "'WEIRD' is no state"),
    ("job", {"state": ["COMPLETE"]}, "is no state"),
    ("job", {"definition": {"command": 7}}, "command"),
    ("job", {"definition": None}, ""),
    ("job", {"workflow_id": 7}, "workflow_id must be text"),
    ("job", {"reason": "a\0b"}, "reason must be text"),
    ("status", {"job_id": None}, "job_id must be text"),
    ("status", {"state": "complete"}, "'complete' is no state"),
    ("status", {"attempt": 0}, "attempt must be a whole number"),
    ("status", {"attempt": True}, "attempt must be a whole number"),
    ("status", {"attempt": 10**6}, "attempt must be a whole number"),
    ("status", {"exit_code": "0"}, "exit_code must be a whole number"),
    ("status", {"cpu_seconds": -1}, "cpu_seconds must be a number"),
    ("status", {"host": 7}, "host must be text"),
    ("status", {"stdout": "x"}, "stdout must be an object"),
    ("metasheet", {"op": 7}, "op must be text"),
    ("metasheet", {"size_bytes": "5"}, "size_bytes must be a whole number"),
    ("metasheet", {"properties": [1]}, "properties must be an object"),
    ("handler", {"kind": "both"}, "neither job nor data"),
    ("handler", {"event": None}, "event is no object"),
    ("handler", {"event": {"jobs": 7, "defn": DEFINITION}}, "JobEvent"),
    ("handler", {"event": {"jobs": ["j1"], "defn": DEFINITION, "notify": [1]}}, "notify must be an object"),
    ("handler", {"job_ids": [7]}, "list of ids"),
    ("handler", {"fire_limit": "1"}, "fire_limit must be a whole number"),
    ("unset", {"handler_id": 7}, "handler_id must be text"),
    ("firing", {"trigger_id": None}, "trigger_id must be text"),
    ("log", {"message": ["x"]}, "message must be text"),
    ("node", {"worker_id": 7}, "worker_id must be text"),
    ("node", {"gpus": -1}, "gpus must be a whole number"),
]


class TestKinds:
    @pytest.mark.parametrize(("kind", "change", "why"), REFUSED)
    def test_a_wrong_type_is_refused_with_a_sentence_that_names_record_and_reason(
        self, kind: str, change: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(InvalidRecord) as raised:
            foreign.parsed(ORIGIN, 7, row(kind, {**BODIES[kind], **change}))
        assert raised.value.message.startswith(f"record 7 of origin {ORIGIN} is no {kind} that this lwfm understands: ")
        assert why in raised.value.message
        assert len(raised.value.message) <= 500

    @pytest.mark.parametrize("kind", BODIES)
    @pytest.mark.parametrize("body", ["null", "7", '"x"', "[]", "[{}]", "{", "", "NaN", "{}x", "[" * 100_000])
    def test_a_body_that_is_no_object_is_refused(self, kind: str, body: str) -> None:
        with pytest.raises(InvalidRecord, match=f"record 1 of origin {ORIGIN} is no {kind}"):
            foreign.parsed(ORIGIN, 1, row(kind, body))

    def test_what_is_right_is_taken_as_is_what_is_told_beside_it(self, thread: Thread) -> None:
        there = Elsewhere()
        for kind, body in [*BODIES.items(), ("handler", DATA_HANDLER)]:
            there.record(kind, {**body, "a_newer_key": {"deep": [1, None, "x"]}}, new_id())
        thread.unit(there.deliver)
        assert [record.body for record in thread.records() if record.origin == there.origin] == [
            record.body for record in there.records
        ]

    def test_kinds_that_nobody_knows_are_handed_on_as_they_are(self, tmp_path: Path) -> None:
        """From a newer instance over one that knows nothing of them to a third, and byte for byte."""
        threads = []
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            threads.append(Thread(tmp_path / str(number)))
        bodies = [
            '{ "z": 1,  "a": [1.50, 1e3, "\\u00e4ä"] }',
            "null",
            "[]",
            '"text"',
            "12345678901234567890123456789",
            "-0.0",
        ]
        rows = [row("instance", {"host": "newer"}), *(row(f"new-kind.{at}", body) for at, body in enumerate(bodies))]
        rows += [row("instance2"), row("job2", {"job_id": ["x"], "state": 7}), row("status9", {"job_id": None})]
        take(threads[0], batch_of(*rows))
        for near, far in ((1, 0), (2, 1)):
            sync(StoreReplica(threads[near]), StoreReplica(threads[far]))
        for one in threads:
            found = one.connection.execute(
                "select uid, kind, hlc, wall_utc, body from log where origin = ? order by seq", (ORIGIN,)
            ).fetchall()
            assert [Row(*item) for item in found] == rows
            assert one.verify() == []
            one.close()


def mutations(value: Any, draw: random.Random) -> Iterator[Any]:
    """``value`` with something else in one of its places, or without it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield {name: other for name, other in value.items() if name != key}
            for wrong in NASTY:
                yield {**value, key: wrong}
            for inner in mutations(item, draw):
                yield {**value, key: inner}
    elif isinstance(value, list):
        for at, item in enumerate(value):
            for wrong in draw.sample(NASTY, 6):
                yield [*value[:at], wrong, *value[at + 1 :]]
            for inner in mutations(item, draw):
                yield [*value[:at], inner, *value[at + 1 :]]


def attempt(thread: Thread, kind: str, body: str, uid: Optional[str] = None) -> bool:
    """Have a record taken over; whether it was. If not, nothing of it is there, and it is said of which record and why."""
    origin = new_origin()
    told = row(kind, body, uid=uid or new_id())
    try:
        batch = batch_of(told, origin=origin)
    except InvalidRecord:  # its text is not Unicode
        return False
    try:
        take(thread, batch)
        return True
    except InvalidRecord as error:
        message = error.message
    assert f"record 1 of origin {origin} " in message
    assert exchange.read_batch(thread.connection, origin, 0, 1) is None
    return False


@pytest.mark.parametrize("kind", [*BODIES, "data-handler"])
def test_whatever_a_record_holds_it_is_refused_or_the_store_stays_sound(kind: str, tmp_path: Path) -> None:
    """One thing is wrong with it each time. What is taken folds the same again, and to the same in another store."""
    draw = random.Random(kind)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = Thread(tmp_path / "here"), Thread(tmp_path / "there")
    own = here.submit("true")
    here.on_jobs([own, here.submit("true")], mode="any")
    here.on_data({"T": 1}, repeat=True)
    here.on_data({"x": "~a"}, repeat=True)
    name, whole = ("handler", DATA_HANDLER) if kind == "data-handler" else (kind, BODIES[kind])
    wrong = list(mutations(whole, draw))
    draw.shuffle(wrong)
    taken = 0
    for body in [whole, *wrong[:250]]:
        taken += attempt(here, name, json.dumps(body))
    assert taken
    if kind in ("job", "status"):
        attempt(here, name, json.dumps({**whole, **({"job_id": own} if kind == "status" else {})}))
        assert here.state(own) == "PENDING"
    assert here.verify() == []
    sync(StoreReplica(there), StoreReplica(here))
    assert log_of(there) == log_of(here)
    assert there.verify() == []
    assert tables(there.connection) == tables(here.connection)
    for one in (here, there):
        one.close()


@pytest.mark.parametrize("kind", ["workflow", "job", "metasheet", "context", "status", "instance", "handler"])
def test_what_is_nested_beyond_measure_is_refused_or_the_store_stays_sound(kind: str, thread: Thread) -> None:
    for depth in (50, 300, 600, 900, 950, 980, 2000):
        for opening, closing in (('{"a":', "}"), ("[", "]")):
            deep = opening * depth + "1" + closing * depth
            for key in BODIES[kind]:
                told = json.dumps({**BODIES[kind], key: "HERE"}).replace('"HERE"', deep)
                attempt(thread, kind, told)
    assert thread.verify() == []


class TestIds:
    """A record that has the id of another one."""

    def test_an_id_that_is_taken_is_refused(self, thread: Thread) -> None:
        flow, mine = thread.workflow(), thread.submit("true")
        data = thread.put(op="event", properties={"T": 1})
        handler = thread.on_jobs([mine])["handler_id"]
        thread.unit(thread.service.log, [{"message": "mine", "level": "INFO"}])
        (line,) = thread.connection.execute("select id from logs where message = 'mine'").fetchone()
        before, folded = log_of(thread), tables(thread.connection)
        for kind, uid in (("job", mine), ("metasheet", data), ("handler", handler), ("log", line)):
            there = new_origin()
            with pytest.raises(InvalidRecord, match=f"claims the id of another {kind}, {uid}"):
                take(thread, batch_of(row(kind, BODIES[kind], uid=uid), origin=there))
        assert flow
        assert log_of(thread) == before
        assert tables(thread.connection) == folded

    @pytest.mark.parametrize("other", ["0", "f"])
    def test_a_status_with_the_id_of_one_of_ours_changes_nothing(self, thread: Thread, other: str) -> None:
        """Whether its origin comes before ours or behind it in the order in which tables are made anew."""
        job = thread.submit("true")
        thread.status(job, "RUNNING")
        thread.run(job)
        known = thread.job(job)
        for record in [record for record in thread.records() if record.kind == "status"]:
            body = {**record.body, "state": "FAILED", "reason": "not so"}
            with pytest.raises(InvalidRecord, match="claims the id"):
                take(
                    thread,
                    batch_of(row("status", body, uid=record.uid, hlc=record.hlc), origin=other + new_origin()[1:]),
                )
        first = {"job_id": job, "attempt": 1, "state": "FAILED"}
        with pytest.raises(InvalidRecord, match="claims the id"):
            take(thread, batch_of(row("status", first, uid=job), origin=other + new_origin()[1:]))
        assert thread.job(job) == known
        assert thread.verify() == []

    @pytest.mark.parametrize("other", ["0", "f"])
    def test_an_unsetting_with_the_id_of_one_of_ours_changes_nothing(self, thread: Thread, other: str) -> None:
        handler = thread.on_jobs([thread.submit("true")])["handler_id"]
        thread.unit(thread.service.unset_handler, handler, "no longer wanted")
        (mine,) = [record for record in thread.records() if record.kind == "unset"]
        again = row("unset", {**mine.body, "reason": "not so"}, uid=mine.uid, hlc=mine.hlc, wall_utc=mine.wall_utc)
        with pytest.raises(InvalidRecord, match="claims the id"):
            take(thread, batch_of(again, origin=other + new_origin()[1:]))
        assert thread.handler(handler)["reason"] == "no longer wanted"
        assert thread.verify() == []

    @pytest.mark.parametrize("other", ["0", "f"])
    def test_a_version_with_the_id_of_one_of_ours_changes_nothing(self, thread: Thread, other: str) -> None:
        flow = thread.workflow("mine")
        (mine,) = [record for record in thread.records() if record.kind == "workflow"]
        again = row("workflow", {**mine.body, "name": "not so"}, uid=mine.uid, hlc=mine.hlc)
        with pytest.raises(InvalidRecord, match="claims the id"):
            take(thread, batch_of(again, origin=other + new_origin()[1:]))
        assert queries.workflow(thread.connection, flow)["name"] == "mine"
        assert thread.verify() == []

    @pytest.mark.parametrize("other", ["0", "f"])
    def test_a_firing_that_names_a_job_of_no_handler_changes_nothing(self, thread: Thread, other: str) -> None:
        job = thread.submit("true")
        body = {"handler_id": "h", "trigger_id": "t", "job_id": job, "trigger_job": "not so"}
        take(thread, batch_of(row("firing", body), origin=other + new_origin()[1:]))
        assert thread.job(job).get("trigger_job") is None
        assert thread.verify() == []


def test_facts_of_a_status_are_all_looked_at() -> None:
    told = BODIES["status"]
    assert set(FACTS) <= set(told)
    assert isinstance(foreign.parsed(ORIGIN, 1, row("status", told)), Record)


def test_many_things_travel_as_they_are(tmp_path: Path) -> None:
    """What real threads write is all of kinds that are understood."""
    draw = random.Random(5)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = Thread(tmp_path / "a"), Thread(tmp_path / "b")
    for _ in range(25):
        write_something(a, draw)
    sync(StoreReplica(b), StoreReplica(a))
    assert log_of(a) == log_of(b)
    for one in (a, b):
        assert one.verify() == []
        one.close()


def test_a_disk_that_is_full_is_no_fault_of_a_record(tmp_path: Path) -> None:
    """It is told as what it is, in the middle of taking records over; with room again the next sync goes on."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = Thread(tmp_path / "here"), Thread(tmp_path / "there")
    for number in range(40):
        there.unit(there.service.log, [{"message": f"{number} " + "x" * 500} for _ in range(50)])
    before = log_of(here)
    (pages,) = here.connection.execute("pragma page_count").fetchone()
    here.connection.execute(f"pragma max_page_count = {pages + 40}")
    with pytest.raises(StoreFull):
        sync(StoreReplica(here), StoreReplica(there), push=False)
    assert log_of(here)[: len(before)] == before
    assert here.verify() == []
    here.connection.execute(f"pragma max_page_count = {2**30}")
    sync(StoreReplica(here), StoreReplica(there))
    assert log_of(here) == log_of(there)
    assert here.verify() == []
    for one in (here, there):
        one.close()
