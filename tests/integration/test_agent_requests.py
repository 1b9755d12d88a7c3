"""Requests that make no sense: each is answered with what is wrong with it; none brings a traceback, none does harm."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lwfm import errors
from lwfm.api.routes import routes
from lwfm.wire import PROTOCOL

from support.agents import Agent, new_home, running_agent

JSON = dict[str, Any]
EXAMPLES = 600

JUNK_TEXT = [
    "",
    " ",
    "a\0b",
    "\ud800",
    "\ud800" * 36,
    "x" * 3000,
    "é",
    "last",
    "~[",
    "*",
    "=",
    "0" * 36,
    "-1",
    "1e400",
    "nan",
    "../..",
    "local",
]
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    3,
    10**30,
    -(10**30),
    1.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    *JUNK_TEXT,
    [],
    [None],
    ["x", 5],
    [[]],
    {},
    {"x": None},
    {"": 1},
    {"a": {"b": [{"c": "\ud800"}]}},
    {"command": "true"},
    [{"command": "true"}],
]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


class World:
    """An agent with one of each thing, and for each call a request that makes sense."""

    def __init__(self, agent: Agent, directory: Path, pid: int) -> None:
        self.agent = agent
        file = directory / "file"
        file.write_text("x")
        workflow = agent.workflow()
        job = agent.submit("echo hello", workflow=workflow, cwd=str(directory))
        agent.wait(job)
        handler = agent.on_data({"never": "put"}, "true", of=workflow)["handler_id"]
        data = agent.put({"a": 1}, workflow=workflow)
        context = {
            "host": os.uname().nodename,
            "user": "u",
            "cwd": str(directory),
            "env": {"PATH": "/usr/bin:/bin"},
            "git": {"commit": "c", "dirty": False},
        }
        defn = {
            "command": ["true"],
            "name": "n",
            "cwd": str(directory),
            "env": {"A": "b", "MY_TOKEN": "t"},
            "inputs": ["file"],
            "resources": {
                "cores": 1,
                "memory_bytes": 1 << 30,
                "gpus": 0,
                "time_limit_s": 5.5,
                "nodes": 1,
                "tasks_per_node": 1,
                "starter": "true",
                "labels": [os.uname().nodename],
            },
            "priority": 1,
            "occurrence": 0,
            "outputs": ["file"],
            "meta": {"k": [1, {"x": "y"}]},
            "retries": 0,
            "grace_s": 0.1,
            "site": "local",
            "job_id": "01a20000-0000-7000-8000-00000000abcd",
        }
        common = {"workflow": workflow, "parent": job, "context": context, "earlier": [job], "occurrence": 0}
        action = {"defn": defn, "site": "local", "name": "n"}
        self.ids = {
            "workflows": workflow,
            "jobs": job,
            "handlers": handler,
            "data": data,
            "sites": "local",
            "resources": "node",
            "peers": "p",
        }
        agent.client.post("/v1/peers", {"name": "p", "address": {"host": "h"}})
        origin = agent.client.get("/v1/sync")["origin"]
        batch = json.loads(agent.client.get_bytes("/v1/sync/records", {"origin": origin}).body)
        fragment = {"origin": origin, "seqs": [1]}
        fragments = json.loads(agent.client.post_bytes("/v1/sync/fragments/read", fragment).body)
        self.bodies: dict[str, list[JSON]] = {
            "/v1/jobs": [{**common, "site": "local", "jobs": [defn]}],
            "/v1/jobs/wait": [{"jobs": [job], "mode": "all", "timeout_s": 0.01}],
            "/v1/jobs/cancel": [{"jobs": [job], "workflow": workflow, "reason": "r"}],
            "/v1/jobs/attach": [{**common, "definition": defn, "site": "local", "pid": pid}],
            "/v1/jobs/*/cancel": [{"reason": "r"}],
            "/v1/jobs/*/emit": [
                {"state": "INFO", "reason": "r", "native_status": "n", "exit_code": 0, "host": "h", "cpu_seconds": 1.0}
            ],
            "/v1/jobs/*/finish": [
                {"exit_code": 1, "signal": None, "cause": "exit", "reason": "r", "stdout": {"size": 1, "data": "eA=="}}
            ],
            "/v1/progress": [
                {"workflow": workflow, "since": 0, "timeout_s": 0.01},
                {"jobs": [job], "since": 10**9, "timeout_s": 0.01},
            ],
            "/v1/data": [
                {
                    "op": "put",
                    "site": "local",
                    "path": str(file),
                    "site_path": "kept/file",
                    "properties": {"p": 1},
                    "job": job,
                    "workflow": workflow,
                },
                {"op": "put", "path": str(file), "properties": {"p": 1}, "notate": True},
                {"op": "event", "properties": {"p": {"q": [1]}}, "workflow": workflow},
            ],
            "/v1/data/fetch": [{"data": data, "path": str(directory / "got"), "job": job}],
            "/v1/workflows": [
                {"name": "w", "description": "d", "meta": {"k": 1}, "parent_job": job, "workflow_id": workflow}
            ],
            "/v1/workflows/*/close": [{"reason": "r"}],
            "/v1/handlers": [
                {
                    "kind": "job",
                    "event": {"jobs": [job], "states": ["FAILED"], "mode": "all", "keep": False, **action},
                    **common,
                },
                {"kind": "data", "event": {"match": {"k": 1}, "repeat": 2, "workflow": workflow, **action}, **common},
                {"kind": "data", "event": {"match": {"k": 1}, "notify": {"command": ["true"]}}},
            ],
            "/v1/logs": [
                {
                    "lines": [
                        {
                            "level": "INFO",
                            "message": "m",
                            "time": "2026-01-01T00:00:00.000000Z",
                            "job": job,
                            "workflow": workflow,
                        }
                    ]
                }
            ],
            "/v1/peers": [{"name": "p", "address": {"host": "h", "port": 22}, "way": "pull", "data": {"data": True}}],
            "/v1/peers/*/outcome": [{"error": "e"}, {"error": None, "skew_s": 0.1, "vector": {origin: [1, "0" * 64]}}],
            "/v1/sync/hashes": [{"asked": {origin: [1, 2]}}],
            "/v1/sync/records": [batch],
            "/v1/sync/fork": [{"origin": origin, "at": 0, "hash": "f" * 64}],
            "/v1/sync/fragments": [fragments],
            "/v1/sync/fragments/find": [{"workflow": workflow}],
            "/v1/sync/fragments/read": [fragment],
            "/v1/sites/*/login": [{"answers": ["a"]}],
            "/v1/sites/*/resources": [{"kind": "node", "spec": {}}],
        }
        self.queries: dict[str, JSON] = {
            "/v1/jobs": {
                "state": "COMPLETE",
                "workflow": workflow,
                "site": "local",
                "parent": job,
                "name": "n*",
                "text": "true",
                "match": "a=1",
                "limit": 3,
            },
            "/v1/jobs/*/output": {"stream": "stdout", "offset": 1, "limit": 3, "wait_s": 0, "attempt": 1},
            "/v1/progress": {"workflow": workflow, "since": 0, "timeout_s": 0},
            "/v1/data": {"match": "a=1", "workflow": workflow, "job": job, "site": "local", "op": "put", "limit": 3},
            "/v1/lineage": {"of": job, "direction": "up", "depth": 2},
            "/v1/workflows": {"name": "w*", "match": "k=1", "limit": 3},
            "/v1/handlers": {"workflow": workflow, "state": "waiting", "limit": 3},
            "/v1/handlers/*": {"reason": "r"},
            "/v1/logs": {"job": job, "workflow": workflow, "level": "INFO", "text": "m", "limit": 3},
            "/v1/search": {"q": "true", "limit": 3},
            "/v1/sync": {"digest": "d"},
            "/v1/sync/records": {"origin": origin, "after": 0, "upto": 2},
        }
        skipped = {"/v1/agent/stop"}
        self.calls = sorted((route.method, _template(route.pattern.pattern)) for route in routes())
        self.calls = [(method, path) for method, path in self.calls if path not in skipped]

    def path(self, template: str) -> str:
        """The path of a call, with ids that exist."""
        parts = template.split("/")
        return "/".join(self.ids[parts[n - 1]] if part == "*" else part for n, part in enumerate(parts))


def _template(pattern: str) -> str:
    return pattern.replace("([^/]+)", "*").replace("\\", "").strip("^$")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    directory = new_home()
    with running_agent() as agent, subprocess.Popen(["sleep", "6000"]) as process:
        try:
            yield World(agent, directory, process.pid)
            assert "Traceback" not in agent.home.agent_log.read_text()
            agent.verify()
        finally:
            process.kill()
            shutil.rmtree(directory)


def judged(status: int, answer: bytes, asked: object) -> int:
    """The status of an answer, which must not tell of a failure of ours."""
    refused_by_the_site = status == 502 and b": cannot " in answer.replace(b'"cannot ', b": cannot ")
    assert status < 500 or status == 501 or refused_by_the_site, (asked, status, answer[:500])
    if status >= 400:
        error = json.loads(answer)["error"]
        assert error["message"], asked
        assert isinstance(errors.from_json(error), errors.LwfmError)
        assert "internal error" not in error["message"], (asked, error)
        assert "Traceback" not in error["message"]
    return status


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within a JSON value, but that of the process to attach: junk there could be one of this machine's."""
    if at != ("pid",):
        yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], junk: Any) -> Any:
    """``value`` with ``junk`` at a place."""
    if not at:
        return junk
    changed = copy.copy(value)
    changed[at[0]] = replaced(value[at[0]], at[1:], junk)
    return changed


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def without_ids_taken(body: Any) -> Any:
    """Each submission makes a job of its own."""
    return json.loads(encoded(body).replace(b', "job_id": "01a20000-0000-7000-8000-00000000abcd"', b""))


def test_the_requests_that_make_sense_do(world: World) -> None:
    """The others are made of these, so they must be right."""
    for method, template in world.calls:
        bodies: list[Optional[bytes]] = [None]
        if method == "POST":
            bodies = [encoded(without_ids_taken(body)) for body in world.bodies.get(template, [])]
        for body in bodies:
            query = world.queries.get(template, {}) if method != "POST" else {}
            status, answer = world.agent.raw(method, f"{world.path(template)}?{urlencode(query)}", body)
            expected = {"/v1/jobs/*/finish": (409,), "/v1/data/fetch": (400,), "/v1/sites/*/resources": (200, 501)}
            expected.update({"/v1/sites/*/resources/*": (404,), "/v1/jobs/*/emit": (200, 409)})
            assert judged(status, answer, (method, template)) in expected.get(template, (200,)), (template, answer)


@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
def test_junk_in_a_body(world: World, data: st.DataObject) -> None:
    template = data.draw(st.sampled_from(sorted(world.bodies)), label="call")
    body = without_ids_taken(data.draw(st.sampled_from(world.bodies[template])))
    for _ in range(data.draw(st.integers(1, 2))):
        spots = list(places(body))
        body = replaced(
            body, data.draw(st.sampled_from(spots), label="place"), data.draw(st.sampled_from(JUNK), label="junk")
        )
    asked = (template, body)
    judged(*world.agent.raw("POST", world.path(template), encoded(body)), asked)


@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
def test_junk_in_a_path_or_a_query(world: World, data: st.DataObject) -> None:
    method, template = data.draw(st.sampled_from([call for call in world.calls if call[0] != "POST"]), label="call")
    junk = st.one_of(st.sampled_from(JUNK_TEXT), st.text(max_size=12), st.integers().map(str), st.floats().map(str))

    def quoted(text: str) -> str:
        return quote(text, safe="", errors="surrogatepass")

    path = "/".join(quoted(data.draw(junk)) or "%20" if part == "*" else part for part in template.split("/"))
    if data.draw(st.booleans()):
        path = world.path(template) if method == "GET" else path
    pairs = [(name, str(value)) for name, value in world.queries.get(template, {}).items() if data.draw(st.booleans())]
    pairs += [
        (data.draw(st.sampled_from([*world.queries.get(template, {}), "unknown"])), data.draw(junk))
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    target = f"{path}?" + "&".join(f"{quoted(name)}={quoted(value)}" for name, value in pairs)
    judged(*world.agent.raw(method, target), target)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b'{"a": ' * 100_000,
        b"[" * 100_000,
        b'{"jobs": NaN}',
        b"{" + b'"a":1,' * 1000 + b'"b":2}',
    ],
)
def test_bodies_that_are_no_object(world: World, body: bytes) -> None:
    for template in world.bodies:
        judged(*world.agent.raw("POST", world.path(template), body), (template, body[:50]))


@pytest.mark.parametrize("levels", [50, 120, 200, 400])
def test_values_nested_deeply(world: World, levels: int) -> None:
    nested = deep(levels)
    for template, bodies in world.bodies.items():
        for body in bodies:
            for key in ("properties", "meta", "jobs", "event", "context", "lines", "unheard_of"):
                sent = {**without_ids_taken(body), key: nested}
                judged(*world.agent.raw("POST", world.path(template), encoded(sent)), (template, key, levels))
    defn = {"command": "true", "cwd": "/", "meta": nested}
    judged(*world.agent.raw("POST", "/v1/jobs", encoded({"jobs": [defn]})), levels)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/v1/jobs"),
        ("PATCH", "/v1/jobs"),
        ("OPTIONS", "/"),
        ("HEAD", "/v1/agent"),
        ("BREW", "/v1/agent"),
        ("GET", "/"),
        ("GET", "/v2/agent"),
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/jobs"),
        ("GET", "/v1/jobs/%00"),
        ("GET", "/v1/jobs/%ff%fe"),
        ("GET", "/v1/../etc/passwd"),
        ("GET", "/v1/jobs?limit=%ff"),
    ],
)
def test_calls_that_do_not_exist(world: World, method: str, target: str) -> None:
    status, answer = world.agent.raw(method, target)
    assert 400 <= status < 500
    assert b"Traceback" not in answer


def test_a_caller_one_release_ahead_is_served(world: World) -> None:
    """Such a caller says that it speaks its own version and the one before."""
    status, answer = world.agent.raw("GET", "/v1/agent", None, **{"Lwfm-Protocol": f"{PROTOCOL + 1}, {PROTOCOL}"})
    assert (status, json.loads(answer)["protocol"]) == (200, PROTOCOL)


@pytest.mark.parametrize("spoken", ["99", "3, 4"])
def test_a_caller_without_a_common_version_is_told_both_sides(world: World, spoken: str) -> None:
    status, answer = world.agent.raw("GET", "/v1/agent", None, **{"Lwfm-Protocol": spoken})
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (426, "ProtocolMismatch")
    assert f"[{spoken}]" in error["message"]
    assert f"[{PROTOCOL}]" in error["message"]
    assert "neighbour" in error["hint"]


def test_what_is_no_version_is_refused(world: World) -> None:
    status, answer = world.agent.raw("GET", "/v1/agent", None, **{"Lwfm-Protocol": "newest"})
    assert (status, json.loads(answer)["error"]["code"]) == (400, "InvalidRecord")


def test_what_a_newer_version_says_is_kept(world: World) -> None:
    agent = world.agent
    job = agent.submit("true", unheard_of={"a": [1]}, meta={"k": 1})
    assert agent.wait(job)["definition"]["unheard_of"] == {"a": [1]}
    workflow = agent.client.post("/v1/workflows", {"name": "n", "colour": "blue"})
    assert workflow["colour"] == "blue"


def test_too_long_a_command_is_refused_at_once(world: World) -> None:
    with pytest.raises(errors.InvalidRecord, match="3000004") as caught:
        world.agent.submit(["true", "x" * 3_000_000])
    assert caught.value.hint
    with pytest.raises(errors.InvalidRecord, match="characters"):
        world.agent.on_data({"a": 1}, "true", defn={"env": {"X": "y" * 3_000_000}})


def test_many_callers_at_once(world: World) -> None:
    """Each gets the answer to what it asked."""
    wrong: list[object] = []

    def call(number: int) -> None:
        client = world.agent.new_client()
        for turn in range(20):
            name = f"caller-{number}-{turn}"
            answer = client.post("/v1/jobs", {"jobs": [{"command": "true", "name": name, "cwd": "/"}]})
            found = client.get(f"/v1/jobs/{answer['jobs'][0]['job_id']}")
            if found["name"] != name:
                wrong.append((name, found))
        client.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(world.agent.client.get("/v1/jobs", {"name": "caller-*", "limit": 0})["jobs"]) == 240
