"""What the store knows of outputs and copies of data: which of them jobs still need. Removes outputs that it keeps itself."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from ..records import JSON
from . import copies, log
from .atrest import ENDED, at_rest

_OLD = f"{at_rest('jobs')} and status_at < ?"
_PRINTED = f"select id, stdout, stderr, attempt, {_OLD} from jobs where stdout is not null or stderr is not null or attempt > 1"
_CHECKSUM = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Blob(NamedTuple):
    """An output that the store keeps: its size, and the bytes that it takes."""

    sha256: str
    size: int
    bytes: int


def printed(connection: sqlite3.Connection, before: str) -> Iterator[tuple[bool, list[JSON]]]:
    """What each job has printed, and whether the job has ended before that time."""
    for job, stdout, stderr, attempt, old in connection.execute(_PRINTED, (before,)):
        if attempt > 1:
            yield bool(old), copies.outputs_of(connection, job)
        else:
            yield bool(old), [json.loads(text) for text in (stdout, stderr) if text]


def has_ended(connection: sqlite3.Connection, job: str, before: str) -> Optional[bool]:
    """Whether a job has ended before that time; None for one that is not known, or not any more."""
    found = connection.execute(f"select {_OLD} from jobs where id = ?", (before, job)).fetchone()
    return None if found is None else bool(found[0])


def printed_since(connection: sqlite3.Connection, heads: dict[str, int]) -> Iterator[JSON]:
    """What jobs have printed of which it was recorded since the logs went so far; ``heads`` goes on with them."""
    query = "select body from log where origin = ? and seq > ? and kind = 'status' and prev <> ''"
    for origin, head in log.heads(connection).items():
        if head.seq <= heads.get(origin, 0):
            continue
        for (body,) in connection.execute(query, (origin, heads.get(origin, 0))):
            told = json.loads(body)
            for facts in (told, told.get("ended_attempt")):
                for stream in ("stdout", "stderr"):
                    output = facts.get(stream) if isinstance(facts, dict) else None
                    if isinstance(output, dict):
                        yield output
        heads[origin] = head.seq


def blobs(connection: sqlite3.Connection) -> Iterator[Blob]:
    """The outputs that the store keeps itself."""
    for row in connection.execute("select sha256, size_bytes, length(data) from local_blobs"):
        yield Blob(*row)


def remove_blobs(connection: sqlite3.Connection, checksums: Sequence[str]) -> None:
    """Remove outputs that the store keeps itself."""
    connection.executemany("delete from local_blobs where sha256 = ?", [(sha256,) for sha256 in checksums])


def used_by_open_jobs(connection: sqlite3.Connection) -> set[str]:
    """The checksums that the definitions of open jobs and of waiting handlers name, and of the data that triggered such jobs."""
    used: set[str] = set()
    for (text,) in connection.execute(
        f"select definition from jobs where state not in {ENDED}"
        " union all select request from local_adopted a join jobs j on j.id = a.job_id"
        f" where j.state not in {ENDED} union all select event from handlers where state = 'waiting'"
    ):
        used.update(_CHECKSUM.findall(text))
    triggers = (
        "select m.sha256 from jobs j join metasheets m on m.id = j.trigger_data"
        f" where j.state not in {ENDED} and m.sha256 is not null"
    )
    used.update(row[0] for row in connection.execute(triggers))
    return used
