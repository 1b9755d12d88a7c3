"""An independent witness: a file that jobs append to when they start and when they have done their work.

One line per event, written with O_APPEND in one write: ``start JOB ATTEMPT PID`` and ``end JOB ATTEMPT PID``. What the
agent says can be held against it: see :meth:`Journal.judge`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

JSON = dict[str, Any]


class Line(NamedTuple):
    """One line: ``what`` is ``start`` or ``end``."""

    what: str
    job: str
    attempt: int
    pid: int


class Journal:
    """The journal at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def command(self, body: str = ":") -> str:
        """A shell line that does ``body`` between a start and an end in the journal; a failure leaves out the end."""
        note = f'"$LWFM_JOB_ID $LWFM_ATTEMPT $$" >> {self.path}'
        return f"set -e; echo start {note}; {body}; echo end {note}"

    def lines(self) -> list[Line]:
        """What has been written so far: a line that is being written at this moment, and seen in part, does not count yet."""
        whole, _, _ = self.path.read_text().rpartition("\n")
        found = []
        for text in whole.splitlines():
            what, job, attempt, pid = text.split()
            found.append(Line(what, job, int(attempt), int(pid)))
        return found

    def count(self, what: str) -> int:
        return sum(line.what == what for line in self.lines())

    def judge(self, jobs: Sequence[JSON], statuses: Mapping[str, Sequence[JSON]]) -> None:
        """Hold what the agent says of jobs, all of which run a command of this journal, against what they did.

        Raises:
            AssertionError: a job was run twice, called COMPLETE without having proved it, has not ended, has a status
                twice, or ran without being known.
        """
        lines = self.lines()
        starts = Counter((line.job, line.attempt) for line in lines if line.what == "start")
        ends = {(line.job, line.attempt) for line in lines if line.what == "end"}
        assert [key for key, count in starts.items() if count > 1] == [], "attempts that were started twice"
        known = {job["job_id"] for job in jobs}
        assert {job for job, _ in starts} <= known, "jobs ran that nobody knows"
        for job in jobs:
            job_id, state, attempt = job["job_id"], job["state"], job["attempt"]
            assert state in ("COMPLETE", "FAILED", "CANCELLED"), f"has not ended: {job}"
            done = [number for job_started, number in ends if job_started == job_id]
            assert all(number == attempt for number in done), f"ran again after it had succeeded: {job}"
            if state == "COMPLETE":
                assert done == [attempt], f"is called COMPLETE, but has not done its work: {job}"
            elif state == "FAILED":
                assert job.get("reason"), f"failed, nobody says why: {job}"
            seen = Counter(
                (status["attempt"], status["state"]) for status in statuses[job_id] if status["state"] != "INFO"
            )
            assert [key for key, count in seen.items() if count > 1] == [], f"statuses recorded twice: {job}"
            assert sum(count for (_, word), count in seen.items() if word in ("COMPLETE", "FAILED", "CANCELLED")) == 1
            assert len({number for started, number in starts if started == job_id}) <= attempt
