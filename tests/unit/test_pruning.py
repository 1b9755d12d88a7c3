"""Pruning the history: what is pruned and what never is; that it stays pruned here and is not lost elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.errors import Conflict, InvalidRecord, NotFound, ProtocolMismatch
from lwfm.models import JobDefn
from lwfm.store import lineage, maintenance, pruning, queries, sharing
from lwfm.store.batch import Batch, Stub, decode, encode
from lwfm.sync.exchange import _without, greet
from lwfm.sync.frames import PROTOCOL
from lwfm.sync.replica import Gaps, Hello

from support.pruned import LATER, chains, choose, prune, stubs, whole
from support.replicas import StoreReplica, sync
from support.threads import Thread, tables, thread

__all__ = ["thread"]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Thread]]:
    """Three instances."""
    threads = []
    for name in "abc":
        (tmp_path / name).mkdir()
        threads.append(Thread(tmp_path / name))
    yield threads
    for made in threads:
        assert made.verify() == []
        made.close()


def ended(thread: Thread, command: str = "true", **more: object) -> str:
    job = thread.submit(command, **more)  # type: ignore[arg-type]
    thread.run(job)
    thread.unit(thread.service.log, [{"message": f"of {job}", "job_id": job}])
    return job


def told(thread: Thread) -> None:
    """Something that comes last: the end of a log is never pruned."""
    thread.unit(thread.service.log, [{"message": "the end"}])


def meet(near: Thread, far: Thread, *, again: int = 1, **ways: bool) -> tuple[int, int]:
    received = sent = 0
    for _ in range(again):
        outcome, _ = sync(StoreReplica(near), StoreReplica(far), **ways)
        received, sent = received + outcome.received, sent + outcome.sent
    return received, sent


class TestWhatIsPruned:
    def test_a_job_goes_with_all_that_is_told_of_it(self, thread: Thread) -> None:
        workflow = thread.workflow("study", meta={"who": "ada"})
        job = ended(thread, "prog", workflow=workflow, meta={"T": 1.5})
        sheet = thread.put(op="put", path="/x/out.dat", url="file://node1/x/out.dat", properties={"a": 1}, job_id=job)
        told(thread)
        before = chains(thread)
        assert prune(thread) == len(["the job", "its workflow", "a line"])
        for table, column in (("jobs", "id"), ("statuses", "job_id"), ("logs", "job_id"), ("properties", "owner")):
            found = thread.connection.execute(f"select count(*) from {table} where {column} = ?", (job,)).fetchone()
            assert found == (0,), table
        assert thread.connection.execute("select count(*) from search where id = ?", (job,)).fetchone() == (0,)
        assert queries.job_counts(thread.connection) == {}
        assert queries.data(thread.connection, sheet)["job_id"] == job
        assert chains(thread)[: len(before)] == before
        assert "prog" not in str(thread.connection.execute("select body from log where prev = ''").fetchall())
        assert thread.verify() == []

    def test_a_store_that_was_pruned_can_be_rebuilt(self, thread: Thread) -> None:
        ended(thread)
        thread.submit("true")
        told(thread)
        prune(thread)
        before = tables(thread.connection)
        maintenance.rebuild(thread.store)
        assert tables(thread.connection) == before
        thread.crash()
        assert (thread.verify(), tables(thread.connection)) == ([], before)

    def test_handlers_and_workflows_go_when_nothing_is_left_of_their_jobs(self, thread: Thread) -> None:
        workflow = thread.workflow("study")
        first = thread.submit("true", workflow)
        handler = thread.on_jobs([first], workflow=workflow)
        thread.run(first)
        (second,) = thread.handler(handler["handler_id"])["job_ids"]
        told(thread)
        assert prune(thread) == 0  # the second job has not ended
        thread.run(second)
        told(thread)
        assert prune(thread, "handlers", "workflows") == 0
        assert prune(thread, "jobs") == 2
        assert prune(thread, "workflows") == 0
        assert prune(thread, "handlers") == 1
        assert prune(thread, "workflows") == 1
        assert thread.connection.execute("select count(*) from firings").fetchone() == (0,)
        assert [row[0] for row in thread.connection.execute("select what from prunings order by id")] == [
            "jobs", "handlers", "workflows",
        ]  # fmt: skip

    def test_age(self, thread: Thread) -> None:
        old = ended(thread)
        (boundary,) = thread.connection.execute("select status_at from jobs where id = ?", (old,)).fetchone()
        told(thread)
        assert not choose(thread, "jobs", boundary).places
        assert list(choose(thread, "jobs", boundary + "Z").places) == [old]

    def test_log_lines_by_themselves(self, thread: Thread) -> None:
        running = thread.submit("true")
        thread.unit(thread.service.log, [{"message": "keep", "job_id": running}, {"message": "drop"}])
        told(thread)
        assert prune(thread, "logs") == 1
        assert sorted(row[0] for row in thread.connection.execute("select message from logs")) == ["keep", "the end"]
        assert queries.search(thread.connection, "drop") == []

    def test_nothing_is_pruned_twice(self, thread: Thread) -> None:
        ended(thread)
        told(thread)
        assert prune(thread) > 0
        assert prune(thread) == 0

    def test_many_in_several_steps(self, thread: Thread) -> None:
        for _ in range(20):
            ended(thread)
        told(thread)
        assert prune(thread, "jobs", limit=6) == 20


class TestWhatNeverIs:
    def test_what_is_open(self, thread: Thread) -> None:
        waiting = thread.submit("true")
        parent = thread.submit("true")
        thread.run(parent)
        thread.unit(thread.service.submit, {"parent": parent}, [JobDefn("true")])
        watched = thread.submit("true")
        other = thread.submit("true")
        thread.on_jobs([watched, other], mode="all")
        thread.run(watched)
        flow = thread.workflow()
        in_flow = thread.submit("true", flow)
        thread.run(in_flow)
        thread.on_data({"kind": "x"}, workflow=flow)
        told(thread)
        assert prune(thread) == 0
        states = dict(thread.connection.execute("select id, state from jobs"))
        assert {waiting, parent, watched, other, in_flow} <= states.keys()

    def test_the_last_record_of_a_log(self, thread: Thread) -> None:
        job = thread.submit("true")
        thread.run(job)
        assert prune(thread) == 0

    def test_what_a_peer_does_not_have(self, three: list[Thread]) -> None:
        near, far, _ = three
        meet(near, far)
        ended(near)
        told(near)
        meet(near, far, push=False)  # the far side has heard of nothing
        assert (choose(near, "jobs").places, choose(near, "jobs").unsynced) == ({}, 1)
        meet(far, near, push=False)  # it comes, and tells how far it knows the logs then
        assert len(choose(near, "jobs").places) == 1
        assert prune(near, "jobs") == 1

    def test_what_a_peer_does_not_have_that_was_never_synced_with(self, thread: Thread) -> None:
        ended(thread)
        told(thread)
        thread.connection.execute("insert into local_peers values ('far', json_object('name', 'far'))")
        assert (choose(thread, "jobs").places, choose(thread, "jobs").unsynced) == ({}, 1)
        without = sharing.knowers(thread.connection, ["far"])
        assert len(pruning.choose(thread.connection, "jobs", LATER, without).places) == 1

    def test_what_has_come_since_it_was_chosen(self, thread: Thread) -> None:
        first, second = ended(thread), ended(thread)
        told(thread)
        chosen = choose(thread, "jobs")
        thread.unit(thread.service.log, [{"message": "more", "job_id": first}])
        told(thread)
        with thread.store.transaction() as transaction:
            assert pruning.prune(transaction, chosen, [first, second]) == 1
        assert thread.job(first)["state"] == "COMPLETE"

    def test_records_that_have_moved(self, thread: Thread) -> None:
        ended(thread)
        told(thread)
        chosen = choose(thread, "jobs")
        (places,) = chosen.places.values()
        places[0] = places[0]._replace(uid="another")
        with pytest.raises(Conflict), thread.store.transaction() as transaction:
            pruning.prune(transaction, chosen, list(chosen.places))
        assert thread.verify() == []


class TestVerifying:
    def test_a_stub_that_no_record_tells_of(self, thread: Thread) -> None:
        ended(thread)
        told(thread)
        prune(thread)
        with thread.store.transaction() as transaction:
            transaction.execute(
                "update log set prev = '', hlc = '', wall_utc = '', body = '{\"pruned\":\"here\"}' where seq = 2"
            )
        assert any("record 2 counts as pruned, but no record says so" in problem for problem in thread.verify())
        with thread.store.transaction() as transaction:
            transaction.execute("delete from log where seq >= 2")
            transaction.execute("delete from log")
        thread.connection.execute("delete from origins")
        for table in ("jobs", "statuses", "logs", "contexts", "prunings", "pruned", "job_counts"):
            thread.connection.execute(f"delete from {table}")

    def test_several_records_may_tell_of_one_stub(self, thread: Thread) -> None:
        ended(thread)
        ended(thread)
        told(thread)
        prune(thread, "jobs")
        ((seq,),) = thread.connection.execute("select max(seq) from log where prev = ''").fetchall()
        with thread.store.transaction() as transaction:
            transaction.append("prune", {"what": "jobs", "places": {thread.store.origin: [[seq - 1, seq - 1]]}})
        assert thread.verify() == []

    def test_a_changed_stub(self, thread: Thread) -> None:
        ended(thread)
        told(thread)
        prune(thread)
        (seq, digest) = thread.connection.execute("select seq, hash from log where prev = '' limit 1").fetchone()
        thread.connection.execute("update log set hash = ? where seq = ?", ("0" * 64, seq))
        assert any("had other hashes" in problem for problem in thread.verify())
        thread.connection.execute("update log set hash = ? where seq = ?", (digest, seq))


class TestAnswers:
    def test_pruned_is_said(self, thread: Thread) -> None:
        job = ended(thread)
        told(thread)
        prune(thread)
        for given in (job, job[:30]):
            with pytest.raises(NotFound, match="was pruned"):
                queries.resolve(thread.connection, "job", given)
        with pytest.raises(NotFound, match="was pruned"):
            queries.job(thread.connection, job)

    def test_lineage_goes_on_through_a_pruned_job(self, thread: Thread) -> None:
        digest_in, digest_out = "a" * 64, "b" * 64
        maker = ended(thread)
        place = {"path": "/in", "url": "file://node1/in", "sha256": digest_in, "size_bytes": 3}
        thread.put(op="put", job_id=maker, **place)
        job = ended(thread)
        thread.put(op="get", job_id=job, **place)
        thread.put(op="put", job_id=job, path="/out", url="file://node1/out", sha256=digest_out, size_bytes=4)
        told(thread)
        prune(thread)
        graph = lineage.trace(thread.connection, "/out", "up")
        labels = {node["id"]: node for node in graph["nodes"]}
        assert {job, maker} <= labels.keys()
        assert labels[job]["pruned"] == "here"
        assert "pruned" in labels[job]["label"]
        assert {edge["relation"] for edge in graph["edges"]} == {"wrote", "read"}
        assert lineage.trace(thread.connection, maker)["nodes"]


class TestSync:
    def test_it_does_not_come_back_and_is_not_lost(self, three: list[Thread]) -> None:
        near, far, _ = three
        job = ended(near)
        told(near)
        meet(near, far)
        prune(near)
        assert meet(near, far)[0] == 0
        assert meet(far, near)[1] == 0
        assert far.job(job)["state"] == "COMPLETE"
        assert stubs(near, "here")
        assert (stubs(far, "here"), stubs(far, "elsewhere")) == (set(), set())
        assert [row[0] for row in far.connection.execute("select what from prunings")] == ["jobs", "logs"]
        assert chains(near) == chains(far)

    def test_a_third_party_gets_it_from_whoever_has_it(self, three: list[Thread]) -> None:
        near, far, third = three
        job = ended(near)
        told(near)
        meet(near, far)
        prune(near)
        meet(near, far)
        assert meet(near, third, pull=False)[1] > 0
        assert stubs(third, "elsewhere") == stubs(near, "here")
        with pytest.raises(NotFound, match="was pruned by another instance"):
            queries.job(third.connection, job)
        assert third.verify() == []
        assert meet(third, far, push=False) == (len(stubs(near, "here")), 0)
        assert not stubs(third, "elsewhere")
        assert third.job(job)["state"] == "COMPLETE"
        assert whole(third).items() >= whole(far).items()
        assert meet(third, near)[0] == 0
        assert stubs(near, "here")

    def test_the_far_side_gets_it_too(self, three: list[Thread]) -> None:
        near, far, third = three
        ended(near)
        told(near)
        meet(near, far)
        prune(near)
        meet(near, third)
        assert meet(far, third, pull=False)[1] >= len(stubs(near, "here"))
        assert whole(third).keys() >= whole(far).keys()

    def test_a_stub_with_a_wrong_hash_is_not_filled_and_stops_nothing(self, three: list[Thread]) -> None:
        near, far, third = three
        ended(near)
        told(near)
        meet(near, far)
        prune(near)
        meet(near, third)
        (origin, seq) = min(stubs(third, "elsewhere"))
        wrong = "update log set hash = ? where origin = ? and seq = ?"
        (right,) = third.connection.execute(
            "select hash from log where origin = ? and seq = ?", (origin, seq)
        ).fetchone()
        third.connection.execute(wrong, ("f" * 64, origin, seq))
        meet(third, far)
        assert stubs(third, "elsewhere") == {(origin, seq)}
        third.connection.execute(wrong, (right, origin, seq))
        meet(third, far)
        assert not stubs(third, "elsewhere")

    def test_a_relay_that_has_pruned(self, three: list[Thread]) -> None:
        near, relay, third = three
        job = ended(near)
        told(near)
        meet(near, relay)
        prune(relay)
        meet(relay, third)
        told(near)
        meet(near, relay)
        meet(relay, third)
        assert [chains(thread) for thread in (relay, third)] == [chains(near)] * 2
        assert near.job(job)["state"] == "COMPLETE"
        assert third.verify() == []

    def test_a_peer_that_is_behind_a_pruned_place(self, three: list[Thread]) -> None:
        near, far, _ = three
        for _ in range(3):
            ended(near)
        meet(near, far)
        middle = len(chains(far))
        for _ in range(3):
            ended(near)
        told(near)
        prune(near)
        meet(far, near)
        assert chains(far) == chains(near)
        assert len(whole(far)) >= middle

    def test_one_that_does_not_know_of_pruning_is_told(self, three: list[Thread]) -> None:
        near, far, _ = three
        ended(near)
        told(near)
        prune(near)

        class Earlier(StoreReplica):
            def hello(self, known_digest: object) -> Hello:
                return Hello.from_json({**super().hello(None).to_json(), "protocol": PROTOCOL - 1})

        with pytest.raises(ProtocolMismatch, match="pruned"):
            greet(StoreReplica(near), Earlier(far))

    def test_a_copy_is_noticed_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        thread = Thread(tmp_path / "one")
        ended(thread)
        told(thread)
        prune(thread)
        thread.close()
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        copy = Thread(tmp_path / "two")
        thread.open()
        assert copy.store.origin != thread.store.origin
        told(copy)
        meet(copy, thread)
        assert chains(copy) == chains(thread)
        assert (copy.verify(), thread.verify()) == ([], [])


class TestOnTheWay:
    STUB = Stub("a" * 64, "0123", "job")

    def test_a_stub_is_what_it_was(self) -> None:
        batch = Batch("0" * 32, 0, "0" * 64, "a" * 64, [self.STUB])
        assert decode(encode(batch)) == (batch, ["a" * 64])

    @pytest.mark.parametrize(
        "row",
        [
            Stub("b" * 63, "0123", "job"),
            Stub("a" * 64, "", "job"),
            Stub("a" * 64, "0123", "Job"),
            Stub("A" * 64, "0", "job"),
        ],
    )
    def test_what_is_none(self, row: Stub) -> None:
        with pytest.raises(InvalidRecord):
            decode(encode(Batch("0" * 32, 0, "0" * 64, row.hash, [row])))

    def test_the_last_hash_must_be_that_of_the_batch(self) -> None:
        with pytest.raises(InvalidRecord, match="were changed on the way"):
            decode(encode(Batch("0" * 32, 0, "0" * 64, "b" * 64, [self.STUB])))

    @pytest.mark.parametrize(
        "ranges",
        [7, [7], [[1]], [[0, 1]], [[2, 1]], [[1, 2], [2, 3]], [[1, 2**60]], [["1", 2]], [[3, 4], [1, 2]]],
    )
    def test_gaps_that_make_no_sense(self, ranges: object) -> None:
        with pytest.raises(InvalidRecord):
            Gaps.from_json({"absent": {}, "every": {"0" * 32: ranges}})

    def test_what_one_lacks_and_the_other_has(self) -> None:
        assert list(_without([(1, 5), (9, 9), (20, 2**50)], [(2, 3), (5, 10), (22, 2**51)])) == [1, 4, 20, 21]
        assert list(_without([(3, 4)], [])) == [3, 4]
