"""Pruning the history: which records nothing needs any more, and putting stubs in their places.

What is pruned is pruned whole: a job with its statuses, adoptions and log lines; a handler with its firings; a workflow with its
versions; a log line. Nothing that is open is pruned, nor what another instance that syncs with this one is not known to have. The
choosing only reads, and may take long; it is looked at again in the transaction that prunes. See
``docs/decisions/0013-housekeeping.md``.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from ..errors import Conflict, InvalidRecord
from ..records import without_none
from . import foreign, log, parts, projections, sharing, stubs
from .atrest import ENDED, at_rest
from .batch import Stub
from .transaction import Transaction

UNITS_AT_ONCE = 20_000
"""So many things are chosen in one pass over the log."""
UNITS_IN_TRANSACTION = 500
_OPEN_WORKFLOW = (
    "exists (select 1 from job_counts c where c.workflow_id = {0} and c.jobs > 0 and c.state not in " + ENDED + ")"
    " or exists (select 1 from handlers w where w.workflow_id = {0} and w.state = 'waiting')"
)


class Kind(NamedTuple):
    """What can be pruned of the history.

    Args:
        table: where such things stand. ``age``: which column of it (``t``) tells how old one is. ``ready``: what must hold of it.
        records: of which kinds its records are. ``thing``: whose such a record is, in SQL.
        deletes: what takes it out of the tables, each with the ids of things. ``indexed``: as what it is in the text index.
    """

    table: str
    age: str
    ready: str
    records: tuple[str, ...]
    thing: str
    deletes: tuple[str, ...]
    indexed: Optional[str] = None


KINDS = {
    "jobs": Kind(
        "jobs",
        "status_at",
        f"{at_rest('t')} and exists (select 1 from statuses s where s.job_id = t.id and s.id = t.id)"
        " and not exists (select 1 from handler_jobs hj join handlers h on h.id = hj.handler_id"
        "  where hj.job_id = t.id and h.state = 'waiting')"
        " and not exists (select 1 from handlers h where h.id = t.handler_id and h.state = 'waiting')"
        f" and not exists (select 1 from jobs child where child.parent_id = t.id and child.state not in {ENDED})"
        " and not exists (select 1 from workflows w where w.id = t.workflow_id and w.hlc = '')"
        f" and (t.workflow_id is null or not ({_OPEN_WORKFLOW.format('t.workflow_id')}))",
        ("job", "status", "adopt", "log"),
        "case kind when 'job' then uid else json_extract(body, '$.job_id') end",
        (
            "delete from jobs where id in (?)",
            "delete from statuses where job_id in (?)",
            "delete from adoptions where job_id in (?)",
            "delete from logs where job_id in (?)",
            "delete from properties where owner_kind = 'job' and owner in (?)",
            "delete from local_adopted where job_id in (?)",
        ),
        "job",
    ),
    "handlers": Kind(
        "handlers",
        "created_at",
        "t.state <> 'waiting' and not exists (select 1 from jobs j where j.handler_id = t.id)",
        ("handler", "unset", "firing"),
        "case kind when 'handler' then uid else json_extract(body, '$.handler_id') end",
        (
            "delete from handlers where id in (?)",
            "delete from handler_jobs where handler_id in (?)",
            "delete from unsets where handler_id in (?)",
            "delete from firings where handler_id in (?)",
        ),
    ),
    "workflows": Kind(
        "workflows",
        "created_at",
        "t.hlc <> '' and not exists (select 1 from jobs j where j.workflow_id = t.id)"
        " and not exists (select 1 from handlers h where h.workflow_id = t.id)"
        " and not exists (select 1 from metasheets m where m.workflow_id = t.id)",
        ("workflow",),
        "json_extract(body, '$.workflow_id')",
        (
            "delete from workflows where id in (?)",
            "delete from properties where owner_kind = 'workflow' and owner in (?)",
        ),
        "workflow",
    ),
    "logs": Kind(
        "logs",
        "time",
        f"not exists (select 1 from jobs j where j.id = t.job_id and j.state not in {ENDED})"
        f" and (t.workflow_id is null or not ({_OPEN_WORKFLOW.format('t.workflow_id')}))",
        ("log",),
        "uid",
        ("delete from logs where id in (?)",),
        "log",
    ),
}
"""In the order in which they are pruned: handlers and workflows when nothing is left of their jobs."""


class Place(NamedTuple):
    """Where a record stands, and its size in bytes."""

    origin: str
    seq: int
    uid: str
    kind: str
    size: int


@dataclass
class Chosen:
    """Things that can be pruned.

    Args:
        what: of which of :data:`KINDS`. ``before``: older than this they are.
        places: by thing, where its records stand. ``words``: by thing, its rows in the text index, each with its id there.
        heads: how far each log went when this was chosen.
        after: where to go on choosing; None when these are the last. ``unsynced``: how many others are not known elsewhere.
    """

    what: str
    before: str
    places: dict[str, list[Place]]
    words: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    after: Optional[str] = None
    unsynced: int = 0

    @property
    def records(self) -> int:
        """How many records these are."""
        return sum(map(len, self.places.values()))

    @property
    def bytes(self) -> int:
        """How much of the log they take."""
        return sum(place.size for places in self.places.values() for place in places)


def choose(
    connection: sqlite3.Connection,
    what: str,
    before: str,
    known: Sequence[sharing.Knower],
    after: Optional[str] = None,
    limit: int = UNITS_AT_ONCE,
) -> Chosen:
    """The next things that can be pruned, by their ids.

    Args:
        connection: in one state of the store throughout. ``before``: older than this, a time as the store has it.
        known: the instances that sync with this one, and how far each knows every log.
        after: as a call before has answered.

    Raises:
        InvalidRecord: nothing is called ``what``.
    """
    kind = KINDS.get(what)
    if kind is None:
        raise InvalidRecord(f"{what!r} cannot be pruned"[:200], hint=f"of the history: {', '.join(KINDS)}")
    query = (
        f"select t.id from {kind.table} t where t.id > ? and t.{kind.age} < ? and {kind.ready} order by t.id limit ?"
    )
    ids = [str(row[0]) for row in connection.execute(query, (after or "", before, limit))]
    chosen = Chosen(what, before, {}, after=ids[-1] if len(ids) == limit else None)
    if not ids:
        return chosen
    chosen.heads = {origin: head.seq for origin, head in log.heads(connection).items()}
    wanted = set(ids)
    places: defaultdict[str, list[Place]] = defaultdict(list)
    for thing, *place in _records(connection, kind, "log where prev <> ''"):
        if thing in wanted:
            places[str(thing)].append(Place(*place))
    in_fragments = {row[0] for row in _records(connection, kind, "fragments where true")}
    for thing in ids:
        found = places.get(thing, [])
        if not found or thing in in_fragments or any(place.seq == chosen.heads[place.origin] for place in found):
            continue  # the log of a fragment is still to come; the last record of a log tells how far it goes
        if all(knower.knows(place.origin, place.seq) for knower in known for place in found):
            chosen.places[thing] = found
        else:
            chosen.unsynced += 1
    if kind.indexed:
        chosen.words = _words(connection, kind, chosen.places)
    return chosen


def prune(transaction: Transaction, chosen: Chosen, things: Sequence[str]) -> int:
    """Put stubs in the places of these of the chosen things, and record that; how many things that were.

    Those that are no longer to be pruned are left out.

    Raises:
        Conflict: their records have moved meanwhile, as a fork was settled; choose again.
    """
    connection, kind = transaction.connection, KINDS[chosen.what]
    query = f"select t.id from {kind.table} t where t.id in (?) and t.{kind.age} < '{_time(chosen.before)}' and {kind.ready}"
    ready = {str(row[0]) for row in parts.execute(connection, query, things)} - _told_of(connection, kind, chosen.heads)
    going = [thing for thing in things if thing in ready]
    if not going:
        return 0
    places = [place for thing in going for place in chosen.places[thing]]
    changed = connection.executemany(
        "update log set prev = '', hlc = '', wall_utc = '', body = ? where origin = ? and seq = ? and uid = ? and prev <> ''",
        [(log.STUB_BODY[log.HERE], place.origin, place.seq, place.uid) for place in places],
    ).rowcount
    if changed != len(places):
        raise Conflict("the records have moved meanwhile", hint="try again", transient=True)
    if kind.table == "jobs":
        for workflow, state in parts.execute(connection, "select workflow_id, state from jobs where id in (?)", going):
            connection.count_job(workflow, state, None)
    for statement in kind.deletes:
        parts.execute(connection, statement, going)
    connection.executemany(
        "delete from search where rowid = ? and id = ?",
        [word for thing in going for word in chosen.words.get(thing, ())],
    )
    for place in places:
        left = foreign.parsed(place.origin, place.seq, Stub("", place.uid, place.kind))
        projections.project(connection, left._replace(body={**left.body, "where": log.HERE}))
    ranges = _ranges(places)
    transaction.append(
        "prune",
        {
            "what": chosen.what, "before": chosen.before, "things": len(going), "records": len(places),
            "places": ranges, "digest": stubs.digest_of(connection, ranges)[0],
        },
    )  # fmt: skip
    transaction.forget_rows(going)
    return len(going)


def note(transaction: Transaction, what: str, before: Optional[str], larger_than: Optional[int], things: int) -> None:
    """Record that something was pruned that is not of the history: outputs of jobs, say."""
    body = {"what": what, "before": before, "larger_than": larger_than, "things": things}
    transaction.append("prune", without_none(body))


def count_open(connection: sqlite3.Connection, what: str, before: str) -> int:
    """How many things of a kind are old enough, and open."""
    kind = KINDS[what]
    query = f"select count(*) from {kind.table} t where t.{kind.age} < ? and not ({kind.ready})"
    return int(connection.execute(query, (before,)).fetchone()[0])


def _records(connection: sqlite3.Connection, kind: Kind, source: str) -> Iterator[tuple[Any, ...]]:
    """Of all records of these kinds: whose it is, and its place."""
    marks = ",".join(f"'{name}'" for name in kind.records)
    return connection.execute(
        f"select {kind.thing}, origin, seq, uid, kind, length(body) + length(prev) + length(hlc) + length(wall_utc)"
        f" from {source} and kind in ({marks})"
    )


def _words(
    connection: sqlite3.Connection, kind: Kind, places: dict[str, list[Place]]
) -> dict[str, list[tuple[int, str]]]:
    """The rows in the text index of things and of their log lines."""
    thing_of = {place.uid: thing for thing, found in places.items() for place in found if place.kind == "log"}
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for rowid, indexed, identifier in connection.execute("select rowid, kind, id from search"):
        thing = thing_of.get(identifier) if indexed == "log" else identifier if indexed == kind.indexed else None
        if thing in places:
            found[str(thing)].append((rowid, identifier))
    return found


def _told_of(connection: sqlite3.Connection, kind: Kind, heads: dict[str, int]) -> set[str]:
    """The things of which records have come since the logs went so far."""
    found: set[str] = set()
    for origin, head in log.heads(connection).items():
        if head.seq > heads.get(origin, 0):
            source = f"log where origin = '{origin}' and seq > {heads.get(origin, 0)} and prev <> ''"
            found.update(str(row[0]) for row in _records(connection, kind, source))
    return found


def _time(text: str) -> str:
    if not set(text) <= set("0123456789-:.TZ"):
        raise InvalidRecord(f"{text!r} is not a time"[:200])
    return text


def _ranges(places: Iterable[Place]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for origin, seq, *_ in sorted(places):
        stubs.extend(found.setdefault(origin, []), seq)
    return found
