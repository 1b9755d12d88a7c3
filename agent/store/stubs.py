"""What is left of pruned records: where there are stubs in the log, whether a record tells of them, and what they stood for."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from . import log


def pruned(connection: sqlite3.Connection, kind: str, given: str) -> Optional[tuple[str, str]]:
    """The thing of a kind that was pruned and whose id begins so, and who pruned it; None where there is none, or several."""
    found = connection.execute(
        "select distinct id, pruned_where from pruned where id >= ? and id < ? and kind = ? limit 2",
        (given, given + "\x7f", kind),
    ).fetchall()
    return (str(found[0][0]), str(found[0][1])) if given and len(found) == 1 else None


def outputs_pruned_at(connection: sqlite3.Connection, origin: str, ended_at: str, size: int) -> Optional[str]:
    """When an instance has pruned what it kept of the outputs of jobs that ended at that time; None: it has not."""
    found = connection.execute(
        "select max(time) from prunings where what = 'outputs' and origin = ? and before > ? and coalesce(larger_than, 0) <= ?",
        (origin, ended_at, size),
    ).fetchone()
    return None if found is None or found[0] is None else str(found[0])


class Places(NamedTuple):
    """By origin, from which to which number records are stubs: ``absent`` those that others pruned, ``every`` all of them."""

    absent: dict[str, list[tuple[int, int]]]
    every: dict[str, list[tuple[int, int]]]


def places(connection: sqlite3.Connection) -> Places:
    """Where there are stubs in the log."""
    found = Places({}, {})
    absent = log.STUB_BODY[log.ELSEWHERE]
    for origin, seq, body in connection.execute(
        "select origin, seq, body from log indexed by log_pruned where prev = '' order by origin, seq"
    ):
        extend(found.every.setdefault(origin, []), seq)
        if body == absent:
            extend(found.absent.setdefault(origin, []), seq)
    return found


def counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many stubs there are, and how many of them stand for what others pruned."""
    (every,) = connection.execute("select count(*) from log indexed by log_pruned where prev = ''").fetchone()
    if not every:
        return 0, 0
    query = "select count(*) from log indexed by log_pruned where prev = '' and body = ?"
    return int(every), int(connection.execute(query, (log.STUB_BODY[log.ELSEWHERE],)).fetchone()[0])


def unfounded(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with the stubs of this store, one sentence each: that no record says who pruned, or that of others."""
    told: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for identifier, noted, text in connection.execute("select id, digest, places from prunings"):
        told_places = json.loads(text)
        for origin, ranges in told_places.items():
            told[origin] += [(first, last) for first, last in ranges]
        found, ours = digest_of(connection, told_places)
        if ours and noted is not None and found != noted:
            yield f"pruning {identifier}: what was pruned then had other hashes"
    told_once = {origin: _merged(ranges) for origin, ranges in told.items()}
    here = log.STUB_BODY[log.HERE]
    for origin, seq in connection.execute(
        "select origin, seq from log indexed by log_pruned where prev = '' and body = ?", (here,)
    ):
        ranges = told_once.get(origin, [])
        at = bisect_right(ranges, (seq, 2**62)) - 1
        if at < 0 or not ranges[at][0] <= seq <= ranges[at][1]:
            yield f"origin {origin}: record {seq} counts as pruned, but no record says so"


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in ranges that do not overlap: several stores may have pruned one place."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def digest_of(connection: sqlite3.Connection, places: Mapping[str, Sequence[Sequence[int]]]) -> tuple[str, bool]:
    """What the hashes of the records in these places come to; and whether this store has pruned all of them.

    Args:
        places: by origin, from which to which number.
    """
    digest, here = hashlib.sha256(), True
    query = "select hash, prev = '' and body = ? from log where origin = ? and seq between ? and ? order by seq"
    for origin in sorted(places):
        for first, last in places[origin]:
            count = 0
            for text, ours in connection.execute(query, (log.STUB_BODY[log.HERE], origin, first, last)):
                digest.update(text.encode("ascii"))
                here, count = here and bool(ours), count + 1
            here = here and count == last - first + 1
    return digest.hexdigest(), here


def extend(ranges: list[tuple[int, int]], seq: int) -> None:
    """Add the next number to ranges in order."""
    if ranges and ranges[-1][1] == seq - 1:
        ranges[-1] = (ranges[-1][0], seq)
    else:
        ranges.append((seq, seq))
