"""What the bodies of calls say: what is refused, and that what jobs have in common is looked at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lwfm.errors import InvalidRecord
from lwfm.ids import new_id
from lwfm.models import JobDefn
from lwfm.recording.bodies import definitions_of, job_ids_of


def test_one_bad_definition_of_many_is_named_and_none_is_recorded() -> None:
    with pytest.raises(InvalidRecord, match=r"job 2 of 3: the command is empty"):
        definitions_of({"jobs": [{"command": "a"}, {"command": ""}, {"command": "b"}]})
    bodies: list[dict[str, Any]] = [{}, {"jobs": []}, {"jobs": "x"}, {"jobs": {"command": "x"}}]
    for body in bodies:
        with pytest.raises(InvalidRecord, match="a list"):
            definitions_of(body)
    with pytest.raises(InvalidRecord, match="list of job ids"):
        job_ids_of({"jobs": [1]})


def test_definitions_that_have_much_in_common_are_what_each_says_by_itself() -> None:
    """Those that are alike are looked at once; what differs, if only in its type, is not alike."""
    ids = [new_id() for _ in range(3)]
    given: list[dict[str, Any]] = [
        {"command": ["a", "1"], "env": {"X": "1"}, "meta": {"n": 1}, "resources": {"cores": 2}, "unknown": 1},
        {"command": ["b", "2"], "env": {"X": "1"}, "meta": {"n": 1}, "resources": {"cores": 2}, "unknown": 1},
        {
            "command": "c",
            "job_id": ids[0],
            "env": {"X": "1"},
            "meta": {"n": 1},
            "resources": {"cores": 2},
            "unknown": 1,
        },
        {"command": "/bin/d", "job_id": ids[1], "meta": {"n": True}},
        {"command": ["d"], "job_id": ids[2], "name": "named", "meta": {"n": 1}},
        {"command": ["d"], "meta": {"n": 1.0}},
        {"command": ["d"], "meta": {"n": 1}},
        {"command": ["e"], "name": "named", "meta": {"n": 1}},
        {"command": ["e"], "job_id": ids[2]},
        {"command": ["e"]},
        {"command": ["f"], "site": "elsewhere"},
        {"command": ["g"], "site": "elsewhere"},
    ]
    found = definitions_of({"jobs": given})
    alone = [JobDefn.from_json(item) for item in given]
    assert [(defn, defn.to_json()) for defn in found] == [(defn, defn.to_json()) for defn in alone]
    texts = [[json.dumps(defn.to_json(), sort_keys=True) for defn in which] for which in (found, alone)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("bad", [{"command": []}, {"command": [""]}, {"command": 1}, {"command": ["a", "\0"]}, {"command": " "},
                                 {"command": ["a"], "name": 5}, {}])  # fmt: skip
def test_what_is_bad_among_definitions_that_are_alike_is_found(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord, match="job 2 of 3"):
        definitions_of({"jobs": [{"command": ["a"]}, bad, {"command": ["a"]}]})
