"""The directory of an allocation that was asked for: written by one side, read by the other, nobody else's business."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lwfm.allocations.allotment import OUTPUT, Allotment, Asked, Begun, find_allotments
from lwfm.errors import InsecureState, InvalidRecord, NotFound
from lwfm.launch.allocation import Allocation, NodeShare

ASKED = Asked("t0ken", "slurm", 2, 3600.0, 1.8e9, 600.0, True, ("n1", "n2"), None, 4, None, 1)
BEGUN = Begun(
    Allocation("slurm", "4711", (NodeShare("n1", 4, 1, 2**30), NodeShare("n2")), 1.8e9 + 3600), 1.8e9, ("n2 is silent",)
)


@pytest.fixture
def allotment(tmp_path: Path) -> Allotment:
    made = Allotment(tmp_path / "allocations" / "created-t0ken")
    made.create(ASKED)
    return made


def test_both_sides_read_what_the_other_wrote(allotment: Allotment) -> None:
    assert allotment.read_asked() == ASKED
    known = replace(ASKED, job_id="4711", giving_back="enough")
    allotment.write_asked(known)
    assert allotment.read_asked() == known
    with pytest.raises(NotFound):
        allotment.read_begun()
    allotment.write_begun(BEGUN)
    assert allotment.read_begun() == BEGUN
    assert [found.directory for found in find_allotments(allotment.directory.parent)] == [allotment.directory]


def test_it_is_the_owner_s_alone(allotment: Allotment) -> None:
    allotment.write_begun(BEGUN)
    assert allotment.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in allotment.directory.iterdir()} == {0o600}
    (allotment.directory / "allocation.json").chmod(0o644)
    with pytest.raises(InsecureState):
        allotment.read_begun()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nodes": 1}', '{"nodes": [{"house": "n1"}], "scheduler": "s", "id": 1}']
)
def test_what_is_not_ours_is_refused(allotment: Allotment, text: str) -> None:
    for name, read in (("request.json", allotment.read_asked), ("allocation.json", allotment.read_begun)):
        path = allotment.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        with pytest.raises(InvalidRecord):
            read()


def test_keys_of_a_later_release_do_no_harm(allotment: Allotment) -> None:
    path = allotment.directory / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert allotment.read_asked() == ASKED


def test_the_last_words_are_one_line_that_can_be_shown(allotment: Allotment) -> None:
    assert allotment.last_words() == ""
    (allotment.directory / OUTPUT).write_bytes(b"x" * 10000 + b"\nfirst\nlast \x1b[31m\xff\xe9 words\n\n")
    assert allotment.last_words() == "last  [31m  words"


def test_what_workers_have_left_is_found_whole_or_not_at_all(allotment: Allotment) -> None:
    for name, text in (
        ("left-w1.json", '{"worker": "w1", "host": "n1", "events": []}'),
        ("left-w2.json", "{"),
        ("left-w3.json", "{}"),
    ):
        path = allotment.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
    ((path, body),) = allotment.testaments()
    assert (path.name, body["worker"]) == ("left-w1.json", "w1")
    allotment.remove()
    allotment.remove()
    assert find_allotments(allotment.directory.parent) == []
    (allotment.directory.parent / "slurm-7").mkdir()
    assert find_allotments(allotment.directory.parent) == []
    (other,) = find_allotments(allotment.directory.parent, created=False)
    assert (other.directory.name, other.testaments()) == ("slurm-7", [])
