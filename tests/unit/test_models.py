"""What a definition, an event or a piece of metadata may be, and what is said of one that may not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from lwfm.errors import InvalidRecord
from lwfm.models import JobDefn, JobEvent, JobStatus, MetadataEvent, Metasheet, Notification, Resources, Workflow
from lwfm.records import MAX_DEPTH, check_facts, check_properties
from lwfm.states import JobState, implied_by, parse_state


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'command' is missing"),
        ([], "a JSON object is needed, not list"),
        ({"command": ""}, "the command is empty"),
        ({"command": " \n"}, "the command is empty"),
        ({"command": []}, "the command is empty"),
        ({"command": [""]}, "the command is empty"),
        ({"command": 5}, "command must be a list of text"),
        ({"command": ["a", 5]}, "command must be a list of text"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": ["a", "b\0"]}, "NUL"),
        ({"command": "x", "name": 5}, "name must be text"),
        ({"command": "x", "name": "a\0"}, "name must be text"),
        ({"command": "x", "cwd": "here"}, "cwd must be an absolute path"),
        ({"command": "x", "env": {"A": 1}}, "env: A must have text"),
        ({"command": "x", "env": {"A=B": "1"}}, "'A=B' is not the name of a variable"),
        ({"command": "x", "env": {"": "1"}}, "is not the name of a variable"),
        ({"command": "x", "env": {"A": "\0"}}, "env: A must have text"),
        ({"command": "x", "env": ["A"]}, "env must be an object"),
        ({"command": "x", "outputs": "out"}, "outputs must be a list of text"),
        ({"command": "x", "inputs": ["a\0"]}, "NUL"),
        ({"command": "x", "retries": -1}, "retries must be at least 0"),
        ({"command": "x", "retries": True}, "retries must be a whole number"),
        ({"command": "x", "retries": 2**63}, "retries must be at most"),
        ({"command": "x", "grace_s": float("inf")}, "grace_s must be a number"),
        ({"command": "x", "grace_s": float("nan")}, "grace_s must be a number"),
        ({"command": "x", "grace_s": -1}, "grace_s cannot be negative"),
        ({"command": "x", "meta": [1]}, "meta must be an object"),
        ({"command": "x", "meta": {"T": float("nan")}}, "meta: T: nan is not a JSON number"),
        ({"command": "x", "meta": {"a\0": 1}}, "is not a name"),
        ({"command": "x", "options": ["partition"]}, "options must be an object"),
        ({"command": "x", "options": {"": 1}}, "options: '' is not a name"),
        ({"command": "x", "resources": {"cores": 1.5}}, "cores must be a whole number"),
        ({"command": "x", "resources": {"cores": -1}}, "cores must be at least 0"),
        ({"command": "x", "resources": {"memory_bytes": 0}}, "memory_bytes must be at least 1"),
        ({"command": "x", "resources": {"memory_bytes": 2**64}}, "memory_bytes must be at most"),
        ({"command": "x", "resources": {"time_limit_s": 0}}, "time_limit_s must be more than 0"),
        ({"command": "x", "resources": {"time_limit_s": float("inf")}}, "time_limit_s must be a number"),
        ({"command": "x", "resources": 4}, "Resources: a JSON object is needed"),
    ],
)
def test_a_definition_that_makes_no_sense_is_named(body: Any, said: str) -> None:
    with pytest.raises(InvalidRecord) as raised:
        JobDefn.from_json(body)
    assert said in raised.value.message
    assert "\n" not in raised.value.message


def test_a_job_is_named_for_its_program() -> None:
    names = [JobDefn(command).name for command in (["/usr/bin/lmp", "-in"], "lmp -in x | tail", ["./run.sh/"], ["/"])]
    assert names == ["lmp", "lmp", "run.sh", "/"]


def test_arguments_and_variables_that_are_no_unicode_come_through_unchanged() -> None:
    raw = os.fsdecode(b"a\xff\xfeb")
    defn = JobDefn([raw, "x"], env={"A": raw}, cwd="/" + raw, outputs=[raw])
    again = JobDefn.from_json(json.loads(json.dumps(defn.to_json())))
    assert again == defn
    assert os.fsencode(again.command[0]) == b"a\xff\xfeb"
    assert os.fsencode(again.env["A"]) == b"a\xff\xfeb"


def test_properties_are_searchable_text_whatever_comes() -> None:
    assert check_properties({"a\udcff": "b\udcff", "n": "x\0y", "t": (1, [None])}, "p") == {
        "a\\udcff": "b\\udcff", "n": "x\\x00y", "t": [1, [None]],
    }  # fmt: skip
    event = MetadataEvent({"path": "=\udcff"}, JobDefn("x"))
    assert event.matcher().accepts(check_properties({"path": "\udcff"}, "p"))


def test_deep_properties_are_refused_not_a_crash() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = {"a": deep}
    assert check_properties(deep, "p") == deep
    for wrap in ({"a": deep}, {"a": [deep]}):
        with pytest.raises(InvalidRecord, match="levels"):
            check_properties({"x": wrap}, "p")
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRecord, match="levels"):
        check_properties({"a": deep}, "p")


@pytest.mark.parametrize("value", [object(), {1, 2}, b"raw", 1j, {"k": object()}, [b"x"], {"k": {2: 1}}])
def test_what_json_does_not_have(value: Any) -> None:
    with pytest.raises(InvalidRecord, match="p: a"):
        check_properties({"a": value}, "p")


def test_huge_properties_are_kept_whole() -> None:
    huge = {"text": "x" * 5_000_000, "number": 10**300}
    assert Metasheet(properties=huge).properties == huge


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (Workflow, {"name": " "}, "a workflow needs a name"),
        (Workflow, {}, "'name' is missing"),
        (Metasheet, {"op": "move"}, "op must be put, get or event"),
        (JobStatus, {"job_id": "j", "state": "SLEEPING"}, "is not a job state"),
        (JobStatus, {"job_id": "j"}, "'state' is missing"),
        (Notification, {}, "either a command or a url"),
        (Notification, {"command": "x", "url": "http://x"}, "either a command or a url"),
        (Notification, {"url": "ftp://x"}, "must begin with http"),
        (Notification, {"command": [1]}, "command must be a list of text"),
        (JobEvent, {"jobs": [], "defn": {"command": "x"}}, "at least one job"),
        (JobEvent, {"jobs": [5], "defn": {"command": "x"}}, "at least one job"),
        (JobEvent, {"jobs": ["j"], "states": [], "defn": {"command": "x"}}, "at least one state"),
        (JobEvent, {"jobs": ["j"], "mode": "most", "defn": {"command": "x"}}, "mode must be all or any"),
        (JobEvent, {"jobs": ["j"]}, "either a job to run"),
        (JobEvent, {"jobs": ["j"], "defn": {"command": "x"}, "notify": {"command": "x"}}, "either a job to run"),
        (MetadataEvent, {"match": {}, "defn": {"command": "x"}}, "at least one property"),
        (MetadataEvent, {"match": {"a": 1}, "repeat": 0, "defn": {"command": "x"}}, "repeat must be"),
        (MetadataEvent, {"match": {"a": 1}, "repeat": False, "defn": {"command": "x"}}, "repeat must be"),
        (MetadataEvent, {"match": {"a": 1}, "repeat": "2", "defn": {"command": "x"}}, "repeat must be"),
        (MetadataEvent, {"match": {"a": 1}, "repeat": 10**9, "defn": {"command": "x"}}, "repeat must be"),
    ],
)
def test_other_records_that_make_no_sense(kind: Any, body: Any, said: str) -> None:
    with pytest.raises(InvalidRecord) as raised:
        kind.from_json(body)
    assert said in raised.value.message


def test_a_key_named_extra_is_kept_like_any_other() -> None:
    assert Resources.from_json({"cores": 1, "extra": {"x": 1}, "later": 2}).to_json() == {
        "cores": 1,
        "extra": {"x": 1},
        "later": 2,
    }


def test_events_take_jobs_as_they_come() -> None:
    status = JobStatus("j1", JobState.COMPLETE)
    assert JobEvent(status, defn=JobDefn("x")).jobs == ("j1",)
    assert JobEvent([status, "j2"], "failed", JobDefn("x")).states == (JobState.FAILED,)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"exit_code": "0"}, "exit_code must be a whole number"),
        ({"exit_code": True}, "exit_code must be a whole number"),
        ({"peak_rss_bytes": 2**70}, "peak_rss_bytes must be a whole number"),
        ({"cpu_seconds": float("nan")}, "cpu_seconds must be a number"),
        ({"reason": {"a": 1}}, "reason must be text"),
        ({"host": "a\0"}, "host must be text"),
    ],
)
def test_facts_of_a_status_have_the_types_of_their_columns(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRecord, match=said):
        check_facts(facts)
    check_facts({"exit_code": 0, "cpu_seconds": 0.5, "reason": "x", "host": None})


def test_states_and_what_they_imply() -> None:
    assert parse_state("complete") is JobState.COMPLETE
    assert implied_by(JobState.COMPLETE) == {JobState.PENDING, JobState.RUNNING, JobState.FINISHING, JobState.COMPLETE}
    assert implied_by(JobState.FAILED) == {JobState.FAILED}
    with pytest.raises(InvalidRecord, match="is not a job state"):
        parse_state(None)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: JobEvent("j", defn=JobDefn("true"), site=["local"]), "site must be text"),  # type: ignore[arg-type]
        (lambda: JobEvent("j", defn=JobDefn("true"), name=7), "name must be text"),  # type: ignore[arg-type]
        (lambda: MetadataEvent({"a": 1}, defn=JobDefn("true"), site={}), "site must be text"),  # type: ignore[arg-type]
        (lambda: Metasheet(site=["local"]), "site must be text"),  # type: ignore[arg-type]
        (lambda: Metasheet(path=["a"]), "path must be text"),  # type: ignore[arg-type]
    ],
)
def test_names_of_sites_and_files_are_text(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidRecord, match=said):
        make()
