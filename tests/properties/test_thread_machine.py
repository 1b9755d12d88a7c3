"""Whatever is done to an instance, in whatever order, with crashes between: the promises of the thread store hold."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, Optional, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lwfm.errors import LwfmError
from lwfm.models import JobDefn, JobEvent, Metasheet
from lwfm.recording.execution import record_ended, record_lost, record_started
from lwfm.recording.recorder import Recorder
from lwfm.states import JobState, implied_by, parse_state
from lwfm.store import maintenance

from support.threads import HOST, Thread, folded, tables

ENDED = ("COMPLETE", "FAILED", "CANCELLED")
PROPERTIES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kind": st.sampled_from(["thermo", "thermo", "plot"])},
    optional={"T": st.sampled_from([0.7, "0.7", 2, True, None, [1, 2]])},
)
MATCHES = st.sampled_from(
    [{"kind": "thermo"}, {"kind": "thermo"}, {"kind": "t*"}, {"T": ">=1"}, {"T": 0.7, "kind": "~^p"}]
)
STARTED = {"pid": 1, "time": "2025-01-01T00:00:00.000000Z"}
INDEX = st.integers(0, 59)


class _Undone(Exception):
    """A unit of work that does not come to its end."""


class ThreadMachine(RuleBasedStateMachine):
    """Does to a store what users, workers, sites, rules and accidents do."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="lwfm-machine-"))
        self.thread = Thread(self.directory)
        self.workflows: list[str] = []
        self.ends: dict[str, tuple[int, str]] = {}

    @initialize()
    def begin(self) -> None:
        self.workflows.append(self.thread.workflow("first"))
        self.thread.submit("true", self.workflows[0])

    @rule(number=st.integers(1, 4), within=st.booleans(), meta=PROPERTIES, retries=st.integers(0, 2))
    def submit(self, number: int, within: bool, meta: dict[str, Any], retries: int) -> None:
        defn = JobDefn(["prog", "ä"], meta=meta, retries=retries, env={"A_TOKEN": "x"} if number == 2 else {})
        body = {"workflow": self.workflows[0] if within else None, "context": {"cwd": "/", "host": HOST}}
        self.thread.unit(self.thread.service.submit, body, [defn] * number)

    @rule(index=INDEX, again=st.booleans())
    def edit_workflow(self, index: int, again: bool) -> None:
        body: dict[str, Any] = {"name": f"study {index}", "meta": {"n": index}}
        if again:
            body["workflow_id"] = self.workflows[index % len(self.workflows)]
        answer = self.thread.unit(self.thread.service.put_workflow, body)
        if not again:
            self.workflows.append(answer["workflow_id"])

    @rule(
        picks=st.lists(INDEX, min_size=1, max_size=4),
        mode=st.sampled_from(["all", "any"]),
        states=st.lists(
            st.sampled_from(["COMPLETE", "FAILED", "RUNNING", "CANCELLED", "INFO", "PENDING"]), min_size=1, max_size=2
        ),
        keep=st.booleans(),
    )
    def on_jobs(self, picks: list[int], mode: str, states: list[str], keep: bool) -> None:
        jobs = [self.pick(index) for index in picks]
        self.thread.on_jobs(jobs, workflow=self.workflows[0], mode=mode, states=states, keep=keep)

    @rule(op=st.sampled_from(["put", "put", "event"]), number=st.integers(1, 3))
    def put_what_is_waited_for(self, op: str, number: int) -> None:
        for _ in range(number):
            self.thread.put(op=op, properties={"kind": "thermo", "T": 2}, workflow_id=self.workflows[0])

    @rule(match=MATCHES, repeat=st.sampled_from([1, 2, 3, True]), scope=st.sampled_from([None, "any"]))
    def on_data(self, match: dict[str, Any], repeat: Any, scope: Optional[str]) -> None:
        event: dict[str, Any] = {"match": match, "defn": {"command": "true"}, "repeat": repeat, "workflow": scope}
        body = {"kind": "data", "event": event, "workflow": self.workflows[0]}
        self.thread.unit(self.thread.service.set_handler, body)

    @rule(properties=PROPERTIES, op=st.sampled_from(["put", "get", "event"]), by=st.none() | INDEX)
    def put_data(self, properties: dict[str, Any], op: str, by: Optional[int]) -> None:
        job = self.pick(by) if by is not None else None
        self.thread.put(op=op, properties=properties, job_id=job, workflow_id=self.workflows[0], path="/d/\udcff")

    @rule(
        index=INDEX,
        cause=st.sampled_from(["exit", "exit", "cancel", "time_limit", "lost"]),
        code=st.sampled_from([0, 0, 1, 137]),
    )
    def run(self, index: int, cause: str, code: int) -> None:
        job_id = self.pick(index)
        job = self.thread.job(job_id)
        if job["state"] in ("READY", *ENDED):
            return
        attempt, outputs = job["attempt"], self.thread.outputs
        self.thread.unit(record_started, job_id, attempt, STARTED, HOST)
        if cause == "lost":
            self.thread.unit(record_lost, job_id, attempt, "its node is gone", HOST, outputs)
            return
        message = {"cause": cause, "exit_code": code, "cpu_seconds": 0.5, "stdout": {"size": 2, "data": "aGk="}}
        sheet = Metasheet(path="/out", properties={"kind": "thermo"})
        self.thread.unit(record_ended, job_id, attempt, message, HOST, outputs, [sheet])

    @rule(index=INDEX, attempt=st.integers(1, 3))
    def late_or_repeated_news(self, index: int, attempt: int) -> None:
        """A worker says again, or too late, what it had said: nothing may come of it."""
        job = self.pick(index)
        if self.thread.state(job) == "READY":
            return
        self.thread.unit(record_started, job, attempt, STARTED, HOST)

    @rule(index=INDEX, state=st.sampled_from([state.value for state in JobState]))
    def emit(self, index: int, state: str) -> None:
        job = self.pick(index)
        before = self.thread.state(job)
        try:
            self.thread.unit(self.thread.service.emit_status, job, {"state": state, "reason": "told"})
        except LwfmError:
            assert self.thread.state(job) == before

    @rule(index=INDEX, placed=st.booleans())
    def cancel(self, index: int, placed: bool) -> None:
        self.thread.unit(self.thread.service.cancel, self.pick(index), "no longer wanted", placed=placed)

    @rule(index=INDEX)
    def unset(self, index: int) -> None:
        handlers = [row[0] for row in self.thread.connection.execute("select id from handlers order by id")]
        if handlers:
            self.thread.unit(self.thread.service.unset_handler, handlers[index % len(handlers)], "by hand")

    @rule()
    def close_workflow(self) -> None:
        self.thread.unit(self.thread.service.close_workflow, self.workflows[0], "it is over")

    @rule(index=INDEX)
    def write_log(self, index: int) -> None:
        self.thread.unit(self.thread.service.log, [{"message": f"line {index}", "job_id": self.pick(index)}])

    @rule()
    def crash(self) -> None:
        self.thread.crash()

    @rule(index=INDEX, code=st.sampled_from([0, 1]))
    def run_at_once(self, index: int, code: int) -> None:
        """A short job: its start and its end come together."""
        job_id = self.pick(index)
        job = self.thread.job(job_id)
        if job["state"] not in ("PENDING", "RUNNING"):
            return

        def work(recorder: Recorder) -> None:
            record_started(recorder, job_id, job["attempt"], STARTED, HOST)
            message = {"cause": "exit", "exit_code": code, "peak_rss_bytes": 5}
            record_ended(recorder, job_id, job["attempt"], message, HOST, self.thread.outputs, [])

        self.thread.unit(work)

    @rule(index=INDEX, dies=st.booleans())
    def fail_within(self, index: int, dies: bool) -> None:
        """A unit of work that fails among others, or the death of the agent within it, leaves no trace."""
        before = self.tables_without_logs()

        def fail(recorder: Recorder) -> None:
            self.thread.service.submit(recorder, {"workflow": self.workflows[0]}, [JobDefn("true", meta={"T": 1})])
            self.thread.service.put_data(recorder, Metasheet(properties={"kind": "thermo", "T": 2}))
            for job in [self.pick(number) for number in range(5)]:
                self.thread.service.cancel(recorder, job, "never", placed=False)
            raise _Undone

        def go_on(recorder: Recorder) -> None:
            self.thread.service.log(recorder, [{"message": "after"}])

        if dies:
            self.thread.connection.execute("begin immediate")
            self.thread.connection.execute("update jobs set state = 'COMPLETE'")
            self.thread.crash()
        else:
            assert isinstance(self.thread.batch(go_on, fail, go_on)[1], _Undone)
        assert self.tables_without_logs() == before

    def tables_without_logs(self) -> dict[str, Any]:
        return {name: rows for name, rows in tables(self.thread.connection).items() if name != "logs"}

    @precondition(lambda self: len(self.thread.records()) < 120)
    @rule()
    def rebuild(self) -> None:
        before = tables(self.thread.connection)
        maintenance.rebuild(self.thread.store)
        assert tables(self.thread.connection) == before

    @invariant()
    def an_end_is_final(self) -> None:
        for job, attempt, state in self.rows("select id, attempt, state from jobs"):
            if job in self.ends:
                assert (attempt, state) == self.ends[job]
            if state in ENDED:
                self.ends[job] = (attempt, state)

    @invariant()
    def an_attempt_ends_and_begins_once(self) -> None:
        ends = "select 1 from statuses where state in ('COMPLETE', 'FAILED', 'CANCELLED')"
        begins = "select 1 from statuses where state = 'PENDING'"
        starts = "select 1 from statuses where state = 'RUNNING' and json_extract(facts, '$.native_id') is not null"
        for query in (ends, begins, starts):
            assert self.rows(query + " group by job_id, attempt having count(*) > 1") == [], query

    @invariant()
    def a_job_is_tried_as_often_as_was_asked_and_not_after_it_was_to_stop(self) -> None:
        assert self.rows("select 1 from jobs where attempt > retries + 1") == []
        stopped = "select job_id, attempt from statuses where native_status = 'cancel requested'"
        assert (
            self.rows(f"select 1 from jobs j join ({stopped}) s on s.job_id = j.id where j.attempt > s.attempt") == []
        )

    @invariant()
    def a_handler_fires_once_per_trigger_and_no_more_than_it_may(self) -> None:
        assert self.rows("select 1 from firings group by handler_id, trigger_id having count(*) > 1") == []
        assert self.rows("select 1 from firings where job_id is not null group by job_id having count(*) > 1") == []
        assert self.rows("select 1 from handlers where fired > fire_limit") == []
        fired = self.rows("select h.fired, (select count(*) from firings where handler_id = h.id) from handlers h")
        assert all(told == found for told, found in fired)
        logged = self.rows(
            "select count(*), count(distinct json_extract(body, '$.handler_id', '$.trigger_id')) from log where kind = 'firing'"
        )
        assert logged[0][0] == logged[0][1]

    @invariant()
    def a_job_waits_for_its_trigger_as_long_as_its_handler_does(self) -> None:
        ready = "exists (select 1 from jobs where handler_id = h.id and state = 'READY')"
        assert (
            self.rows(f"select id from handlers h where state = 'waiting' and fire_limit is not null and not {ready}")
            == []
        )
        assert self.rows(f"select id from handlers h where state <> 'waiting' and {ready}") == []

    @invariant()
    def a_job_handler_has_fired_when_its_jobs_came_to_its_states_and_only_then(self) -> None:
        query = "select event, state, fired from handlers where kind = 'job' and state <> 'unset'"
        for text, state, fired in self.rows(query):
            event = JobEvent.from_json(json.loads(text))
            jobs, states = (
                list(cast("list[str]", event.jobs)),
                {parse_state(word) for word in cast("list[Any]", event.states)},
            )
            reached = [self.came_to(job, states) for job in jobs]
            satisfied = all(reached) if event.mode == "all" else any(reached)
            assert satisfied == (state == "done") == bool(fired), text
            ended = [self.thread.state(job) in ENDED and not found for job, found in zip(jobs, reached)]
            out_of_reach = any(ended) if event.mode == "all" else all(ended)
            assert event.keep or state == "done" or not out_of_reach, text

    def came_to(self, job: str, wanted: set[JobState]) -> bool:
        seen = self.rows("select state from statuses where job_id = ?", (job,))
        return any(implied_by(JobState(state)) & wanted for (state,) in seen)

    @invariant()
    def counts_are_right(self) -> None:
        counted = self.rows("select workflow_id, state, jobs from job_counts where jobs <> 0 order by 1, 2")
        assert counted == self.rows(
            "select coalesce(workflow_id, ''), state, count(*) from jobs group by 1, 2 order by 1, 2"
        )

    def teardown(self) -> None:
        try:
            assert self.thread.verify() == []
            records = self.thread.records()
            now = tables(self.thread.connection)
            shuffled = [*records, *records[::3]]
            random.Random(len(records)).shuffle(shuffled)
            for order in (records, records[::-1], shuffled):
                assert folded(order) == now
            self.thread.close()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def pick(self, index: int) -> str:
        """One of the latest jobs: what is done must meet what was done."""
        jobs = self.rows("select id from jobs order by id desc limit 5")
        return str(jobs[index % len(jobs)][0])

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self.thread.connection.execute(query, values).fetchall()


TestThreadMachine = ThreadMachine.TestCase
TestThreadMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
