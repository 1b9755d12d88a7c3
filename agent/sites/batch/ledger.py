"""What a batch site keeps on disk: which jobs it has handed to its scheduler, and what became of them. Asks nobody.

A *submission* is what one call of the scheduler's command submits: a job, or an array of like ones. It is written down, and
on the disk, before the scheduler is asked, with the mark by which it is found again if the answer is lost; the scheduler's id is
added when it is known. When all its jobs have ended, it is forgotten: what each of them ended as stands in its own files
(:mod:`.script` has their names), which the node's script looks at too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from ...errors import SiteError
from ...host.private import private_directory, write_private
from ...records import JSON
from ..base import JobRequest, Observation
from .record import Claim, ExitRecord, read_claim, read_record

MARK = "lwfm-job-"
_FILE = re.compile(r"(?P<job>.+)\.(?P<attempt>\d+)\.(?P<kind>exit|end|claim|stdout|stderr|home)")


@dataclass
class Submission:
    """What was, or is being, handed to the scheduler in one call.

    Args:
        token: identifies it. ``jobs``: ids and attempts, in the order of their numbers, from 1.
        is_array: whether they are elements of an array; else there is one.
        created_at: seconds since the epoch.
        native: the scheduler's id; None: not known.
        ended: numbers of those jobs that have ended.
    """

    token: str
    jobs: list[tuple[str, int]]
    is_array: bool
    created_at: float
    native: Optional[str] = None
    ended: set[int] = field(default_factory=set)

    @property
    def mark(self) -> str:
        """What the scheduler's job carries."""
        return MARK + self.token


@dataclass
class Entry:
    """A job that was, or is being, handed over.

    Args:
        job_id, attempt: which. ``submission``, ``number``: how.
        claimed_by: the scheduler's job that runs it, where that is another one than was submitted last.
        missing_since: since when the scheduler does not list it, or lists it as ended, and no record is there: a monotonic time.
        cancel: whether its end was asked for, and the scheduler has heard it.
    """

    job_id: str
    attempt: int
    submission: Submission
    number: int
    claimed_by: Optional[str] = None
    missing_since: Optional[float] = None
    cancel: bool = False


class Ledger:
    """The files of a batch site.

    Args:
        directory: theirs; all nodes see it. Only its owner can look into it.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._submissions = directory / "submissions"
        self._jobs = directory / "jobs"
        self._entries: Optional[dict[str, Entry]] = None

    @property
    def jobs_directory(self) -> Path:
        """Where the jobs' files are."""
        return self._jobs

    # ------------------------------------------------------------------------------------------ submissions

    def entry(self, job_id: str) -> Optional[Entry]:
        """The last attempt of a job that has not ended, as far as is known."""
        return self._all().get(job_id)

    def entries(self) -> Iterator[Entry]:
        """All of them."""
        yield from self._all().values()

    def begin(self, requests: Sequence[JobRequest], *, is_array: bool) -> Submission:
        """Write down that these are going to be handed over.

        Raises:
            SiteError: it cannot be written.
        """
        jobs = [(request.job_id, request.attempt) for request in requests]
        submission = Submission(secrets.token_hex(8), jobs, is_array, time.time())
        with self._seam():
            for directory in (self.directory, self._submissions, self._jobs):
                private_directory(directory)
            for shard in {job_id[-2:] for job_id, _ in jobs}:
                private_directory(self._jobs / shard)
        self._write(submission)
        self._enter(submission)
        return submission

    def script_path(self, submission: Submission) -> Path:
        """Where the script of a submission lies."""
        return self._submissions / f"{submission.token}.sh"

    def output_path(self, submission: Submission) -> Path:
        """Where the scheduler puts what it has to say of a submission."""
        return self._submissions / f"{submission.token}.out"

    def write_script(self, submission: Submission, text: str) -> None:
        """Write the script of a submission. Raises SiteError."""
        with self._seam():
            write_private(self.script_path(submission), text.encode("utf-8", "surrogateescape"))

    def taken(self, submission: Submission, native: str) -> None:
        """The scheduler has taken it. Raises SiteError."""
        submission.native = native
        self._write(submission)

    def drop(self, submission: Submission) -> None:
        """It was never taken, or all of it has ended, or its jobs are in another one now."""
        for job_id, _ in submission.jobs:
            entry = self._all().get(job_id)
            if entry is not None and entry.submission is submission:
                del self._all()[job_id]
        for path in (self._path(submission), self.script_path(submission), self.output_path(submission)):
            with suppress(OSError):
                path.unlink()

    # ------------------------------------------------------------------------------------------ jobs

    def record(self, job_id: str, attempt: int) -> Optional[ExitRecord]:
        """The exit record of a job."""
        text = self._read(job_id, attempt, "exit")
        return None if text is None else read_record(text)

    def claim(self, job_id: str, attempt: int) -> Optional[Claim]:
        """Which job of the scheduler runs it."""
        text = self._read(job_id, attempt, "claim")
        return None if text is None else read_claim(text)

    def refresh(self, job_ids: Sequence[str]) -> None:
        """Have the file system look again: what nodes have made is seen after a directory was opened (nfs(5), "close-to-open")."""
        for shard in {job_id[-2:] for job_id in job_ids}:
            with suppress(OSError):
                os.close(os.open(self._jobs / shard, os.O_RDONLY | os.O_DIRECTORY))

    def ask_cancel(self, job_id: str, attempt: int) -> None:
        """Have a job stand down that has not been started yet. Raises SiteError."""
        with self._seam():
            write_private(self._file(job_id, attempt, "cancel"), b"")

    def is_cancelled(self, job_id: str, attempt: int) -> bool:
        """Whether that was done."""
        return self._file(job_id, attempt, "cancel").exists()

    def end(self, entry: Entry, said: Observation, *, by_record: bool) -> None:
        """A job has ended: keep that, and forget its submission when it was the last of it. Raises SiteError.

        Args:
            entry: the job. ``said``: what it ended as. ``by_record``: whether its exit record says the same by itself.
        """
        if not by_record:
            with self._seam():
                write_private(
                    self._file(entry.job_id, entry.attempt, "end"),
                    json.dumps({**asdict(said), "facts": dict(said.facts)}).encode(),
                )
        for kind in ("claim", "cancel") if by_record else ("cancel",):
            with suppress(OSError):
                self._file(entry.job_id, entry.attempt, kind).unlink()
        self._all().pop(entry.job_id, None)
        entry.submission.ended.add(entry.number)
        if len(entry.submission.ended) == len(entry.submission.jobs):
            self.drop(entry.submission)

    def ended(self, job_id: str) -> Optional[tuple[int, Optional[ExitRecord], Optional[JSON]]]:
        """Of a job that has ended: its last attempt, and the exit record or else what it was told to have ended as."""
        for attempt in reversed(self._attempts(job_id)):
            text = self._read(job_id, attempt, "end")
            if text is not None:
                with suppress(ValueError):
                    return attempt, None, json.loads(text)
            record = self.record(job_id, attempt)
            if record is not None:
                return attempt, record, None
        return None

    def is_known(self, job_id: str, attempt: int) -> bool:
        """Whether this attempt, or a later one, was handed over."""
        entry = self._all().get(job_id)
        return (entry is not None and entry.attempt >= attempt) or any(
            one >= attempt for one in self._attempts(job_id, "exit", "end", "claim")
        )

    def output_file(self, job_id: str, stream: str) -> Path:
        """The file of what the last attempt printed; it need not be there."""
        entry = self._all().get(job_id)
        attempts = self._attempts(job_id)
        attempt = entry.attempt if entry is not None else attempts[-1] if attempts else 1
        return self._file(job_id, attempt, stream)

    def homes(self, job_id: str) -> list[str]:
        """The instances that the attempts of a job had of their own."""
        return [str(self._file(job_id, attempt, "home")) for attempt in self._attempts(job_id, "home")]

    def sizes(self, job_id: str, attempt: int) -> dict[str, int]:
        """How much it printed."""
        found = {}
        for stream in ("stdout", "stderr"):
            try:
                found[f"{stream}_bytes"] = self._file(job_id, attempt, stream).stat().st_size
            except OSError:
                found[f"{stream}_bytes"] = 0
        return found

    def last_words(self, submission: Submission) -> Optional[str]:
        """The last line that the scheduler has written about a submission of one job."""
        try:
            with self.output_path(submission).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
                lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            return None
        return lines[-1].strip()[:300] if lines and not submission.is_array else None

    # ------------------------------------------------------------------------------------------ files

    def _all(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = {}
            for path in sorted(self._submissions.glob("*.json")) if self._submissions.is_dir() else ():
                with suppress(OSError, ValueError, TypeError, KeyError):
                    told = json.loads(path.read_bytes())
                    jobs = [(str(job_id), int(attempt)) for job_id, attempt in told["jobs"]]
                    given = told["token"], jobs, bool(told["is_array"]), float(told["created_at"]), told.get("native")
                    self._take_up(Submission(*given))
        return self._entries

    def _take_up(self, submission: Submission) -> None:
        """One that an earlier agent has begun; those of its jobs that have ended need not be asked about."""
        self._enter(submission)
        for number, (job_id, attempt) in enumerate(submission.jobs, 1):
            record = self.record(job_id, attempt)
            over = self._file(job_id, attempt, "end").exists() or (record is not None and record.caught is None)
            entry = self._all().get(job_id)
            if over and entry is not None and entry.submission is submission:
                del self._all()[job_id]
                submission.ended.add(number)
        if len(submission.ended) == len(submission.jobs):
            self.drop(submission)

    def _enter(self, submission: Submission) -> None:
        entries = self._all()
        for number, (job_id, attempt) in enumerate(submission.jobs, 1):
            known = entries.get(job_id)
            newer = known is None or (known.attempt, known.submission.created_at) <= (attempt, submission.created_at)
            if newer:
                entries[job_id] = Entry(job_id, attempt, submission, number)

    def _write(self, submission: Submission) -> None:
        told = {name: value for name, value in asdict(submission).items() if name != "ended"}
        with self._seam():
            write_private(self._path(submission), json.dumps(told).encode())

    def _path(self, submission: Submission) -> Path:
        return self._submissions / f"{submission.token}.json"

    def _file(self, job_id: str, attempt: int, kind: str) -> Path:
        return self._jobs / job_id[-2:] / f"{job_id}.{attempt}.{kind}"

    def _read(self, job_id: str, attempt: int, kind: str) -> Optional[str]:
        try:
            return self._file(job_id, attempt, kind).read_text("utf-8", "replace")
        except OSError:
            return None

    def _attempts(self, job_id: str, *kinds: str) -> list[int]:
        """The attempts of a job of which there is a file of one of these kinds, of any when none is given."""
        try:
            names = os.listdir(self._jobs / job_id[-2:])
        except OSError:
            return []
        found = (_FILE.fullmatch(name) for name in names if name.startswith(job_id))
        return sorted(
            {
                int(one["attempt"])
                for one in found
                if one and one["job"] == job_id and (not kinds or one["kind"] in kinds)
            }
        )

    def _seam(self) -> _Seam:
        return _Seam(self.directory)


class _Seam:
    """What the file system says against it becomes a SiteError."""

    def __init__(self, directory: Path):
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> None:
        if isinstance(error, OSError):
            raise SiteError(f"cannot write to {self._directory}: {error.strerror or error}") from error
