"""A far side, or a near one, that lies: it is refused with a sentence, and the store stays as it was."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from lwfm.client import Client
from lwfm.errors import Conflict, InvalidRecord, LwfmError, ProtocolMismatch
from lwfm.ids import new_id, new_origin
from lwfm.store.batch import Batch, Row, chain, encode
from lwfm.store.exchange import read_batch
from lwfm.store.log import GENESIS, Head, read_head
from lwfm.sync import exchange as exchange_module
from lwfm.sync.agent_replica import AgentReplica
from lwfm.sync.exchange import exchange
from lwfm.sync.frames import MAX_BODY_BYTES, MAX_HEAD_BYTES, PROTOCOL, Cut, Line, Refused
from lwfm.sync.remote import RemoteReplica
from lwfm.sync.replica import Hello, Packet, Want
from lwfm.sync.serve import Server

from support.agents import Agent, running_agent
from support.replicas import SocketStream, StoreReplica, sync
from support.threads import Thread, thread

__all__ = ["thread"]

JSON = dict[str, Any]
HASH = "f" * 64
HLC = "0190a0b0c0d0-0001"
WALL = "2026-01-02T03:04:05.000006Z"
Script = Callable[[Line], None]


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Thread]:
    """Another store, whose records somebody hands out in his own way."""
    (tmp_path / "far").mkdir()
    made = Thread(tmp_path / "far")
    job = made.submit("true")
    made.status(job, "RUNNING")
    for number in range(5):
        made.unit(made.service.log, [{"message": f"line {number}", "level": "INFO"}])
    yield made
    made.close()


def log_of(thread: Thread) -> list[tuple[Any, ...]]:
    return thread.connection.execute("select * from log order by origin, seq").fetchall()


def row(kind: str, body: Any, uid: Optional[str] = None) -> Row:
    return Row(uid or new_id(), kind, HLC, WALL, json.dumps(body))


def packet_with(*rows: Row, origin: Optional[str] = None, after: int = 0, prev: str = GENESIS) -> Packet:
    origin = origin or new_origin()
    batch = Batch(origin, after, prev, chain(origin, after, prev, list(rows))[-1], list(rows))
    return Packet(origin, after, len(rows), encode(batch))


def all_of(far: Thread) -> Packet:
    """What it has recorded itself."""
    (packet,) = StoreReplica(far).give([Want(far.store.origin, 0, read_head(far.connection, far.store.origin).seq)])
    return packet


class Liar(StoreReplica):
    """The far side, with whatever a test has it say."""

    def __init__(self, thread: Thread, **lies: Any):
        super().__init__(thread)
        self.lies = lies

    def hello(self, known_digest: Optional[str]) -> Hello:
        told = super().hello(known_digest)
        if "vector" in self.lies:
            told = Hello(**{**told.__dict__, "vector": self.lies["vector"](told.vector), "digest": "0"})
        return told

    def hashes(self, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
        if "hashes" in self.lies:
            told: dict[str, list[Optional[str]]] = self.lies["hashes"](asked)
            return told
        return super().hashes(asked)

    def give(self, wants: Sequence[Want]) -> Iterator[Packet]:
        given = super().give(wants)
        return self.lies["give"](given) if "give" in self.lies else given

    def settle_fork(self, origin: str, at: int, their_hash: str) -> Optional[str]:
        if "settle" in self.lies:
            answer: Optional[str] = self.lies["settle"]
            return answer
        return super().settle_fork(origin, at, their_hash)


def refused(
    near: Thread, far: Any, match: Optional[str] = None, error: type[LwfmError] = LwfmError, **ways: bool
) -> LwfmError:
    """A sync with it fails with a sentence, and nothing has come of it."""
    before = log_of(near)
    with pytest.raises(error, match=match) as raised:
        sync(StoreReplica(near), far, **ways)
    sentence(raised.value)
    assert log_of(near) == before
    assert near.verify() == []
    return raised.value


def sentence(error: LwfmError) -> None:
    assert isinstance(error, LwfmError)
    assert 8 < len(error.message) <= 2000
    assert "internal error" not in error.message
    assert error.hint is None or isinstance(error.hint, str)
    assert isinstance(error.to_json()["transient"], bool)


# ---------------------------------------------------------------------------------------------- a far side that lies


class TestVectors:
    def test_absurd_numbers(self, thread: Thread, far: Thread) -> None:
        for many in (10**15, 2**53 - 1):
            lie = Liar(far, vector=lambda known: {**known, new_origin(): Head(many, HASH)})  # noqa: B023
            refused(thread, lie, f"says that it has {many}[0-9]* records|says that it has", Refused)
        beyond = Liar(far, vector=lambda known: {**known, new_origin(): Head(2**53, HASH)})
        refused(thread, beyond, "is not the number of a record", InvalidRecord)

    def test_more_origins_than_can_be(self, thread: Thread, far: Thread) -> None:
        """What is announced is not even read."""
        many = {f"{number:032x}": Head(1, HASH) for number in range(200_000)}
        refused(thread, Liar(far, vector=lambda _: many), "too large", Refused)

    def test_more_of_our_own_records_than_there_are(self, thread: Thread, far: Thread) -> None:
        mine = thread.store.origin
        lie = Liar(far, vector=lambda known: {**known, mine: Head(10**6, HASH)})
        refused(thread, lie)
        assert thread.store.origin == mine

    def test_more_than_it_gives(self, thread: Thread, far: Thread) -> None:
        before = log_of(thread)
        lie = Liar(far, vector=lambda known: {o: Head(h.seq + 3, HASH) for o, h in known.items()},
                   give=lambda _: StoreReplica(far).give([Want(far.store.origin, 0, 3)]))  # fmt: skip
        with pytest.raises(Refused, match="less than it said"):
            sync(StoreReplica(thread), lie, push=False)
        assert len(log_of(thread)) == len(before) + 3, "what had come stays"
        assert thread.verify() == []


class TestRecords:
    def test_nobody_asked_for_them(self, thread: Thread, far: Thread) -> None:
        origin = far.store.origin
        (good,) = StoreReplica(far).give([Want(origin, 0, 4)])
        for packet in (
            good._replace(origin=new_origin()), good._replace(after=1), good._replace(rows=10**9), good._replace(rows=0),
            good._replace(rows=-1), packet_with(row("log", {"message": "x"})), good._replace(after=-1),
        ):  # fmt: skip
            refused(thread, Liar(far, give=lambda _: iter([packet])), "not asked for", Refused)  # noqa: B023

    def test_without_end(self, thread: Thread, far: Thread) -> None:
        good = all_of(far)
        with pytest.raises(Refused, match="not asked for"):
            sync(StoreReplica(thread), Liar(far, give=lambda _: repeat(good)))
        assert thread.verify() == []

    def test_the_same_in_another_wrapping(self, thread: Thread, far: Thread) -> None:
        """The head of a frame says that it holds what was asked for; in it are other records: taken for what they are."""
        good, before = all_of(far), log_of(thread)
        other = packet_with(row("log", {"message": "x"}), row("log", {"message": "y"}))
        for packet in (other, other._replace(data=all_of(thread).data)):
            lie = Liar(far, give=lambda _: iter([good._replace(data=packet.data)]))  # noqa: B023
            sync(StoreReplica(thread), lie, push=False)
        assert [item for item in log_of(thread) if item[0] != other.origin] == before
        assert thread.verify() == []
        told = sync(StoreReplica(thread), StoreReplica(far))[0]
        assert told.received == good.rows, "what it did not give is asked for again"
        assert thread.verify() == []

    def test_changed_on_the_way(self, thread: Thread, far: Thread) -> None:
        good = all_of(far)
        told = json.loads(good.data)
        change: JSON
        for change in (
            {"head": HASH}, {"prev": HASH}, {"after": 1}, {"rows": told["rows"][:-1]}, {"rows": []}, {"rows": None},
            {"rows": [*told["rows"][:-1], [*told["rows"][-1][:4], '{"message":"another"}']]}, {"origin": new_origin()},
        ):  # fmt: skip
            data = json.dumps({**told, **change}).encode()
            lie = Liar(far, give=lambda _: iter([good._replace(data=data)]))  # noqa: B023
            refused(thread, lie, error=InvalidRecord)
        for data in (b"", b"[]", b"\xff" * 100, good.data[:-1]):
            refused(thread, Liar(far, give=lambda _: iter([good._replace(data=data)])), error=InvalidRecord)  # noqa: B023

    @pytest.mark.parametrize(
        ("kind", "body", "why"),
        [
            ("job", {"state": "WEIRD", "site": "local", "definition": {"command": "x"}}, "'WEIRD' is no state"),
            ("job", {"state": "PENDING", "site": ["local"], "definition": {"command": "x"}}, "site must be text"),
            ("job", {"state": {}, "site": "local", "definition": {"command": "x"}}, "is no state"),
            ("status", {"job_id": "x", "state": "RUNNING", "attempt": 10**9}, "attempt"),
            ("status", {"job_id": "\ud800", "state": "RUNNING"}, "job_id"),
            ("workflow", {"workflow_id": "\ud800", "name": "x"}, "cannot be understood"),
            ("metasheet", {"properties": "x"}, "properties must be an object"),
            ("instance", {"succeeds": {"origin": {}}}, "origin must be text"),
            ("handler", {"kind": "data", "event": {"match": 7}}, "no handler that this lwfm understands"),
        ],
    )
    def test_what_the_tables_could_not_hold(self, thread: Thread, far: Thread, kind: str, body: JSON, why: str) -> None:
        packet = packet_with(row("log", {"message": "before"}), row(kind, body))
        lie = Liar(
            far,
            vector=lambda _: {packet.origin: Head(2, json.loads(packet.data)["head"])},
            give=lambda _: iter([packet]),
        )
        error = refused(thread, lie, why, InvalidRecord, push=False)
        assert f"record 2 of origin {packet.origin}" in error.message

    def test_the_ids_of_others(self, thread: Thread, far: Thread) -> None:
        mine = thread.submit("true")
        body = {"state": "COMPLETE", "site": "local", "definition": {"command": "rm -rf /"}}
        packet = packet_with(row("job", body, mine))
        lie = Liar(far, vector=lambda _: {packet.origin: Head(1, json.loads(packet.data)["head"])},
                   give=lambda _: iter([packet]))  # fmt: skip
        refused(thread, lie, f"claims the id of another job, {mine}", InvalidRecord, push=False)
        assert thread.state(mine) == "PENDING"

    def test_what_is_said_of_our_jobs_does_not_count(self, thread: Thread, far: Thread) -> None:
        mine = thread.submit("true")
        packet = packet_with(row("status", {"job_id": mine, "state": "COMPLETE", "attempt": 99}))
        lie = Liar(far, vector=lambda _: {packet.origin: Head(1, json.loads(packet.data)["head"])},
                   give=lambda _: iter([packet]))  # fmt: skip
        sync(StoreReplica(thread), lie, push=False)
        assert thread.state(mine) == "PENDING"
        assert thread.effects.pending == {}


class TestForks:
    def lie(self, thread: Thread, far: Thread, **lies: Any) -> Liar:
        """One who says that a log that both have is another."""
        sync(StoreReplica(thread), StoreReplica(far))
        mine = thread.store.origin
        return Liar(far, vector=lambda known: {**known, mine: Head(known[mine].seq, "1" * 64)}, **lies)

    def test_one_that_is_not(self, thread: Thread, far: Thread) -> None:
        """It says first that it has another record, then that it has the same ones."""
        refused(thread, self.lie(thread, far), error=LwfmError)

    @pytest.mark.parametrize("told", [7, [], "x", True, {"a": 1}, "é" * 64])
    def test_hashes_that_are_none(self, thread: Thread, far: Thread, told: Any) -> None:
        lie = self.lie(thread, far, hashes=lambda asked: {o: [told] * len(seqs) for o, seqs in asked.items()})
        refused(thread, lie, "is not the hash of a record", InvalidRecord)

    def test_fewer_or_more_hashes_than_asked_for(self, thread: Thread, far: Thread) -> None:
        for count in (0, 1000):
            lie = self.lie(thread, far, hashes=lambda asked: {o: [HASH] * count for o in asked})  # noqa: B023
            refused(thread, lie, error=Refused)

    def test_hashes_of_what_was_not_asked_for(self, thread: Thread, far: Thread) -> None:
        sync(StoreReplica(thread), StoreReplica(far))
        far.unit(far.service.log, [{"message": "more", "level": "INFO"}])
        lie = Liar(far, hashes=lambda asked: {**{o: [None] for o in asked}, new_origin(): [HASH], "x": [None]})
        refused(thread, lie, error=LwfmError)

    def test_it_does_not_agree_on_who_is_to_move(self, thread: Thread, far: Thread) -> None:
        lie = self.lie(
            thread, far, hashes=lambda asked: {o: [HASH] * len(seqs) for o, seqs in asked.items()}, settle=None
        )
        refused(thread, lie, "do not agree on the fork", Conflict)

    def test_forks_without_end(self, thread: Thread, far: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange_module, "MAX_FORKS", 5)
        for settle in ("there it is",):
            lie = self.lie(
                thread, far, hashes=lambda asked: {o: [HASH] * len(s) for o, s in asked.items()}, settle=settle
            )
            refused(thread, lie, "no end to the forks", Refused)

    def test_our_branch_is_moved_again_and_again(
        self, thread: Thread, far: Thread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever says that we are to go is believed; nothing is lost by it."""
        monkeypatch.setattr(exchange_module, "MAX_FORKS", 5)
        uids = {item[4] for item in log_of(thread)}
        lie = self.lie(thread, far, hashes=lambda asked: {o: ["0" * 64] * len(seqs) for o, seqs in asked.items()})
        with suppress(Refused):
            sync(StoreReplica(thread), lie)
        assert uids <= {item[4] for item in log_of(thread)}
        assert thread.verify() == []


# ---------------------------------------------------------------------------------------------- a far side that speaks otherwise


@contextmanager
def speaking(script: Script) -> Iterator[Line]:
    """Our end of a line, at whose other end ``script`` speaks."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)

    def speak() -> None:
        with suppress(Cut, OSError):
            script(Line(SocketStream(theirs)))
        theirs.close()

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield Line(SocketStream(ours))
    finally:
        ours.close()
        speaker.join(30)
        assert not speaker.is_alive()


def hello_of(thread: Thread, **changes: Any) -> JSON:
    told = StoreReplica(thread).hello(None).to_json()
    return {"t": "hello", "protocol": 1, **{name: value for name, value in {**told, **changes}.items() if value != ()}}


def answering(*answers: Any) -> Script:
    """Says these things, one for each thing that it is asked."""

    def script(line: Line) -> None:
        for answer in answers:
            line.receive()
            line.send(answer)

    return script


def met(near: Thread, script: Script, match: Optional[str] = None, error: type[LwfmError] = LwfmError) -> LwfmError:
    before = log_of(near)
    with speaking(script) as line, pytest.raises(error, match=match) as raised:
        exchange(StoreReplica(near), RemoteReplica(line), pull=True, push=True)
    sentence(raised.value)
    assert log_of(near) == before
    return raised.value


class TestHellos:
    def test_from_the_future(self, thread: Thread, far: Thread) -> None:
        for protocol in (PROTOCOL + 1, None, "1", [1], 1.5):
            met(
                thread, answering(hello_of(far, protocol=protocol)), "another version of the exchange", ProtocolMismatch
            )

    @pytest.mark.parametrize(
        "change",
        [
            {"origin": 7}, {"host": None}, {"digest": []}, {"schema": "new"}, {"schema": None}, {"schema": 1e999},
            {"time_s": "now"}, {"time_s": None}, {"time_s": 10**400}, {"time_s": math.nan}, {"time_s": math.inf},
            {"vector": []}, {"vector": "x"}, {"vector": {"x": [1, HASH]}}, {"vector": {new_origin(): 7}},
            {"notices": 7}, {"notices": [7]}, {"notices": {"a": 1, "b": []}.keys().__len__()},
        ],
    )  # fmt: skip
    def test_that_make_no_sense(self, thread: Thread, far: Thread, change: JSON) -> None:
        met(thread, answering(hello_of(far, **change)), error=InvalidRecord)

    def test_something_else_instead(self, thread: Thread) -> None:
        met(thread, answering({"t": "rows"}), "'rows' where 'hello' was to come", Refused)

    def test_errors_that_make_no_sense(self, thread: Thread) -> None:
        told: Any
        for told in (
            None, 7, [], "x", {}, {"code": 7, "message": 8}, {"code": "KeyboardInterrupt", "message": "x" * 10**6},
            {"code": "NotFound", "message": "none", "hint": ["a"], "transient": "yes"}, {"hint": {"a": 1}},
            {"code": "LwfmError", "message": None, "hint": 7},
        ):  # fmt: skip
            error = met(thread, answering({"t": "error", "error": told}), "the other side")
            assert error.message.startswith("the other side: ")

    def test_a_huge_head(self, thread: Thread) -> None:
        def announce(line: Line) -> None:
            line.receive()
            line._write((MAX_HEAD_BYTES + 1).to_bytes(4, "big") + (0).to_bytes(4, "big") + b"x" * 1000)

        def announce_body(line: Line) -> None:
            line.receive()
            line._write((20).to_bytes(4, "big") + (MAX_BODY_BYTES + 1).to_bytes(4, "big") + b"x" * 1000)

        for script in (announce, announce_body):
            met(thread, script, "too large", Refused)

    def test_it_goes_at_any_time(self, thread: Thread, far: Thread) -> None:
        met(thread, lambda line: None, "ended|broke", Cut)
        met(thread, answering(hello_of(far)), "ended|broke", Cut)
        met(thread, answering(hello_of(far), {"t": "end"}), "less than it said", Refused)
        met(thread, answering(hello_of(far), {"t": "rows"}), "something else than records", Refused)
        for head in (
            {"origin": 7},
            {"origin": "x", "after": "0", "count": 1},
            {"origin": "x", "after": 0, "count": True},
        ):
            met(thread, answering(hello_of(far), {"t": "rows", **head}), "something else than records", Refused)

    def test_it_does_not_say_that_it_took_what_it_was_given(self, thread: Thread, far: Thread) -> None:
        thread.submit("true")
        vector = {thread.store.origin: [1, read(thread, 1)]}
        met(thread, answering(hello_of(far, vector=vector), {"t": "end"}), "was to come", Refused)


def read(thread: Thread, seq: int) -> str:
    batch = read_batch(thread.connection, thread.store.origin, seq - 1, seq)
    assert batch is not None
    return batch.head


# ---------------------------------------------------------------------------------------------- a near side that lies


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        running.worker()
        running.put({"T": 1})
        yield running


def log_in(agent: Agent) -> bytes:
    client = agent.client
    origin = client.get("/v1/sync")["origin"]
    return client.get_bytes("/v1/sync/records", {"origin": origin}).body


@pytest.fixture
def unchanged(agent: Agent) -> Iterator[None]:
    """Whatever happens, the agent's store is as it was, and sound."""
    before = agent.client.get("/v1/sync")["vector"], log_in(agent)
    told = agent.home.agent_log.stat().st_size
    yield
    assert (agent.client.get("/v1/sync")["vector"], log_in(agent)) == before
    agent.verify()
    assert b"Traceback" not in agent.home.agent_log.read_bytes()[told:]


@contextmanager
def served(client: Client) -> Iterator[Line]:
    """Our end of a line at whose other end the agent is served."""
    with speaking(serving(client)) as line:
        yield line


def serving(client: Client) -> Script:
    return lambda line: Server(line, AgentReplica(client)).run()


def drain(line: Line) -> None:
    """Receive records until something is wrong."""
    while True:
        line.receive("rows")


def greeted(line: Line) -> JSON:
    line.send({"t": "hello", "protocols": [1], "digest": None})
    return line.receive("hello").head


@pytest.mark.usefixtures("unchanged")
class TestServer:
    @pytest.mark.parametrize("first", ["hashes", "pull", "rows", "settle", "contents", "end", "", "hello"])
    def test_who_does_not_say_hello_is_told_so(self, agent: Agent, first: str) -> None:
        with served(agent.client) as line:
            line.send({"t": first})
            with pytest.raises(InvalidRecord, match="the other side: a hello"):
                line.receive()
            with pytest.raises(Cut):
                line.receive()

    @pytest.mark.parametrize("protocols", [[], [PROTOCOL + 1, PROTOCOL + 2], [0], [-1], [10**30]])
    def test_who_speaks_another_version_is_told_so(self, agent: Agent, protocols: list[int]) -> None:
        with served(agent.client) as line:
            line.send({"t": "hello", "protocols": protocols})
            with pytest.raises(ProtocolMismatch):
                line.receive()

    @pytest.mark.parametrize("protocols", [None, 1, "1", [None], ["1"], [[1]], {}])
    def test_versions_that_are_none(self, agent: Agent, protocols: Any) -> None:
        with served(agent.client) as line:
            line.send({"t": "hello", "protocols": protocols})
            with pytest.raises(InvalidRecord):
                line.receive()

    def test_one_that_speaks_future_versions_too(self, agent: Agent) -> None:
        with served(agent.client) as line:
            line.send({"t": "hello", "protocols": [3, 2, 1], "digest": {"not": "text"}, "newer": [1]})
            assert line.receive("hello").head["protocol"] == PROTOCOL

    def test_hello_as_often_as_one_likes(self, agent: Agent) -> None:
        with served(agent.client) as line:
            told = [greeted(line)["digest"] for _ in range(3)]
            assert len(set(told)) == 1
            line.send({"t": "hello", "protocols": [1], "digest": told[0]})
            assert "vector" not in line.receive("hello").head

    @pytest.mark.parametrize(
        "wants",
        [
            None, 7, "x", {}, [7], [[]], [["x"]], [["x", 0]], [["x", 0, 5]], [[None, 0, 5]], [["0" * 32, "0", 5]],
            [["0" * 32, -1, 5]], [["0" * 32, 0, 10**15]], [["0" * 32, 0, 2**53]], [["0" * 32, 0, 1.5]],
            [["0" * 32, 0, True]], [["0" * 32, 0, 5]], [["0" * 32, 0, 1]] * 100_001, [["\ud800" * 32, 0, 1]],
            [["0" * 32 + "&after=7", 0, 1]], [["MINE", 0, 10**15]], [["MINE", 10**12, 10**15]],
        ],
    )  # fmt: skip
    def test_records_that_are_not_there(self, agent: Agent, wants: Any) -> None:
        with served(agent.client) as line:
            mine = greeted(line)["origin"]
            if isinstance(wants, list) and wants and isinstance(wants[0], list) and wants[0][:1] == ["MINE"]:
                wants = [[mine, *wants[0][1:]]]
            line.send({"t": "pull", "wants": wants})
            with pytest.raises(LwfmError, match="the other side: ") as raised:
                drain(line)
            sentence(raised.value)
            assert not isinstance(raised.value, Cut)

    def test_wants_that_are_empty(self, agent: Agent) -> None:
        with served(agent.client) as line:
            mine = greeted(line)["origin"]
            line.send({"t": "pull", "wants": [[mine, 5, 5], [mine, 5, 1], [new_origin(), 10**15, 7]]})
            line.receive("end")

    @pytest.mark.parametrize(
        "asked",
        [None, 7, [], {"x": 7}, {"x": ["1"]}, {"x": [1]}, {"0" * 32: [-1]}, {"0" * 32: [2**53]}, {"0" * 32: [None]},
         {"0" * 32: list(range(100_001))}],
    )  # fmt: skip
    def test_questions_for_hashes_that_make_no_sense(self, agent: Agent, asked: Any) -> None:
        with served(agent.client) as line:
            greeted(line)
            line.send({"t": "hashes", "asked": asked})
            with pytest.raises(InvalidRecord, match="the other side: "):
                line.receive()

    def test_hashes_of_what_is_not_there(self, agent: Agent) -> None:
        with served(agent.client) as line:
            mine = greeted(line)["origin"]
            line.send({"t": "hashes", "asked": {"0" * 32: [1, 10**15], mine: [0, 10**9]}})
            assert line.receive("hashes").head["found"] == {"0" * 32: [None, None], mine: [GENESIS, None]}

    @pytest.mark.parametrize(
        ("origin", "at", "theirs"),
        [
            (None, 1, HASH), ("x", 1, HASH), ("MINE", None, HASH), ("MINE", -1, HASH), ("MINE", "1", HASH),
            ("MINE", 1.0, HASH), ("MINE", True, HASH), ("MINE", 1, None), ("MINE", 1, 7), ("MINE", 1, ""), ("MINE", 1, "x"),
            ("MINE", 1, HASH[:-1]), ("MINE", 1, "SAME"), ("MINE", 10**9, HASH), ("0" * 32, 0, HASH), ("0" * 32, 5, "0" * 64),
        ],
    )  # fmt: skip
    def test_forks_that_are_not(self, agent: Agent, origin: Any, at: Any, theirs: Any) -> None:
        client = agent.client
        mine = client.get("/v1/sync")["origin"]
        if theirs == "SAME":
            theirs = client.post("/v1/sync/hashes", {"asked": {mine: [2]}})["found"][mine][0]
        with served(client) as line:
            greeted(line)
            line.send({"t": "settle", "origin": mine if origin == "MINE" else origin, "at": at, "hash": theirs})
            with pytest.raises((InvalidRecord, Conflict), match="the other side: "):
                line.receive()

    @pytest.mark.parametrize(
        "head",
        [{}, {"origin": 7, "after": 0, "count": 1}, {"origin": "0" * 32, "after": None, "count": 1},
         {"origin": "0" * 32, "after": 0, "count": 1}],
    )  # fmt: skip
    @pytest.mark.parametrize("body", [b"", b"[]", b"\xff\xff", b"{}", b"[" * 100_000])
    def test_records_that_are_none(self, agent: Agent, head: JSON, body: bytes) -> None:
        with served(agent.client) as line:
            greeted(line)
            line.send({"t": "rows", **head}, body)
            with pytest.raises(LwfmError, match="the other side: ") as raised:
                line.receive()
            sentence(raised.value)

    def test_garbage(self, agent: Agent) -> None:
        for data in (
            b"\0" * 8,
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 100,
            b"\0\0\0\x02\0\0\0\0[]",
            b"\0\0\0\x02\0\0\0\0{}",
        ):
            with served(agent.client) as line:
                line._write(data)
                with pytest.raises(LwfmError, match="the other side: "):
                    line.receive()


@pytest.mark.usefixtures("unchanged")
class TestCalls:
    """The agent itself, asked by somebody who is not the command."""

    @pytest.mark.parametrize(
        ("method", "target", "body"),
        [
            *(("POST", "/v1/sync/records", body) for body in (None, b"", b"{}", b"null", b"\xff", b"[" * 10**5, b"1" * 10**4)),
            *(("POST", "/v1/sync/hashes", body) for body in (
                None, b"{}", b"[]", b'{"asked":7}', b'{"asked":{"x":[1]}}', b'{"asked":{"x":7}}', b'{"asked":NaN}',
                b'{"asked":{"' + b"0" * 32 + b'":[[]]}}', b'{"asked":{"' + b"0" * 32 + b'":[1.5]}}',
            )),
            *(("POST", "/v1/sync/fork", body) for body in (
                None, b"{}", b'{"origin":7,"at":1,"hash":"x"}', b'{"origin":"' + b"0" * 32 + b'","at":1,"hash":7}',
                b'{"origin":"' + b"0" * 32 + b'","at":1e3,"hash":"x"}', b'{"origin":"' + b"0" * 32 + b'","at":1,"hash":""}',
            )),
            *(("GET", f"/v1/sync/records{query}", None) for query in (
                "", "?origin=x", "?origin=" + "0" * 33, "?origin=" + "0" * 32 + "&after=-1",
                "?origin=" + "0" * 32 + "&after=x", "?origin=" + "0" * 32 + "&upto=1e99", "?origin=%ff",
            )),
            *(("POST", "/v1/peers", body) for body in (
                b"{}", b'{"name":7}', b'{"name":"a b"}', b'{"name":"x"}', b'{"name":"x","address":7}',
                b'{"name":"x","address":{"host":7}}', b'{"name":"x","address":{"host":"h"},"every_s":1}',
                b'{"name":"x","address":{"host":"h"},"every_s":"often"}', b'{"name":"x","address":{"host":"h"},"every_s":NaN}',
                b'{"name":"x","address":{"host":"h"},"every_s":true}',
            )),
            ("DELETE", "/v1/peers/none", None),
            ("POST", "/v1/peers/none/outcome", b"{}"),
            ("POST", "/v1/peers/none/outcome", b"[]"),
        ],
    )  # fmt: skip
    def test_nonsense_is_refused(self, agent: Agent, method: str, target: str, body: Optional[bytes]) -> None:
        status, answer = agent.raw(method, target, body)
        told = json.loads(answer)
        assert 400 <= status < 500, told
        assert len(told["error"]["message"]) <= 2000
        assert agent.client.get("/v1/peers")["peers"] == []

    def test_records_that_cannot_be(self, agent: Agent) -> None:
        mine = agent.client.get("/v1/sync")["origin"]
        job = {"state": "WEIRD", "site": [], "definition": {"command": "x"}}
        for packet, code in (
            (packet_with(row("job", job)), 400),
            (packet_with(row("log", {"message": "x"}), origin=mine), 409),
            (packet_with(row("log", {"message": "x"}), after=5, prev=HASH), 409),
            (packet_with(row("log", {"message": "x"}), origin=mine, after=10**6, prev=HASH), 409),
        ):
            status, answer = agent.raw("POST", "/v1/sync/records", packet.data)
            assert status == code, answer
            told = json.loads(answer)["error"]
            assert "internal error" not in told["message"]
