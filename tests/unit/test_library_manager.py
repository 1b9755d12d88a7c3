"""The library's verbs: what they ask of the agent, and what they make of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm import JobDefn, JobEvent, JobState, LwfManager, MetadataEvent, Workflow, errors
from lwfm.library import values, waiting
from lwfm.matching import parse_terms

from support.fake_api import FakeApi, Raw, Request

JOB = {"job_id": "j1", "state": "RUNNING"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    for name in ("LWFM_SOCKET", "LWFM_JOB_ID", "LWFM_WORKFLOW_ID", "LWFM_HOME"):
        monkeypatch.delenv(name, raising=False)
    with FakeApi(tmp_path / "home") as fake:
        yield fake


@pytest.fixture
def manager(api: FakeApi) -> Iterator[LwfManager]:
    made = LwfManager(api.home)
    yield made
    made.close()


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWFM_JOB_ID", "me")
    monkeypatch.setenv("LWFM_WORKFLOW_ID", "mine")


def accept(request: Request) -> Any:
    return {"jobs": [{"job_id": job["job_id"], "state": "PENDING"} for job in request.body["jobs"]]}


class TestSubmit:
    def test_one(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["POST /v1/jobs"] = accept
        status = manager.get_site("far").run.submit(JobDefn(["prog", "x"], meta={"T": 1}), workflow="w")
        body = api.requests[-1].body
        assert status.job_id == body["jobs"][0]["job_id"]
        assert status.state is JobState.PENDING
        assert (body["site"], body["workflow"], body["jobs"][0]["command"]) == ("far", "w", ["prog", "x"])
        assert "parent" not in body

    def test_a_line_and_words(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["POST /v1/jobs"] = accept
        manager.get_site().run.submit_many(["a | b", ["a", "b"], ("c",)])
        assert [job["command"] for job in api.requests[-1].body["jobs"]] == ["a | b", ["a", "b"], ["c"]]

    def test_many_go_in_chunks(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["POST /v1/jobs"] = accept
        statuses = manager.get_site().run.submit_many(["true"] * 1500)
        assert [len(request.body["jobs"]) for request in api.requests] == [100, 250, 250, 250, 250, 250, 150]
        assert len({status.job_id for status in statuses}) == 1500

    def test_inside_a_job(self, api: FakeApi, manager: LwfManager, in_a_job: None) -> None:
        api.replies["POST /v1/jobs"] = accept
        manager.get_site().run.submit("true")
        body = api.requests[-1].body
        assert (body["workflow"], body["parent"]) == ("mine", "me")
        manager.get_site().run.submit("true", workflow=Workflow("x", workflow_id="other"), parent="p")
        body = api.requests[-1].body
        assert (body["workflow"], body["parent"]) == ("other", "p")

    def test_nonsense(self, api: FakeApi, manager: LwfManager) -> None:
        for command in ("", [], ["a", 1], None):
            with pytest.raises(errors.InvalidRecord):
                manager.get_site().run.submit(command)  # type: ignore[arg-type]
        assert manager.get_site().run.submit_many([]) == []
        assert not api.requests


class TestWait:
    def test_until_it_has_ended(self, api: FakeApi, manager: LwfManager) -> None:
        def answer(request: Request) -> Any:
            done = len(api.asked("POST", "/v1/jobs/wait")) == 3
            return {"jobs": [{"job_id": "j1", "state": "COMPLETE" if done else "RUNNING"}], "done": done}

        api.replies["POST /v1/jobs/wait"] = answer
        assert manager.wait("j1").state == "COMPLETE"
        assert {request.body["timeout_s"] for request in api.requests} == {waiting.CALL_S}

    def test_in_vain(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["POST /v1/jobs/wait"] = {"jobs": [JOB], "done": False}
        with pytest.raises(errors.WaitTimeout, match="1 of 1"):
            manager.wait("j1", timeout_s=0)
        assert api.requests[-1].body["timeout_s"] == 0

    def test_for_many(self, api: FakeApi, manager: LwfManager, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "CHUNK", 2)

        def answer(request: Request) -> Any:
            return {"jobs": [{"job_id": job, "state": "COMPLETE"} for job in request.body["jobs"]], "done": True}

        api.replies["POST /v1/jobs/wait"] = answer
        assert [job.job_id for job in manager.wait_all(["a", "b", "c"])] == ["a", "b", "c"]
        assert len(api.requests) == 2
        assert manager.wait_all([]) == []


class TestData:
    def test_put(self, api: FakeApi, manager: LwfManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        api.replies["POST /v1/data"] = {"data_id": "d"}
        monkeypatch.chdir(tmp_path)
        assert manager.get_site("s").repo.put("a.txt", "b/a.txt", {"T": 1}).data_id == "d"
        assert api.requests[-1].body == {
            "op": "put", "site": "s", "path": str(tmp_path / "a.txt"), "site_path": "b/a.txt", "properties": {"T": 1},
        }  # fmt: skip
        manager.notate_get(Path("in.dat"))
        body = api.requests[-1].body
        assert (body["op"], body["notate"], body["path"]) == ("get", True, str(tmp_path / "in.dat"))
        manager.emit_data({"k": "v"})
        assert api.requests[-1].body == {"op": "event", "properties": {"k": "v"}}

    def test_inside_a_job(self, api: FakeApi, manager: LwfManager, in_a_job: None) -> None:
        api.replies["POST /v1/data"] = {"data_id": "d"}
        manager.notate_put("x")
        body = api.requests[-1].body
        assert (body["job"], body["workflow"]) == ("me", "mine")
        manager.notate_put("x", job="other")
        body = api.requests[-1].body
        assert (body["job"], body.get("workflow")) == ("other", None)

    def test_get_into_a_directory(self, api: FakeApi, manager: LwfManager, tmp_path: Path) -> None:
        api.replies["GET /v1/data/d"] = {"data_id": "d", "path": "/far/r.csv"}
        api.replies["POST /v1/data/fetch"] = lambda request: {"data_id": "e", "path": request.body["path"]}
        repo = manager.get_site().repo
        assert repo.get("d", tmp_path) == str(tmp_path / "r.csv")
        assert repo.get("file://h/far/s.csv", tmp_path) == str(tmp_path / "s.csv")
        assert repo.get("d", tmp_path / "t.csv") == str(tmp_path / "t.csv")

    def test_find(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["GET /v1/data"] = {"data": [{"data_id": "d", "properties": {"T": 0.7}}]}
        assert manager.find({"T": ">=0.7"}, kind="thermo*", n=3, flag=True)[0].properties == {"T": 0.7}
        assert api.requests[-1].query["match"] == ["T=>=0.7", "kind=thermo*", "n==3", "flag==true"]
        with pytest.raises(errors.InvalidRecord):
            manager.find()

    def test_output(self, api: FakeApi, manager: LwfManager) -> None:
        def piece(request: Request) -> Raw:
            offset = int(request.query["offset"][0])
            data = b"caf\xe9\n"[offset : offset + 3]
            return Raw(data, {"Lwfm-Offset": str(offset + len(data)), "Lwfm-Size": "5"})

        api.replies["GET /v1/jobs/j/output"] = piece
        assert manager.output("j") == b"caf\xe9\n"
        assert manager.output_text("j", "stderr") == "caf\ufffd\n"

    def test_lineage_of_a_path(self, api: FakeApi, manager: LwfManager, tmp_path: Path) -> None:
        api.replies["GET /v1/lineage"] = {"root": [], "nodes": [], "edges": []}
        manager.lineage(tmp_path / "gone.csv", "up")
        assert api.requests[-1].query == {"of": [str(tmp_path / "gone.csv")], "direction": ["up"]}
        manager.lineage("019a")
        assert api.requests[-1].query["of"] == ["019a"]


class TestEvents:
    def test_set(self, api: FakeApi, manager: LwfManager, in_a_job: None) -> None:
        api.replies["POST /v1/handlers"] = {"handler_id": "h", "kind": "job", "job_ids": ["f"]}
        handler = manager.set_event(JobEvent(["j1"], [JobState.FAILED], JobDefn("true")))
        assert (handler.handler_id, handler.job_id) == ("h", "f")
        body = api.requests[-1].body
        assert (body["kind"], body["event"]["states"], body["workflow"], body["parent"]) == (
            "job",
            ["FAILED"],
            "mine",
            "me",
        )
        manager.set_event(MetadataEvent({"k": 1}, JobDefn("true"), repeat=True), workflow="w")
        body = api.requests[-1].body
        assert (body["kind"], body["event"]["repeat"], body["workflow"]) == ("data", True, "w")

    def test_unset_and_list(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["DELETE /v1/handlers/h"] = {"handler_id": "h", "kind": "job", "state": "unset"}
        api.replies["GET /v1/handlers"] = {"handlers": [{"handler_id": "h", "kind": "job"}]}
        assert manager.unset_event(manager.events(state="waiting")[0]).state == "unset"

    def test_emit(self, api: FakeApi, manager: LwfManager, monkeypatch: pytest.MonkeyPatch) -> None:
        api.replies["POST /v1/jobs/me/emit"] = JOB
        with pytest.raises(errors.InvalidRecord, match="which job"):
            manager.emit_status("info", "half way")
        monkeypatch.setenv("LWFM_JOB_ID", "me")
        manager.emit_status("info", "half way", progress=0.5)
        assert api.requests[-1].body == {"state": "INFO", "reason": "half way", "progress": 0.5}


class TestLists:
    def test_of_one_instance(self, api: FakeApi, manager: LwfManager) -> None:
        there = {"origin": "a" * 32, "origin_host": "c1.example.org", "elsewhere": "c1"}
        api.replies["GET /v1/jobs"] = {"jobs": [{"job_id": "j1", "state": "RUNNING", **there}]}
        api.replies["GET /v1/workflows"] = {"workflows": [{"workflow_id": "w1", "name": "w", **there}]}
        api.replies["GET /v1/data"] = {"data": [{"data_id": "d1", **there}]}
        api.replies["GET /v1/handlers"] = {"handlers": [{"handler_id": "h1", "kind": "job", **there}]}
        api.replies["GET /v1/logs"] = {"logs": [there]}
        api.replies["GET /v1/search"] = {"results": [there]}
        records: list[Any] = [*manager.jobs(origin="c1"), *manager.find_workflows(origin="c1")]
        records += [*manager.data(origin="c1"), *manager.events(origin="c1")]
        assert len(records) == 4
        for record in records:
            assert (record.elsewhere, record.origin_host, record.extra) == ("c1", "c1.example.org", {})
        assert manager.logs(origin="c1") == manager.search("x", origin="c1") == [there]
        assert [request.query["origin"] for request in api.requests] == [["c1"]] * 6

    def test_jobs(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["GET /v1/jobs"] = {"jobs": [JOB]}
        assert (
            manager.jobs(workflow=Workflow("w", workflow_id="w1"), state=["running", JobState.READY])[0].job_id == "j1"
        )
        assert api.requests[-1].query == {"workflow": ["w1"], "state": ["RUNNING", "READY"], "limit": ["0"]}
        with pytest.raises(errors.InvalidRecord):
            manager.jobs(state="nonsense")

    def test_workflows(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["POST /v1/workflows"] = lambda request: {"workflow_id": "w1", **request.body}
        made = manager.put_workflow("melt", "why", {"T": 0.7})
        assert (made.name, made.workflow_id, made.meta) == ("melt", "w1", {"T": 0.7})
        manager.put_workflow(made, description="because")
        assert api.requests[-1].body["workflow_id"] == "w1"
        assert api.requests[-1].body["description"] == "because"
        api.replies["GET /v1/workflows"] = {"workflows": [{"name": "melt", "unknown": 1}]}
        assert manager.find_workflows("me*")[0].extra == {"unknown": 1}

    def test_sites(self, api: FakeApi, manager: LwfManager) -> None:
        api.replies["GET /v1/sites"] = {"sites": [{"name": "local"}, {"name": "far"}]}
        assert [site.name for site in manager.get_sites()] == ["local", "far"]
        api.replies["POST /v1/sites/far/check"] = {
            "checks": [{"pillar": "auth", "ok": False}, {"pillar": "run", "ok": True}]
        }
        assert not manager.get_site("far").auth.is_auth_current()
        api.replies["POST /v1/sites/far/login"] = {"current": False, "questions": [{"prompt": "?", "secret": True}]}
        with pytest.raises(errors.LoginRequired):
            manager.get_site("far").auth.login()

    def test_log(self, api: FakeApi, manager: LwfManager, in_a_job: None) -> None:
        api.replies["POST /v1/logs"] = {}
        manager.log("hello", "warning")
        (line,) = api.requests[-1].body["lines"]
        assert (line["level"], line["message"], line["job"], line["workflow"]) == ("WARNING", "hello", "me", "mine")
        manager.log("hello", job="other")
        (line,) = api.requests[-1].body["lines"]
        assert (line["job"], line.get("workflow")) == ("other", None)


def test_context(monkeypatch: pytest.MonkeyPatch, manager: LwfManager, in_a_job: None) -> None:
    monkeypatch.setenv("LWFM_ATTEMPT", "2")
    monkeypatch.setenv("LWFM_TRIGGER_PROPERTIES", '{"T": 0.7}')
    context = manager.context()
    assert (context.job_id, context.attempt, context.trigger_properties) == ("me", 2, {"T": 0.7})
    monkeypatch.setenv("LWFM_TRIGGER_PROPERTIES", "nonsense")
    with pytest.raises(errors.InvalidRecord):
        manager.context()


class Scalar:
    """As numpy's."""

    def tolist(self) -> float:
        return 0.7


class TestValues:
    def test_properties(self) -> None:
        given = {"path": Path("/a"), "T": Scalar(), "list": (1, Scalar()), "deep": {"x": Scalar()}, "none": None}
        assert values.properties_of(given) == {
            "path": "/a", "T": 0.7, "list": [1, 0.7], "deep": {"x": 0.7}, "none": None,
        }  # fmt: skip

    @pytest.mark.parametrize("given", [{"x": object()}, {"x": {1, 2}}, {1: 2}, {"x": float("nan")}, {"": 1}])
    def test_what_json_does_not_have(self, given: Any) -> None:
        with pytest.raises(errors.InvalidRecord):
            values.properties_of(given)

    @pytest.mark.parametrize(
        "match",
        [{"T": 0.7}, {"a": ">=1"}, {"a": "=a*b"}, {"a": "x=y"}, {"a": "~^b$"}, {"a": "g*"}, {"a": "!=3"}, {"a": ""}],
    )
    def test_terms_say_what_the_match_says(self, match: dict[str, Any]) -> None:
        said = parse_terms(values.match_terms(match))
        expected = {key: value if isinstance(value, str) else f"={value}" for key, value in match.items()}
        assert said == expected

    def test_a_value_that_looks_like_a_glob_in_json(self) -> None:
        from lwfm.matching import parse_match

        terms = parse_terms(values.match_terms({"box": {"a": [1]}}))
        assert terms["box"].startswith("=")
        assert parse_match(parse_terms(values.match_terms({"n": 3}))).accepts({"n": 3.0})

    def test_ids(self) -> None:
        assert values.id_of(Workflow("n", workflow_id="w"), "a workflow") == "w"
        for nothing in (Workflow("n"), "", None, 5):
            with pytest.raises(errors.InvalidRecord):
                values.id_of(nothing, "a thing")
