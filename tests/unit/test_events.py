"""Handlers: when they fire, what they start, when they can no longer fire, and that nothing happens twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lwfm.errors import Conflict, InvalidRecord, NotFound
from lwfm.recording.handlers import active_count
from lwfm.store import queries

from support.threads import Thread, thread

__all__ = ["thread"]


def firings(thread: Thread) -> list[Any]:
    return thread.connection.execute(
        "select handler_id, job_id, trigger_job, trigger_data from firings order by id"
    ).fetchall()


@pytest.mark.parametrize(
    ("told", "fires"), [("PENDING", True), ("RUNNING", True), ("COMPLETE", True), ("FAILED", False)]
)
def test_a_job_first_seen_in_a_later_state_has_passed_the_earlier_ones(thread: Thread, told: str, fires: bool) -> None:
    job = thread.submit()
    handler = thread.on_jobs([job], states=["RUNNING"])
    if told != "PENDING":
        thread.status(job, told)
    else:
        thread.status(job, "FINISHING")
    assert thread.state(handler["job_ids"][0]) == ("PENDING" if fires else "CANCELLED")
    assert thread.handler(handler["handler_id"])["state"] == ("done" if fires else "unset")


def test_all_of_several_jobs(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(3)]
    handler = thread.on_jobs(jobs)
    for job in jobs[::-1][:2]:
        thread.run(job)
        assert firings(thread) == []
    thread.run(jobs[0])
    assert firings(thread) == [(handler["handler_id"], handler["job_ids"][0], jobs[0], None)]
    assert handler["job_ids"][0] in thread.effects.pending


def test_any_of_several_jobs(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(3)]
    handler = thread.on_jobs(jobs, mode="any")
    thread.run(jobs[0], code=1)
    thread.run(jobs[2])
    thread.run(jobs[1])
    assert firings(thread) == [(handler["handler_id"], handler["job_ids"][0], jobs[2], None)]


def test_the_same_job_twice_is_one_job(thread: Thread) -> None:
    job = thread.submit()
    thread.on_jobs([job, job])
    thread.run(job)
    assert len(firings(thread)) == 1


def test_what_has_happened_already_fires_at_once(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(2)]
    for job in jobs:
        thread.run(job)
    for mode in ("all", "any"):
        assert thread.state(thread.on_jobs(jobs, mode=mode)["job_ids"][0]) == "PENDING"


def test_what_can_no_longer_happen_cancels_at_once_with_the_reason(thread: Thread) -> None:
    job = thread.submit()
    thread.run(job, code=3)
    handler = thread.on_jobs([job])
    fired = thread.job(handler["job_ids"][0])
    assert (fired["state"], fired["reason"]) == (
        "CANCELLED",
        f"job {job} ended FAILED, so that it cannot become COMPLETE",
    )
    assert thread.handler(handler["handler_id"])["state"] == "unset"


def test_any_is_out_of_reach_only_when_all_have_ended(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(2)]
    handler = thread.on_jobs(jobs, mode="any")
    thread.run(jobs[1], code=1)
    assert thread.handler(handler["handler_id"])["state"] == "waiting"
    thread.run(jobs[0], code=1)
    assert thread.job(handler["job_ids"][0])["reason"] == "all its jobs have ended, none of them COMPLETE"


def test_keep_leaves_it_waiting(thread: Thread) -> None:
    job = thread.submit()
    handler = thread.on_jobs([job], keep=True)
    thread.run(job, code=1)
    assert thread.state(handler["job_ids"][0]) == "READY"
    assert thread.handler(handler["handler_id"])["state"] == "waiting"


def test_a_failed_attempt_that_is_tried_again_is_no_end(thread: Thread) -> None:
    job = thread.submit(retries=1)
    good, bad = thread.on_jobs([job]), thread.on_jobs([job], states=["FAILED"])
    thread.run(job, code=1)
    assert thread.state(job) == "PENDING"
    assert firings(thread) == []
    thread.run(job)
    assert thread.state(good["job_ids"][0]) == "PENDING"
    assert thread.state(bad["job_ids"][0]) == "CANCELLED"


def test_a_message_of_a_running_job_can_be_waited_for(thread: Thread) -> None:
    job = thread.submit()
    thread.status(job, "RUNNING")
    handler = thread.on_jobs([job], states=["INFO"])
    thread.unit(thread.service.emit_status, job, {"state": "INFO", "reason": "half way"})
    assert thread.state(job) == "RUNNING"
    assert thread.state(handler["job_ids"][0]) == "PENDING"


def test_a_chain_of_handlers_set_before_anything_ran(thread: Thread) -> None:
    job = thread.submit()
    chain = [job]
    for _ in range(5):
        chain.append(thread.on_jobs([chain[-1]])["job_ids"][0])
    for index, link in enumerate(chain):
        assert [thread.state(other) for other in chain[index:]] == ["PENDING", *["READY"] * (5 - index)]
        thread.run(link)


def test_the_end_of_the_first_cancels_the_whole_chain(thread: Thread) -> None:
    job = thread.submit()
    chain = [job]
    for _ in range(50):
        chain.append(thread.on_jobs([chain[-1]])["job_ids"][0])
    thread.run(job, code=1)
    assert {thread.state(other) for other in chain[1:]} == {"CANCELLED"}
    assert len(thread.effects.changes) == 51


def test_data_that_matches(thread: Thread) -> None:
    handler = thread.on_data({"kind": "therm*", "T": ">=1"})
    for properties in ({"kind": "thermo", "T": 0.5}, {"kind": "plot", "T": 2}, {}):
        thread.put(properties=properties)
    assert firings(thread) == []
    data = thread.put(properties={"kind": "thermo", "T": "2"})
    thread.put(properties={"kind": "thermo", "T": 3})
    assert firings(thread) == [(handler["handler_id"], handler["job_ids"][0], None, data)]
    assert thread.job(handler["job_ids"][0])["trigger_data"] == data


def test_data_that_is_read_triggers_nothing(thread: Thread) -> None:
    thread.on_data({"kind": "a"})
    thread.put(op="get", properties={"kind": "a"})
    assert firings(thread) == []
    thread.put(op="event", properties={"kind": "a"})
    assert len(firings(thread)) == 1


def test_a_number_of_firings_each_with_the_job_known_beforehand(thread: Thread) -> None:
    handler = thread.on_data({"kind": "a"}, repeat=3)
    assert len(set(handler["job_ids"])) == 3
    data = [thread.put(properties={"kind": "a"}) for _ in range(4)]
    assert [(job, trigger) for _, job, _, trigger in firings(thread)] == list(zip(handler["job_ids"], data))
    assert thread.handler(handler["handler_id"])["state"] == "done"


def test_without_limit_jobs_are_made_as_data_comes_and_found_among_the_latest(thread: Thread) -> None:
    handler = thread.on_data({"kind": "a"}, repeat=True)
    made = []
    for _ in range(5):
        thread.put(properties={"kind": "a"})
        made.append(firings(thread)[-1][1])
        latest = thread.submit()
        assert {job["job_id"] for job in queries.list_jobs(thread.connection, limit=2)} == {latest, made[-1]}
    assert thread.handler(handler["handler_id"])["job_ids"] == made
    assert [thread.state(job) for job in made] == ["PENDING"] * 5


def test_data_of_another_workflow_counts_only_when_asked_for(thread: Thread) -> None:
    one, other = thread.workflow("one"), thread.workflow("other")
    own = thread.on_data({"kind": "a"}, workflow=one)
    event = {"match": {"kind": "a"}, "defn": {"command": "true"}, "workflow": "any"}
    wide = thread.unit(thread.service.set_handler, {"kind": "data", "event": event, "workflow": one})
    far = thread.unit(
        thread.service.set_handler, {"kind": "data", "event": {**event, "workflow": other}, "workflow": one}
    )
    thread.put(properties={"kind": "a"}, workflow_id=other)
    fired = {handler for handler, *_ in firings(thread)}
    assert fired == {wide["handler_id"], far["handler_id"]}
    thread.put(properties={"kind": "a"}, workflow_id=one)
    assert own["handler_id"] in {handler for handler, *_ in firings(thread)}


def test_a_job_cancelled_before_its_trigger_takes_its_handler_with_it(thread: Thread) -> None:
    handler = thread.on_data({"kind": "a"})
    thread.unit(thread.service.cancel, handler["job_ids"][0], "not wanted", placed=False)
    assert thread.handler(handler["handler_id"])["state"] == "unset"
    thread.put(properties={"kind": "a"})
    assert firings(thread) == []


def test_one_of_several_cancelled_the_others_run_and_none_twice(thread: Thread) -> None:
    """The second firing once went to the job of the first again, and changed what that was triggered by."""
    handler = thread.on_data({"kind": "a"}, repeat=2)
    first, second = handler["job_ids"]
    thread.unit(thread.service.cancel, second, "not wanted", placed=False)
    data = thread.put(properties={"kind": "a"})
    assert thread.handler(handler["handler_id"])["state"] == "unset"
    thread.put(properties={"kind": "a"})
    assert [(job, trigger) for _, job, _, trigger in firings(thread)] == [(first, data)]
    assert thread.job(first)["trigger_data"] == data


def test_a_waiting_job_that_somebody_says_is_done_takes_its_handler_with_it(thread: Thread) -> None:
    handler = thread.on_data({"kind": "a"})
    thread.unit(thread.service.emit_status, handler["job_ids"][0], {"state": "COMPLETE"})
    assert thread.handler(handler["handler_id"])["state"] == "unset"
    thread.put(properties={"kind": "a"})
    assert firings(thread) == []


def test_unsetting_cancels_what_was_not_triggered_and_nothing_else(thread: Thread) -> None:
    handler = thread.on_data({"kind": "a"}, repeat=3)
    thread.put(properties={"kind": "a"})
    for _ in range(2):
        answer = thread.unit(thread.service.unset_handler, handler["handler_id"], "enough")
    assert (answer["state"], answer["reason"], answer["fired"]) == ("unset", "enough", 1)
    assert [thread.state(job) for job in handler["job_ids"]] == ["PENDING", "CANCELLED", "CANCELLED"]
    assert thread.job(handler["job_ids"][1])["reason"] == "enough"


def test_a_handler_of_another_instance_does_not_fire_here(thread: Thread) -> None:
    job = thread.submit()
    handler = thread.on_jobs([job])
    thread.connection.execute("update handlers set origin = 'elsewhere'")
    thread.run(job)
    assert firings(thread) == []
    thread.connection.execute("update handlers set origin = ?", (thread.store.origin,))
    assert thread.state(handler["job_ids"][0]) == "READY"


def test_a_restart_between_forgets_nothing(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(4)]
    handler = thread.on_jobs(jobs)
    for job in jobs:
        assert firings(thread) == []
        thread.run(job)
        thread.crash()
    assert len(firings(thread)) == 1
    assert thread.state(handler["job_ids"][0]) == "PENDING"


def test_what_an_undone_unit_learned_is_forgotten(thread: Thread) -> None:
    jobs = [thread.submit() for _ in range(3)]
    thread.on_jobs(jobs)
    thread.on_jobs(jobs, mode="any", states=["FAILED"])

    def end_the_first_then_fail(recorder: Any) -> None:
        thread.service.emit_status(recorder, jobs[0], {"state": "COMPLETE"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        thread.unit(end_the_first_then_fail)
    thread.run(jobs[1])
    thread.run(jobs[2])
    assert firings(thread) == []
    assert queries.list_handlers(thread.connection, state="unset") == []
    thread.run(jobs[0])
    assert len(firings(thread)) == 1
    assert len(queries.list_handlers(thread.connection, state="unset")) == 1


def test_a_notification_is_delivered_by_a_job_and_its_secrets_are_not_recorded(thread: Thread) -> None:
    url = "https://ada:hunter2@hooks.example/x"
    body = {"kind": "data", "event": {"match": {"kind": "a"}, "notify": {"url": url}}}
    thread.unit(thread.service.set_handler, body)
    thread.on_data({"kind": "b"}, notify={"command": ["mail", "--password", "hunter2"]})
    told = thread.connection.execute("select name from jobs").fetchall()
    assert told == [("notify",), ("notify",)]
    assert "hunter2" not in "\n".join(str(row) for row in thread.connection.iterdump())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"kind": "moon", "event": {}}, InvalidRecord),
        ({"kind": "job", "event": {"jobs": ["nobody"], "defn": {"command": "x"}}}, NotFound),
        ({"kind": "job", "event": {"jobs": [], "defn": {"command": "x"}}}, InvalidRecord),
        ({"kind": "job"}, InvalidRecord),
        ({"kind": "data", "event": {"match": {"a": "~["}, "defn": {"command": "x"}}}, InvalidRecord),
        ({"kind": "data", "event": {"match": {"a": 1}}}, InvalidRecord),
        ({"kind": "data", "event": {"match": {"a": 1}, "defn": {"command": "x"}, "repeat": 10**9}}, InvalidRecord),
    ],
)
def test_a_handler_that_makes_no_sense_leaves_no_trace(
    thread: Thread, body: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        thread.unit(thread.service.set_handler, body)
    assert [record.kind for record in thread.records()] == ["instance"]


@pytest.mark.parametrize("state", ["READY", "PENDING"])
def test_nobody_can_emit_what_would_run_a_job_again(thread: Thread, state: str) -> None:
    job = thread.submit()
    thread.status(job, "RUNNING")
    with pytest.raises(InvalidRecord, match="cannot be emitted"):
        thread.unit(thread.service.emit_status, job, {"state": state})


def test_a_job_that_has_not_started_cannot_be_said_to_run(thread: Thread) -> None:
    waiting = thread.on_data({"kind": "a"})["job_ids"][0]
    for job in (waiting, thread.submit()):
        with pytest.raises(Conflict, match="has not been started"):
            thread.unit(thread.service.emit_status, job, {"state": "RUNNING"})


def test_the_records_of_a_firing_are_the_same_wherever_they_are_made(thread: Thread) -> None:
    """Keyed by handler and trigger, so that the same firing recorded twice is one."""
    thread.on_data({"kind": "a"}, repeat=True)
    thread.put(properties={"kind": "a"})
    (firing,) = [record for record in thread.records() if record.kind == "firing"]
    with thread.store.transaction() as transaction:
        transaction.append("firing", firing.body, firing.uid)
    assert len(firings(thread)) == 1
    assert json.loads(json.dumps(firing.body)) == firing.body


def test_closing_a_workflow_ends_what_waits_for_data_but_not_while_it_is_active(thread: Thread) -> None:
    workflow = thread.workflow()
    job = thread.submit("true", workflow)
    for_data = thread.on_data({"kind": "a"}, workflow=workflow)
    kept = thread.on_jobs([thread.submit()], workflow=workflow)
    close = thread.service.close_workflow
    assert thread.unit(close, workflow, "over") == {"unset": []}
    thread.run(job)
    assert thread.unit(active_count, workflow) == 1, "a job outside it can still trigger"
    thread.run(queries.handler(thread.connection, kept["handler_id"])["event"]["jobs"][0])
    thread.run(kept["job_ids"][0])
    assert thread.unit(active_count, workflow) == 0
    assert thread.unit(close, workflow, "over") == {"unset": [for_data["handler_id"]]}
    assert thread.job(for_data["job_ids"][0])["reason"] == "over"
    assert thread.unit(close, workflow, "over") == {"unset": []}
