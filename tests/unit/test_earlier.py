"""What earlier runs of a script have made is found again, each piece once."""

from __future__ import annotations

from typing import Any

import pytest

from lwfm.errors import InvalidRecord
from lwfm.recording.bodies import definitions_of

from support.threads import Thread, thread

__all__ = ["thread"]


def body(*runs: str, parent: str, **keys: Any) -> dict[str, Any]:
    return {"parent": parent, "earlier": list(runs), "context": {"cwd": "/"}, **keys}


def submit(thread: Thread, run: str, earlier: list[str], *commands: str) -> list[str]:
    """What a run submits that resumes those: the ids it is given."""
    seen: dict[str, int] = {}
    jobs = []
    for command in commands:
        jobs.append({"command": command, "occurrence": seen.get(command, 0)})
        seen[command] = seen.get(command, 0) + 1
    given = body(*earlier, parent=run, jobs=jobs)
    return [job["job_id"] for job in thread.unit(thread.service.submit, given, definitions_of(given))["jobs"]]


def test_equal_requests_are_given_what_was_made_one_after_the_other(thread: Thread) -> None:
    first, second, third = (thread.submit() for _ in range(3))
    made = submit(thread, first, [], "a", "a", "b")
    assert submit(thread, second, [first], "a", "b", "a", "a", "c")[:3] == [made[0], made[2], made[1]]
    again = submit(thread, third, [first, second], "c", "a", "a", "a")
    assert again[1:3] == made[:2]
    assert again[3] not in made
    assert len({*again}) == 4


def test_what_had_failed_is_made_again_but_not_what_fails_later(thread: Thread) -> None:
    first = thread.submit()
    failed, fine = submit(thread, first, [], "a", "b")
    thread.status(failed, "FAILED")
    second = thread.submit()
    again, same = submit(thread, second, [first], "a", "b")
    assert (again != failed, same) == (True, fine)
    thread.status(fine, "FAILED")
    assert submit(thread, second, [first], "b") == [fine]


def test_other_cores_are_another_request(thread: Thread) -> None:
    first, second = thread.submit(), thread.submit()

    def one(run: str, cores: int) -> str:
        given = body(first, parent=run, jobs=[{"command": "a", "occurrence": 0, "resources": {"cores": cores}}])
        return str(thread.unit(thread.service.submit, given, definitions_of(given))["jobs"][0]["job_id"])

    made = one(first, 1)
    assert one(second, 1) == made
    assert one(second, 2) != made


def test_what_is_not_a_number_is_refused(thread: Thread) -> None:
    first, second = thread.submit(), thread.submit()
    with pytest.raises(InvalidRecord, match="occurrence must be"):
        thread.unit(
            thread.service.set_handler,
            body(first, parent=second, kind="job", event={"jobs": [first], "defn": {"command": "x"}}),
        )
    given = body(parent=second, name="w", parent_job=second)
    with pytest.raises(InvalidRecord, match="earlier must be"):
        thread.unit(thread.service.put_workflow, {**given, "earlier": "x"})
