"""Handlers on a real agent: when they fire, what their jobs are told, and when they never will."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors
from lwfm.client.calls import path_of

from support.agents import Agent, running_agent
from support.waiting import wait_until

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as running:
        yield running


def fired_job(agent: Agent, handler: JSON) -> JSON:
    """The one job of a handler, once it has ended."""
    (job,) = handler["job_ids"]
    found: JSON = agent.wait(job)
    return found


# ---------------------------------------------------------------------------------------------- jobs


def test_a_job_fires_a_job_that_knows_its_trigger(agent: Agent) -> None:
    workflow = agent.workflow()
    first = agent.submit("true", workflow=workflow)
    handler = agent.on_job(first, ["env"], name="next", parent=first)
    found = fired_job(agent, handler)
    assert found["state"] == "COMPLETE"
    assert (found["workflow_id"], found["handler_id"], found["trigger_job"]) == (workflow, handler["handler_id"], first)
    assert f"LWFM_TRIGGER_JOB={first}\n" in agent.output(found["job_id"]).decode()
    assert agent.states(found["job_id"]) == ["READY", "PENDING", "RUNNING", "COMPLETE"]
    seen = agent.handler(handler["handler_id"])
    assert (seen["state"], seen["fired"]) == ("done", 1)
    assert found["job_id"] in json.dumps(agent.client.get(path_of("jobs", first, "tree")))


def test_all_of_several(agent: Agent, tmp_path: Path) -> None:
    gates = [tmp_path / f"go{n}" for n in range(3)]
    jobs = [agent.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", resources={"cores": 0}) for gate in gates]
    handler = agent.on_job(jobs, "true")
    for gate, job in zip(gates, jobs):
        assert agent.state(handler["job_ids"][0]) == "READY"
        why = agent.client.get(path_of("jobs", handler["job_ids"][0], "why"))["explanation"][0]
        assert "3 jobs" in why
        gate.touch()
        agent.wait(job)
    found = fired_job(agent, handler)
    assert (found["state"], found["trigger_job"]) == ("COMPLETE", jobs[-1])


def test_any_of_several_fires_once(agent: Agent) -> None:
    jobs = [agent.submit(command) for command in ("false", "true", "true")]
    handler = agent.on_job(jobs, "true", mode="any")
    found = fired_job(agent, handler)
    assert found["state"] == "COMPLETE"
    assert found["trigger_job"] in jobs[1:]
    agent.wait_all(jobs)
    assert agent.handler(handler["handler_id"])["fired"] == 1


@pytest.mark.parametrize("word", ["FAILED", "COMPLETE", "running", "Pending", "FINISHING"])
def test_several_states_and_states_that_are_passed_without_being_seen(agent: Agent, word: str) -> None:
    job = agent.submit("true")
    handlers = [
        agent.on_job(job, "true", states=[word]),
        agent.on_job(job, "true", states=[word, "CANCELLED", "COMPLETE"]),
    ]
    agent.wait(job)
    states = [fired_job(agent, handler)["state"] for handler in handlers]
    assert states == ["CANCELLED" if word == "FAILED" else "COMPLETE", "COMPLETE"]


def test_set_after_the_fact_it_fires_at_once(agent: Agent) -> None:
    done, failed = agent.submit("true"), agent.submit("false")
    agent.wait_all([done, failed])
    for jobs, keys, state in (
        ([done], {}, "COMPLETE"),
        ([failed], {"states": ["FAILED"]}, "COMPLETE"),
        ([done, failed], {"mode": "any"}, "COMPLETE"),
        ([done, failed], {"states": ["COMPLETE", "FAILED"]}, "COMPLETE"),
        ([failed], {}, "CANCELLED"),
        ([done, failed], {}, "CANCELLED"),
        ([failed, failed], {"mode": "any"}, "CANCELLED"),
    ):
        found = fired_job(agent, agent.on_job(jobs, "true", **keys))
        assert found["state"] == state, (jobs, keys)


def test_out_of_reach_is_cancelled_with_the_reason_and_so_is_what_follows(agent: Agent) -> None:
    job = agent.submit("exit 5")
    chain = [agent.on_job(job, "true")]
    for _ in range(5):
        chain.append(agent.on_job(chain[-1]["job_ids"], "true"))
    cleanup = agent.on_job(chain[-1]["job_ids"], "echo cleaned", states=["CANCELLED"])
    assert fired_job(agent, cleanup)["state"] == "COMPLETE"
    previous = job
    for handler in chain:
        found = fired_job(agent, handler)
        assert found["state"] == "CANCELLED"
        assert previous in found["reason"]
        assert agent.handler(handler["handler_id"])["state"] == "unset"
        previous = found["job_id"]


def test_any_out_of_reach_only_when_all_have_ended(agent: Agent, tmp_path: Path) -> None:
    first = agent.submit("false")
    second = agent.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; false")
    handler = agent.on_job([first, second], "true", mode="any")
    agent.wait(first)
    assert agent.state(handler["job_ids"][0]) == "READY"
    (tmp_path / "go").touch()
    assert fired_job(agent, handler)["state"] == "CANCELLED"


def test_kept_although_out_of_reach(agent: Agent) -> None:
    job = agent.submit("false")
    handler = agent.on_job(job, "true", keep=True)
    agent.wait(job)
    assert agent.state(handler["job_ids"][0]) == "READY"
    assert agent.handler(handler["handler_id"])["state"] == "waiting"
    agent.client.delete(path_of("handlers", handler["handler_id"]), {"reason": "not needed"})
    found = fired_job(agent, handler)
    assert (found["state"], found["reason"]) == ("CANCELLED", "not needed")


def test_unset(agent: Agent) -> None:
    job = agent.submit("sleep 600")
    handler = agent.on_job(job, "true")
    after = agent.on_job(handler["job_ids"], "true")
    for _ in range(2):
        answer = agent.client.delete(path_of("handlers", handler["handler_id"]))
        assert answer["state"] == "unset"
    assert fired_job(agent, handler)["state"] == "CANCELLED"
    assert fired_job(agent, after)["state"] == "CANCELLED"
    agent.cancel(job)
    agent.wait(job)
    assert agent.handler(handler["handler_id"])["fired"] == 0


def test_fired_jobs_fail_retry_and_trigger_like_others(agent: Agent) -> None:
    job = agent.submit("true")
    handler = agent.on_job(job, "[ $LWFM_ATTEMPT = 2 ]", defn={"retries": 1})
    after = agent.on_job(handler["job_ids"], "true")
    assert fired_job(agent, handler)["attempt"] == 2
    assert fired_job(agent, after)["state"] == "COMPLETE"


def test_a_status_that_somebody_emits_triggers_too(agent: Agent) -> None:
    job = agent.submit(["sleep", "600"])
    agent.wait_state(job, "RUNNING")
    handler = agent.on_job(job, "true", states=["FINISHING"])
    agent.emit(job, "INFO", reason="half way")
    agent.emit(job, "FINISHING", reason="writing results", native_status="packing")
    assert fired_job(agent, handler)["state"] == "COMPLETE"
    assert agent.job(job)["native_status"] == "packing"
    reasons = [status.get("reason") for status in agent.statuses(job)]
    assert {"half way", "writing results"} <= set(reasons)
    agent.cancel(job)
    agent.wait(job)
    with pytest.raises(errors.Conflict):
        agent.emit(job, "RUNNING")


def test_wide_fan_in_and_fan_out(agent: Agent) -> None:
    workflow = agent.workflow()
    root = agent.submit("true", workflow=workflow)
    leaves = [agent.on_job(root, "true", of=workflow)["job_ids"][0] for _ in range(40)]
    last = agent.on_job(leaves, "true", of=workflow)
    assert fired_job(agent, last)["state"] == "COMPLETE"
    assert agent.client.get(path_of("workflows", workflow))["job_counts"] == {"COMPLETE": 42}


@pytest.mark.parametrize(
    "event",
    [
        {"jobs": []},
        {"jobs": ["nonsense"]},
        {"jobs": "last", "states": []},
        {"jobs": "last", "states": ["DONE"]},
        {"jobs": "last", "mode": "most"},
        {"jobs": "last", "defn": {"command": ""}},
        {"jobs": "last", "defn": None},
        {"jobs": "last", "notify": {"command": "true"}},
        {"jobs": "last", "site": "nowhere"},
    ],
)
def test_an_event_that_makes_no_sense_is_refused(agent: Agent, event: JSON) -> None:
    agent.submit("true")
    before = len(agent.client.get("/v1/handlers", {"limit": 0})["handlers"])
    with pytest.raises((errors.UsageError, errors.UnknownSite)):
        agent.client.post("/v1/handlers", {"kind": "job", "event": {"defn": {"command": "true", "cwd": "/"}, **event}})
    assert len(agent.client.get("/v1/handlers", {"limit": 0})["handlers"]) == before


# ---------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("match", "hits", "misses"),
    [
        ({"T": 0.7}, [{"T": 0.7}, {"T": "0.70"}, {"T": [1, 0.7]}], [{"T": 0.71}, {"t": 0.7}, {}]),
        ({"T": "0.7"}, [{"T": 0.7}], [{"T": "x0.7"}]),
        ({"T": ">=2"}, [{"T": 10}, {"T": "2.0"}], [{"T": 1.99}]),
        ({"kind": "therm*"}, [{"kind": "thermo"}], [{"kind": "Thermo"}, {"kind": 5}]),
        ({"kind": "~^a.c$"}, [{"kind": "abc"}], [{"kind": "abcd"}]),
        ({"kind": "x", "box.n": 4}, [{"kind": "x", "box": {"n": 4.0}, "more": None}], [{"kind": "x", "box": 4}]),
        ({"flag": True}, [{"flag": True}], [{"flag": 1}]),
        ({"name": "Zürich"}, [{"name": "Zürich"}], [{"name": "Zurich"}]),
    ],
)
def test_what_data_match(agent: Agent, match: JSON, hits: list[JSON], misses: list[JSON]) -> None:
    workflow = agent.workflow()
    handler = agent.on_data(match, "true", of=workflow, repeat=True)
    for properties in misses:
        agent.put(properties, workflow=workflow)
    assert agent.handler(handler["handler_id"])["fired"] == 0
    put = [agent.put(properties, workflow=workflow) for properties in hits]
    jobs = agent.wait_all(agent.handler(handler["handler_id"])["job_ids"])
    assert sorted(agent.job(job["job_id"])["trigger_data"] for job in jobs) == sorted(put)


def test_the_fired_job_knows_the_data(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x")
    workflow = agent.workflow()
    handler = agent.on_data({"kind": "log"}, ["env"], of=workflow)
    body = {"op": "put", "path": str(tmp_path / "log"), "properties": {"kind": "log", "T": [1, {"a": "b\n"}]}}
    data = agent.client.post("/v1/data", {**body, "workflow": workflow})["data_id"]
    found = fired_job(agent, handler)
    printed = agent.output(found["job_id"]).decode()
    assert f"LWFM_TRIGGER_DATA={data}\n" in printed
    assert f"LWFM_TRIGGER_PATH={tmp_path}/log\n" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("LWFM_TRIGGER_PROPERTIES=")]
    assert json.loads(line.partition("=")[2]) == body["properties"]
    assert found["trigger_data"] == data


def test_properties_too_large_for_a_variable_do_not_keep_the_job_from_starting(agent: Agent) -> None:
    workflow = agent.workflow()
    handler = agent.on_data({"kind": "large"}, ["env"], of=workflow)
    data = agent.put({"kind": "large", "text": "x" * 200_000}, workflow=workflow)
    found = fired_job(agent, handler)
    assert found["state"] == "COMPLETE"
    assert f"LWFM_TRIGGER_DATA={data}\n" in agent.output(found["job_id"]).decode()


def test_repeat_a_number_of_times(agent: Agent) -> None:
    workflow = agent.workflow()
    handler = agent.on_data({"n": ">0"}, "true", of=workflow, repeat=3)
    assert len(set(handler["job_ids"])) == 3
    data = [agent.put({"n": n}, workflow=workflow) for n in (1, 2, 3, 4, 5)]
    jobs = [agent.wait(job) for job in handler["job_ids"]]
    assert [job["trigger_data"] for job in jobs] == data[:3]
    seen = agent.handler(handler["handler_id"])
    assert (seen["state"], seen["fired"]) == ("done", 3)


@pytest.mark.parametrize("repeat", [0, -1, 1.5, "two", False, 10**7])
def test_a_repeat_that_makes_no_sense(agent: Agent, repeat: object) -> None:
    with pytest.raises(errors.InvalidRecord, match="repeat"):
        agent.on_data({"n": 1}, "true", repeat=repeat)


def test_only_data_of_the_workflow_count_unless_any(agent: Agent) -> None:
    one, other = agent.workflow("one"), agent.workflow("other")
    key = {"scope": "test"}
    handlers = {
        "own": agent.on_data(key, "true", of=one, repeat=True),
        "named": agent.on_data(key, "true", of=one, workflow=other, repeat=True),
        "any": agent.on_data(key, "true", of=one, workflow="any", repeat=True),
        "none": agent.on_data(key, "true", repeat=True),
    }
    agent.put(key, workflow=one)
    agent.put(key, workflow=other)
    agent.put(key)
    job = agent.submit("true", workflow=other)
    agent.put(key, job=job)
    fired = {name: agent.handler(handler["handler_id"])["fired"] for name, handler in handlers.items()}
    assert fired == {"own": 1, "named": 2, "any": 4, "none": 4}
    for handler in handlers.values():
        agent.wait_all(agent.handler(handler["handler_id"])["job_ids"])
        agent.client.delete(path_of("handlers", handler["handler_id"]))


def test_reading_data_triggers_nothing(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    handler = agent.on_data({"read": 1}, "true")
    agent.client.post("/v1/data", {"op": "get", "path": str(tmp_path / "f"), "properties": {"read": 1}})
    assert agent.handler(handler["handler_id"])["fired"] == 0
    agent.client.delete(path_of("handlers", handler["handler_id"]))


def test_closing_a_workflow_ends_what_waits_for_data(agent: Agent, tmp_path: Path) -> None:
    workflow = agent.workflow()
    job = agent.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", workflow=workflow)
    handler = agent.on_data({"never": "put"}, "true", of=workflow)
    after = agent.on_job(handler["job_ids"], "true")
    close = path_of("workflows", workflow, "close")
    assert agent.client.post(close, {"reason": "done"})["unset"] == []
    (tmp_path / "go").touch()
    agent.wait(job)
    assert agent.client.post(close, {"reason": "done"})["unset"] == [handler["handler_id"]]
    assert fired_job(agent, handler)["reason"] == "done"
    assert fired_job(agent, after)["state"] == "CANCELLED"
    assert agent.client.post(close, {})["unset"] == []


# ---------------------------------------------------------------------------------------------- telling


@pytest.fixture
def hook() -> Iterator[tuple[str, list[JSON], list[int]]]:
    """A web server: its address, what was posted to it, and with which statuses to answer first."""
    posted: list[JSON] = []
    answers: list[int] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append(
                {"type": self.headers["Content-Type"], "auth": self.headers["Authorization"], **json.loads(body)}
            )
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook?a=b", posted, answers
        server.shutdown()
        thread.join()


def test_a_command_is_told(agent: Agent, tmp_path: Path) -> None:
    job = agent.submit("false")
    line = f'echo "$LWFM_TRIGGER_JOB" > {tmp_path}/told'
    handler = agent.on_job(job, notify={"command": line}, states=["FAILED"])
    assert fired_job(agent, handler)["state"] == "COMPLETE"
    assert (tmp_path / "told").read_text().strip() == job
    words = agent.on_job(job, notify={"command": ["touch", str(tmp_path / "words")]}, states=["FAILED"])
    assert fired_job(agent, words)["state"] == "COMPLETE"
    assert (tmp_path / "words").exists()


def test_a_webhook_is_told(agent: Agent, hook: tuple[str, list[JSON], list[int]]) -> None:
    url, posted, _ = hook
    workflow = agent.workflow()
    job = agent.submit("true", workflow=workflow)
    handler = agent.on_job(job, notify={"url": url}, of=workflow)
    found = fired_job(agent, handler)
    assert found["state"] == "COMPLETE", agent.output(found["job_id"], "stderr")
    assert posted[0]["type"] == "application/json"
    assert (posted[0]["trigger_job"], posted[0]["workflow_id"], posted[0]["job_id"]) == (job, workflow, found["job_id"])
    data = agent.on_data({"tell": "*"}, notify={"url": url}, repeat=True)
    agent.put({"tell": "x", "n": 1})
    agent.put({"tell": "y", "n": 2})
    agent.wait_all(wait_until(lambda: agent.handler(data["handler_id"])["job_ids"], "the firings"))
    assert sorted(item["trigger_properties"]["n"] for item in posted[1:]) == [1, 2]


def test_a_webhook_that_refuses_is_told_again(agent: Agent, hook: tuple[str, list[JSON], list[int]]) -> None:
    url, posted, answers = hook
    answers += [500, 503]
    job = agent.submit("true")
    found = fired_job(agent, agent.on_job(job, notify={"url": url}))
    assert (found["state"], found["attempt"]) == ("COMPLETE", 3)
    assert len(posted) == 3


def test_a_webhook_nobody_answers_at_fails(agent: Agent) -> None:
    job = agent.submit("true")
    found = fired_job(agent, agent.on_job(job, notify={"url": "http://127.0.0.1:9/"}))
    assert found["state"] == "FAILED"
    assert b"cannot post" in agent.output(found["job_id"], "stderr")


@pytest.mark.parametrize(
    "notify", [{}, {"url": "ftp://x"}, {"url": "file:///etc/passwd"}, {"command": "x", "url": "http://x"}]
)
def test_a_notification_that_makes_no_sense(agent: Agent, notify: JSON) -> None:
    with pytest.raises(errors.InvalidRecord):
        agent.on_data({"x": 1}, notify=notify)


def test_the_store_is_sound_after_all_this(agent: Agent) -> None:
    agent.verify()
