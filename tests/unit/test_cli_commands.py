"""What each command asks of the agent, and how it shows the answer."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from lwfm import errors
from lwfm.__main__ import main

from support.fake_api import FakeApi, Raw, Request, in_use

JOB = "019aab12-3456-7000-8000-000000000001"
OTHER = "019aab12-3456-7001-8000-000000000002"
FLOW = "019aab12-0000-7000-8000-000000000003"
DATA = "019aab12-1111-7000-8000-000000000004"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with in_use(tmp_path, monkeypatch) as fake:
        yield fake


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that succeeds; what stands on the terminal's screen then."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> str:
        screen = Terminal()
        with contextlib.redirect_stdout(screen):
            assert main(words) == 0
        return screen.getvalue()

    return run


def failed_job(**more: Any) -> dict[str, Any]:
    return {
        "job_id": JOB,
        "state": "FAILED",
        "name": "sim",
        "site": "local",
        "submitted_at": "2020-01-01T00:00:00.000000Z",
        "started_at": "2020-01-01T00:00:01.000000Z",
        "ended_at": "2020-01-01T00:00:03.500000Z",
        "exit_code": 3,
        **more,
    }


class TestListings:
    def test_jobs(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs"] = {"jobs": [failed_job()]}
        words = ["--state", "failed", "--state", "ready", "--match", "T>=0.7", "--match", "kind=sim", "--limit", "0"]
        assert main(["job", "list", *words]) == 0
        title, row = capsys.readouterr().out.splitlines()
        assert title.split() == ["JOB", "NAME", "STATE", "SUBMITTED", "TIME", "WHY"]  # nothing to say of the site
        assert row.split()[:3] == [JOB, "sim", "FAILED"]
        assert row.endswith("2.50s  exit code 3")
        query = api.asked("GET", "/v1/jobs")[0].query
        assert query == {"state": ["FAILED", "READY"], "match": ["T>=0.7", "kind=sim"], "limit": ["0"]}

    def test_jobs_on_a_terminal(self, api: FakeApi, terminal: Callable[..., str]) -> None:
        name = "evil\x1b]0;t\x07 " + "x" * 200
        api.replies["GET /v1/jobs"] = {"jobs": [failed_job(name=name)]}
        shown = terminal("job", "list")
        assert "\x1b]" not in shown
        assert "019aab12-3456-7000 " in shown
        assert "FAILED" in shown
        assert max(len(line) for line in shown.splitlines()) <= 100

    def test_json_is_what_the_agent_said(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        jobs = [failed_job(), failed_job(job_id=OTHER, unknown_key=[1])]
        api.replies["GET /v1/jobs"] = {"jobs": jobs}
        assert main(["job", "list", "--json"]) == 0
        out = capsys.readouterr().out
        assert json.loads(out) == jobs
        assert len(out.splitlines()) == 4  # one job a line

    def test_nothing(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs"] = {"jobs": []}
        assert main(["job", "list"]) == 0
        assert capsys.readouterr().out == ""
        assert main(["job", "list", "--json"]) == 0
        assert capsys.readouterr().out == "[]\n"

    def test_a_workflow_may_be_named(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/workflows"] = {"workflows": [{"workflow_id": FLOW, "name": "m*lt"}]}
        api.replies["GET /v1/jobs"] = {"jobs": []}
        assert main(["job", "list", "--workflow", "m*lt"]) == 0
        assert api.asked("GET", "/v1/workflows")[0].query["name"] == ["m[*]lt"]
        assert api.asked("GET", "/v1/jobs")[0].query["workflow"] == [FLOW]
        api.replies["GET /v1/workflows"] = {"workflows": []}
        assert main(["job", "list", "--workflow", "deadbeef"]) == 3  # looks like an id, and is neither

    def test_what_comes_from_other_instances(self, api: FakeApi, terminal: Callable[..., str]) -> None:
        """A column that is there only where it says something; all of it is asked for by origin."""
        far, time = {"elsewhere": "login1", "origin_host": "login1.far.org"}, "2020-01-01T00:00:00.000000Z"
        handler = {"handler_id": OTHER, "kind": "data", "state": "waiting", "event": {"match": {"k": 1}}}
        flow = {"workflow_id": FLOW, "name": "melt", "job_counts": {"RUNNING": 3}}
        listings: list[tuple[list[str], str, dict[str, Any]]] = [
            (["job", "list"], "jobs", failed_job()),
            (["workflow", "list"], "workflows", flow),
            (["handler", "list"], "handlers", handler),
            (["find"], "data", {"data_id": DATA, "op": "put", "path": "/a/b"}),
            (["search", "it"], "results", {"kind": "log", "id": JOB, "text": "found it"}),
            (["node", "history"], "nodes", {"time": time, "host": "n1", "state": "up"}),
        ]
        for words, key, row in listings:
            path = f"GET /v1/{'search' if key == 'results' else key}"
            api.replies[path] = {key: [row]}
            assert "ORIGIN" not in terminal(*words)
            api.replies[path] = {key: [row, {**row, **far}]}
            title, own, other = terminal(*words).splitlines()
            at = title.index("ORIGIN")
            assert (own[at : at + 6].strip(), other[at : at + 6]) == ("", "login1"), words
            if key != "nodes":
                terminal(*words, "--origin", "login1")
                assert api.requests[-1].query["origin"] == ["login1"]

    def test_lines_of_other_instances(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        line = {"time": "2020-01-01T00:00:00.000000Z", "level": "INFO", "message": "said"}
        api.replies["GET /v1/logs"] = {"logs": [{**line, "elsewhere": "c1"}, line]}
        assert main(["log", "--origin", "here"]) == 0
        one, other = capsys.readouterr().out.splitlines()
        assert one.endswith("INFO     c1  said")
        assert other.endswith("INFO         said")
        assert api.requests[-1].query["origin"] == ["here"]
        assert main(["log", "--origin", "here", "a message"]) == 2
        assert "--origin looks for lines" in capsys.readouterr().err

    def test_where_a_workflow_has_its_jobs(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        flow = {
            "workflow_id": FLOW,
            "name": "melt",
            "origin_host": "here.org",
            "job_counts": {"RUNNING": 3, "READY": 1},
        }
        flow["jobs_elsewhere"] = {"RUNNING": 3}
        api.replies["GET /v1/workflows"] = {"workflows": [flow]}
        api.replies["GET /v1/workflows/last"] = api.replies[f"GET /v1/workflows/{FLOW}"] = flow
        assert main(["workflow", "list"]) == 0
        assert capsys.readouterr().out.splitlines()[1].endswith("1 READY; elsewhere 3 RUNNING")
        assert main(["workflow", "show", "last"]) == 0
        shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
        assert shown["origin"] == "here.org (this instance)"
        assert (shown["jobs"], shown["elsewhere"]) == ("1 READY", "3 RUNNING")

    def test_workflows_handlers_data_sites(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        flow = {"workflow_id": FLOW, "name": "melt", "job_counts": {"COMPLETE": 2, "FAILED": 0}, "meta": {"T": 1}}
        api.replies["GET /v1/workflows"] = {"workflows": [flow]}
        event = {"match": {"kind": "thermo"}, "defn": {"command": ["analyse", "it"]}}
        handler = {"handler_id": OTHER, "kind": "data", "state": "waiting", "event": event}
        on_jobs = {"jobs": [JOB, OTHER], "states": ["COMPLETE"], "mode": "any", "notify": {"url": "http://x"}}
        api.replies["GET /v1/handlers"] = {"handlers": [handler, {**handler, "kind": "job", "event": on_jobs}]}
        sheet = {"data_id": DATA, "op": "put", "path": "/a/b", "size_bytes": 2048, "properties": {"T": 0.7}}
        api.replies["GET /v1/data"] = {"data": [sheet]}
        api.replies["GET /v1/sites"] = {
            "sites": [{"name": "local", "driver": "local", "pillars": ["run"], "state": "up"}]
        }
        facts = {"cores": 2, "memory_bytes": 1024}
        api.replies["GET /v1/sites/local/resources"] = {
            "resources": [{"resource_id": "n1", "kind": "node", "facts": facts}]
        }
        api.replies["GET /v1/search"] = {"results": [{"kind": "log", "id": JOB, "text": "found it"}]}
        assert main(["workflow", "list"]) == 0
        assert "2 COMPLETE" in capsys.readouterr().out
        assert main(["handler", "list"]) == 0
        out = capsys.readouterr().out
        assert "kind=thermo" in out
        assert "analyse it" in out
        assert "any of 2 jobs COMPLETE" in out
        assert "tell http://x" in out
        assert main(["find", "T>0.5"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split() == [DATA, "/a/b", "2.0", "KiB", "T=0.7"]
        assert main(["site", "list"]) == 0
        assert main(["spin", "list"]) == 0
        assert "cores=2 memory=1.0 KiB" in capsys.readouterr().out
        assert main(["search", "found", "it"]) == 0
        assert "found it" in capsys.readouterr().out
        assert api.asked("GET", "/v1/search")[0].query["q"] == ["found it"]

    def test_who_interrupts_a_transfer_is_told_that_it_goes_on(
        self, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("lwfm.client.calls.Caller.post", interrupted)
        assert main(["get", "019aab12", str(tmp_path / "x")]) == 130
        assert f"lwfm: the agent goes on with this: {tmp_path}/x appears when all of it" in capsys.readouterr().err

    def test_a_state_that_is_none_is_named_as_it_was_typed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["job", "list", "--state", "foo"]) == 2
        assert capsys.readouterr().err.startswith("lwfm: 'foo' is not a job state")

    @pytest.mark.parametrize(
        ("given", "asked"),
        [
            ("2026-05-01", "2026-05-01T00:00:00.000000Z"),
            ("2026-05-01T08:00:30Z", "2026-05-01T08:00:30.000000Z"),
            ("2026-05-01T08:00+02:00", "2026-05-01T06:00:00.000000Z"),
        ],
    )
    def test_node_history_from_a_time_on(self, api: FakeApi, given: str, asked: str) -> None:
        api.replies["GET /v1/nodes"] = {"nodes": []}
        assert main(["node", "history", "--since", given]) == 0
        assert api.requests[-1].query["since"] == [asked]

    def test_the_last_workflow_where_there_is_none(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/workflows/last"] = errors.NotFound("there is no workflow yet")
        api.replies["GET /v1/workflows"] = {"workflows": []}
        assert main(["workflow", "show", "last"]) == 3
        assert capsys.readouterr().err == "lwfm: there is no workflow yet\n"
        api.replies["GET /v1/workflows"] = {"workflows": [{"workflow_id": FLOW, "name": "last"}]}
        api.replies[f"GET /v1/workflows/{FLOW}"] = {"workflow_id": FLOW, "name": "last"}
        assert main(["workflow", "show", "last"]) == 0


class TestOneJob:
    def test_show(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs/last"] = failed_job(
            command="sim --T 0.7",
            meta={"T": 0.7},
            definition={"command": ["sim"], "resources": {"cores": 2}, "outputs": ["o"]},
            context={"user": "me", "host": "here", "cwd": "/w", "git": {"commit": "abc", "dirty": True}},
        )
        assert main(["job", "show", "last"]) == 0
        shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        shown = {name.strip(): value.strip() for name, value in shown.items()}
        assert shown["why"] == "exit code 3"
        assert (shown["directory"], shown["asked for"], shown["git"]) == ("/w", "cores=2", "abc with changes")
        assert shown["submitted"].endswith("by me on here")

    def test_status(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs/last"] = failed_job()
        assert main(["job", "status", "last"]) == 0
        assert capsys.readouterr().out == "FAILED\n"

    def test_statuses_tree_why(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/jobs/last/statuses"] = {"statuses": [{"state": "READY"}, failed_job()]}
        child = {"job": failed_job(job_id=OTHER, name="child\n"), "children": []}
        api.replies["GET /v1/jobs/last/tree"] = {"job": failed_job(), "children": [child, child]}
        api.replies["GET /v1/jobs/last/why"] = {
            "job_id": JOB,
            "state": "FAILED",
            "reason": "r",
            "explanation": ["a", "b"],
        }
        assert main(["job", "statuses", "last"]) == 0
        assert "READY" in capsys.readouterr().out
        assert main(["job", "tree", "last"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line[:3] for line in lines] == ["019", "├─ ", "└─ "]
        assert lines[1].endswith("child\\n")
        assert main(["job", "why", "last"]) == 0
        assert capsys.readouterr().out == "FAILED: r\n  a\n  b\n"

    def test_output_is_bytes_for_a_pipe(self, api: FakeApi, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        content = bytes(range(256)) * 3

        def piece(request: Request) -> Raw:
            offset = int(request.query["offset"][0])
            data = content[offset : offset + 500]
            return Raw(
                data,
                {"Lwfm-Offset": str(offset + len(data)), "Lwfm-Size": str(len(content)), "Lwfm-Ended": "1"},
            )

        api.replies["GET /v1/jobs/last/output"] = piece
        assert main(["job", "output", "last", "--stderr"]) == 0
        assert capsysbinary.readouterr().out == content
        assert {request.query["stream"][0] for request in api.requests} == {"stderr"}

    def test_output_is_harmless_for_a_terminal(self, api: FakeApi, terminal: Callable[..., str]) -> None:
        data = b"ok\n\x1b[2J\xff\n"
        api.replies["GET /v1/jobs/last/output"] = Raw(data, {"Lwfm-Offset": "8", "Lwfm-Size": "8", "Lwfm-Ended": "1"})
        assert terminal("job", "output", "last") == "ok\n\\x1b[2J\\xff\n"

    def test_output_is_followed_to_its_end(self, api: FakeApi, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        pieces = [b"one\n", b"", b"two\n"]

        def piece(request: Request) -> Raw:
            number = len(api.asked("GET", "/v1/jobs/last/output")) - 1
            end = sum(map(len, pieces[: number + 1]))
            headers = {"Lwfm-Offset": str(end), "Lwfm-Size": str(end), "Lwfm-Ended": "1" if number == 2 else "0"}
            return Raw(pieces[number], headers)

        api.replies["GET /v1/jobs/last/output"] = piece
        assert main(["job", "output", "-f", "last"]) == 0
        assert capsysbinary.readouterr().out == b"one\ntwo\n"

    def test_cancel(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["POST /v1/jobs/cancel"] = {"cancelled": 2}
        assert main(["job", "cancel", JOB, OTHER, "--reason", "enough"]) == 0
        assert api.requests[-1].body == {"jobs": [JOB, OTHER], "reason": "enough"}
        assert capsys.readouterr().out == "2 jobs cancelled\n"
        assert main(["job", "cancel"]) == 2

    def test_cancel_what_others_have(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/workflows/last"] = {"workflow_id": FLOW}
        api.replies["POST /v1/jobs/cancel"] = {"cancelled": 0, "elsewhere": {"c1": 2}}
        assert main(["job", "cancel", "--workflow", "last"]) == 0
        told = capsys.readouterr()
        assert told.out == "0 jobs cancelled\n"
        assert "2 jobs of the workflow cannot be cancelled from here, only on c1" in told.err


class TestWait:
    def replies(self, api: FakeApi, **counts: int) -> None:
        total = sum(counts.values())
        api.replies["POST /v1/progress"] = {"revision": 1, "counts": counts, "total": total, "active": 0}
        states = [state for state, count in counts.items() for _ in range(count)]
        jobs = [failed_job(state=state, job_id=JOB) for state in states]
        api.replies["POST /v1/jobs/wait"] = {"jobs": jobs, "done": True}

    @pytest.mark.parametrize(
        ("counts", "code"), [({"COMPLETE": 1}, 0), ({"FAILED": 1}, 11), ({"COMPLETE": 1, "CANCELLED": 1}, 11)]
    )
    def test_exit_code(self, api: FakeApi, counts: dict[str, int], code: int) -> None:
        self.replies(api, **counts)
        assert main(["job", "wait", *[JOB] * sum(counts.values())]) == code

    def test_where_to_look_when_one_has_failed(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.replies(api, FAILED=1)
        assert main(["job", "wait", JOB]) == 11
        assert capsys.readouterr().err == f"  → lwfm job output --stderr {JOB[:18]}\n"

    def test_too_long(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.replies(api, RUNNING=1)
        assert main(["job", "wait", JOB, "--timeout", "0.01"]) == 10
        assert "1 of 1 job did not end" in capsys.readouterr().err

    def test_any(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        jobs = [failed_job(state="RUNNING"), failed_job(job_id=OTHER, state="COMPLETE")]
        api.replies["POST /v1/jobs/wait"] = {"jobs": jobs, "done": True}
        assert main(["job", "wait", "--any", JOB, OTHER, "--json"]) == 0
        assert [job["job_id"] for job in json.loads(capsys.readouterr().out)] == [OTHER]
        assert api.requests[-1].body["mode"] == "any"


class TestSubmit:
    @pytest.fixture(autouse=True)
    def accept(self, api: FakeApi) -> None:
        def accept(request: Request) -> Any:
            return {"jobs": [{"job_id": job["job_id"], "state": "PENDING"} for job in request.body["jobs"]]}

        api.replies["POST /v1/jobs"] = accept

    def test_one(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--cores", "2", "--mem", "1G", "--time", "1h", "--env", "A=1", "--meta", "T=0.7", "--name", "n"]
        assert main(["submit", *words, "--out", "o", "--retries", "1", "--", "prog", "--flag", "{}"]) == 0
        body = api.requests[-1].body
        (job,) = body["jobs"]
        assert capsys.readouterr().out == job.pop("job_id") + "\n"
        assert job == {
            "command": ["prog", "--flag", "{}"],
            "resources": {"cores": 2, "memory_bytes": 2**30, "time_limit_s": 3600.0},
            "env": {"A": "1"},
            "meta": {"T": 0.7},
            "name": "n",
            "outputs": ["o"],
            "retries": 1,
        }
        assert body["site"] == "local"
        assert set(body["context"]) >= {"host", "user", "cwd", "env", "python", "version"}
        assert "workflow" not in body

    def test_options_end_where_the_command_begins(self, api: FakeApi) -> None:
        assert main(["submit", "ls", "--name", "x", "-l"]) == 0
        assert api.requests[-1].body["jobs"][0]["command"] == ["ls", "--name", "x", "-l"]

    def test_inside_a_job(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_JOB_ID", JOB)
        monkeypatch.setenv("LWFM_WORKFLOW_ID", FLOW)
        assert main(["submit", "--", "true"]) == 0
        body = api.requests[-1].body
        assert (body["workflow"], body["parent"]) == (FLOW, JOB)

    def test_many(self, api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "lines").write_text("".join(f"line {number}\n" for number in range(1500)))
        assert main(["submit", "--each-line", "lines", "--", "echo", "{}"]) == 0
        posted = [request.body["jobs"] for request in api.asked("POST", "/v1/jobs")]
        assert [len(jobs) for jobs in posted] == [100, 250, 250, 250, 250, 250, 150]
        commands = [job["command"] for jobs in posted for job in jobs]
        assert commands == [["echo", f"line {number}"] for number in range(1500)]
        ids = [job["job_id"] for jobs in posted for job in jobs]
        assert capsys.readouterr().out.split() == ids
        assert len(set(ids)) == 1500

    def test_many_on_a_terminal_are_only_counted(self, api: FakeApi, terminal: Callable[..., str]) -> None:
        assert terminal("submit", "--array", "1-100", "--", "true").startswith("100 jobs submitted: ")

    def test_json(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["submit", "--json", "--", "true"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "PENDING"
        assert main(["submit", "--json", "--array", "1-3", "--", "true"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 3

    def test_a_dry_run_submits_nothing(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["submit", "--dry-run", "--array", "1-7", "--meta", "n={}", "--", "echo", "{}"]) == 0
        assert "7 jobs would be submitted" in capsys.readouterr().out
        assert main(["submit", "--dry-run", "--json", "--array", "1-7", "--meta", "n={}", "--", "echo", "{}"]) == 0
        assert [job["meta"] for job in json.loads(capsys.readouterr().out)] == [{"n": number} for number in range(1, 8)]
        assert not api.requests

    def test_what_is_wrong_is_found_before_anything_is_sent(self, api: FakeApi, tmp_path: Path) -> None:
        (tmp_path / "lines").write_text("a\n")
        for words in (
            ["--", ""],
            ["--cwd", ""],
            [],
            ["--each-line", "none", "--", "true"],
            ["--meta", "x", "--", "true"],
        ):
            assert main(["submit", *words]) in (2, 3)
        assert not api.asked("POST", "/v1/jobs")


class TestData:
    def test_put(self, api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        api.replies["POST /v1/data"] = {"data_id": DATA}
        assert main(["put", "a.txt", "--meta", "T=0.7", "--meta", "kind=x"]) == 0
        assert capsys.readouterr().out == DATA + "\n"
        assert api.requests[-1].body == {
            "op": "put",
            "site": "local",
            "path": str(tmp_path / "a.txt"),
            "properties": {"T": 0.7, "kind": "x"},
        }

    def test_put_in_a_job_is_tagged(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_JOB_ID", JOB)
        monkeypatch.setenv("LWFM_WORKFLOW_ID", FLOW)
        api.replies["POST /v1/data"] = {"data_id": DATA}
        assert main(["put", "a.txt", "there/a.txt"]) == 0
        body = api.requests[-1].body
        assert (body["job"], body["workflow"], body["site_path"]) == (JOB, FLOW, "there/a.txt")

    def test_get(self, api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        api.replies[f"GET /v1/data/{DATA}"] = {"data_id": DATA, "path": "/elsewhere/r.csv"}
        api.replies["POST /v1/data/fetch"] = lambda request: {"path": request.body["path"]}
        assert main(["get", DATA]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'r.csv'}\n"
        (tmp_path / "r.csv").write_text("mine")
        assert main(["get", DATA]) == 4  # never over what is there
        assert main(["get", "--force", DATA]) == 0
        assert main(["get", "file://h/x/y.txt", "."]) == 0
        assert api.requests[-1].body == {"data": "file://h/x/y.txt", "path": str(tmp_path / "y.txt")}

    def test_lineage(self, api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "r.csv").write_text("")
        up = {
            "root": ["d"],
            "nodes": [
                {"id": "d", "kind": "data", "label": "r.csv"},
                {"id": JOB, "kind": "job", "label": "make", "state": "COMPLETE"},
            ],
            "edges": [{"from": JOB, "to": "d", "relation": "wrote"}, {"from": "d", "to": JOB, "relation": "read"}],
        }
        api.replies["GET /v1/lineage"] = up
        assert main(["lineage", "--up", "r.csv"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "data d  r.csv"
        assert lines[1] == "└─ written by job 019aab12-3456-7000  make  COMPLETE"
        assert lines[2].strip().endswith("(see above)")  # a circle is not followed for ever
        assert api.requests[-1].query == {"of": [str(tmp_path / "r.csv")], "direction": ["up"]}
        assert main(["lineage", "d", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == up


class TestEvents:
    def test_on_job(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["POST /v1/handlers"] = {"handler_id": OTHER, "kind": "job", "job_ids": [JOB]}
        words = ["--state", "failed", "--mode", "any", "--cores", "2", "a", "b", "--", "prog", "--", "x"]
        assert main(["on", "job", *words]) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["handler", OTHER], ["job", JOB]]
        body = api.requests[-1].body
        assert (body["kind"], body["event"]["jobs"], body["event"]["states"]) == ("job", ["a", "b"], ["FAILED"])
        assert body["event"]["mode"] == "any"
        assert body["event"]["defn"]["command"] == ["prog", "--", "x"]
        assert body["event"]["defn"]["resources"]["cores"] == 2
        assert body["context"]["cwd"]

    def test_on_data(self, api: FakeApi) -> None:
        api.replies["POST /v1/handlers"] = {"handler_id": OTHER, "kind": "data"}
        assert main(["on", "data", "kind=thermo", "T>=0.7", "--repeat", "forever", "--", "true"]) == 0
        event = api.requests[-1].body["event"]
        assert (event["match"], event["repeat"]) == ({"kind": "thermo", "T": ">=0.7"}, True)
        assert main(["on", "data", "k=v", "--notify", "mail me"]) == 0
        assert api.requests[-1].body["event"]["notify"] == {"command": "mail me"}

    @pytest.mark.parametrize(
        "words",
        [
            ["job", "a"],
            ["job", "a", "--notify", "x", "--", "y"],
            ["job", "--", "y"],
            ["data", "k", "--", "y"],
            ["data", "k=v", "--repeat", "0", "--", "y"],
            ["job", "a", "--state", "nonsense", "--", "y"],
            ["data", "k=v", "--notify-url", "ftp://x"],
        ],
    )
    def test_on_nonsense(self, api: FakeApi, words: list[str]) -> None:
        assert main(["on", *words]) == 2
        assert not api.requests

    def test_unset_and_emit(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["DELETE /v1/handlers/h1"] = {"handler_id": "h1", "state": "unset"}
        assert main(["handler", "unset", "h1", "--reason", "why not"]) == 0
        assert api.requests[-1].query == {"reason": ["why not"]}
        api.replies["POST /v1/jobs/j/emit"] = {"job_id": JOB, "state": "RUNNING"}
        assert main(["emit", "job", "j", "info", "half way"]) == 0
        assert api.requests[-1].body == {"state": "INFO", "reason": "half way"}
        api.replies["POST /v1/data"] = {"data_id": DATA}
        assert main(["emit", "data", "step=3"]) == 0
        assert api.requests[-1].body == {"op": "event", "properties": {"step": 3}}


class TestLog:
    def test_write(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LWFM_JOB_ID", JOB)
        api.replies["POST /v1/logs"] = {}
        assert main(["log", "half", "way", "--level", "warning"]) == 0
        (line,) = api.requests[-1].body["lines"]
        assert (line["level"], line["message"], line["job"]) == ("WARNING", "half way", JOB)

    def test_show(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/logs"] = {"logs": [{"level": "INFO", "message": "a\x1b[2J", "job_id": JOB}]}
        assert main(["log", "--job", "last", "--level", "error"]) == 0
        assert "INFO     019aab12-3456-7000  a\\x1b[2J" in capsys.readouterr().out
        assert api.requests[-1].query == {"job": ["last"], "level": ["ERROR"], "limit": ["50"]}
        assert main(["job", "log", JOB]) == 0


class TestPlaces:
    def test_site_check(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        checks = [{"pillar": "run", "ok": True, "message": "m"}]
        api.replies["POST /v1/sites/local/check"] = lambda request: {"name": "local", "checks": checks}
        api.replies["POST /v1/sites/far/check"] = errors.ConfigError("no such driver")
        api.replies["GET /v1/sites"] = {"sites": [{"name": "local"}, {"name": "allocation"}, {"name": "far"}]}
        assert main(["site", "check", "local", "--timeout", "5m"]) == 0
        assert api.requests[-1].body == {"timeout_s": 300.0}
        assert main(["site", "check"]) == 6
        assert "far    driver  failure  no such driver" in capsys.readouterr().out
        checks.append({"pillar": "repo", "ok": True, "offered": False, "message": "not offered"})
        checks.append({"pillar": "auth", "ok": False, "seconds": 1.25, "message": "login"})
        assert main(["site", "check", "local", "--run"]) == 6
        assert api.requests[-1].body["run"] is True
        lines = capsys.readouterr().out.splitlines()
        assert [" ".join(line.split()) for line in lines[-3:]] == [
            "local run ok m",
            "local repo not offered not offered",
            "local auth failure 1.25 s login",
        ]

    def test_site_list_tells_what_is_down(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        since = "2025-01-01T00:00:00.000000Z"
        far = {"name": "far", "state": "down", "reason": "no route", "since": since, "jobs": 3, "waiting": 0}
        api.replies["GET /v1/sites"] = {"sites": [{"name": "local", "state": "ready"}, far]}
        assert main(["site", "list"]) == 0
        titles, _, line = capsys.readouterr().out.splitlines()
        assert titles.split() == ["SITE", "JOBS", "STATE", "SINCE", "WHY"]
        assert line.split()[:3] == ["far", "3", "down"]
        assert "no route" in line

    def test_site_login_asks(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        def login(request: Request) -> Any:
            answers = request.body["answers"]
            questions = [{"prompt": "name", "secret": False}, {"prompt": "code", "secret": True}]
            return {"current": len(answers) == 2, "questions": questions[len(answers) :]}

        asked: list[tuple[str, bool]] = []

        def prompt(text: str, hide_input: bool, **_: Any) -> str:
            asked.append((text, hide_input))
            return "answer"

        monkeypatch.setattr("click.prompt", prompt)
        api.replies["POST /v1/sites/far/login"] = login
        assert main(["site", "login", "far"]) == 0
        assert asked == [("name", False), ("code", True)]
        assert api.requests[-1].body == {"answers": ["answer", "answer"]}

    def test_spin(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["POST /v1/sites/s/resources"] = {"resource_id": "r1"}
        assert main(["spin", "create", "allocation", "nodes=4", "--site", "s"]) == 0
        assert api.requests[-1].body == {"kind": "allocation", "spec": {"nodes": 4}}
        assert main(["spin", "create", "allocation", "time=1:00:00", "option=--a=1", "option=-C x", "--site", "s"]) == 0
        assert api.requests[-1].body["spec"] == {"time": "1:00:00", "option": ["--a=1", "-C x"]}
        api.replies["DELETE /v1/sites/s/resources/r1"] = {}
        assert main(["spin", "destroy", "r1", "--site", "s"]) == 0

    def test_resources_are_listed_briefly(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        free = {"native_state": "idle", "cores": 4, "memory_bytes": 2**30}
        api.replies["GET /v1/sites/local/resources"] = {
            "resources": [
                {
                    "resource_id": "n1",
                    "kind": "node",
                    "state": "up",
                    "facts": {"worker_id": "w", "host": "n1", "state": "up"},
                },
                {
                    "resource_id": "7",
                    "kind": "allocation",
                    "state": "running",
                    "facts": {"time_left_s": 3700, "name": "slurm-7"},
                },
                *(
                    {
                        "resource_id": f"batch-node:{host}",
                        "kind": "batch-node",
                        "state": "free",
                        "facts": {"name": host, **free},
                    }
                    for host in ("n1", "n2", "n4")
                ),
                {
                    "resource_id": "batch-node:n3",
                    "kind": "batch-node",
                    "state": "down",
                    "facts": {"name": "n3", **free},
                },
            ]
        }
        assert main(["spin", "list"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        assert rows == [
            ["n1", "node", "up"],
            ["7", "allocation", "running", "time_left=1h01m"],
            ["n[1-2,4]", "batch-node", "free", "native_state=idle", "cores=4", "memory=1.0", "GiB"],
            ["n3", "batch-node", "down", "native_state=idle", "cores=4", "memory=1.0", "GiB"],
        ]

    def test_store(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        verdict: dict[str, Any] = {"ok": True, "origins": 1, "records": 5, "problems": []}
        api.replies["POST /v1/store/check"] = lambda request: verdict
        assert main(["store", "check"]) == 0
        assert capsys.readouterr().out == "5 records of 1 origin: all is well\n"
        verdict.update(ok=False, problems=["record 3 is not what it was"])
        assert main(["store", "check"]) == 8
        api.replies["POST /v1/store/snapshot"] = lambda request: {
            "file": request.body["file"], "bytes": 2**20, "records": 5, "origins": 1, "seconds": 0.25,
        }  # fmt: skip
        capsys.readouterr()
        assert main(["store", "snapshot", "backup.db"]) == 0
        assert capsys.readouterr().out == f"{Path.cwd()}/backup.db: 5 records, 1.0 MiB in 0.2 s\n"
        assert main(["store", "snapshot", "backup.db", "--force"]) == 0
        assert [request.body["replace"] for request in api.asked("POST", "/v1/store/snapshot")] == [False, True]
        found = {"file": "/s/thread-1.db", "bytes": 2**20, "time": "2020-01-01T00:00:00.000000Z"}
        listed: dict[str, Any] = {"directory": "/s", "every_s": 86400, "kept": 2, "snapshots": [found]}
        api.replies["GET /v1/store/snapshots"] = lambda request: listed
        capsys.readouterr()
        assert main(["store", "snapshots"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "every 1d00h, 2 kept, in /s",
            "2020-01-01T00:00:00Z  1.0 MiB  /s/thread-1.db",
        ]
        listed["every_s"] = 0
        assert main(["store", "snapshots"]) == 0
        assert capsys.readouterr().out.startswith("none by itself, in /s\n")
        assert main(["store", "path"]) == 0
        assert capsys.readouterr().out.endswith(f"{api.home}/thread.db\n")

    def test_agent_status(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        worker = {"host": "n1", "pid": 7, "state": "up", "cores": 8, "cores_used": 3, "memory_bytes": 2**33}
        api.replies["GET /v1/agent"] = {"pid": 4, "version": "1", "jobs": {"RUNNING": 3}, "workers": [worker]}
        assert main(["agent", "status"]) == 0
        assert "3/8 cores, 0 B/8.0 GiB" in capsys.readouterr().out
        assert main(["agent", "status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["pid"] == 4
        api.stop()
        assert main(["agent", "status"]) == 7
        assert main(["agent", "stop"]) == 0
        capsys.readouterr()
        assert main(["agent", "status", "--json"]) == 7
        body = json.loads(capsys.readouterr().out)
        assert (body["running"], body["socket"]) == (False, str(api.socket))

    def test_an_agent_that_is_not_well_can_be_stopped(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        def stop(request: Request) -> Any:
            api.socket.unlink()  # as good as gone
            return {}

        api.replies["GET /v1/agent"] = errors.StoreError("no such table")
        api.replies["POST /v1/agent/stop"] = stop
        assert main(["agent", "status"]) == 8
        assert main(["agent", "stop"]) == 0
        assert capsys.readouterr().out == "agent stopped\n"

    def test_agent_start_twice(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.replies["GET /v1/agent"] = {"pid": 4, "socket": str(api.socket)}
        assert main(["agent", "start"]) == 0
        assert "runs already: pid 4" in capsys.readouterr().out

    def test_agent_logs(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["agent", "logs"]) == 3
        (api.home / "agent.log").write_bytes(b"one\ntwo \x1b[2J\xff\nthree\n")
        assert main(["agent", "logs", "-n", "2"]) == 0
        assert capsys.readouterr().out == "two \\x1b[2J\\xff\nthree\n"

    def test_doctor(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.socket.chmod(0o600)
        assert main(["doctor", "--json"]) == 0
        findings = {item["subject"]: item["result"] for item in json.loads(capsys.readouterr().out)}
        assert findings["home"] == "ok"
        assert findings["version"] == "warning"  # the fake's is another
        api.socket.chmod(0o666)
        assert main(["doctor"]) == 1
        assert "chmod 600" in capsys.readouterr().out

    def test_doctor_where_the_home_cannot_be(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert main(["--home", str(tmp_path / "file"), "doctor"]) == 1
        assert "in the way" in capsys.readouterr().out


def test_errors_of_the_agent_have_their_exit_codes(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.replies["GET /v1/jobs/x"] = errors.AmbiguousId("x begins several", hint="type more")
    assert main(["job", "show", "x"]) == 3
    assert capsys.readouterr().err == "lwfm: x begins several\n  → type more\n"


def test_workflow_create_show_dump(api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    api.replies["POST /v1/workflows"] = {"workflow_id": FLOW, "name": "melt"}
    assert main(["workflow", "create", "melt", "--meta", "T=1"]) == 0
    assert capsys.readouterr().out == FLOW + "\n"
    assert api.requests[-1].body == {"name": "melt", "meta": {"T": 1}}
    api.replies["GET /v1/workflows/last"] = {"workflow_id": FLOW, "name": "melt", "job_counts": {"FAILED": 1}}
    api.replies[f"GET /v1/workflows/{FLOW}"] = api.replies["GET /v1/workflows/last"]
    assert main(["workflow", "show", "last"]) == 0
    assert "1 FAILED" in capsys.readouterr().out
    api.replies[f"GET /v1/workflows/{FLOW}/dump"] = {"workflow": {"name": "melt"}}
    assert main(["workflow", "dump", "last", "-o", "d.json"]) == 0
    assert json.loads((tmp_path / "d.json").read_text()) == {"workflow": {"name": "melt"}}
    assert main(["workflow", "dump", "last", "-o", "no/such/d.json"]) == 2
