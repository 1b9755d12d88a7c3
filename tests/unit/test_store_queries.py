"""Listings: the right rows, newest first, and found by an index also in a store of a million."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lwfm.matching import parse_match
from lwfm.states import JobState
from lwfm.store import queries, selection
from lwfm.store.connection import Connection
from lwfm.store.selection import Selection, condition_sql

from support.threads import Thread


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    thread = Thread(tmp_path_factory.mktemp("queries"))
    yield thread
    assert thread.verify() == []
    thread.close()


@pytest.fixture(scope="module")
def jobs(thread: Thread) -> list[dict[str, Any]]:
    """Jobs in two workflows and none, in all states, with properties; newest first."""
    workflows = [thread.workflow("a"), thread.workflow("b"), None]
    states = ["PENDING", "RUNNING", "COMPLETE", "FAILED", "CANCELLED"]
    made = []
    parent = None
    for number in range(90):
        meta = {"n": number, "kind": f"k{number % 4}"}
        workflow, state = workflows[number % 7 % 3], states[number % 5]
        job = thread.submit(["prog", f"arg{number}"], workflow, name=f"job-{number % 10}", meta=meta)
        if state != "PENDING":
            thread.status(job, state)
        made.append({"id": job, "workflow": workflow, "state": state, "name": f"job-{number % 10}", **meta})
        parent = parent or job
    return made[::-1]


def listed(thread: Thread, **options: Any) -> list[str]:
    return [job["job_id"] for job in queries.list_jobs(thread.connection, **options)]


@pytest.mark.parametrize("limit", [0, 1, 7, 50, 1000])
@pytest.mark.parametrize(
    "states", [(), ("FAILED",), ("READY",), ("FAILED", "RUNNING", "FAILED"), tuple(state.value for state in JobState)]
)
@pytest.mark.parametrize("place", [None, 0, 1])
@pytest.mark.parametrize("match", [None, {"kind": "k1"}, {"n": ">=40", "kind": "k[!0]"}])
def test_jobs_by_everything_at_once(
    thread: Thread, jobs: list[dict[str, Any]], limit: int, states: tuple[str, ...], place: Any, match: Any
) -> None:
    workflow = [job["workflow"] for job in jobs[::-1] if job["workflow"]][:2][place] if place is not None else None
    accepts = parse_match(match or {}).accepts
    wanted = [
        job["id"]
        for job in jobs
        if (not states or job["state"] in states)
        and workflow in (None, job["workflow"])
        and accepts({"n": job["n"], "kind": job["kind"]})
    ]
    assert listed(thread, states=states, workflow=workflow, match=match, limit=limit) == (
        wanted[:limit] if limit else wanted
    )


def test_jobs_by_name_site_and_words(thread: Thread, jobs: list[dict[str, Any]]) -> None:
    assert listed(thread, name="job-[12]", limit=0) == [job["id"] for job in jobs if job["name"] in ("job-1", "job-2")]
    assert (
        listed(thread, name="job-[!12]", limit=3)
        == [job["id"] for job in jobs if job["name"] not in ("job-1", "job-2")][:3]
    )
    assert listed(thread, site="elsewhere") == []
    assert len(listed(thread, site="local")) == 50
    assert listed(thread, words="arg7") == [job["id"] for job in jobs if str(job["n"]).startswith("7")]
    assert listed(thread, words="prog arg33") == [job["id"] for job in jobs if job["n"] == 33]
    assert (
        listed(thread, words="prog", states=["FAILED"], limit=2)
        == [job["id"] for job in jobs if job["state"] == "FAILED"][:2]
    )


@pytest.mark.parametrize(
    "words", ["", " ", "\0", '"', '"" OR', "-", "NEAR(a b)", "kind:x", "*", "a AND NOT b", "--", "é\U0001f40d", "'"]
)
def test_nothing_that_people_type_is_an_error_of_the_text_index(thread: Thread, words: str) -> None:
    queries.search(thread.connection, words)
    listed(thread, words=words)
    queries.list_logs(thread.connection, words=words)


def test_search_tells_what_where_and_when(thread: Thread, jobs: list[dict[str, Any]]) -> None:
    (found,) = queries.search(thread.connection, "arg33")
    assert (found["kind"], found["id"], found["text"]) == ("job", jobs[90 - 34]["id"], "job-3 prog arg33")
    assert found["time"].endswith("Z")
    assert len(queries.search(thread.connection, "prog", limit=4)) == 4


def test_counts(thread: Thread, jobs: list[dict[str, Any]]) -> None:
    assert sum(queries.job_counts(thread.connection).values()) == 90
    assert queries.job_counts(thread.connection)["FAILED"] == 18
    for found in queries.list_workflows(thread.connection):
        assert sum(found["job_counts"].values()) == sum(job["workflow"] == found["workflow_id"] for job in jobs)


def test_data_at_a_place_is_the_newest_that_was_put_there(thread: Thread) -> None:
    old, new = (thread.put(path="/p", url="file://h/p", properties={"v": version}) for version in (1, 2))
    thread.put(op="get", path="/p", url="file://h/p")
    for place in ("/p", "file://h/p"):
        found = queries.data_at(thread.connection, place)
        assert found is not None
        assert found["data_id"] == new != old
    assert queries.data_at(thread.connection, "/nowhere") is None


class TestPlans:
    """No listing may read a table from end to end, nor sort what it could read in order."""

    def plan(self, connection: Connection, query: str, values: Any) -> str:
        return " / ".join(row[3] for row in connection.execute("explain query plan " + query, values))

    @pytest.mark.parametrize(
        ("clause", "values", "index"),
        [
            ("t.state = ?", ["FAILED"], "jobs_by_state"),
            ("t.workflow_id = ?", ["w"], "jobs_by_workflow"),
            ("+t.workflow_id = ? and t.state = ?", ["w", "FAILED"], "jobs_by_state"),
            ("t.workflow_id = ? and +t.state = ?", ["w", "FAILED"], "jobs_by_workflow"),
            ("t.parent_id = ?", ["p"], "jobs_by_parent"),
            ("t.site = ? and t.site <> 'local'", ["s"], "jobs_by_site"),
        ],
    )
    def test_jobs(self, thread: Thread, clause: str, values: list[str], index: str) -> None:
        plan = self.plan(
            thread.connection, f"select t.id from jobs t where true and {clause} order by t.id desc limit 50", values
        )
        assert index in plan
        assert "SCAN" not in plan
        if "parent" not in index:
            assert "B-TREE" not in plan

    @pytest.mark.parametrize("condition", ["a", "0.7", "!=0.7", ">=0.7", "<a", "t*", "t?[ab]", "~^t"])
    def test_properties(self, thread: Thread, condition: str) -> None:
        (parsed,) = parse_match({"k": condition}).conditions
        for clause, values in condition_sql(parsed):
            plan = self.plan(thread.connection, selection._owners_where(clause) + " limit 9", ["job", "k", *values])
            bounds = plan.partition("(")[2]
            assert "SEARCH properties USING" in plan
            assert bounds.startswith("owner_kind=? AND key=?")
            if "number" in clause and "is not" not in clause:
                assert "number" in bounds, "the index must bound the numbers, or nulls, not only the key"

    @pytest.mark.parametrize("condition", ["a", "0.7"])
    def test_owners_of_an_equal_property_come_in_order(self, thread: Thread, condition: str) -> None:
        (parsed,) = parse_match({"k": condition}).conditions
        ((clause, values),) = condition_sql(parsed)
        query = selection._owners_where(clause) + " order by owner desc"
        assert "B-TREE" not in self.plan(thread.connection, query, ["job", "k", *values])

    @pytest.mark.parametrize(
        ("query", "index"),
        [
            ("select id from metasheets where path = ? and op = 'put' order by id desc limit 1", "metasheets_by_path"),
            ("select id from metasheets where url = ? and op = 'put' order by id desc limit 1", "metasheets_by_url"),
            (
                "select id from metasheets where sha256 = ? and op = 'put' order by id desc limit 1",
                "metasheets_by_sha256",
            ),
            ("select id from metasheets where job_id = ? order by id desc", "metasheets_by_job"),
            ("select job_id from firings where trigger_job = ?", "firings_by_trigger_job"),
            ("select job_id from firings where trigger_data = ?", "firings_by_trigger_data"),
            ("select job_id from firings where job_id = ?", "firings_by_job"),
            ("select id from handlers where workflow_id = ? order by id desc", "handlers_by_workflow"),
            ("select state, jobs from job_counts where workflow_id = ?", "PRIMARY KEY"),
            ("select handler_id from handler_jobs where job_id = ?", "PRIMARY KEY"),
        ],
    )
    def test_others(self, thread: Thread, query: str, index: str) -> None:
        plan = self.plan(thread.connection, query, ["x"])
        assert index in plan
        assert "SCAN" not in plan
        assert "B-TREE" not in plan

    def test_what_a_put_asks_of_the_handlers(self, thread: Thread) -> None:
        query = "select id, event, workflow_id from handlers where kind = 'data' and state = 'waiting' and origin = ? order by id"
        plan = self.plan(thread.connection, query, ["o"])
        assert "handlers_by_state" in plan
        assert "B-TREE" not in plan

    def test_the_rarer_of_state_and_workflow_leads(self, thread: Thread, jobs: list[dict[str, Any]]) -> None:
        said: list[str] = []
        thread.connection.set_trace_callback(said.append)
        huge = jobs[0]["workflow"] or jobs[1]["workflow"]
        Selection("jobs", "job", states=["READY"], workflow=huge).newest(thread.connection, 50)
        thread.connection.set_trace_callback(None)
        assert any("+t.workflow_id" in statement for statement in said)
