from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors, paths
from lwfm.client import Client, Endpoint, find_endpoint
from lwfm.client.calls import path_of

from support.fake_api import BreakOff, FakeApi, Raw, Request


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path / "home") as fake:
        yield fake


@pytest.fixture
def client(api: FakeApi) -> Iterator[Client]:
    made = Client(Endpoint(paths.Home(api.home), api.socket, may_start=False))
    yield made
    made.close()


def test_one_connection_serves_many_calls(api: FakeApi, client: Client) -> None:
    for _ in range(3):
        assert client.get("/v1/agent")["version"] == "fake"
    assert api.connections == 1


def test_each_thread_has_its_own_connection(api: FakeApi, client: Client) -> None:
    client.get("/v1/agent")
    thread = threading.Thread(target=client.get, args=("/v1/agent",))
    thread.start()
    thread.join()
    assert api.connections == 2


def test_query_values_may_repeat_and_none_is_left_out(api: FakeApi, client: Client) -> None:
    api.replies["GET /v1/jobs"] = {"jobs": []}
    client.get("/v1/jobs", {"match": ["a=1", "b=\u00e4 &"], "site": None, "limit": 0})
    assert api.requests[-1].query == {"match": ["a=1", "b=\u00e4 &"], "limit": ["0"]}


def test_path_parts_are_quoted(api: FakeApi, client: Client) -> None:
    assert path_of("sites", "a/b c") == "/v1/sites/a%2Fb%20c"
    api.replies["GET /v1/sites/a/b c"] = {"name": "a/b c"}
    assert client.get(path_of("sites", "a/b c")) == {"name": "a/b c"}


@pytest.mark.parametrize("kind", list(errors._tree(errors.LwfmError).values()))
def test_every_error_comes_back_as_itself(api: FakeApi, client: Client, kind: type[errors.LwfmError]) -> None:
    api.replies["GET /v1/x"] = kind("what went wrong", hint="what to do", transient=True)
    with pytest.raises(kind) as caught:
        client.get("/v1/x")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what went wrong", "what to do")


def test_an_idle_connection_that_was_closed_is_opened_again_even_for_what_must_not_be_repeated(
    api: FakeApi, client: Client
) -> None:
    api.replies["POST /v1/logs"] = {}
    client.get("/v1/agent")
    api.drop_connections()
    client.post("/v1/logs", {"lines": []})
    assert len(api.asked("POST", "/v1/logs")) == 1
    assert api.connections == 2


def test_a_repeatable_call_is_made_again_when_the_connection_breaks(api: FakeApi, client: Client) -> None:
    def once(request: Request) -> Any:
        if len(api.asked("POST", "/v1/jobs")) == 1:
            raise BreakOff
        return {"jobs": []}

    api.replies["POST /v1/jobs"] = once
    assert client.post("/v1/jobs", {}, repeatable=True) == {"jobs": []}
    assert len(api.asked("POST", "/v1/jobs")) == 2


def test_what_must_not_be_repeated_is_not(api: FakeApi, client: Client) -> None:
    def broken(request: Request) -> Any:
        raise BreakOff

    api.replies["POST /v1/data"] = broken
    with pytest.raises(errors.AgentUnreachable) as caught:
        client.post("/v1/data", {})
    assert len(api.asked("POST", "/v1/data")) == 1
    assert not caught.value.transient


def test_a_repeatable_call_is_not_repeated_for_ever(api: FakeApi, client: Client) -> None:
    def broken(request: Request) -> Any:
        raise BreakOff

    api.replies["GET /v1/x"] = broken
    with pytest.raises(errors.AgentUnreachable):
        client.get("/v1/x")
    assert len(api.asked("GET", "/v1/x")) == 2


def test_a_hung_agent_is_reported(api: FakeApi, client: Client) -> None:
    release = threading.Event()
    api.replies["GET /v1/x"] = lambda request: release.wait(10) or {}
    with pytest.raises(errors.AgentUnreachable, match="has not answered"):
        client.get("/v1/x", timeout_s=0.05)
    release.set()
    assert client.get("/v1/agent")["version"] == "fake"  # not the late answer


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe"])
def test_an_answer_that_is_not_json(api: FakeApi, client: Client, body: bytes) -> None:
    api.replies["GET /v1/x"] = Raw(body)
    with pytest.raises(errors.AgentUnreachable, match="does not speak"):
        client.get("/v1/x")


def test_an_error_without_our_body(api: FakeApi, client: Client) -> None:
    api.replies["GET /v1/x"] = Raw(b"Bad Gateway", status=502)
    with pytest.raises(errors.LwfmError, match="502"):
        client.get("/v1/x")


def test_bodies_are_posted_in_order_and_answered_in_order(api: FakeApi, client: Client) -> None:
    api.replies["POST /v1/jobs"] = lambda request: {"n": request.body["n"]}
    made: list[int] = []

    def bodies() -> Iterator[Any]:
        for number in range(4):
            made.append(number)
            yield b'{"n":0}' if number == 0 else {"n": number}

    answers = client.post_each("/v1/jobs", bodies())
    assert next(answers) == {"n": 0}
    assert made == [0, 1]  # the next was made before the first answer was read
    assert [answer["n"] for answer in answers] == [1, 2, 3]
    assert api.connections == 1


def test_a_body_whose_answer_was_lost_is_posted_again(api: FakeApi, client: Client) -> None:
    def second_breaks(request: Request) -> Any:
        if len(api.asked("POST", "/v1/jobs")) == 2:
            raise BreakOff
        return request.body

    api.replies["POST /v1/jobs"] = second_breaks
    assert [answer["n"] for answer in client.post_each("/v1/jobs", ({"n": n} for n in range(3)))] == [0, 1, 2]
    assert [request.body["n"] for request in api.asked("POST", "/v1/jobs")] == [0, 1, 1, 2]


def test_nobody_there(tmp_path: Path) -> None:
    client = Client(Endpoint(paths.Home(tmp_path), tmp_path / "agent.sock", may_start=False))
    with pytest.raises(errors.AgentUnreachable) as caught:
        client.get("/v1/agent")
    assert "lwfm agent start" in str(caught.value.hint)


def test_a_socket_nobody_listens_at(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(tmp_path / "agent.sock"))
    client = Client(Endpoint(paths.Home(tmp_path), tmp_path / "agent.sock", may_start=False))
    with pytest.raises(errors.AgentUnreachable, match="no agent answers"):
        client.get("/v1/agent")


def test_a_socket_of_somebody_else(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(errors.InsecureState):
        client.get("/v1/agent")
    assert not api.requests


def test_a_plain_file_in_the_sockets_place(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").write_text("")
    client = Client(Endpoint(paths.Home(tmp_path), tmp_path / "agent.sock", may_start=False))
    with pytest.raises(errors.AgentError):
        client.get("/v1/agent")


def test_a_fork_does_not_share_its_parents_connection(api: FakeApi, client: Client) -> None:
    client.get("/v1/agent")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            client.get("/v1/agent")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    client.get("/v1/agent")
    assert api.connections == 2


class TestEndpoint:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LWFM_SOCKET", raising=False)
        monkeypatch.delenv("LWFM_HOME", raising=False)

    def test_of_a_home(self, tmp_path: Path) -> None:
        found = find_endpoint(tmp_path)
        assert (found.home.root, found.socket, found.may_start) == (tmp_path, tmp_path / "agent.sock", True)

    def test_of_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_HOME", str(tmp_path))
        assert find_endpoint().home.root == tmp_path

    def test_in_a_job_on_the_agents_host(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_HOME", str(tmp_path))
        monkeypatch.setenv("LWFM_SOCKET", str(tmp_path / "agent.sock"))
        assert find_endpoint().may_start

    def test_in_a_job_elsewhere_the_agent_is_not_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_HOME", str(tmp_path))
        monkeypatch.setenv("LWFM_SOCKET", "/run/elsewhere.sock")
        found = find_endpoint()
        assert (str(found.socket), found.may_start) == ("/run/elsewhere.sock", False)

    def test_a_socket_without_a_home_is_never_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_SOCKET", "/run/elsewhere.sock")
        assert not find_endpoint().may_start

    def test_another_home_given_has_its_own_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_HOME", str(tmp_path / "a"))
        monkeypatch.setenv("LWFM_SOCKET", str(tmp_path / "a" / "agent.sock"))
        assert find_endpoint(tmp_path / "b").socket == tmp_path / "b" / "agent.sock"
