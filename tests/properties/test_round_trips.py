"""What is written in JSON comes back as it was: records, with keys nobody here knows, and frames, however they are cut."""

from __future__ import annotations

import json
import socket
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lwfm.models import (
    Handler,
    JobContext,
    JobDefn,
    JobEvent,
    JobStatus,
    MetadataEvent,
    Metasheet,
    Notification,
    Resources,
    Workflow,
)
from lwfm.records import Record
from lwfm.sites.base import JobRequest, Observation, Resource, StoredData
from lwfm.sites.pipe import Pipe
from lwfm.states import JobState
from lwfm.store.log import GENESIS, encode_body, row_hash
from lwfm.wire import Decoder, Message, encode

Fields = dict[str, st.SearchStrategy[Any]]
NOTHING: Fields = {}


def fields(required: Fields, optional: Optional[Fields] = None) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional or {})


SETTINGS = settings(max_examples=80)
WORD = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)
RAW_WORD = st.binary(min_size=1, max_size=8).map(
    lambda raw: raw.replace(b"\0", b"0").decode("utf-8", "surrogateescape")
)
SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | WORD
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(["later", "extra", "ümlaut", "x-y"])
UNKNOWN = st.dictionaries(NAMES, VALUE, max_size=3)
UNICODE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
PROPERTIES = st.dictionaries(
    UNICODE, st.none() | st.booleans() | st.integers() | UNICODE | st.lists(UNICODE, max_size=2), max_size=3
)

RESOURCES = fields(
    NOTHING,
    optional={
        "cores": st.integers(0, 100),
        "memory_bytes": st.integers(1, 2**50),
        "gpus": st.integers(0, 8),
        "time_limit_s": st.floats(0.1, 1e6),
    },
)
DEFN = fields(
    {"command": st.lists(RAW_WORD, min_size=1, max_size=4) | WORD.filter(str.strip)},
    optional={
        "name": WORD,
        "cwd": RAW_WORD.map(lambda word: "/" + word),
        "env": st.dictionaries(WORD.filter(lambda name: "=" not in name), RAW_WORD, max_size=3),
        "resources": RESOURCES,
        "outputs": st.lists(RAW_WORD, max_size=3),
        "meta": PROPERTIES,
        "retries": st.integers(0, 5),
        "grace_s": st.floats(0, 100),
    },
)
STATE = st.sampled_from([state.value for state in JobState])
BODIES: dict[type[Record], Any] = {
    Resources: RESOURCES,
    JobDefn: DEFN,
    JobStatus: fields(
        {"job_id": WORD, "state": STATE}, optional={"reason": RAW_WORD, "exit_code": st.integers(), "meta": PROPERTIES}
    ),
    JobContext: fields(NOTHING, optional={"job_id": WORD, "trigger_properties": PROPERTIES}),
    Workflow: fields({"name": WORD.filter(str.strip)}, optional={"description": WORD, "meta": PROPERTIES}),
    Metasheet: fields(
        NOTHING, optional={"op": st.sampled_from(["put", "get", "event"]), "path": RAW_WORD, "properties": PROPERTIES}
    ),
    Notification: fields({"command": WORD}) | st.just({"url": "https://h/x"}),
    JobEvent: fields(
        {"jobs": st.lists(WORD, min_size=1, max_size=3), "defn": DEFN},
        optional={
            "states": st.lists(STATE, min_size=1, max_size=3),
            "mode": st.sampled_from(["all", "any"]),
            "keep": st.booleans(),
        },
    ),
    MetadataEvent: fields(
        {"match": st.dictionaries(UNICODE, st.integers() | st.just("t*"), min_size=1, max_size=2), "defn": DEFN},
        optional={"repeat": st.just(True) | st.integers(1, 9), "workflow": st.just("any")},
    ),
    Handler: fields({"handler_id": WORD, "kind": st.just("job")}, optional={"job_ids": st.lists(WORD, max_size=2)}),
}


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@given(data=st.data())
@SETTINGS
def test_a_record_comes_back_as_it_was_and_keeps_what_it_does_not_know(kind: type[Record], data: st.DataObject) -> None:
    unknown = data.draw(UNKNOWN)
    record = kind.from_json({**unknown, **data.draw(BODIES[kind])})
    written = record.to_json()
    again = kind.from_json(json.loads(json.dumps(written)))
    assert again == record
    assert again.to_json() == written
    assert {name: written[name] for name in unknown} == unknown


@given(defn=DEFN, unknown=UNKNOWN)
@SETTINGS
def test_records_within_records_keep_what_they_do_not_know(defn: dict[str, Any], unknown: dict[str, Any]) -> None:
    defn = {**defn, "resources": {"cores": 2, **unknown}}
    event = JobEvent.from_json({"jobs": ["j"], "defn": {**unknown, **defn}})
    written = event.to_json()["defn"]
    assert {name: written[name] for name in unknown} == unknown
    assert {name: written["resources"][name] for name in unknown} == unknown


MESSAGE = fields({"t": WORD}, optional={"n": st.integers(), "data": VALUE, "argv": st.lists(RAW_WORD, max_size=3)})


@given(batches=st.lists(st.lists(MESSAGE, max_size=3), max_size=4), cuts=st.lists(st.integers(0, 2000), max_size=6))
@SETTINGS
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
    batches: list[list[Message]], cuts: list[int]
) -> None:
    stream = b"".join(encode(batch) for batch in batches)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    decoder = Decoder()
    came = [message for begin, end in zip(places, places[1:]) for message in decoder.feed(stream[begin:end])]
    assert came == [message for batch in batches for message in batch]


@given(body=st.dictionaries(WORD | RAW_WORD, VALUE | RAW_WORD, max_size=4))
@example(body={"a": "\udcff"})
@SETTINGS
def test_a_body_is_stored_so_that_it_reads_back_and_any_change_shows(body: dict[str, Any]) -> None:
    text = encode_body(body)
    assert json.loads(text) == body
    assert text.encode("utf-8").decode("utf-8") == text
    parts = ("o", 1, GENESIS, "u", "k", "h", "w")
    assert row_hash(*parts, text) != row_hash(*parts, text + " ")


@SETTINGS
@given(body=DEFN)
def test_a_recorded_definition_is_read_as_one_that_is_checked(body: dict[str, Any]) -> None:
    recorded = json.loads(json.dumps(JobDefn.from_json({**body, "newer": [1]}).to_json()))
    read = JobDefn.recorded(recorded)
    checked = JobDefn.from_json(recorded)
    assert read == checked
    assert repr(read) == repr(checked)
    assert read.to_json() == checked.to_json()


# ------------------------------------------------------------------------------------------------- to a driver and back

OBSERVATION = st.builds(
    Observation,
    st.sampled_from(list(JobState)),
    st.none() | RAW_WORD,
    st.none() | RAW_WORD,
    st.none() | RAW_WORD,
    st.dictionaries(WORD, VALUE, max_size=3),
)
STORED = st.builds(
    StoredData, WORD, RAW_WORD, st.none() | WORD, st.none() | st.integers(0, 2**63), st.none() | st.just("f" * 64)
)
ENVIRONMENT = st.dictionaries(WORD, RAW_WORD, max_size=3)


def piped(value: Any) -> Any:
    """What the other side of a pipe finds."""
    ours, theirs = socket.socketpair()
    here, there = Pipe(ours), Pipe(theirs)
    try:
        here.send({"value": value})
        return there.receive().head["value"]
    finally:
        here.close()
        there.close()


@SETTINGS
@given(DEFN, UNKNOWN, WORD, st.integers(1, 9), ENVIRONMENT, ENVIRONMENT, st.frozensets(WORD, max_size=3))
def test_a_request_comes_to_its_driver_as_it_is(
    body: Any, unknown: Any, job: str, attempt: int, environment: Any, variables: Any, labels: frozenset[str]
) -> None:
    request = JobRequest(job, attempt, JobDefn.from_json({**unknown, **body}), "c", environment, variables, labels)
    assert JobRequest.from_json(piped(request.to_json()), piped(environment)) == request


@SETTINGS
@given(OBSERVATION, STORED, st.dictionaries(WORD, VALUE, max_size=3))
def test_what_a_driver_answers_comes_back_as_it_is(observed: Observation, stored: StoredData, facts: Any) -> None:
    assert Observation.from_json(piped(observed.to_json())) == observed
    assert StoredData.from_json(piped(stored.to_json())) == stored
    resource = Resource("r", "node", "up", facts)
    assert Resource.from_json(piped(resource.to_json())) == resource
