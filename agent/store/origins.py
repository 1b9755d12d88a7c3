"""The instances whose records are here: which of them this one is, how people call the others, and how many jobs those have.

An instance is known by its origin. Only what has the origin of this store is its own to run, to cancel or to unset.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from ..errors import AmbiguousId, Conflict, NotFound
from ..hostlist import same_host
from . import settings
from .parts import marks

HERE = "here"
"""What people call this instance."""
SHORT_LENGTH = 8
"""Digits of an origin that tell it from others of the same name."""
_LISTED = 20
_KNOWN = "select id, coalesce(host, ''), coalesce(user, '') from origins order by minted_at, id"
_PEERS = "select name, json_extract(body, '$.origin') from local_peers order by name desc"
_HEADS = "select id, (select max(seq) from log where origin = origins.id) from origins where id <> ?"
_JOBS = "select coalesce(workflow_id, ''), state, count(*) from jobs where origin <> ? group by 1, 2"


def own(connection: sqlite3.Connection) -> str:
    """The origin of this instance."""
    return settings.get(connection, settings.ORIGIN) or ""


def earlier(connection: sqlite3.Connection) -> frozenset[str]:
    """The origins under which this instance, or the one that it is a copy of, wrote before."""
    line, _ = _line(connection, own(connection))
    return frozenset(line[1:])


def family(connection: sqlite3.Connection, origin: str) -> str:
    """The first of the origins that ``origin`` goes on with: of one whose store was copied, restored, or has forked."""
    line, is_ring = _line(connection, origin)
    return min(line) if is_ring else line[-1]


def names(connection: sqlite3.Connection) -> dict[str, str]:
    """How people call each instance: as they have called the peer that it is; else by its host, without the domain where that will
    do; else by ``user@host``, and by its id too where several are the same even then."""
    known = connection.execute(_KNOWN).fetchall()
    called = {origin: short(origin) for origin, _, _ in known}
    left = [row for row in known if row[1]]
    for name_of in (_short_host, _host, _user_at_host):
        counts = Counter(map(name_of, left))
        called.update((row[0], name_of(row)) for row in left if counts[name_of(row)] == 1)
        left = [row for row in left if counts[name_of(row)] > 1]
    called.update((row[0], f"{_user_at_host(row)}:{short(row[0])}") for row in left)
    called.update((origin, peer) for peer, origin in connection.execute(_PEERS) if origin in called)
    return called


def name(connection: sqlite3.Connection, origin: str) -> str:
    """How people call one instance."""
    return names(connection).get(origin) or short(origin)


def short(origin: str) -> str:
    """What people are shown of an origin, and may type back."""
    return origin[:SHORT_LENGTH]


def resolve(connection: sqlite3.Connection, given: str) -> list[str]:
    """The origins that ``given`` means: ``here``, a host (all instances on it), a name from :func:`names`, or how an id begins.

    Raises:
        NotFound: there is none; the hint names those there are. AmbiguousId: several ids begin so.
    """
    if given == HERE:
        return [own(connection)]
    known = connection.execute(_KNOWN).fetchall()
    called = names(connection)
    for is_meant in (
        lambda row: row[1] == given,
        lambda row: given in (_user_at_host(row), called[row[0]]),
        lambda row: bool(row[1]) and same_host(row[1], given),
    ):
        meant = [row[0] for row in known if is_meant(row)]
        if meant:
            return meant
    meant = [row[0] for row in known if row[0].startswith(given.lower())]
    if len(meant) > 1:
        raise AmbiguousId(f"{given!r} begins the ids of several instances", hint="type more of it")
    if not meant:
        others = sorted(known_as for origin, known_as in called.items() if origin != own(connection))
        listed = ", ".join([HERE, *others[:_LISTED]]) + (", …" if len(others) > _LISTED else "")
        raise NotFound(f"no instance is known as {given!r}", hint=f"known are: {listed}")
    return meant


def name_others(connection: sqlite3.Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows``; those of other instances say under ``elsewhere`` how people call that one."""
    here = own(connection)
    foreign = [row for row in rows if row.get("origin", here) != here]
    called = names(connection) if foreign else {}
    for row in foreign:
        row["elsewhere"] = called.get(row["origin"]) or short(row["origin"])
    return rows


def clause(column: str, origins: Sequence[str]) -> tuple[str, list[Any]]:
    """A condition in SQL that a column holds one of these, and its parameters."""
    return f"{column} in ({marks(origins)})", list(origins)


def last_known(connection: sqlite3.Connection, origin: str) -> Optional[str]:
    """When the last record was made that is known of an instance."""
    found = connection.execute(
        "select wall_utc from log where origin = ? and prev <> '' order by seq desc limit 1", (origin,)
    ).fetchone()
    return str(found[0]) if found else None


def refusal(connection: sqlite3.Connection, what: str, origin: str, hint: str) -> Conflict:
    """Why something of another instance is not changed here."""
    return Conflict(f"{what} belongs to the instance on {name(connection, origin)}", hint=hint)


class JobsElsewhere:
    """How many jobs of other instances there are, by workflow and state.

    They are counted again only when records of those instances have come: it means looking at every job.
    """

    def __init__(self) -> None:
        self._known: tuple[dict[str, int], dict[str, Counter[str]]] = ({}, {})

    def of(self, connection: sqlite3.Connection, workflow_id: Optional[str] = None) -> Counter[str]:
        """Those of one workflow, or all, by state."""
        counted = self._counted(connection)
        if workflow_id is not None:
            return Counter(counted.get(workflow_id, {}))
        return sum(counted.values(), Counter())

    def _counted(self, connection: sqlite3.Connection) -> dict[str, Counter[str]]:
        here = own(connection)
        heads = dict(connection.execute(_HEADS, (here,)).fetchall())
        before, counted = self._known
        if heads != before:
            counted = defaultdict(Counter)
            for workflow_id, state, count in connection.execute(_JOBS, (here,)):
                counted[workflow_id][state] = count
            counted = dict(counted)
            self._known = heads, counted
        return counted


def site_of(connection: sqlite3.Connection, origin: str) -> Optional[str]:
    """The site by which jobs of this store were handed to another instance; None where none was."""
    found = connection.execute(
        "select site from jobs where site <> 'local' and runner = ? order by id desc limit 1", (origin,)
    ).fetchone()
    return None if found is None else str(found[0]).partition("/")[0]


def count_others(connection: sqlite3.Connection, origins: Iterable[str]) -> dict[str, int]:
    """How often each of these instances occurs that is not this one, under what people call it."""
    here = own(connection)
    counts = Counter(origin for origin in origins if origin != here)
    called = names(connection) if counts else {}
    return {called.get(origin) or short(origin): count for origin, count in counts.items()}


def _line(connection: sqlite3.Connection, origin: str) -> tuple[list[str], bool]:
    """An origin, the one that it goes on with, and so on; and whether that leads back to one of them."""
    line = [origin]
    while True:
        found = connection.execute("select parent from origins where id = ?", (line[-1],)).fetchone()
        if found is None or found[0] is None:
            return line, False
        if found[0] in line:
            return line, True
        line.append(str(found[0]))


def _host(row: Sequence[str]) -> str:
    return row[1]


def _short_host(row: Sequence[str]) -> str:
    """The host's name without its domain; an address has none."""
    first = row[1].split(".")[0]
    return row[1] if first.isdecimal() else first


def _user_at_host(row: Sequence[str]) -> str:
    _, host, user = row
    return f"{user}@{host}" if user else host
