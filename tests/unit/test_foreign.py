"""Records of other instances: shown as such, found by where they come from, and never acted upon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lwfm.errors import AmbiguousId, Conflict, NotFound
from lwfm.instance import _still_needed
from lwfm.models import JobDefn
from lwfm.polled.handover import record_trouble, resume
from lwfm.polled.observing import record_observations
from lwfm.recording.execution import record_ended, record_started
from lwfm.recording.handlers import active_count
from lwfm.recording.recovery import claim, reconcile, unplaced
from lwfm.recording.watch import Watch
from lwfm.sites.base import Observation
from lwfm.states import JobState
from lwfm.store import lineage, origins, queries, selection

from support.foreign import Elsewhere
from support.threads import HOST, Thread, folded, tables, thread

__all__ = ["thread"]


def bring(thread: Thread, *instances: Elsewhere) -> None:
    """Bring all that is new, with what follows from it."""
    for instance in instances:
        thread.unit(instance.deliver)


def known(thread: Thread) -> dict[str, str]:
    return origins.names(thread.connection)


class TestNames:
    def test_the_host_without_its_domain(self, thread: Thread) -> None:
        there, here = Elsewhere("login1.cluster.example.org"), thread.store.origin
        bring(thread, there)
        assert known(thread) == {here: HOST, there.origin: "login1"}

    def test_several_of_one_short_name(self, thread: Thread) -> None:
        east, west, address = Elsewhere("n1.east"), Elsewhere("n1.west"), Elsewhere("10.0.0.7")
        bring(thread, east, west, address)
        assert [known(thread)[one.origin] for one in (east, west, address)] == ["n1.east", "n1.west", "10.0.0.7"]

    def test_several_on_one_host(self, thread: Thread) -> None:
        ada, bob = Elsewhere("c", "ada"), Elsewhere("c", "bob")
        again = [Elsewhere("d", "ada", origin=digit * 32) for digit in "ab"]
        bring(thread, ada, bob, *again)
        called = known(thread)
        assert [called[one.origin] for one in (ada, bob, *again)] == [
            "ada@c",
            "bob@c",
            "ada@d:aaaaaaaa",
            "ada@d:bbbbbbbb",
        ]

    def test_on_the_host_of_this_one(self, thread: Thread) -> None:
        other = Elsewhere(HOST, "bob")
        bring(thread, other)
        assert set(known(thread).values()) == {f"ada@{HOST}", f"bob@{HOST}"}

    def test_of_which_nothing_is_told(self, thread: Thread) -> None:
        there = Elsewhere()
        there.records[0] = there.records[0]._replace(body={})
        job = there.job()
        bring(thread, there)
        assert thread.job(job)["elsewhere"] == there.origin[:8]


class TestWhich:
    def test_by_host_name_and_id(self, thread: Thread) -> None:
        ada, bob = (
            Elsewhere("c1.example.org", "ada", origin="a" * 32),
            Elsewhere("c1.example.org", "bob", origin="ab" * 16),
        )
        other, here = Elsewhere("d1.example.org", origin="c" * 32), thread.store.origin
        bring(thread, ada, bob, other)

        def means(given: str) -> set[str]:
            return set(origins.resolve(thread.connection, given))

        assert means("here") == means(HOST) == means(here) == {here}
        assert means("c1.example.org") == means("c1") == {ada.origin, bob.origin}
        assert means("bob@c1.example.org") == {bob.origin}
        assert means("d1") == means("d1.example.org") == means("ccc") == {other.origin}
        assert means("aaa") == {ada.origin}
        with pytest.raises(AmbiguousId):
            means("a")

    def test_an_unknown_one(self, thread: Thread) -> None:
        bring(thread, Elsewhere("c1"))
        with pytest.raises(NotFound) as told:
            origins.resolve(thread.connection, "zebra")
        assert told.value.hint == "known are: here, c1"


class TestListings:
    def test_what_comes_from_elsewhere_says_so(self, thread: Thread) -> None:
        there, connection = Elsewhere("c1"), thread.connection
        flow = there.workflow("far")
        job = there.job("simulate", "RUNNING", workflow_id=flow)
        data = there.event({"k": 1}, workflow_id=flow)
        there.log("a far line", workflow_id=flow)
        handler, _ = there.on_data({"k": 2}, workflow=flow)
        bring(thread, there)
        mine = thread.submit("simulate")
        whence = {"origin": there.origin, "origin_host": "c1", "elsewhere": "c1"}
        found: list[dict[str, Any]] = [
            queries.job(connection, job),
            queries.job_details(connection, job),
            queries.workflow(connection, flow),
            queries.data(connection, data),
            queries.handler(connection, handler),
            *queries.list_workflows(connection),
            *queries.list_data(connection),
            *queries.list_handlers(connection),
            *queries.list_logs(connection),
            *queries.search(connection, "far"),
        ]
        assert len(found) == 11
        for row in found:
            assert {key: row.get(key) for key in whence} == whence, row
        own = queries.job(connection, mine)
        assert own["origin"] == thread.store.origin
        assert own["origin_host"] == HOST
        assert "elsewhere" not in own
        assert [hit.get("elsewhere") for hit in queries.search(connection, "simulate")] == [None, "c1"]

    @pytest.mark.parametrize("few", [0, 100_000])
    def test_by_origin(self, thread: Thread, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
        """The same whether all that an instance has recorded is taken, or the newest rows are looked through."""
        monkeypatch.setattr(selection, "FEW", few)
        connection, made = thread.connection, {}
        theirs = [Elsewhere("c1", "ada"), Elsewhere("c1", "bob"), Elsewhere("d1")]
        flow = thread.workflow()
        for there in theirs:
            jobs = [there.job(f"sim{n % 2}", workflow_id=flow, definition={"meta": {"n": n}}) for n in range(4)]
            there.status(jobs[0], "FAILED")
            sheets = [there.event({"n": n}) for n in range(3)]
            lines = [there.log(f"line {n}") for n in range(3)]
            handlers = [there.on_data({"n": n})[0] for n in range(2)]
            made[there.origin] = (jobs, sheets, lines, handlers)
            bring(thread, there)
        own = [thread.submit("sim1", flow, meta={"n": n}) for n in range(3)]

        def jobs_of(*ids: str, **more: Any) -> list[str]:
            return [row["job_id"] for row in queries.list_jobs(connection, origins=ids, **more)]

        c1, d1 = [there.origin for there in theirs[:2]], theirs[2].origin
        newest = sorted(made[d1][0], reverse=True)
        assert jobs_of(d1, name="sim*") == newest
        assert jobs_of(d1, limit=2, name="sim*") == newest[:2]
        assert jobs_of(*c1, name="sim*") == sorted(made[c1[0]][0] + made[c1[1]][0], reverse=True)
        assert jobs_of(d1, states=["FAILED"]) == jobs_of(d1, states=["FAILED", "RUNNING"]) == made[d1][0][:1]
        assert jobs_of(d1, match={"n": ">=2"}) == sorted(made[d1][0][2:], reverse=True)
        assert jobs_of(d1, words="sim1") == [job for job in newest if job in made[d1][0][1::2]]
        assert jobs_of(thread.store.origin, workflow=flow) == own[::-1]
        assert len(jobs_of(workflow=flow, limit=0)) == 15
        assert {row["data_id"] for row in queries.list_data(connection, origins=[d1])} == set(made[d1][1])
        assert [row["log_id"] for row in queries.list_logs(connection, origins=[d1])] == made[d1][2]
        assert {row["handler_id"] for row in queries.list_handlers(connection, origins=[d1])} == set(made[d1][3])
        assert queries.list_workflows(connection, origins=[d1]) == []
        assert len(queries.list_workflows(connection, origins=[thread.store.origin])) == 1
        assert {row["id"] for row in queries.search(connection, "line", origins=[d1])} == set(made[d1][2])

    def test_a_workflow_that_others_go_on_with(self, thread: Thread) -> None:
        there, flow = Elsewhere("c1"), thread.workflow("melt")
        there.workflow("melt, much longer", flow)
        bring(thread, there)
        (found,) = queries.list_workflows(thread.connection, origins=[there.origin])
        assert found["workflow_id"] == flow


class TestCounts:
    def test_those_of_others_are_not_ours(self, thread: Thread) -> None:
        there, flow = Elsewhere(), thread.workflow()
        jobs = [there.job("x", state, workflow_id=flow) for state in ("RUNNING", "COMPLETE")]
        elsewhere = origins.JobsElsewhere()
        connection = thread.connection
        mine = thread.submit("x", flow)
        assert queries.own_job_counts(connection, elsewhere) == {"PENDING": 1}
        bring(thread, there)
        assert queries.job_counts(connection, flow) == {"PENDING": 1, "RUNNING": 1, "COMPLETE": 1}
        assert queries.own_job_counts(connection, elsewhere) == {"PENDING": 1}
        assert queries.own_job_counts(connection, elsewhere, flow) == {"PENDING": 1}
        assert elsewhere.of(connection, flow) == {"RUNNING": 1, "COMPLETE": 1}
        assert elsewhere.of(connection, "none") == {}
        there.status(jobs[0], "COMPLETE")
        bring(thread, there)
        thread.status(mine, "RUNNING")
        assert elsewhere.of(connection) == {"COMPLETE": 2}
        assert queries.own_job_counts(connection, elsewhere, flow) == {"RUNNING": 1}

    def test_counted_again_only_when_something_has_come(self, thread: Thread) -> None:
        there, elsewhere = Elsewhere(), origins.JobsElsewhere()
        statements: list[str] = []
        there.job()
        bring(thread, there)
        thread.connection.set_trace_callback(statements.append)
        for _ in range(3):
            assert elsewhere.of(thread.connection) == {"PENDING": 1}
            thread.submit("mine")
        thread.connection.set_trace_callback(None)
        assert sum("group by 1, 2" in statement for statement in statements) == 1

    def test_nothing_waits_for_them(self, thread: Thread) -> None:
        """Neither the end of a workflow, nor the unsetting of its handlers."""
        there, flow = Elsewhere(), thread.workflow()
        far, outside = there.job("x", "RUNNING", workflow_id=flow), there.job("y")
        there.on_data({"k": 1}, workflow=flow)
        bring(thread, there)
        assert thread.unit(active_count, flow) == 0
        on_job = thread.on_jobs([outside], workflow=flow)
        assert thread.unit(active_count, flow) == 0
        assert queries.count_waiting_handlers(thread.connection, flow) == 1
        mine = thread.on_data({"k": 1}, workflow=flow)
        assert queries.count_waiting_handlers(thread.connection, flow) == 2
        assert thread.unit(thread.service.close_workflow, flow, "over") == {"unset": [mine["handler_id"]]}
        assert thread.handler(on_job["handler_id"])["state"] == "waiting"
        there.status(outside, "COMPLETE")
        bring(thread, there)
        assert thread.state(on_job["job_ids"][0]) == "PENDING"
        assert thread.unit(active_count, flow) == 1
        assert thread.state(far) == "RUNNING"

    def test_progress_of_a_workflow_is_that_of_this_instance(self) -> None:
        from lwfm.recording.recorder import StatusChange

        watch = Watch()
        flow, group = watch.follow("w", {"RUNNING": 1}), watch.follow_group("g", ["j"], {"RUNNING": 1})
        watch.note([StatusChange("j", "w", "local", 1, JobState.RUNNING, JobState.COMPLETE, here=False)])
        assert flow.counts == {"RUNNING": 1}
        assert flow.revision == 1
        assert group.counts["COMPLETE"] == 1


class TestNotOurs:
    """Nothing is recorded of a job of another instance, and nothing is done with it."""

    def test_verbs_refuse(self, thread: Thread) -> None:
        there = Elsewhere("c1")
        job = there.job("x", "RUNNING")
        handler, ready = there.on_jobs(job)
        ended = there.job("y", "COMPLETE")
        bring(thread, there)
        before, service = thread.records(), thread.service
        for hint, call in (
            ("cancel it there", lambda r: service.cancel(r, job, "why", placed=False)),
            ("cancel it there", lambda r: service.cancel(r, ready, "why", placed=True)),
            ("what becomes of it is recorded there", lambda r: service.emit_status(r, job, {"state": "COMPLETE"})),
            ("unset it there", lambda r: service.unset_handler(r, handler, "why")),
        ):
            with pytest.raises(Conflict, match="belongs to the instance on c1") as told:
                thread.unit(call)
            assert (told.value.hint, told.value.http_status) == (hint, 409)
        assert thread.unit(service.cancel, ended, "why", placed=True) is None
        assert thread.records() == before

    def test_handlers_that_wait_no_more_can_be_unset_again(self, thread: Thread) -> None:
        there = Elsewhere("c1")
        handler, _ = there.on_data({"k": 1})
        there.record("unset", {"handler_id": handler, "reason": "enough"})
        bring(thread, there)
        assert thread.unit(thread.service.unset_handler, handler, "why")["reason"] == "enough"

    def test_sites_and_workers_tell_nothing_of_them(self, thread: Thread) -> None:
        there = Elsewhere()
        pending, running = there.job("x", site="slurm"), there.job("y", "RUNNING", site="slurm")
        bring(thread, there)
        before = len(thread.records())
        assert thread.unit(resume, ["local"]) == ([], {})
        assert thread.unit(unplaced, ["local", "slurm"]) == []
        said = {job: Observation(JobState.COMPLETE) for job in (pending, running)}
        assert thread.unit(record_observations, "slurm", said) == (False, [], [], [], [pending, running])
        thread.unit(record_trouble, [pending, running], "the site does not answer")
        assert thread.unit(claim, "w", [(pending, 1)]) == []
        thread.unit(record_started, pending, 1, {"pid": 7, "time": "2025-01-01T00:00:00.000000Z"}, HOST)
        thread.unit(record_ended, running, 1, {"cause": "exit", "exit_code": 0}, HOST, thread.outputs, [])
        thread.connection.execute(
            "insert into local_claims (job_id, attempt, worker_id) values (?, 1, 'w')", (running,)
        )
        settled = thread.unit(reconcile, "w", HOST, {(running, 1): "running"}, thread.outputs)
        assert settled.held == {}
        assert [job for job, _, _ in settled.stop] == [running]
        assert thread.connection.execute("select count(*) from local_claims").fetchone() == (0,)
        assert len(thread.records()) == before

    def test_their_secrets_are_not_kept(self, thread: Thread) -> None:
        there, mine = Elsewhere(), thread.submit("x")
        job = there.job()
        handler, _ = there.on_data({"k": 1})
        bring(thread, there)
        here = thread.store.origin
        assert [_still_needed(thread.connection, one, here) for one in (mine, job, handler)] == [True, False, False]


class TestEvents:
    def test_theirs_never_fire_here(self, thread: Thread) -> None:
        there = Elsewhere()
        mine = thread.submit("x")
        on_job, first = there.on_jobs(mine)
        on_data, second = there.on_data({"k": 1})
        bring(thread, there)
        thread.run(mine)
        thread.put(op="event", properties={"k": 1})
        assert [thread.state(job) for job in (first, second)] == ["READY", "READY"]
        assert {thread.handler(handler)["state"] for handler in (on_job, on_data)} == {"waiting"}

    def test_what_happens_there_fires_ours(self, thread: Thread) -> None:
        there = Elsewhere()
        job = there.job()
        bring(thread, there)
        on_job, on_data = thread.on_jobs([job]), thread.on_data({"k": 1})
        never = thread.on_jobs([job], states=["FAILED"])
        there.status(job, "COMPLETE")
        there.event({"k": 1})
        bring(thread, there)
        for handler in (on_job, on_data):
            assert thread.state(handler["job_ids"][0]) == "PENDING"
        assert thread.handler(never["handler_id"])["state"] == "unset"
        firings = thread.connection.execute("select origin from firings").fetchall()
        assert firings == [(thread.store.origin,)] * 2

    def test_a_job_of_theirs_that_ends_without_its_handler(self, thread: Thread) -> None:
        there = Elsewhere()
        handler, ready = there.on_data({"k": 1})
        bring(thread, there)
        there.status(ready, "CANCELLED")
        bring(thread, there)
        assert not [record for record in thread.records() if record.kind == "unset"]
        assert thread.handler(handler)["state"] == "waiting"  # until its own instance says otherwise

    def test_who_unsets(self, thread: Thread) -> None:
        """Whoever unsets a handler of ours: its jobs are ours to cancel. Those of others' handlers are not."""
        there, ours = Elsewhere(), thread.on_data({"k": 1})
        theirs, ready = there.on_data({"k": 1})
        there.record("unset", {"handler_id": ours["handler_id"], "reason": "not wanted"})
        there.record("unset", {"handler_id": theirs, "reason": "not wanted"})
        bring(thread, there)
        assert (thread.state(ours["job_ids"][0]), thread.state(ready)) == ("CANCELLED", "READY")
        assert [thread.handler(one)["state"] for one in (ours["handler_id"], theirs)] == ["unset", "unset"]


class TestLineage:
    def test_data_made_there_and_read_here(self, thread: Thread) -> None:
        there = Elsewhere("c1")
        far = there.job("simulate", "COMPLETE")
        there.put("/scratch/out", sha256="a" * 64, job_id=far)
        bring(thread, there)
        mine = thread.submit("analyse")
        thread.put(op="get", path="/home/out", url="file://h/home/out", sha256="a" * 64, size_bytes=5, job_id=mine)
        for of in ("/home/out", "/scratch/out", "a" * 64, far):
            graph = lineage.trace(thread.connection, of)
            places = {node["label"]: node.get("elsewhere") for node in graph["nodes"]}
            assert places == {"simulate": "c1", "/scratch/out": "c1", "analyse": None}
            assert {edge["relation"] for edge in graph["edges"]} == {"wrote", "read"}

    def test_in_whatever_order_it_comes(self, thread: Thread, tmp_path: Path) -> None:
        """Data of a job that another instance has, whose records come later."""
        relay, home = Elsewhere("relay"), Elsewhere("home")
        far = home.job("simulate")
        relay.put("/copy", sha256="a" * 64, job_id=far)
        bring(thread, relay)
        graph = lineage.trace(thread.connection, "/copy", "up")
        (unknown,) = [node for node in graph["nodes"] if node["kind"] == "job"]
        assert unknown["missing"]
        assert unknown["id"] == far
        bring(thread, home)
        graph = lineage.trace(thread.connection, "/copy", "up")
        assert {node["label"]: node["elsewhere"] for node in graph["nodes"]} == {"/copy": "relay", "simulate": "home"}

    def test_a_job_whose_firing_has_come_before_it(self, thread: Thread) -> None:
        there = Elsewhere()
        cause = there.job("cause", "COMPLETE")
        handler, ready = there.on_jobs(cause)
        fired = {"handler_id": handler, "trigger_id": cause, "job_id": "01" * 18, "trigger_job": cause}
        there.record("firing", fired)
        bring(thread, there)
        assert queries.children(thread.connection, cause) == []
        assert thread.state(ready) == "READY"

    def test_a_path_is_that_of_this_instance_first(self, thread: Thread) -> None:
        there = Elsewhere("c1")
        mine = thread.put(path="/data/x", url="file://h/data/x", sha256="a" * 64, size_bytes=5)
        theirs = there.put("/data/x", sha256="b" * 64)
        only = there.put("/data/y", sha256="c" * 64)
        bring(thread, there)
        connection = thread.connection
        assert lineage.trace(connection, "/data/x")["root"] == [mine]
        assert lineage.trace(connection, "file://c1/data/x")["root"] == [theirs]
        assert lineage.trace(connection, "/data/y")["root"] == [only]
        found = [queries.data_at(connection, place) for place in ("/data/x", "file://c1/data/x", "/data/y")]
        assert [sheet and sheet["data_id"] for sheet in found] == [mine, theirs, only]


def test_a_job_that_was_recorded_elsewhere_is_not_recorded_again(thread: Thread) -> None:
    there = Elsewhere()
    job = there.job("x")
    bring(thread, there)
    body: dict[str, Any] = {}
    answer = thread.unit(thread.service.submit, body, [JobDefn.from_json({"command": "x", "job_id": job})])
    assert answer["jobs"][0]["elsewhere"] == "cluster1"
    assert thread.effects.pending == {}


def test_the_tables_do_not_tell_how_records_came(thread: Thread) -> None:
    """Bit by bit or at once."""
    there = Elsewhere()
    there.on_jobs(there.job("x", "COMPLETE"))
    for upto in range(len(there.records)):
        there.bring(thread.store, upto + 1)
    bit_by_bit = tables(thread.connection)
    assert bit_by_bit == folded(thread.records())
