"""What the store knows of contents and of where copies of them are. Reads; whether a file is there is for others to see.

Contents are known by their sha256. A record of this store's own origin that names a file is believed; what other instances
have recorded is only a hint, here as wherever else a path of theirs is met.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote, urlsplit

from ..matching import Match, parse_match
from ..records import JSON
from . import parts, queries
from .selection import Clause, Selection

MAX_PLACES = 50
"""Of one content, so many places are looked at; of those that other instances tell of ``MAX_HINTS``."""
MAX_HINTS = 5
MAX_LOOKED_AT = 1000
"""How many records of one content are looked at for one that fits a request."""
_TOGETHER = 200
_MOST_TOGETHER = 4000
_SOUND = (
    "t.op = 'put' and typeof(t.size_bytes) = 'integer' and t.size_bytes >= 0 and length(t.sha256) = 64"
    " and t.sha256 not glob '*[^0-9a-f]*'"
)


class Place(NamedTuple):
    """Where a copy of a content may be.

    Args:
        path: of the file, its exact bytes. ``own``: whether this instance recorded it; else it is only a hint.
    """

    path: str
    own: bool


class Wish(NamedTuple):
    """Which contents are meant: those of data that was put, has properties that match, and is of such a size."""

    match: Match
    min_bytes: int = 0
    max_bytes: Optional[int] = None

    @classmethod
    def of(cls, match: Mapping[str, Any], min_bytes: int = 0, max_bytes: Optional[int] = None) -> Wish:
        """From a match mapping. Raises InvalidRecord."""
        return cls(parse_match(match), min_bytes, max_bytes)

    def clauses(self) -> list[Clause]:
        """The same but for the properties."""
        clauses: list[Clause] = [(_SOUND, [])]
        if self.min_bytes:
            clauses.append(("t.size_bytes >= ?", [self.min_bytes]))
        if self.max_bytes is not None:
            clauses.append(("t.size_bytes <= ?", [self.max_bytes]))
        return clauses


class Known(NamedTuple):
    """All that is looked at of what is recorded of one content: metasheets of files, the newest first."""

    rows: list[tuple[Any, ...]]

    def newest(self, wish: Wish) -> Optional[str]:
        """The id of the newest record that a wish means; None: it means none of them."""
        for row in self.rows:
            identifier, op, size, properties = row[1], row[2], row[3], row[4]
            if op != "put" or not isinstance(size, int) or size < wish.min_bytes:
                continue
            if wish.max_bytes is not None and size > wish.max_bytes:
                continue
            if not wish.match.conditions or wish.match.accepts(json.loads(properties)):
                return str(identifier)
        return None

    def places(self, origin: str, host: str, earlier: frozenset[str] = frozenset()) -> list[Place]:
        """Where copies may be that ``host``, this one, sees: those that ``origin``, this instance, recorded come first.

        What it recorded itself, also under an ``earlier`` origin, it may have recorded on another host with the same file system.
        """
        own: dict[str, Place] = {}
        hints: dict[str, Place] = {}
        for _, _, _, _, _, recorder, url, path, where in self.rows:
            mine = recorder == origin
            seen_here = mine or where == host or recorder in earlier
            if len(own) >= MAX_PLACES or not seen_here or (not mine and len(hints) >= MAX_HINTS):
                continue
            place = file_path(url, path)
            if place is not None:
                (own if mine else hints).setdefault(place, Place(place, mine))
        return [*own.values(), *(hint for path, hint in hints.items() if path not in own)]


def known(connection: sqlite3.Connection, contents: Sequence[str]) -> dict[str, Known]:
    """What is recorded of contents, by their checksums."""
    found: dict[str, Known] = {sha256: Known([]) for sha256 in contents}
    for part in parts.of(contents, _TOGETHER):
        rows = _records_of(connection, part, _MOST_TOGETHER)
        if len(rows) == _MOST_TOGETHER:  # something has been recorded very often: it shall hide nothing else
            rows = [row for sha256 in part for row in _records_of(connection, [sha256], MAX_LOOKED_AT)]
        for row in rows:
            found[row[0]].rows.append(row)
    return found


def _records_of(connection: sqlite3.Connection, contents: Sequence[str], most: int) -> list[tuple[Any, ...]]:
    query = (
        "select sha256, id, op, size_bytes, properties, origin, url, path, host from metasheets indexed by metasheets_by_sha256"
        f" where sha256 in ({parts.marks(contents)}) and op in ('get', 'put') order by id desc limit {most}"
    )
    return connection.execute(query, list(contents)).fetchall()


def contents_page(
    connection: sqlite3.Connection, wish: Wish, after: Optional[str], limit: int
) -> tuple[list[tuple[JSON, Known]], Optional[str]]:
    """The data that a wish means, newest first, each content once, and what else is known of it; and what to give as ``after``
    for more, None at the end."""
    clauses = wish.clauses()
    if after is not None:
        clauses.append(("t.id < ?", [after]))
    ids = Selection("metasheets", "data", clauses, conditions=wish.match.conditions).newest(connection, limit)
    sheets = queries.data_by_id(connection, ids)
    others = known(connection, list({sheet["sha256"]: None for sheet in sheets}))
    newest = [(sheet, others[sheet["sha256"]]) for sheet in sheets]
    fresh = [(sheet, other) for sheet, other in newest if other.newest(wish) in (None, sheet["data_id"])]
    return fresh, ids[-1] if len(ids) == limit else None


def file_path(url: Optional[str], path: Optional[str]) -> Optional[str]:
    """The path of a file as the system takes it; None: the record names no file of a host."""
    if url:
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        if parts.scheme != "file":
            return None
        path = os.fsdecode(unquote(parts.path, errors="surrogateescape").encode("utf-8", "surrogateescape"))
    return path if path and path.startswith("/") and "\0" not in path else None


def outputs_page(
    connection: sqlite3.Connection, origin: str, after: Optional[str], limit: int
) -> tuple[list[JSON], Optional[str]]:
    """What the jobs of all instances but ``origin`` have printed, by jobs, the newest first; and what to give as ``after``."""
    query = (
        "select id from jobs where coalesce(runner, origin) <> ? and (stdout is not null or stderr is not null or attempt > 1)"
        " and id < ? order by id desc limit ?"
    )
    ids = [str(row[0]) for row in connection.execute(query, (origin, after or "\x7f", limit))]
    found = [output for job in ids for output in outputs_of(connection, job)]
    return found, ids[-1] if len(ids) == limit else None


def outputs_of(connection: sqlite3.Connection, job_id: str) -> list[JSON]:
    """What a job has printed, in all attempts: ``{job_id, stream, size, sha256, file}``; only what is sound of it."""
    row = connection.execute("select stdout, stderr, attempt from jobs where id = ?", (job_id,)).fetchone()
    if row is None:
        return []
    told = [{"stdout": row[0] and json.loads(row[0]), "stderr": row[1] and json.loads(row[1])}]
    if row[2] > 1:
        query = "select facts from statuses where job_id = ? and instr(facts, 'ended_attempt') limit 1000"
        for (facts,) in connection.execute(query, (job_id,)):
            end = json.loads(facts).get("ended_attempt")
            told.append(end if isinstance(end, dict) else {})
    found = []
    for facts in told:
        for stream in ("stdout", "stderr"):
            output = facts.get(stream)
            if isinstance(output, dict) and _is_sound(output):
                found.append({**output, "job_id": job_id, "stream": stream})
    return found


def _is_sound(output: JSON) -> bool:
    size, sha256 = output.get("size"), output.get("sha256")
    sized = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return sized and isinstance(sha256, str) and len(sha256) == 64 and not set(sha256) - set("0123456789abcdef")


def has_blob(connection: sqlite3.Connection, sha256: str) -> bool:
    """Whether a small output is kept in the store."""
    return connection.execute("select 1 from local_blobs where sha256 = ?", (sha256,)).fetchone() is not None


def recorded_page(
    connection: sqlite3.Connection, origin: str, match: Match, below: Optional[str], after: Optional[str], limit: int
) -> tuple[list[JSON], Optional[str]]:
    """The files that an instance has recorded, newest first, of each path the newest record alone; and what to give as ``after``.

    Args:
        below: of files that were only read or fetched, those below this directory; None: all of them.
    """
    kept: Clause = ("m.op in ('put', 'get')", [])
    if below is not None:
        kept = ("(m.op = 'put' or m.op = 'get' and substr(m.path, 1, ?) = ?)", [len(below) + 1, below + "/"])
    clauses = [
        ("t.origin = ? and t.sha256 is not null and t.path is not null", [origin]),
        (kept[0].replace("m.", "t."), kept[1]),
    ]
    if after is not None:
        clauses.append(("t.id < ?", [after]))
    ids = Selection("metasheets", "data", clauses, conditions=match.conditions).newest(connection, limit)
    newest = (
        "select max(m.id) from metasheets m where m.path = ? and m.origin = ? and m.host is ? and m.sha256 is not null"
        f" and {kept[0]}"
    )
    fresh = []
    for sheet in queries.data_by_id(connection, ids):
        (last,) = connection.execute(newest, [sheet["path"], origin, sheet.get("host"), *kept[1]]).fetchone()
        if last == sheet["data_id"]:
            fresh.append(sheet)
    return fresh, ids[-1] if len(ids) == limit else None


def recorded_at(connection: sqlite3.Connection, origin: str, urls: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs of url and sha256 that an instance has recorded, of these urls."""
    query = (
        "select url, sha256 from metasheets indexed by metasheets_by_url"
        " where origin = ? and op in ('get', 'put') and url in (?)"
    )
    return {(str(url), str(sha256)) for url, sha256 in parts.execute(connection, query, urls, origin)}
