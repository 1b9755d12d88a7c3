"""Stores that sync without agents: the exchange over a stream that can be cut at any byte."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from lwfm.store import exchange as records
from lwfm.store import forks, fragments, log, sharing, stubs
from lwfm.store.batch import decode, digest, encode
from lwfm.sync.exchange import Outcome, exchange
from lwfm.sync.frames import Line
from lwfm.sync.remote import RemoteReplica
from lwfm.sync.replica import Gaps, Hello, Packet, Taken, Want
from lwfm.sync.serve import Server

from support.threads import HOST, Thread


class StoreReplica:
    """A thread's store as one side of a sync."""

    def __init__(self, thread: Thread):
        self.thread = thread

    def hello(self, known_digest: Optional[str]) -> Hello:
        store = self.thread.store
        store.mark()
        known = log.heads(store.connection)
        notices = (store.notice,) if store.notice else ()
        store_id = store.setting("store_id") or ""
        home = str(self.thread.directory)
        told = Hello(store.origin, store_id, HOST, "ada", home, "0", 7, time.time(), digest(known), known, notices)
        pruned, absent = stubs.counts(store.connection)
        return replace(told, pruned=pruned, absent=absent)

    def hashes(self, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
        return records.hashes(self.thread.connection, asked)

    def give(self, wants: Sequence[Want]) -> Iterator[Packet]:
        for origin, after, upto in wants:
            while after < upto:
                batch = records.read_batch(self.thread.connection, origin, after, upto)
                assert batch is not None
                yield Packet(origin, after, len(batch.rows), encode(batch))
                after = batch.last

    def take(self, packets: Iterable[Packet], taken: Taken) -> None:
        for packet in packets:
            self.thread.unit(lambda recorder, batch, hashed: recorder.receive(batch, hashed), *decode(packet.data))
            taken(packet)

    def settle_fork(self, origin: str, at: int, their_hash: str) -> Optional[str]:
        with self.thread.store.transaction() as transaction:
            branch = forks.settle(transaction, origin, at, their_hash)
        self.thread.rules.reset()
        return branch.notice if branch else None

    def gaps(self) -> Gaps:
        return Gaps(*stubs.places(self.thread.connection))

    def give_again(self, origin: str, seqs: Sequence[int]) -> bytes:
        return fragments.encode(origin, fragments.read(self.thread.connection, origin, seqs))

    def take_again(self, data: bytes) -> int:
        return int(self.thread.unit(lambda recorder, *given: recorder.receive_again(*given), *fragments.decode(data)))

    def note(self, other: Hello) -> None:
        vector = other.vector if other.vector is not None else log.heads(self.thread.connection)
        with self.thread.store.transaction() as transaction:
            sharing.note(transaction, other.origin, other.host, vector)


class SocketStream:
    """A stream on a socket that breaks after so many bytes, in both directions together."""

    def __init__(self, end: socket.socket, breaks_after: Optional[int] = None):
        self._socket = end
        self.left = breaks_after
        self.passed = 0

    def read(self, most: int) -> bytes:
        if self.left is not None:
            most = min(most, self.left)
        data = self._socket.recv(most) if most else b""
        self._count(len(data))
        if self.left == 0:
            self.close()
            raise ConnectionResetError("cut by the test")
        return data

    def write(self, data: bytes) -> None:
        if self.left is not None and len(data) > self.left:
            data, cut = data[: self.left], True
        else:
            cut = False
        self._socket.sendall(data)
        self._count(len(data))
        if cut:
            self.close()
            raise ConnectionResetError("cut by the test")

    def close(self) -> None:
        self._socket.close()

    def complaint(self) -> str:
        return ""

    def _count(self, count: int) -> None:
        self.passed += count
        if self.left is not None:
            self.left -= count


def sync(
    near: Any, far: Any, *, pull: bool = True, push: bool = True, cut_after: Optional[int] = None
) -> tuple[Outcome, int]:
    """One sync between two replicas over a line; what came of it, and how many bytes passed.

    Raises:
        Cut: with ``cut_after``, which breaks the line after so many bytes.
    """
    ours, theirs = socket.socketpair()
    stream = SocketStream(ours, cut_after)
    server = threading.Thread(target=_serve, args=(theirs, far))
    server.start()
    try:
        outcome = exchange(near, RemoteReplica(Line(stream)), pull=pull, push=push)
    finally:
        stream.close()
        server.join(30)
        assert not server.is_alive()
    return outcome, stream.passed


def _serve(end: socket.socket, replica: Any) -> None:
    try:
        Server(Line(SocketStream(end)), replica).run()
    finally:
        end.close()


def write_something(thread: Thread, draw: random.Random) -> None:
    """One to three things that users and jobs do."""
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["submit", "submit", "run", "run", "put", "log", "workflow", "on_jobs", "on_data", "status"])
        own = thread.store.origin
        jobs = [row[0] for row in thread.connection.execute("select id from jobs where origin = ?", (own,))]
        active = [
            row[0]
            for row in thread.connection.execute("select id from jobs where origin = ? and state = 'PENDING'", (own,))
        ]
        every = [row[0] for row in thread.connection.execute("select id from jobs")]
        flows = [row[0] for row in thread.connection.execute("select id from workflows")]
        workflow = draw.choice(flows) if flows and draw.random() < 0.7 else None
        if kind == "workflow":
            thread.workflow(
                f"study{draw.randint(1, 9)}", **({"workflow_id": workflow} if workflow and draw.random() < 0.5 else {})
            )
        elif kind == "run" and active:
            thread.run(draw.choice(active), draw.choice([0, 0, 1]))
        elif kind == "status" and active:
            thread.status(draw.choice(active), "RUNNING", reason="seen")
        elif kind == "put":
            job = draw.choice(jobs) if jobs and draw.random() < 0.5 else None
            thread.put(
                op="put", properties={"T": draw.randint(1, 3), "kind": "thermo"}, job_id=job, workflow_id=workflow
            )
        elif kind == "on_jobs" and every:
            thread.on_jobs(draw.sample(every, min(len(every), draw.randint(1, 2))), mode="any")
        elif kind == "on_data":
            thread.on_data({"T": draw.randint(1, 3)}, repeat=draw.choice([1, True]))
        elif kind == "log":
            thread.unit(thread.service.log, [{"message": f"line {draw.random()}", "level": "INFO"}])
        else:
            thread.submit(
                ["prog", str(draw.randint(1, 99))], workflow, meta={"T": draw.random()}, retries=draw.randint(0, 1)
            )
